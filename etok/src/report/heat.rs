// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tokens of cells as colours over a picture.

use elastictok::frame::Geometry;

use crate::picture::png_uri;

/// Colours from few to many tokens, with how much they cover.
const STOPS: [[u8; 4]; 5] = [[255, 237, 160, 0], [254, 204, 92, 120], [253, 141, 60, 175], [227, 26, 28, 205], [118, 0, 38, 230]];

/// The colour of a share 0..=1.
fn colour(share: f64) -> [u8; 4] {
    let at = share.clamp(0.0, 1.0) * (STOPS.len() - 1) as f64;
    let (i, rest) = (at as usize, at.fract());
    let (a, b) = (STOPS[i], STOPS[(i + 1).min(STOPS.len() - 1)]);
    std::array::from_fn(|c| (f64::from(a[c]) + (f64::from(b[c]) - f64::from(a[c])) * rest).round() as u8)
}

/// The scale as a CSS background.
pub fn gradient() -> String {
    let stops = STOPS.map(|[r, g, b, a]| format!("rgba({r},{g},{b},{:.2})", f64::from(a) / 255.0));
    format!("linear-gradient(to right, {}), #a8a8a8", stops.join(", "))
}

/// The count that the scale ends at: what all but a hundredth of the cells stay below, so that a few do not leave the rest pale.
pub fn top<'a>(maps: impl IntoIterator<Item = &'a [f64]>) -> f64 {
    let mut all: Vec<f64> = maps.into_iter().flatten().copied().collect();
    all.sort_by(f64::total_cmp);
    let at = (all.len() as f64 * 0.99) as usize;
    all.get(at.min(all.len().saturating_sub(1))).copied().unwrap_or(0.0).max(1.0)
}

/// A map of tokens as an image that lies over the picture: one pixel a cell, and its width and height in per cent of the picture's,
/// which the last cells may reach beyond.
pub fn overlay(tokens: &[f64], top: f64, g: &Geometry) -> anyhow::Result<String> {
    let pixels: Vec<u8> = tokens.iter().flat_map(|t| colour((t / top).sqrt())).collect();
    let uri = png_uri(&pixels, g.cells_x, g.cells_y, 4)?;
    let percent = |aligned: usize, own: usize| aligned as f64 / own as f64 * 100.0;
    Ok(format!(
        "<img class=\"heat\" alt=\"\" src=\"{uri}\" style=\"width:{:.3}%;height:{:.3}%\">",
        percent(g.aligned_width, g.width),
        percent(g.aligned_height, g.height)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_tokens_cover_more() {
        assert_eq!(colour(0.0)[3], 0);
        assert_eq!(colour(1.0), STOPS[4]);
        assert_eq!(colour(7.0), STOPS[4]);
        assert!((0..10).all(|i| colour(f64::from(i) / 10.0)[3] < colour(f64::from(i + 1) / 10.0)[3]));
    }

    #[test]
    fn outliers_do_not_set_the_scale() {
        let mut map = vec![10.0; 1000];
        map[3] = 5000.0;
        assert_eq!(top([map.as_slice()]), 10.0);
        assert_eq!(top([[0.0].as_slice()]), 1.0);
        assert_eq!(top([]), 1.0);
    }
}
