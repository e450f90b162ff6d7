// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fewest tokens that meet the target. The result was evaluated: it meets the target, or it is the best that was tried.

use super::{Curve, Evaluate, Evaluator, FoundCounts, Problem, equal_slope, grid, mean};
use crate::Result;

/// How often `full` corrects an allocation whose measured loss is not the sum of the cells' losses by themselves.
const CORRECTIONS: u32 = 3;

/// Bisects each cell to its smallest count whose loss is at most the target, assuming that loss falls with the count. A cell
/// that cannot meet the target gets the count of least loss among those tried, which include `most`.
pub fn binary(problem: &Problem, evaluate: &mut Evaluate<'_>) -> Result<FoundCounts> {
    #[derive(Clone)]
    struct Bisection {
        low: u32,
        high: u32,
        tried: u32,
        /// Smallest count that met the target.
        meets: Option<u32>,
        /// Count and loss of the best that did not.
        best: (u32, f32),
        done: bool,
    }
    let Problem { cells, least, most, target } = *problem;
    let start = Bisection { low: least, high: most, tried: 0, meets: None, best: (most, f32::INFINITY), done: false };
    let mut state = vec![start; cells];
    let mut run = Evaluator::new(cells, evaluate);
    let mut counts = vec![0; cells];
    while state.iter().any(|c| !c.done) {
        for (cell, count) in state.iter_mut().zip(&mut counts) {
            if !cell.done {
                cell.tried = cell.low + (cell.high - cell.low) / 2;
            }
            *count = cell.tried;
        }
        let losses = run.losses(&counts)?;
        for (cell, &loss) in state.iter_mut().zip(losses).filter(|(c, _)| !c.done) {
            if loss <= target {
                (cell.meets, cell.high) = (Some(cell.tried), cell.tried);
            } else {
                if loss < cell.best.1 {
                    cell.best = (cell.tried, loss);
                }
                cell.low = cell.tried + 1;
            }
            // `high` was evaluated if anything met the target; otherwise it is `most`, which is tried last.
            cell.done = cell.low > cell.high || (cell.low == cell.high && cell.meets.is_some());
        }
    }
    Ok(run.found(state.iter().map(|c| c.meets.unwrap_or(c.best.0)).collect()))
}

/// Samples the loss at up to `points` counts, then looks closer.
///
/// One cell: the smallest sampled count that meets the target, then the smallest between it and the sample before. Many cells:
/// the cells' curves are sampled, and tokens are given out by equal slope until the mean loss of the cells is at most the
/// target.
pub fn full(problem: &Problem, points: u32, evaluate: &mut Evaluate<'_>) -> Result<FoundCounts> {
    let Problem { cells, least, most, .. } = *problem;
    let mut run = Evaluator::new(cells, evaluate);
    let mut curves: Vec<Curve> = vec![Vec::new(); cells];
    for n in grid(least, most, points) {
        let losses = run.losses(&vec![n; cells])?;
        curves.iter_mut().zip(losses).for_each(|(curve, &loss)| curve.push((n, loss)));
    }
    let counts =
        if let [curve] = &curves[..] { smallest(curve, problem, &mut run)? } else { shared(&curves, problem, &mut run)? };
    Ok(run.found(counts))
}

