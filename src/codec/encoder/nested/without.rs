// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the upper layers of blocks are worth, for rate control while they are left out.
//!
//! It holds the bitrate or the quality of all layers. Were it told of the others alone, it would make those finer, and receivers
//! of few layers would get more bits than their networks carry.

/// Weight of a block in the mean.
const WEIGHT: f64 = 0.2;
/// Least bits of a prefix that count: what is nearly empty says nothing.
const LEAST_BITS: f64 = 64.0;

/// Mean ratio of bits, as its logarithm, and mean difference of PSNR in dB, of all layers and all but the upper 0, 1, ..
#[derive(Debug, Clone)]
pub(super) struct Without {
    means: Vec<Option<(f64, f64)>>,
    /// Mean of measured over estimated PSNR of all layers, in dB. The loop filter gains more where steps are larger.
    filter: f64,
}

impl Without {
    pub fn new(layers: usize) -> Self {
        Self { means: vec![None; layers], filter: 0.0 }
    }

    /// Learns of a block without its upper `shed` layers: bits of its first layer, the first two, .. and PSNR with them.
    pub fn learn(&mut self, prefixes: &[(f64, f64)], shed: usize) {
        let Some((&(bits, psnr), below)) = prefixes.split_last() else { return };
        let (factor, gain) = self.all_layers(shed);
        for (less, &(fewer, worse)) in (shed + 1..).zip(below.iter().rev()) {
            let Some(mean) = self.means.get_mut(less).filter(|_| fewer >= LEAST_BITS && psnr.is_finite()) else { continue };
            let now = ((bits * factor / fewer).ln(), psnr + gain - worse);
            let (log, difference) = mean.unwrap_or(now);
            *mean = Some((log + WEIGHT * (now.0 - log), difference + WEIGHT * (now.1 - difference)));
        }
    }

    /// PSNR of all layers, where their estimate is `estimated` and that of all but the upper `shed` was measured.
    pub fn measured(&mut self, estimated: f64, measured: f64, shed: usize) -> f64 {
        if shed > 0 {
            return estimated + self.filter;
        }
        if (measured - estimated).is_finite() {
            self.filter += WEIGHT * (measured - estimated - self.filter);
        }
        measured
    }

    /// By what factor all layers have more bits than all but the upper `shed`, and by how many dB they are better.
    pub fn all_layers(&self, shed: usize) -> (f64, f64) {
        match self.means.get(shed) {
            Some(&Some((log, difference))) => (log.exp().max(1.0), difference.max(0.0)),
            _ => (1.0, 0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_known_from_before() {
        let mut without = Without::new(4);
        assert_eq!(without.all_layers(2), (1.0, 0.0), "nothing is known");
        for _ in 0..200 {
            without.learn(&[(1000.0, 30.0), (2500.0, 34.0), (6000.0, 38.0), (15000.0, 42.0)], 0);
        }
        let close = |(a, b): (f64, f64), (c, d): (f64, f64)| (a - c).abs() < 1e-6 && (b - d).abs() < 1e-6;
        assert_eq!(without.all_layers(0), (1.0, 0.0));
        assert!(close(without.all_layers(1), (2.5, 4.0)) && close(without.all_layers(3), (15.0, 12.0)));
        // While one is left out, the worth of the next one is still followed.
        for _ in 0..200 {
            without.learn(&[(1000.0, 30.0), (2000.0, 33.0), (4000.0, 38.0)], 1);
        }
        assert!(close(without.all_layers(1), (2.5, 4.0)) && close(without.all_layers(2), (5.0, 9.0)), "{without:?}");
        without.learn(&[(0.0, f64::INFINITY), (0.0, f64::INFINITY)], 2);
        assert!(close(without.all_layers(3), (10.0, 12.0)), "{without:?}");
    }
}
