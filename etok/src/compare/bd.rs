// SPDX-License-Identifier: MIT OR Apache-2.0
//! Differences in rate at equal quality.

/// A rate above 0 and a quality in dB.
pub type Point = (f64, f64);

/// Piecewise cubic that rises where its points do (Fritsch and Carlson).
struct Pchip {
    x: Vec<f64>,
    y: Vec<f64>,
    slopes: Vec<f64>,
}

impl Pchip {
    /// At least two points, `x` rising.
    fn new(x: Vec<f64>, y: Vec<f64>) -> Self {
        let n = x.len();
        let h: Vec<f64> = x.windows(2).map(|w| w[1] - w[0]).collect();
        let d: Vec<f64> = y.windows(2).zip(&h).map(|(w, h)| (w[1] - w[0]) / h).collect();
        let mut slopes = vec![0.0; n];
        for i in 1..n - 1 {
            if d[i - 1] * d[i] > 0.0 {
                let (a, b) = (2.0 * h[i] + h[i - 1], h[i] + 2.0 * h[i - 1]);
                slopes[i] = (a + b) / (a / d[i - 1] + b / d[i]);
            }
        }
        if n == 2 {
            slopes.fill(d[0]);
        } else {
            slopes[0] = edge(h[0], h[1], d[0], d[1]);
            slopes[n - 1] = edge(h[n - 2], h[n - 3], d[n - 2], d[n - 3]);
        }
        Self { x, y, slopes }
    }

    fn at(&self, x: f64) -> f64 {
        let i = self.x.partition_point(|p| *p <= x).clamp(1, self.x.len() - 1) - 1;
        let h = self.x[i + 1] - self.x[i];
        let t = (x - self.x[i]) / h;
        let (t2, t3) = (t * t, t * t * t);
        (2.0 * t3 - 3.0 * t2 + 1.0) * self.y[i]
            + (t3 - 2.0 * t2 + t) * h * self.slopes[i]
            + (3.0 * t2 - 2.0 * t3) * self.y[i + 1]
            + (t3 - t2) * h * self.slopes[i + 1]
    }
}

/// The slope at an end, from the two intervals there; it must not overshoot.
fn edge(h0: f64, h1: f64, d0: f64, d1: f64) -> f64 {
    let slope = ((2.0 * h0 + h1) * d0 - h0 * d1) / (h0 + h1);
    if slope * d0 <= 0.0 {
        0.0
    } else if d0 * d1 <= 0.0 && slope.abs() > 3.0 * d0.abs() {
        3.0 * d0
    } else {
        slope
    }
}

/// Quality and logarithm of rate, both sorted by quality, which rises.
fn prepare(curve: &[Point]) -> (Vec<f64>, Vec<f64>) {
    let mut sorted: Vec<Point> = curve.iter().copied().filter(|p| p.0 > 0.0 && p.1.is_finite()).collect();
    sorted.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut out: (Vec<f64>, Vec<f64>) = Default::default();
    for (rate, quality) in sorted {
        if out.0.last().is_none_or(|last| quality > last + 1e-4) {
            out.0.push(quality);
            out.1.push(rate.ln());
        }
    }
    out
}

/// Per cent of rate that `test` needs more than `reference` at equal quality, mean over the qualities that both reach; `None` where
/// that range is hardly any.
pub fn rate(reference: &[Point], test: &[Point]) -> Option<f64> {
    let ((qa, ra), (qb, rb)) = (prepare(reference), prepare(test));
    if qa.len() < 3 || qb.len() < 3 {
        return None;
    }
    let (low, high) = (qa[0].max(qb[0]), qa[qa.len() - 1].min(qb[qb.len() - 1]));
    if high - low < 0.3 {
        return None;
    }
    let (a, b) = (Pchip::new(qa, ra), Pchip::new(qb, rb));
    const SAMPLES: usize = 200;
    let sum: f64 = (0..SAMPLES).map(|i| low + (high - low) * i as f64 / (SAMPLES - 1) as f64).map(|q| b.at(q) - a.at(q)).sum();
    Some(((sum / SAMPLES as f64).exp() - 1.0) * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURVE: [Point; 5] = [(100.0, 28.0), (200.0, 31.0), (390.0, 34.5), (800.0, 37.0), (1700.0, 40.0)];

    #[test]
    fn half_the_rate_is_minus_fifty() {
        let half: Vec<Point> = CURVE.iter().map(|p| (p.0 / 2.0, p.1)).collect();
        assert!((rate(&CURVE, &half).expect("they overlap") + 50.0).abs() < 1e-9);
        assert!((rate(&half, &CURVE).expect("they overlap") - 100.0).abs() < 1e-9);
        assert_eq!(rate(&CURVE, &CURVE), Some(0.0));
    }

    /// As SciPy's PchipInterpolator has it: x = 0, 1, 3, 4; y = 0, 1, 2, 6 at 0.5, 2 and 3.5.
    #[test]
    fn the_interpolation_is_the_usual_one() {
        let p = Pchip::new(vec![0.0, 1.0, 3.0, 4.0], vec![0.0, 1.0, 2.0, 6.0]);
        for (x, y) in EXPECTED {
            assert!((p.at(x) - y).abs() < 1e-9, "{x}: {} is not {y}", p.at(x));
        }
    }

    const EXPECTED: [(f64, f64); 3] = [(0.5, 0.559294871795), (2.0, 1.42983367983), (3.5, 3.47578828829)];

    #[test]
    fn what_does_not_overlap_has_no_figure() {
        let far: Vec<Point> = CURVE.iter().map(|p| (p.0, p.1 + 50.0)).collect();
        assert_eq!(rate(&CURVE, &far), None);
        assert_eq!(rate(&CURVE[..2], &CURVE), None);
        assert_eq!(rate(&[(0.0, 30.0), (f64::NAN, 31.0), (1.0, 32.0)], &CURVE), None);
    }
}
