// SPDX-License-Identifier: MIT OR Apache-2.0
//! Some cells of a stream's first block, on which quantisers are tried in a fraction of the time that the block takes.

use crate::Result;
use crate::tokens::{LayerSteps, NestedEncoder, Rdo};

/// Cells that tell well enough how large the error of a quantiser is.
const ENOUGH: usize = 200;
/// The most cells for each that is taken, a power of two.
const MOST: usize = 16;

/// The latents of cells that lie evenly over a picture. They are quantised as if they were a picture by themselves.
pub(super) struct Sample {
    tokens: NestedEncoder,
    latents: Vec<i16>,
    /// Cells of the picture for each of the sample.
    weight: f64,
}

impl Sample {
    /// Of a key block with `latents`, \[cells, C\], that `tokens` is for; `size`: cells across and down. `None` where the picture has too
    /// few of them for a sample.
    pub fn new(tokens: &NestedEncoder, latents: &[i16], size: (usize, usize)) -> Result<Option<Self>> {
        let Some((columns, cells)) = choose(size) else { return Ok(None) };
        let coefficients = latents.len() / (size.0 * size.1);
        let mut own = tokens.for_size(columns, size.1)?;
        let mut sampled = Vec::with_capacity(columns * size.1 * coefficients);
        for (cell, weight) in cells.zip(own.weights_mut()) {
            sampled.extend_from_slice(&latents[cell * coefficients..][..coefficients]);
            *weight = tokens.weights()[cell];
        }
        let weight = (size.0 * size.1) as f64 / (columns * size.1) as f64;
        Ok(Some(Self { tokens: own, latents: sampled, weight }))
    }

    /// Squared error of the picture's luma coefficients with `steps`, all layers received, in squared latent units.
    pub fn luma_error(&mut self, steps: LayerSteps, rdo: &Rdo) -> Result<f64> {
        Ok(self.weight * self.tokens.quantise(&self.latents, steps, None, rdo)?.luma)
    }
}

/// The sample of a picture of so many cells across and down: how many there are in each row, and which.
fn choose((columns, rows): (usize, usize)) -> Option<(usize, impl Iterator<Item = usize>)> {
    let fits = |n: &usize| *n <= columns && (columns / n) * rows >= ENOUGH;
    let apart = std::iter::successors(Some(MOST), |n| Some(n / 2)).take_while(|n| *n > 1).find(fits)?;
    let across = columns / apart;
    // Each row begins elsewhere, so that what stands upright is met as often as it is there.
    let cells = (0..rows).flat_map(move |row| (0..across).map(move |n| row * columns + n * apart + 3 * row % apart));
    Some((across, cells))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::Tables;
    use crate::tokens::{CONTEXTS, NestedLayout};

    #[test]
    fn a_sample_is_spread_over_the_picture() {
        for (size, apart) in [((80, 45), 16), ((120, 68), 16), ((40, 23), 4), ((2, 400), 2), ((83, 5000), 16), ((401, 1), 2)] {
            let (across, cells) = choose(size).expect("large enough");
            let cells: Vec<_> = cells.collect();
            assert_eq!((across, cells.len()), (size.0 / apart, across * size.1));
            assert!(cells.is_sorted_by(|a, b| a < b) && cells.iter().all(|cell| *cell < size.0 * size.1), "{size:?}");
            assert!(cells.chunks(across).enumerate().all(|(row, cells)| cells.iter().all(|cell| cell / size.0 == row)));
            if size.1 >= apart {
                let columns: std::collections::BTreeSet<_> = cells.iter().map(|cell| cell % size.0).collect();
                assert_eq!(columns.len(), across * apart, "{size:?}");
            }
        }
        for small in [(1, 1), (1, 5000), (20, 15), (22, 18), (399, 1)] {
            assert!(choose(small).is_none(), "{small:?}");
        }
    }

    #[test]
    fn a_sample_has_the_error_of_the_picture() {
        let positions: Vec<[u16; 4]> = (0..16).map(|i| [0, 0, i / 4, i % 4]).collect();
        let (size, rdo) = ((80, 45), Rdo::default());
        let layout = NestedLayout::new(&positions, 3, size.0, size.1).expect("valid");
        let mut tokens = NestedEncoder::new(&layout, &Tables::flat(CONTEXTS)).expect("tables fit");
        // Coefficients up to 100 at the left, where each is larger than most steps, and up to 1100 at the right.
        let latent = |i: usize| {
            let noise = (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
            (noise as i64 % 2001 - 1000) * (10 + 100 * (i as i64 / 16 % 80) / 80) / 100
        };
        let latents: Vec<i16> = (0..size.0 * size.1 * 16).map(|i| latent(i) as i16).collect();
        let mut sample = Sample::new(&tokens, &latents, size).expect("fits").expect("large enough");
        for finest in [10, 30, 45] {
            let steps = LayerSteps::spaced(3, 7, finest);
            let whole = tokens.quantise(&latents, steps, None, &rdo).expect("valid").luma;
            let found = sample.luma_error(steps, &rdo).expect("valid");
            assert!((found / whole - 1.0).abs() < 0.15, "{found} for {whole} at {finest}");
        }
    }
}
