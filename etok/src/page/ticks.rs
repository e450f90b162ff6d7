// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the lines of an axis stand, and what is written at them.

use crate::text;

/// Round numbers within `low..=high`, about `wanted` of them.
pub fn linear(low: f64, high: f64, wanted: usize) -> Vec<f64> {
    let span = high - low;
    if !span.is_finite() || span <= 0.0 || wanted == 0 {
        return vec![low];
    }
    let rough = span / wanted as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough * 0.999).unwrap_or(10.0 * power);
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

/// 1, 2 and 5 times powers of ten within `low..=high`.
pub fn logarithmic(low: f64, high: f64) -> Vec<f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let all = (first..=last).flat_map(|p| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(p)));
    all.filter(|t| *t >= low * 0.999 && *t <= high * 1.001).collect()
}

/// A tick's label, as exact as ticks `step` apart need it.
pub fn label(value: f64, step: f64) -> String {
    if step >= 1.0 || step == 0.0 {
        let sign = if value < -0.5 { "-" } else { "" };
        return format!("{sign}{}", text::grouped(value.abs().round() as u64));
    }
    let digits = (-step.log10()).ceil().clamp(1.0, 6.0) as usize;
    format!("{value:.digits$}")
}

/// A time's label: seconds, or minutes and seconds on axes of minutes.
pub fn clock(seconds: f64, step: f64, longest: f64) -> String {
    if longest < 120.0 {
        return label(seconds, step);
    }
    let s = seconds.round() as u64;
    if longest < 3600.0 { format!("{}:{:02}", s / 60, s % 60) } else { format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60) }
}

/// Ticks of a time axis from 0 to `longest` seconds.
pub fn times(longest: f64) -> Vec<f64> {
    if longest < 120.0 {
        return linear(0.0, longest, 8);
    }
    let steps = [15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0];
    let step = steps.into_iter().find(|s| longest / s <= 10.0).unwrap_or((longest / 10.0).max(14400.0));
    (0..=(longest / step) as u64).map(|i| i as f64 * step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(linear(0.0, 10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(linear(31.3, 38.9, 4), [32.0, 34.0, 36.0, 38.0]);
        assert_eq!(linear(5.0, 5.0, 4), [5.0]);
        assert_eq!(linear(0.0, f64::INFINITY, 4), [0.0]);
        assert_eq!(logarithmic(90.0, 1100.0), [100.0, 200.0, 500.0, 1000.0]);
        assert_eq!(times(150.0), [0.0, 15.0, 30.0, 45.0, 60.0, 75.0, 90.0, 105.0, 120.0, 135.0, 150.0]);
        assert!(times(1e6).len() < 80);
    }

    #[test]
    fn labels_say_enough() {
        assert_eq!(label(0.15, 0.05), "0.15");
        assert_eq!(label(12000.0, 2000.0), "12,000");
        assert_eq!(label(-4.0, 2.0), "-4");
        assert_eq!(clock(75.0, 15.0, 150.0), "1:15");
        assert_eq!(clock(2.5, 0.5, 4.0), "2.5");
    }
}