/// As [`full`] for one cell with these samples.
fn smallest(curve: &Curve, problem: &Problem, run: &mut Evaluator<'_, '_>) -> Result<Vec<u32>> {
    let Some(first) = curve.iter().position(|&(_, loss)| loss <= problem.target) else {
        let best = curve.iter().min_by(|a, b| a.1.total_cmp(&b.1)).map_or(problem.most, |&(n, _)| n);
        return Ok(vec![best]);
    };
    let mut high = curve[first].0;
    let mut low = if first > 0 { curve[first - 1].0 + 1 } else { high };
    while low < high {
        let middle = low + (high - low) / 2;
        if run.losses(&[middle])?[0] <= problem.target {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Ok(vec![high])
}

/// As [`full`] for many cells with these samples.
fn shared(curves: &[Curve], problem: &Problem, run: &mut Evaluator<'_, '_>) -> Result<Vec<u32>> {
    let mut aim = problem.target;
    let mut counts = Vec::new();
    for _ in 0..=CORRECTIONS {
        let allocation = equal_slope(curves, aim, u64::MAX);
        let out_of_reach = allocation.mean > aim;
        let measured = mean(run.losses(&allocation.counts)?);
        counts = allocation.counts;
        if measured > problem.target {
            if out_of_reach {
                break;
            }
            // Where cells depend on each other's tokens: aim lower by the amount missed.
            aim -= measured - problem.target;
            continue;
        }
        if let Some((cell, before, _)) = allocation.last {
            last_step(&mut counts, cell, before, problem, run)?;
        }
        break;
    }
    Ok(counts)
}

/// The last step went to a corner of the hull; fewer tokens may do.
fn last_step(counts: &mut [u32], cell: usize, before: u32, problem: &Problem, run: &mut Evaluator<'_, '_>) -> Result<()> {
    let (mut low, mut high) = (before + 1, counts[cell]);
    while low < high {
        let middle = low + (high - low) / 2;
        counts[cell] = middle;
        if mean(run.losses(counts)?) <= problem.target {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    counts[cell] = high;
    Ok(())
}

/// As [`full`] for many cells under a number of tokens in all instead of a target.
pub fn within_budget(problem: &Problem, points: u32, budget: u64, evaluate: &mut Evaluate<'_>) -> Result<FoundCounts> {
    let mut run = Evaluator::new(problem.cells, evaluate);
    let mut curves: Vec<Curve> = vec![Vec::new(); problem.cells];
    for n in grid(problem.least, problem.most, points) {
        let losses = run.losses(&vec![n; problem.cells])?;
        curves.iter_mut().zip(losses).for_each(|(curve, &loss)| curve.push((n, loss)));
    }
    let counts = equal_slope(&curves, 0.0, budget).counts;
    Ok(run.found(counts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn problem(cells: usize, target: f32) -> Problem {
        Problem { cells, least: 2, most: 40, target }
    }

    /// Curves by cell, loss at count n in `[n]`.
    fn lookup(curves: &[Vec<f32>]) -> impl FnMut(&[u32], &mut [f32]) -> Result<()> + '_ {
        move |counts, losses| {
            for ((loss, &n), curve) in losses.iter_mut().zip(counts).zip(curves) {
                *loss = curve[n as usize];
            }
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn the_smallest_count_is_found(mut losses in prop::collection::vec(0.0f32..1.0, 41), target in 0.0f32..1.0, points in 2u32..60) {
            losses.sort_by(|a, b| b.total_cmp(a));
            let wanted = (2..=40u32).find(|&n| losses[n as usize] <= target).unwrap_or(40);
            let curves = [losses];
            let p = problem(1, target);
            let binary = binary(&p, &mut lookup(&curves)).expect("never fails");
            let full = full(&p, points, &mut lookup(&curves)).expect("never fails");
            // Among equal losses that fail, the first is as good as the last.
            let same = |n: u32| n == wanted || (curves[0][40] > target && curves[0][n as usize] == curves[0][40]);
            prop_assert!(same(binary.counts[0]) && same(full.counts[0]), "{:?} {:?} {}", binary, full, wanted);
            prop_assert!(binary.evaluations <= 7);
        }

        #[test]
        fn a_result_that_can_meet_the_target_does(losses in prop::collection::vec(0.0f32..1.0, 41), target in 0.0f32..1.0) {
            let curves = [losses];
            for found in [binary(&problem(1, target), &mut lookup(&curves)), full(&problem(1, target), 64, &mut lookup(&curves))] {
                let n = found.expect("never fails").counts[0];
                prop_assert!((2..=40).contains(&n));
            }
            // Sampling everything finds it wherever it is.
            let n = full(&problem(1, target), 64, &mut lookup(&curves)).expect("never fails").counts[0] as usize;
            let least = curves[0][2..].iter().copied().fold(1.0, f32::min);
            prop_assert!(curves[0][n] <= target || (least > target && curves[0][n] == least));
        }
    }

    #[test]
    fn many_cells_meet_the_target_together_with_fewer_tokens() {
        let curves: Vec<Vec<f32>> =
            [0.02f32, 0.3, 1.0, 4.0].iter().map(|s| (0..=40).map(|n| s / (n as f32 + 1.0)).collect()).collect();
        let p = problem(4, 0.06);
        let at = |counts: &[u32]| counts.iter().zip(&curves).map(|(&n, c)| c[n as usize]).sum::<f32>() / 4.0;
        let each = binary(&p, &mut lookup(&curves)).expect("never fails");
        let together = full(&p, 12, &mut lookup(&curves)).expect("never fails");
        assert!(at(&together.counts) <= 0.06, "{together:?}");
        let alone: Vec<bool> = each.counts.iter().zip(&curves).map(|(&n, c)| c[n as usize] <= 0.06).collect();
        assert_eq!(alone, [true, true, true, false]);
        assert!(at(&each.counts) <= at(&together.counts) || each.counts.iter().sum::<u32>() > together.counts.iter().sum());
        let used: u32 = together.counts.iter().sum();
        let fewest = (0..39u32.pow(3)).filter_map(|i| {
            let three = [i % 39 + 2, i / 39 % 39 + 2, i / 1521 + 2];
            (2..=40).find(|&n| at(&[three[0], three[1], three[2], n]) <= 0.06).map(|n| three.iter().sum::<u32>() + n)
        });
        let fewest = fewest.min().expect("it can be met");
        assert!(used <= fewest + 1, "{together:?} where {fewest} are enough");
        let budget = within_budget(&p, 40, 40, &mut lookup(&curves)).expect("never fails");
        assert_eq!(budget.counts.iter().sum::<u32>(), 40);
        assert!(budget.counts.windows(2).all(|w| w[0] <= w[1]), "{budget:?}");
    }

    #[test]
    fn cells_that_see_each_other_are_corrected() {
        // Each cell loses a tenth of what its neighbour has not got.
        let mut evaluate = |counts: &[u32], losses: &mut [f32]| {
            let own: Vec<f32> = counts.iter().map(|&n| 1.0 / (n as f32 + 1.0)).collect();
            let uneven = counts.iter().max() > counts.iter().min();
            losses.copy_from_slice(&[own[0], 3.0 * own[1] + if uneven { 0.01 } else { 0.0 }]);
            Ok(())
        };
        let found = full(&problem(2, 0.1), 40, &mut evaluate).expect("never fails");
        let mut losses = [0.0; 2];
        evaluate(&found.counts, &mut losses).expect("never fails");
        assert!((losses[0] + losses[1]) / 2.0 <= 0.1, "{found:?} {losses:?}");
    }
}
