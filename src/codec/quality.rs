// SPDX-License-Identifier: MIT OR Apache-2.0
//! Squared error and PSNR of visible luma.

use crate::frame::Geometry;

/// PSNR in dB of a mean squared error on 8-bit samples; 99 where nothing differs.
pub fn psnr(mse: f64) -> f64 {
    if mse <= 0.0 { 99.0 } else { (10.0 * (255.0 * 255.0 / mse).log10()).min(99.0) }
}

/// Mean squared error of the visible luma of one aligned I420 frame.
pub(super) fn luma_mse(geometry: &Geometry, a: &[u8], b: &[u8]) -> f64 {
    let (w, pitch) = (geometry.width, geometry.aligned_width);
    let rows = a.chunks_exact(pitch).zip(b.chunks_exact(pitch)).take(geometry.height);
    let sum: u64 = rows.map(|(a, b)| u64::from(row_error(&a[..w], &b[..w]))).sum();
    sum as f64 / (w * geometry.height) as f64
}

/// Sum of squared differences of a row; at most 8192 * 255^2, which fits 31 bits.
fn row_error(a: &[u8], b: &[u8]) -> u32 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| {
            // sixteen bits: there is an instruction for products of those and their sums
            let d = i16::from(a) - i16::from(b);
            i32::from(d) * i32::from(d)
        })
        .sum::<i32>() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::PixelFormat;

    #[test]
    fn only_visible_luma_counts() {
        let g = Geometry::new(17, 16, PixelFormat::I420, [16, 16], [16, 16]).expect("size");
        let a = vec![10; g.frame_bytes()];
        let mut b = a.clone();
        b[20] = 90; // beyond the 17th column
        b[32 * 16..].fill(0); // chroma
        assert_eq!(luma_mse(&g, &a, &b), 0.0);
        b[0] = 20;
        assert_eq!(luma_mse(&g, &a, &b), 100.0 / (17.0 * 16.0));
        assert!((psnr(1.0) - 48.1308).abs() < 1e-4);
        assert_eq!(psnr(0.0), 99.0);
    }
}
