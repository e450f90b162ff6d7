// SPDX-License-Identifier: MIT OR Apache-2.0
//! The searches of ElasticTok as released, quirks included.
//!
//! Their mask keeps the slots up to and including its argument, which is one token more than the argument. The binary search
//! returns the last argument that it tried, even if that one failed, and never tries the least one. Each cell is searched by
//! itself; all cells' candidates are evaluated together.

use super::{Evaluate, Evaluator, FoundCounts};
use crate::Result;

/// The released rules and their settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Official {
    /// Least argument of the mask, at least 1 (`min_toks`).
    pub least: u32,
    /// Tokens of a cell, at least `least` (`max_toks`).
    pub most: u32,
    /// Share of `most` that is the result where nothing meets the threshold, in (0, 1].
    pub default_prop: f64,
    /// Share of `most` that is searched, in (0, 1].
    pub max_prop: f64,
    /// Candidates of the linear search, 1 or more.
    pub n_interp: u32,
    /// Loss to reach.
    pub threshold: f32,
}

impl Official {
    /// Tokens that the mask of argument `ntoks` keeps.
    pub fn kept(&self, ntoks: u32) -> u32 {
        ntoks.saturating_add(1).min(self.most)
    }

    fn fallback(&self) -> u32 {
        (self.default_prop * f64::from(self.most)) as u32
    }

    /// Largest argument that is tried.
    fn limit(&self) -> u32 {
        (self.max_prop * f64::from(self.most)).ceil() as u32
    }

    /// `inference_binary`: bisects; the result is the last argument tried, or the fallback where every loss tried was above the
    /// threshold (a tie is not).
    pub fn binary(&self, cells: usize, evaluate: &mut Evaluate<'_>) -> Result<FoundCounts> {
        #[derive(Clone)]
        struct OfficialBisection {
            low: u32,
            high: u32,
            tried: u32,
            valid: bool,
            done: bool,
        }
        let start = OfficialBisection { low: self.least, high: self.limit(), tried: 0, valid: false, done: false };
        let mut state = vec![start; cells];
        let mut run = Evaluator::new(cells, evaluate);
        let mut kept = vec![0; cells];
        while state.iter().any(|c| !c.done) {
            for (cell, kept) in state.iter_mut().zip(&mut kept) {
                if !cell.done {
                    cell.tried = (cell.low + cell.high).div_ceil(2);
                }
                *kept = self.kept(cell.tried);
            }
            let losses = run.losses(&kept)?;
            for (cell, &loss) in state.iter_mut().zip(losses).filter(|(c, _)| !c.done) {
                if loss < self.threshold {
                    cell.high = cell.tried.saturating_sub(1);
                } else {
                    cell.low = cell.tried;
                }
                cell.valid |= loss <= self.threshold;
                cell.done = cell.high <= cell.low;
            }
        }
        Ok(run.found(state.iter().map(|c| if c.valid { c.tried } else { self.fallback() }).collect()))
    }

    /// Arguments that [`linear`](Self::linear) tries: rising, with repeats.
    pub fn grid(&self) -> Vec<u32> {
        // As numpy.linspace has it, step first: another order of operations would truncate to other counts.
        let (start, stop) = (f64::from(self.least).log2(), f64::from(self.limit()).log2());
        let last = self.n_interp.saturating_sub(1);
        let step = (stop - start) / f64::from(last.max(1));
        let at = |i: u32| if i == last && i > 0 { stop } else { f64::from(i) * step + start };
        (0..self.n_interp).map(|i| at(i).exp2() as u32).collect()
    }

    /// `inference_linear`: the first argument of the [`grid`](Self::grid) whose loss is at most the threshold, or the fallback.
    pub fn linear(&self, cells: usize, evaluate: &mut Evaluate<'_>) -> Result<FoundCounts> {
        let mut run = Evaluator::new(cells, evaluate);
        let mut first = vec![None; cells];
        let mut kept = vec![0; cells];
        for ntoks in self.grid() {
            kept.fill(self.kept(ntoks));
            for (first, &loss) in first.iter_mut().zip(run.losses(&kept)?) {
                if first.is_none() && loss <= self.threshold {
                    *first = Some(ntoks);
                }
            }
        }
        Ok(run.found(first.into_iter().map(|n| n.unwrap_or(self.fallback())).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(threshold: f32) -> Official {
        Official { least: 8, most: 64, default_prop: 1.0, max_prop: 1.0, n_interp: 100, threshold }
    }

    /// The loss of a cell that keeps k tokens is scale / k.
    fn curve(scales: &[f32]) -> impl FnMut(&[u32], &mut [f32]) -> Result<()> {
        move |kept, losses| {
            for ((loss, &k), scale) in losses.iter_mut().zip(kept).zip(scales) {
                *loss = scale / k as f32;
            }
            Ok(())
        }
    }

    #[test]
    fn the_binary_search_has_its_quirks() {
        // 1/k < 0.05 first holds for k = 21, argument 20. Tried: 36, 22, 15, 18, 20, 19 - and 19 keeps 20 tokens, whose loss is no less.
        let found = rule(0.05).binary(1, &mut curve(&[1.0])).expect("never fails");
        assert_eq!(found, FoundCounts { counts: vec![19], evaluations: 6 });
        // A tie is valid, though nothing is ever below the threshold.
        let found = rule(1.0 / 64.0).binary(1, &mut curve(&[1.0])).expect("never fails");
        assert_eq!(found.counts, [64]);
        // Nothing valid: the fallback may be beyond what was searched.
        let half = Official { max_prop: 0.5, default_prop: 0.75, ..rule(0.0) };
        assert_eq!(half.binary(1, &mut curve(&[1.0])).expect("never fails").counts, [48]);
        // All valid: the least argument is never tried.
        assert_eq!(rule(1.0).binary(1, &mut curve(&[1.0])).expect("never fails").counts, [9]);
    }

    #[test]
    fn cells_are_searched_as_if_alone() {
        let scales = [0.2, 1.0, 2.0, 9.0];
        for threshold in [0.05, 0.03] {
            let rule = rule(threshold);
            let (binary, linear) = (rule.binary(4, &mut curve(&scales)), rule.linear(4, &mut curve(&scales)));
            for (i, scale) in scales.iter().enumerate() {
                let one = rule.binary(1, &mut curve(&[*scale])).expect("never fails");
                assert_eq!(binary.as_ref().expect("never fails").counts[i], one.counts[0]);
                let one = rule.linear(1, &mut curve(&[*scale])).expect("never fails");
                assert_eq!(linear.as_ref().expect("never fails").counts[i], one.counts[0]);
            }
        }
    }

    #[test]
    fn the_grid_is_truncated_and_repeats() {
        let grid = Official { least: 12, most: 144, ..rule(0.0) }.grid();
        assert_eq!((grid.len(), grid[0], grid[99]), (100, 12, 143));
        assert!(grid.windows(2).all(|w| w[0] <= w[1]) && grid.windows(2).any(|w| w[0] == w[1]));
        assert_eq!(Official { n_interp: 1, ..rule(0.0) }.grid(), [8]);
    }
}
