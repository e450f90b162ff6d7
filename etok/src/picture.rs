// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pictures in memory: comparing, shrinking, and writing them as PNG.

use anyhow::Context as _;
use elastictok::codec::psnr;
use elastictok::frame::PixelFormat;

/// A picture without padding: I420 planes one after the other, or interleaved RGB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    pub format: PixelFormat,
    pub width: usize,
    pub height: usize,
    pub data: Vec<u8>,
}

impl Picture {
    pub fn new(format: PixelFormat, width: usize, height: usize) -> Self {
        let (luma, chroma) = (width * height, width.div_ceil(2) * height.div_ceil(2));
        let bytes = match format {
            PixelFormat::I420 => luma + 2 * chroma,
            PixelFormat::Rgb => 3 * luma,
        };
        Self { format, width, height, data: vec![0; bytes] }
    }

    /// Planes to write into, and their strides.
    pub fn planes_mut(&mut self) -> elastictok::frame::PlanesMut<'_> {
        match self.format {
            PixelFormat::I420 => {
                let (luma, cw) = (self.width * self.height, self.width.div_ceil(2));
                let (y, chroma) = self.data.split_at_mut(luma);
                let (u, v) = chroma.split_at_mut(cw * self.height.div_ceil(2));
                elastictok::frame::PlanesMut { planes: [y, u, v], strides: [self.width, cw, cw] }
            }
            PixelFormat::Rgb => {
                elastictok::frame::PlanesMut { planes: [&mut self.data, &mut [], &mut []], strides: [self.width * 3, 0, 0] }
            }
        }
    }

    /// What PSNR is of: the luma of I420, all samples of RGB.
    fn compared(&self) -> &[u8] {
        match self.format {
            PixelFormat::I420 => &self.data[..self.width * self.height],
            PixelFormat::Rgb => &self.data,
        }
    }

    /// PSNR in dB against a picture of the same form.
    pub fn psnr(&self, other: &Self) -> f64 {
        let (a, b) = (self.compared(), other.compared());
        let sum: u64 = a
            .chunks(4096)
            .zip(b.chunks(4096))
            .map(|(a, b)| u64::from(a.iter().zip(b).map(|(&a, &b)| u32::from(a.abs_diff(b)).pow(2)).sum::<u32>()))
            .sum();
        psnr(sum as f64 / a.len().max(1) as f64)
    }

    /// Interleaved R, G, B, 8 bits each. I420 is taken as BT.709 from 720 rows on and BT.601 below, as `full` range or limited.
    pub fn rgb(&self, full: bool) -> Vec<u8> {
        if self.format == PixelFormat::Rgb {
            return self.data.clone();
        }
        let (w, h, cw) = (self.width, self.height, self.width.div_ceil(2));
        let (y, chroma) = self.data.split_at(w * h);
        let (u, v) = chroma.split_at(cw * h.div_ceil(2));
        let (kr, kb): (f32, f32) = if h >= 720 { (0.2126, 0.0722) } else { (0.299, 0.114) };
        let kg = 1.0 - kr - kb;
        let (black, luma, colour) = if full { (0.0, 1.0, 1.0) } else { (16.0, 255.0 / 219.0, 255.0 / 224.0) };
        let mut out = Vec::with_capacity(w * h * 3);
        for row in 0..h {
            for x in 0..w {
                let at = row / 2 * cw + x / 2;
                let l = (f32::from(y[row * w + x]) - black) * luma;
                let (cb, cr) = ((f32::from(u[at]) - 128.0) * colour, (f32::from(v[at]) - 128.0) * colour);
                let (r, b) = (l + 2.0 * (1.0 - kr) * cr, l + 2.0 * (1.0 - kb) * cb);
                let g = (l - kr * r - kb * b) / kg;
                out.extend([r, g, b].map(|c| c.round().clamp(0.0, 255.0) as u8));
            }
        }
        out
    }
}

/// Shrinks interleaved RGB to at most `most` pixels in width by whole-area means; what is small enough stays as it is.
pub fn shrink(rgb: Vec<u8>, width: usize, height: usize, most: usize) -> (Vec<u8>, usize, usize) {
    let factor = width.div_ceil(most.max(1));
    if factor <= 1 {
        return (rgb, width, height);
    }
    let (w, h) = (width.div_ceil(factor), height.div_ceil(factor));
    let mut out = Vec::with_capacity(w * h * 3);
    for y in 0..h {
        for x in 0..w {
            let (rows, columns) = (y * factor..((y + 1) * factor).min(height), x * factor..((x + 1) * factor).min(width));
            let n = (rows.len() * columns.len()) as u32;
            let mut sums = [0u32; 3];
            for row in rows {
                for column in columns.clone() {
                    for (c, sum) in sums.iter_mut().enumerate() {
                        *sum += u32::from(rgb[(row * width + column) * 3 + c]);
                    }
                }
            }
            out.extend(sums.map(|s| ((s + n / 2) / n) as u8));
        }
    }
    (out, w, h)
}

/// A PNG of 8 bits a sample, as a data URI. `channels`: 3 (RGB) or 4 (RGBA).
pub fn png_uri(data: &[u8], width: usize, height: usize, channels: usize) -> anyhow::Result<String> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width as u32, height as u32);
    encoder.set_color(if channels == 4 { png::ColorType::Rgba } else { png::ColorType::Rgb });
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().context("a picture as PNG")?;
    writer.write_image_data(data).context("a picture as PNG")?;
    writer.finish().context("a picture as PNG")?;
    Ok(format!("data:image/png;base64,{}", gst::glib::base64_encode(&file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn psnr_is_of_luma() {
        let mut a = Picture::new(PixelFormat::I420, 17, 3);
        let b = a.clone();
        assert_eq!(a.data.len(), 51 + 2 * 18);
        a.data[60] = 200;
        assert_eq!(a.psnr(&b), 99.0, "chroma does not count");
        a.data[..51].fill(1);
        assert!((a.psnr(&b) - 48.1308).abs() < 1e-3);
    }

    #[test]
    fn colours_come_out_right() {
        let mut p = Picture::new(PixelFormat::I420, 3, 3);
        p.data[..9].fill(81);
        p.data[9..13].fill(90);
        p.data[13..].fill(240);
        let rgb = p.rgb(false);
        assert!(rgb.chunks(3).all(|c| c[0] > 250 && c[1] < 5 && c[2] < 5), "red: {:?}", &rgb[..3]);
        p.data[9..].fill(128);
        assert_eq!(p.rgb(true)[..3], [81, 81, 81]);
    }

    #[test]
    fn shrinking_means_areas_and_keeps_odd_edges() {
        let rgb: Vec<u8> = (0..5 * 3).flat_map(|i| [i as u8 * 10; 3]).collect();
        let (small, w, h) = shrink(rgb.clone(), 5, 3, 3);
        assert_eq!((w, h, small.len()), (3, 2, 18));
        assert_eq!(small[0], 30, "mean of 0, 10, 50, 60");
        assert_eq!(small[17], 140, "the corner alone");
        assert_eq!(shrink(rgb.clone(), 5, 3, 5), (rgb, 5, 3));
    }

    #[test]
    fn pngs_are_made() {
        let uri = png_uri(&[1, 2, 3, 4], 1, 1, 4).expect("a picture");
        assert!(uri.starts_with("data:image/png;base64,iVBORw0KGgo"));
        assert!(png_uri(&[1, 2], 1, 1, 3).is_err());
    }
}
