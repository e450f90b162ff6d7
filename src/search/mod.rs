// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many tokens each cell keeps: searches for a loss, for bundles with an `fsq` or `vae` bottleneck.
//!
//! A search knows neither model nor pixels. It asks for the losses of all cells under a count for each cell (one run of the
//! graphs), as often as it needs, and returns the counts. A loss is a mean squared error on the \[-1, 1\] scale, compared in
//! f32.
//!
//! * [`Official`]: the rules of ElasticTok as released, for bundles imported from its checkpoints; block for block the same counts.
//! * [`exact`]: fewest tokens that meet the target; with many cells, `full` shares them out by equal slope.
//! * [`predict`]: the same from losses that the encoder graph predicts, without decoding.

mod allocate;
pub mod exact;
mod official;
pub mod predict;

pub use allocate::{Curve, equal_slope};
pub use official::Official;

use crate::Result;

/// Runs the graphs with a count for each cell, \[cells\], and fills in each cell's loss, \[cells\].
pub type Evaluate<'a> = dyn FnMut(&[u32], &mut [f32]) -> Result<()> + 'a;

/// The result of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundCounts {
    /// For each cell, its count ([`Official`]: the argument of the mask, see [`Official::kept`]).
    pub counts: Vec<u32>,
    /// Evaluations made.
    pub evaluations: u32,
}

/// Bounds and target of a search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Problem {
    /// Cells of a block, at least 1.
    pub cells: usize,
    /// Least count of a cell.
    pub least: u32,
    /// Largest count of a cell, at least `least`.
    pub most: u32,
    /// Loss to reach: by each cell, or on average where the search says so.
    pub target: f32,
}

/// Counts of losses and evaluations while a search runs.
struct Evaluator<'a, 'b> {
    evaluate: &'a mut Evaluate<'b>,
    losses: Vec<f32>,
    evaluations: u32,
}

impl<'a, 'b> Evaluator<'a, 'b> {
    fn new(cells: usize, evaluate: &'a mut Evaluate<'b>) -> Self {
        Self { evaluate, losses: vec![0.0; cells], evaluations: 0 }
    }

    fn losses(&mut self, counts: &[u32]) -> Result<&[f32]> {
        self.evaluations += 1;
        (self.evaluate)(counts, &mut self.losses)?;
        Ok(&self.losses)
    }

    fn found(self, counts: Vec<u32>) -> FoundCounts {
        FoundCounts { counts, evaluations: self.evaluations }
    }
}

/// Mean of the cells' losses; cells are of one size, so it is the block's.
fn mean(losses: &[f32]) -> f32 {
    (losses.iter().map(|&l| f64::from(l)).sum::<f64>() / losses.len() as f64) as f32
}

/// Counts from `least` to `most` on a logarithmic scale, `points` at most, both ends among them.
fn grid(least: u32, most: u32, points: u32) -> Vec<u32> {
    if most - least < points {
        return (least..=most).collect();
    }
    let (from, to) = (f64::from(least.max(1)).log2(), f64::from(most).log2());
    let last = f64::from(points.max(2) - 1);
    let at = |i: u32| (from + (to - from) * f64::from(i) / last).exp2().round() as u32;
    let mut counts: Vec<u32> = (0..points.max(2)).map(|i| at(i).clamp(least, most)).collect();
    counts.push(least);
    counts.sort_unstable();
    counts.dedup();
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_have_both_ends_and_rise() {
        for (least, most, points) in [(0, 0, 1), (0, 5, 100), (1, 64, 100), (0, 4096, 100), (256, 4096, 16), (7, 8, 1)] {
            let g = grid(least, most, points);
            assert_eq!((g[0], g[g.len() - 1]), (least, most));
            assert!(g.windows(2).all(|w| w[0] < w[1]) && g.len() <= points.max(2) as usize + 1, "{g:?}");
        }
        assert_eq!(grid(3, 6, 100), [3, 4, 5, 6]);
    }
}
