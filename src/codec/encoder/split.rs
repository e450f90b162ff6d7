// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether frames are too different to be coded together in a key block.
//!
//! A key block predicts neither frame: it would code both pictures. Apart, the second is predicted from the first. Where it looks much
//! the same, one transform for both is cheaper.

use crate::frame::Geometry;

/// Side of the squares that are compared, in luma samples.
const SQUARE: usize = 16;
/// Mean absolute difference from which on a square has changed.
const CHANGED: u32 = 20;
/// Share of changed squares, as 1/n, from which on the frames are too different.
const SHARE: usize = 10;

/// Whether the luma of two aligned frames is too different.
pub(super) fn differ(geometry: &Geometry, a: &[u8], b: &[u8]) -> bool {
    let band = SQUARE * geometry.aligned_width;
    let (mut changed, mut squares) = (0, 0);
    for (a, b) in a.chunks_exact(band).zip(b.chunks_exact(band)).take(geometry.aligned_height / SQUARE) {
        for x in (0..geometry.aligned_width).step_by(SQUARE) {
            let rows = a[x..].chunks(geometry.aligned_width).zip(b[x..].chunks(geometry.aligned_width));
            let sum: u32 = rows.map(|(a, b)| row_difference(&a[..SQUARE], &b[..SQUARE])).sum();
            changed += usize::from(sum >= CHANGED * (SQUARE * SQUARE) as u32);
            squares += 1;
        }
    }
    changed * SHARE > squares
}

fn row_difference(a: &[u8], b: &[u8]) -> u32 {
    a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::PixelFormat;

    #[test]
    fn a_page_that_moves_differs_and_noise_does_not() {
        let g = Geometry::new(64, 48, PixelFormat::I420, [16, 16], [16, 16]).expect("size");
        let page = |row: usize| -> Vec<u8> {
            (0..g.frame_bytes()).map(|i| if (i / 64 + row) / 4 % 2 == 0 { 200 } else { 40 }).collect()
        };
        let noisy: Vec<u8> = page(0).iter().enumerate().map(|(i, v)| v + (i * 7 % 9) as u8).collect();
        assert!(differ(&g, &page(0), &page(4)));
        assert!(!differ(&g, &page(0), &noisy));
        let mut one = page(0);
        one[..16 * 64].iter_mut().enumerate().filter(|(i, _)| i % 64 < 16).for_each(|(_, v)| *v = 255 - *v);
        assert!(!differ(&g, &page(0), &one), "one square of twelve");
        one[..16 * 64].iter_mut().enumerate().filter(|(i, _)| i % 64 >= 48).for_each(|(_, v)| *v = 255 - *v);
        assert!(differ(&g, &page(0), &one), "two");
    }
}
