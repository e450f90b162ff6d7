// SPDX-License-Identifier: MIT OR Apache-2.0
//! Quantiser steps, nested digits and the values they stand for.

use super::MAX_NESTED_LAYERS;
use crate::entropy::Tables;

/// Largest quantiser index.
pub const MAX_QUANTISER: u8 = 87;

/// round(4 * 2^(i/8) * 2^17) for i in 0..8: precise enough that every step comes out rounded to nearest.
const OCTAVE: [u32; 8] = [524_288, 571_740, 623_487, 679_917, 741_455, 808_563, 881_744, 961_548];

/// Step of the last layer in latent units: round(4 * 2^(quantiser / 8)), quantiser in 0..=87 (larger ones are
/// cut). Integer arithmetic only: decoders depend on it.
pub fn step(quantiser: u8) -> i32 {
    let q = u32::from(quantiser.min(MAX_QUANTISER));
    let scaled = OCTAVE[(q % 8) as usize] << (q / 8);
    ((scaled + (1 << 16)) >> 17) as i32
}

/// `3^(depth - 1 - layer)`: how many intervals of the last layer of a block one interval of `layer` spans.
pub const fn span(depth: usize, layer: usize) -> i32 {
    3i32.pow((depth - 1 - layer) as u32)
}

/// Groups of coefficients that share a reconstruction bias.
pub(super) const BIAS_GROUPS: usize = 4;
/// Magnitudes 1, 2 and above have their own biases.
pub(super) const BIAS_MAGNITUDES: usize = 3;
/// Biases of a bundle.
pub const BIASES: usize = MAX_NESTED_LAYERS * BIAS_MAGNITUDES * BIAS_GROUPS;

/// Index of a bias: `finer` = layers that were not received, `magnitude` >= 1 at the last received layer.
#[inline]
pub fn bias_index(finer: usize, magnitude: i32, group: u8) -> usize {
    (finer * BIAS_MAGNITUDES + (magnitude.clamp(1, 3) - 1) as usize) * BIAS_GROUPS + usize::from(group)
}

/// Latent values of digits after one of the layers.
#[derive(Debug, Clone)]
pub(super) struct Reconstruction {
    step: i64,
    span: i64,
    /// Offset below the middle of the interval, in 1/512 latent units, by magnitude class and group.
    bias: [[i64; BIAS_GROUPS]; BIAS_MAGNITUDES],
}

impl Reconstruction {
    pub fn new(tables: &Tables, depth: usize, layer: usize, quantiser: u8) -> Self {
        let (step, span) = (i64::from(step(quantiser)), i64::from(span(depth, layer)));
        let mut bias = [[0; BIAS_GROUPS]; BIAS_MAGNITUDES];
        for (m, row) in bias.iter_mut().enumerate() {
            for (g, b) in row.iter_mut().enumerate() {
                let index = bias_index(depth - 1 - layer, m as i32 + 1, g as u8);
                *b = i64::from(tables.biases().get(index).copied().unwrap_or(0)) * 2 * span * step;
            }
        }
        Self { step, span, bias }
    }

    /// Latent value of the signed magnitude `m`, rounded to nearest (halves away from zero), within i16.
    #[inline]
    pub fn value(&self, m: i32, group: u8) -> i32 {
        if m == 0 {
            return 0;
        }
        let a = i64::from(m.unsigned_abs());
        // middle of [a * span - 1/2, (a + 1) * span - 1/2) steps, in 1/512 latent units
        let middle = (2 * a * self.span + self.span - 1) * self.step * 256;
        let value = (middle - self.bias[a.min(3) as usize - 1][usize::from(group)] + 256) >> 9;
        let value = value.clamp(0, i64::from(i16::MAX)) as i32;
        if m < 0 { -value } else { value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_the_rounded_powers() {
        for q in 0..=MAX_QUANTISER {
            assert_eq!(step(q), (4.0 * 2f64.powf(f64::from(q) / 8.0)).round() as i32, "quantiser {q}");
        }
        assert_eq!(step(255), step(MAX_QUANTISER));
    }

    #[test]
    fn reconstruction_is_the_middle() {
        let flat = Tables::flat(0);
        let r = |layer| Reconstruction::new(&flat, 3, layer, 16);
        assert_eq!([r(2).value(1, 0), r(2).value(-5, 1)], [16, -80]);
        assert_eq!([r(1).value(1, 0), r(0).value(-1, 0), r(0).value(0, 0)], [64, -13 * 16, 0]);
        assert_eq!(r(0).value(32767, 0), 32767);
    }
}
