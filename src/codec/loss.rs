// SPDX-License-Identifier: MIT OR Apache-2.0
//! Losses of cells: mean squared errors on the \[-1, 1\] scale, where a sample u is u / 127.5 - 1.

use crate::frame::{Geometry, PixelFormat};
use crate::{Error, Result};

/// Mean squared error on the \[-1, 1\] scale at a PSNR in dB.
pub fn mse_of_psnr(psnr: f64) -> f64 {
    4.0 * 10f64.powf(-psnr / 10.0)
}

/// Measures the decoder graph's picture of a block, padding included: all samples of RGB, the luma of I420.
pub(super) struct CellLosses {
    geometry: Geometry,
    /// Bytes of a cell in a row.
    cell_bytes: usize,
    cell_rows: usize,
    /// Samples of a cell in a block.
    samples: f64,
    /// Each byte on the \[-1, 1\] scale, in the precision that the losses are defined in.
    scaled: [f32; 256],
    sums: Vec<f64>,
}

impl CellLosses {
    pub fn new(geometry: Geometry, block_length: usize) -> Self {
        let unit = if geometry.format == PixelFormat::Rgb { 3 } else { 1 };
        let cell_bytes = geometry.aligned_width / geometry.cells_x * unit;
        let cell_rows = geometry.aligned_height / geometry.cells_y;
        Self {
            cell_bytes,
            cell_rows,
            samples: (cell_bytes * cell_rows * block_length) as f64,
            scaled: std::array::from_fn(|u| u as f32 / 127.5 - 1.0),
            sums: vec![0.0; geometry.cells()],
            geometry,
        }
    }

    /// Losses against a picture on the \[-1, 1\] scale, \[T, height, width, 3\].
    pub fn of_reconstruction(&mut self, input: &[u8], picture: &[f32], losses: &mut [f32]) -> Result<()> {
        self.measure(input, picture, |x| x, losses)
    }

    /// Losses against 8-bit frames.
    pub fn of_frames(&mut self, input: &[u8], frames: &[u8], losses: &mut [f32]) -> Result<()> {
        let scaled = self.scaled;
        self.measure(input, frames, |x| scaled[usize::from(x)], losses)
    }

    fn measure<T: Copy>(&mut self, input: &[u8], made: &[T], value: impl Fn(T) -> f32, losses: &mut [f32]) -> Result<()> {
        let (frame, pitch) = (self.geometry.frame_bytes(), self.cell_bytes * self.geometry.cells_x);
        self.sums.fill(0.0);
        for (input, made) in input.chunks_exact(frame).zip(made.chunks_exact(frame)) {
            let rows = input.chunks_exact(pitch).zip(made.chunks_exact(pitch)).take(self.geometry.aligned_height);
            for (y, (input, made)) in rows.enumerate() {
                let sums = &mut self.sums[y / self.cell_rows * self.geometry.cells_x..];
                let cells = input.chunks_exact(self.cell_bytes).zip(made.chunks_exact(self.cell_bytes));
                for (sum, (input, made)) in sums.iter_mut().zip(cells) {
                    // A row in f32 would do for speed but not for the last digits of a large cell.
                    *sum += input
                        .iter()
                        .zip(made)
                        .map(|(&u, &x)| f64::from(value(x) - self.scaled[usize::from(u)]).powi(2))
                        .sum::<f64>();
                }
            }
        }
        for (loss, sum) in losses.iter_mut().zip(&self.sums) {
            *loss = (sum / self.samples) as f32;
            if !loss.is_finite() {
                return Err(Error::Model(
                    "the decoder graph made a picture of values that are not numbers; check the checkpoint and export the bundle again".into(),
                ));
            }
        }
        Ok(())
    }
}

/// PSNR in dB of cells of one size.
pub(super) fn psnr_of(losses: &[f32]) -> f64 {
    let mean = losses.iter().map(|&l| f64::from(l)).sum::<f64>() / losses.len().max(1) as f64;
    super::psnr(mean * 127.5 * 127.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cell_has_its_own_loss() {
        let g = Geometry::new(40, 20, PixelFormat::Rgb, [16, 16], [16, 16]).expect("size");
        let mut input = vec![100u8; 2 * g.frame_bytes()];
        let exact: Vec<f32> = input.iter().map(|&u| f32::from(u) / 127.5 - 1.0).collect();
        let mut c = CellLosses::new(g, 2);
        let mut losses = vec![9.0; 6];
        c.of_reconstruction(&input, &exact, &mut losses).expect("finite");
        assert_eq!(losses, [0.0; 6]);
        // One sample of the second frame, in the last cell of the first row, differs by 51 levels: 0.4.
        input[g.frame_bytes() + 2 * 48 + 7] = 151;
        c.of_reconstruction(&input, &exact, &mut losses).expect("finite");
        let one = 0.16 / (16.0 * 16.0 * 3.0 * 2.0);
        assert!((losses[2] - one).abs() < 1e-9 && losses.iter().filter(|l| **l == 0.0).count() == 5, "{losses:?}");
        let frames = vec![100u8; 2 * g.frame_bytes()];
        c.of_frames(&input, &frames, &mut losses).expect("finite");
        assert!((losses[2] - one).abs() < 1e-9);
        let mut broken = exact;
        broken[0] = f32::NAN;
        assert!(c.of_reconstruction(&input, &broken, &mut losses).is_err());
    }

    #[test]
    fn psnr_and_mse_are_the_same_thing() {
        assert!((psnr_of(&[mse_of_psnr(33.0) as f32; 3]) - 33.0).abs() < 1e-5);
    }
}
