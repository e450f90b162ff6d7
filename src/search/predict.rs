// SPDX-License-Identifier: MIT OR Apache-2.0
//! `regression`: counts from losses that the encoder graph predicts at the layer boundaries; nothing is decoded.

use super::{Curve, Problem, equal_slope, grid};
use crate::{Error, Result};

/// Loss at `count`, between the boundaries linear in the logarithms of both: losses fall roughly as a power of the count.
/// Below the first boundary it is only known that the loss is not lower.
fn interpolate(layers: &[u32], losses: &[f32], count: u32) -> f32 {
    let above = layers.partition_point(|&b| b < count);
    match (above.checked_sub(1), layers.get(above)) {
        (None, _) => losses.first().copied().unwrap_or(f32::INFINITY),
        (_, None) => losses.last().copied().unwrap_or(f32::INFINITY),
        (Some(i), Some(&b)) => {
            let (n0, n1, n) = (f64::from(layers[i]).ln(), f64::from(b).ln(), f64::from(count).ln());
            let (l0, l1) = (f64::from(losses[i]).max(1e-12).ln(), f64::from(losses[above]).max(1e-12).ln());
            (l0 + (l1 - l0) * (n - n0) / (n1 - n0)).exp() as f32
        }
    }
}

/// Predicted curves of the cells, sampled at up to `points` counts. No count is below b1 unless `most` is, as nothing is
/// predicted there.
fn curves(problem: &Problem, layers: &[u32], distortion: &[f32], points: u32) -> Result<Vec<Curve>> {
    let least = problem.least.max(layers.first().copied().unwrap_or(0)).min(problem.most);
    let counts = grid(least, problem.most, points);
    let curve = |losses: &[f32]| -> Result<Curve> {
        if losses.iter().any(|l| !l.is_finite()) {
            return Err(Error::Model(
                "the encoder graph predicted a distortion that is not a number; export the bundle again, or set search=binary"
                    .into(),
            ));
        }
        Ok(counts.iter().map(|&n| (n, interpolate(layers, losses, n))).collect())
    };
    distortion.chunks_exact(layers.len().max(1)).map(curve).collect()
}

/// Counts that share out `budget` tokens by equal slope; otherwise as [`regression`].
pub fn within_budget(problem: &Problem, layers: &[u32], distortion: &[f32], points: u32, budget: u64) -> Result<Vec<u32>> {
    Ok(equal_slope(&curves(problem, layers, distortion, points)?, 0.0, budget).counts)
}

/// Counts whose predicted mean loss is at most the target, by equal slope. Where the target is out of reach, all tokens that
/// help.
///
/// `layers`: the boundaries b1 < .. < bL; `distortion`: the predictions there, \[cells, L\], which are sampled at up to `points`
/// counts. No count is below b1 unless `most` is: nothing is predicted there.
pub fn regression(problem: &Problem, layers: &[u32], distortion: &[f32], points: u32) -> Result<Vec<u32>> {
    let curves = curves(problem, layers, distortion, points)?;
    let mut allocation = equal_slope(&curves, problem.target, u64::MAX);
    if let Some((cell, before, mean)) = allocation.last.filter(|_| allocation.mean <= problem.target) {
        // Between the last two samples the curve is known as well.
        let curve = &curves[cell];
        let loss = |n: u32| curve.iter().find(|p| p.0 == n).map_or(f32::INFINITY, |p| p.1);
        let others = mean - loss(before) / curves.len() as f32;
        let allowed = (problem.target - others) * curves.len() as f32;
        let near = curve.iter().rev().find(|p| p.0 < allocation.counts[cell] && p.1 > allowed).map_or(before, |p| p.0);
        let losses = &distortion[cell * layers.len()..][..layers.len()];
        let enough = |n: &u32| interpolate(layers, losses, *n) <= allowed;
        allocation.counts[cell] = (near + 1..allocation.counts[cell]).find(enough).unwrap_or(allocation.counts[cell]);
    }
    Ok(allocation.counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYERS: [u32; 3] = [16, 64, 256];

    fn problem(cells: usize, target: f32) -> Problem {
        Problem { cells, least: 4, most: 256, target }
    }

    #[test]
    fn predictions_are_followed_between_the_boundaries() {
        // 1/n at the boundaries is 1/n between them.
        let d = [1.0 / 16.0, 1.0 / 64.0, 1.0 / 256.0];
        for n in [16, 17, 40, 64, 100, 255, 256] {
            assert!((interpolate(&LAYERS, &d, n) * n as f32 - 1.0).abs() < 1e-5);
        }
        let found = |target: f32| regression(&problem(1, target), &LAYERS, &d, 20).expect("finite")[0];
        assert_eq!(found(1.0), 16, "nothing is known below the first boundary");
        assert_eq!(found(0.0), 256);
        for n in [20, 63, 64, 65, 200] {
            assert_eq!(found(1.0001 / n as f32), n);
        }
    }

    #[test]
    fn cells_share_by_slope() {
        let d = [0.01, 0.005, 0.002, 1.0, 0.3, 0.05];
        let counts = regression(&problem(2, 0.1), &LAYERS, &d, 60).expect("finite");
        assert!(counts[0] < counts[1], "{counts:?}");
        let mean = (interpolate(&LAYERS, &d[..3], counts[0]) + interpolate(&LAYERS, &d[3..], counts[1])) / 2.0;
        assert!((0.095..=0.1001).contains(&mean), "{mean}");
        let counts = within_budget(&problem(2, 0.1), &LAYERS, &d, 60, 120).expect("finite");
        assert!(counts[0] < counts[1] && (100..=120).contains(&(counts[0] + counts[1])), "{counts:?}");
    }

    #[test]
    fn nonsense_is_refused() {
        let error = regression(&problem(1, 0.1), &LAYERS, &[0.1, f32::NAN, 0.0], 20).expect_err("NaN");
        assert!(error.to_string().contains("not a number"));
    }
}
