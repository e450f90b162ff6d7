// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sharing out tokens between cells by equal slope: the same fall of loss per token everywhere, as near as the curves'
//! corners allow.

/// A cell's loss against its count: (count, loss), counts rising, at least one point.
pub type Curve = Vec<(u32, f32)>;

/// Counts by equal slope.
#[derive(Debug, Clone, PartialEq)]
pub struct Allocation {
    /// Each cell's count, a point of its curve.
    pub counts: Vec<u32>,
    /// Mean loss of the cells there.
    pub mean: f32,
    /// The last step taken: cell, the count before, and the mean loss before.
    pub last: Option<(usize, u32, f32)>,
}

/// A step down one edge of a cell's lower convex hull.
#[derive(Debug, Clone, Copy)]
struct Step {
    /// Fall of loss per token, above 0.
    slope: f64,
    cell: usize,
    tokens: u32,
    gain: f64,
}

/// Corners of the lower convex hull from the first point down to the least loss.
fn hull(curve: &[(u32, f32)]) -> Vec<(u32, f64)> {
    let mut corners: Vec<(u32, f64)> = Vec::new();
    for &(n, loss) in curve {
        let loss = f64::from(loss);
        if corners.last().is_some_and(|&(_, least)| loss >= least) {
            continue;
        }
        let slope = |a: (u32, f64), b: (u32, f64)| (a.1 - b.1) / f64::from(b.0 - a.0);
        while let [.., a, b] = corners[..]
            && slope(a, b) <= slope(b, (n, loss))
        {
            corners.pop();
        }
        corners.push((n, loss));
    }
    corners
}

/// Gives tokens to the cells where they help most, until the cells' mean loss is at most `target` or nothing helps any more,
/// with at most `budget` tokens in all. The curves' first points are given whatever they cost.
pub fn equal_slope(curves: &[Curve], target: f32, budget: u64) -> Allocation {
    let mut steps = Vec::new();
    let mut counts = Vec::with_capacity(curves.len());
    let mut sum = 0.0;
    for (cell, curve) in curves.iter().enumerate() {
        let corners = hull(curve);
        let Some(first) = corners.first() else {
            counts.push(0);
            continue;
        };
        counts.push(first.0);
        sum += first.1;
        steps.extend(corners.windows(2).map(|w| {
            let (tokens, gain) = (w[1].0 - w[0].0, w[0].1 - w[1].1);
            Step { slope: gain / f64::from(tokens), cell, tokens, gain }
        }));
    }
    // Stable: the steps of a cell have falling slopes and stay in order.
    steps.sort_by(|a, b| b.slope.total_cmp(&a.slope));
    let cells = curves.len().max(1) as f64;
    let mut used: u64 = counts.iter().map(|&n| u64::from(n)).sum();
    let mut last = None;
    let mut stopped = vec![false; curves.len()];
    for step in steps {
        if (sum / cells) as f32 <= target {
            break;
        }
        // What follows in a cell depends on the step that did not fit.
        stopped[step.cell] |= used + u64::from(step.tokens) > budget;
        if stopped[step.cell] {
            continue;
        }
        last = Some((step.cell, counts[step.cell], (sum / cells) as f32));
        counts[step.cell] += step.tokens;
        used += u64::from(step.tokens);
        sum -= step.gain;
    }
    Allocation { counts, mean: (sum / cells) as f32, last }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hull_skips_what_does_not_help() {
        let curve = [(1, 1.0), (2, 0.9), (3, 0.2), (4, 0.3), (5, 0.1), (6, 0.1)];
        assert_eq!(hull(&curve).iter().map(|c| c.0).collect::<Vec<_>>(), [1, 3, 5]);
    }

    #[test]
    fn tokens_go_where_they_help() {
        let flat: Curve = (1..=8).map(|n| (n, 0.01 / n as f32)).collect();
        let steep: Curve = (1..=8).map(|n| (n, 1.0 / n as f32)).collect();
        let a = equal_slope(&[flat.clone(), steep.clone()], 0.1, u64::MAX);
        assert_eq!(a.counts[0], 1);
        assert!(a.mean <= 0.1 && a.counts[1] == 6, "{a:?}");
        let a = equal_slope(&[flat.clone(), steep.clone()], 0.0, u64::MAX);
        assert_eq!(a.counts, [8, 8], "out of reach: all that helps");
        assert_eq!(equal_slope(&[flat, steep], 0.0, 7).counts.iter().sum::<u32>(), 7);
    }

    proptest! {
        /// No other choice of corners with fewer tokens meets the target, up to the last step's size.
        #[test]
        fn few_tokens_meet_the_target(losses in prop::collection::vec(prop::collection::vec(0.0f32..1.0, 5), 3), target in 0.0f32..0.8) {
            let curves: Vec<Curve> = losses
                .iter()
                .map(|l| {
                    let mut l = l.clone();
                    l.sort_by(|a, b| b.total_cmp(a));
                    l.into_iter().enumerate().map(|(i, l)| (i as u32 + 1, l)).collect()
                })
                .collect();
            let a = equal_slope(&curves, target, u64::MAX);
            let at = |c: &[usize]| c.iter().zip(&curves).map(|(&i, c)| f64::from(c[i].1)).sum::<f64>() / 3.0;
            let mut fewest = None::<u32>;
            for i in 0..125 {
                let c = [i % 5, i / 5 % 5, i / 25];
                if at(&c) as f32 <= target {
                    let n = c.iter().map(|i| *i as u32 + 1).sum();
                    fewest = Some(fewest.map_or(n, |f| f.min(n)));
                }
            }
            match fewest {
                None => prop_assert!(a.mean > target),
                Some(fewest) => {
                    prop_assert!(a.mean <= target);
                    let used = a.counts.iter().sum::<u32>();
                    let step = a.last.map_or(0, |(cell, before, _)| a.counts[cell] - before);
                    prop_assert!(used < fewest + step.max(1), "{used} where {fewest} are enough, last step {step}");
                }
            }
        }
    }
}
