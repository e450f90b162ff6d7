// SPDX-License-Identifier: MIT OR Apache-2.0
//! Quantiser steps of a block's layers, and the values that quantisation indices stand for.

use super::MAX_NESTED_LAYERS;
use crate::entropy::Tables;

/// Largest quantiser index.
pub const MAX_QUANTISER: u8 = 87;

/// round(4 * 2^(i/8) * 2^17) for i in 0..8: precise enough that every step comes out rounded to nearest.
const OCTAVE: [u32; 8] = [524_288, 571_740, 623_487, 679_917, 741_455, 808_563, 881_744, 961_548];

/// Step of a quantiser in latent units: round(4 * 2^(quantiser / 8)), quantiser in 0..=87 (larger ones are
/// cut). Integer arithmetic only: decoders depend on it.
pub fn step(quantiser: u8) -> i32 {
    let q = u32::from(quantiser.min(MAX_QUANTISER));
    let scaled = OCTAVE[(q % 8) as usize] << (q / 8);
    ((scaled + (1 << 16)) >> 17) as i32
}

/// The coefficients of a cell that have one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All but the next.
    Main,
    /// The constant terms of chroma. An error in them is a square of wrong colour, which is seen where luma's errors are not.
    ChromaConstant,
    /// The constant term of luma in intra cells. Where it is off by another amount in each cell, a smooth surface shows squares.
    LumaConstant,
}

/// The quantisers from which on those of constant terms rise by one for every [`CONSTANT_SLOWER`].
const CHROMA_KNEE: u8 = 56;
const LUMA_KNEE: u8 = 48;
const CONSTANT_SLOWER: u8 = 4;

impl Part {
    pub const COUNT: usize = 3;
    pub const ALL: [Self; Self::COUNT] = [Self::Main, Self::ChromaConstant, Self::LumaConstant];

    /// Of a coefficient at `[component, t, v, u]` in an inter or an intra cell.
    pub fn of(position: [u16; 4], intra: bool) -> Self {
        match position {
            [0, 0, 0, 0] if intra => Self::LumaConstant,
            [component, 0, 0, 0] if component > 0 => Self::ChromaConstant,
            _ => Self::Main,
        }
    }

    /// The quantiser of these coefficients where the layer's is `quantiser`.
    fn quantiser(self, quantiser: u8) -> u8 {
        let finer_from = |knee: u8| quantiser.min(knee) + quantiser.saturating_sub(knee) / CONSTANT_SLOWER;
        match self {
            Self::Main => quantiser,
            Self::ChromaConstant => finer_from(CHROMA_KNEE),
            Self::LumaConstant => finer_from(LUMA_KNEE),
        }
    }
}

/// The quantisers of a block's layers. Their indices are spaced evenly, and so the steps' ratios.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerSteps {
    depth: usize,
    base: u8,
    finest: u8,
}

impl LayerSteps {
    /// Of `depth` layers (0 counts as 1), with the quantiser `finest` in the last one and `base` in layer 0. They are cut to
    /// 87, and `base` is at least `finest`.
    pub fn new(depth: usize, base: u8, finest: u8) -> Self {
        let finest = finest.min(MAX_QUANTISER);
        Self { depth: depth.max(1), base: base.clamp(finest, MAX_QUANTISER), finest }
    }

    /// Of `depth` layers that are each `ratio` indices apart, as far as there are indices.
    pub fn spaced(depth: usize, ratio: u8, finest: u8) -> Self {
        let base = usize::from(finest) + usize::from(ratio) * (depth.max(1) - 1);
        Self::new(depth, base.min(usize::from(MAX_QUANTISER)) as u8, finest)
    }

    /// Layers of the block.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Quantiser of `layer`, which is below the depth.
    pub fn quantiser(&self, layer: usize) -> u8 {
        let (above, intervals) = (self.depth - 1 - layer.min(self.depth - 1), self.depth - 1);
        let spread = usize::from(self.base - self.finest);
        // rounded to nearest, halves up
        self.finest + ((2 * above * spread + intervals) / (2 * intervals).max(1)) as u8
    }

    /// Step of `layer` in latent units; those of constant terms are finer where it is coarse.
    pub fn step(&self, layer: usize) -> i32 {
        self.step_of(layer, Part::Main)
    }

    /// Step of some coefficients in `layer` in latent units.
    pub(super) fn step_of(&self, layer: usize, part: Part) -> i32 {
        step(part.quantiser(self.quantiser(layer)))
    }

    /// From the indices of the layer before `layer`, which is above 0, to its own.
    pub(super) fn prediction(&self, layer: usize) -> Predictions {
        Predictions(Part::ALL.map(|part| Prediction::new(self.step_of(layer - 1, part), self.step_of(layer, part))))
    }
}

/// A [`Prediction`] for each part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Predictions([Prediction; Part::COUNT]);

impl Predictions {
    #[inline]
    pub fn of(&self, part: Part) -> Prediction {
        self.0[part as usize]
    }
}

/// The index that a layer assumes for a coefficient: that of the value which the layer before gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prediction {
    /// Ratio of the steps, and its inverse, in 2^-16.
    ratio: i64,
    inverse: i64,
}

impl Prediction {
    fn new(coarse: i32, fine: i32) -> Self {
        let ratio = |a: i32, b: i32| ((i64::from(a) << 16) + i64::from(b) / 2) / i64::from(b);
        Self { ratio: ratio(coarse, fine), inverse: ratio(fine, coarse) }
    }

    /// The index assumed for a coefficient with the index `before` in the layer before, within +-32767.
    #[inline]
    pub fn assumed(&self, before: i16) -> i16 {
        let magnitude = (i64::from(before.unsigned_abs()) * self.ratio + (1 << 15)) >> 16;
        before.signum() * magnitude.min(i64::from(i16::MAX)) as i16
    }

    /// The magnitude in the layer before of a coefficient that is `assumed` to be something else than zero.
    #[inline]
    pub fn before(&self, assumed: i32) -> i32 {
        ((i64::from(assumed.unsigned_abs()) * self.inverse + (1 << 15)) >> 16) as i32
    }
}

/// Groups of coefficients that share a reconstruction bias.
pub(super) const BIAS_GROUPS: usize = 4;
/// Magnitudes 1, 2 and above have their own biases.
pub(super) const BIAS_MAGNITUDES: usize = 3;
/// Biases of a bundle: those of layer 0, then those of the others.
pub const BIASES: usize = 2 * BIAS_MAGNITUDES * BIAS_GROUPS;

/// Index of the bias of a coefficient of `group` with `magnitude` >= 1 after `layer`.
#[inline]
pub fn bias_index(layer: usize, magnitude: i32, group: u8) -> usize {
    (layer.min(1) * BIAS_MAGNITUDES + (magnitude.clamp(1, 3) - 1) as usize) * BIAS_GROUPS + usize::from(group)
}

/// Latent values of the indices of one layer.
#[derive(Debug, Clone)]
pub(super) struct Reconstruction {
    parts: [PartReconstruction; Part::COUNT],
}

#[derive(Debug, Clone)]
struct PartReconstruction {
    step: i64,
    /// Offset towards zero, in 1/256 latent units, by magnitude class and group.
    bias: [[i64; BIAS_GROUPS]; BIAS_MAGNITUDES],
}

impl Reconstruction {
    pub fn new(tables: &Tables, steps: LayerSteps, layer: usize) -> Self {
        let of = |part| {
            let step = i64::from(steps.step_of(layer, part));
            let bias = |m: usize, g: usize| {
                let index = bias_index(layer, m as i32 + 1, g as u8);
                i64::from(tables.biases().get(index).copied().unwrap_or(0)) * step
            };
            PartReconstruction { step, bias: std::array::from_fn(|m| std::array::from_fn(|g| bias(m, g))) }
        };
        Self { parts: Part::ALL.map(of) }
    }

    /// Latent value of the signed index `k`, rounded to nearest (halves away from zero), within i16.
    #[inline]
    pub fn value(&self, k: i32, part: Part, group: u8) -> i32 {
        if k == 0 {
            return 0;
        }
        let a = i64::from(k.unsigned_abs());
        let PartReconstruction { step, bias } = &self.parts[part as usize];
        let value = (a * step * 256 - bias[a.min(3) as usize - 1][usize::from(group)] + 128) >> 8;
        let value = value.clamp(0, i64::from(i16::MAX)) as i32;
        if k < 0 { -value } else { value }
    }
}

const _: () = assert!(MAX_NESTED_LAYERS < 8, "the block header's LEFT_OUT has three bits");

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
    fn constant_terms_stay_finer() {
        let of = |part: Part, quantiser: u8| LayerSteps::new(1, quantiser, quantiser).step_of(0, part);
        let chroma = |quantiser| of(Part::ChromaConstant, quantiser);
        assert_eq!([0, 40, 56, 59].map(chroma), [0, 40, 56, 56].map(step));
        assert_eq!([60, 68, 87].map(chroma), [57, 59, 63].map(step));
        let luma = |quantiser| of(Part::LumaConstant, quantiser);
        assert_eq!([0, 40, 48, 51].map(luma), [0, 40, 48, 48].map(step));
        assert_eq!([52, 61, 87].map(luma), [49, 51, 57].map(step));
    }

    #[test]
    fn parts_depend_on_the_position_and_on_the_kind_of_cell() {
        let positions = [[0, 0, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0], [1, 1, 0, 0], [2, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 1]];
        let chroma = [Part::ChromaConstant; 2];
        let rest = [Part::Main; 4];
        for (intra, luma) in [(false, Part::Main), (true, Part::LumaConstant)] {
            let parts = positions.map(|position| Part::of(position, intra));
            assert_eq!(parts[0], luma);
            assert_eq!((&parts[1..3], &parts[3..]), (&chroma[..], &rest[..]));
        }
    }

    #[test]
    fn quantisers_are_spaced_evenly() {
        let all = |steps: LayerSteps| (0..steps.depth()).map(|layer| steps.quantiser(layer)).collect::<Vec<_>>();
        assert_eq!(all(LayerSteps::spaced(4, 8, 20)), [44, 36, 28, 20]);
        assert_eq!(all(LayerSteps::new(4, 30, 20)), [30, 27, 23, 20]);
        assert_eq!(all(LayerSteps::new(3, 25, 20)), [25, 23, 20]);
        assert_eq!(all(LayerSteps::spaced(1, 8, 20)), [20]);
        assert_eq!(all(LayerSteps::spaced(5, 16, 60)), [87, 80, 74, 67, 60], "there are no more indices");
        assert_eq!(all(LayerSteps::new(0, 3, 200)), [87]);
    }

    #[test]
    fn a_prediction_is_the_nearest_index_and_tells_the_one_before() {
        for (coarse, fine) in [(20u8, 12u8), (20, 15), (87, 71), (9, 0), (5, 1), (60, 47)] {
            let steps = LayerSteps::new(2, coarse, fine);
            let prediction = steps.prediction(1).of(Part::Main);
            for m in 0..60i16 {
                let exact = f64::from(m) * f64::from(steps.step(0)) / f64::from(steps.step(1));
                let assumed = prediction.assumed(m);
                assert!((f64::from(assumed) - exact).abs() <= 0.5001, "{coarse} {fine} {m}");
                assert_eq!(prediction.assumed(-m), -assumed);
                assert_eq!(prediction.before(i32::from(assumed)), i32::from(m), "{coarse} {fine}");
            }
            assert_eq!(prediction.assumed(i16::MIN), -i16::MAX);
        }
        let same = LayerSteps::new(2, 30, 30).prediction(1).of(Part::Main);
        assert_eq!((same.assumed(7), same.before(7)), (7, 7));
    }

    #[test]
    fn reconstruction_is_the_middle() {
        let flat = Tables::flat(0);
        let r = |layer| Reconstruction::new(&flat, LayerSteps::spaced(3, 8, 16), layer);
        assert_eq!([r(2).value(1, Part::Main, 0), r(2).value(-5, Part::Main, 1)], [16, -80]);
        assert_eq!([r(1).value(1, Part::Main, 0), r(0).value(-1, Part::Main, 0), r(0).value(0, Part::Main, 0)], [32, -64, 0]);
        assert_eq!(r(0).value(32767, Part::Main, 0), 32767);
        let biased = Tables::from_parts(Vec::new(), Vec::new(), (0..BIASES as u8).map(|i| i * 5).collect()).expect("valid");
        let r = |layer| Reconstruction::new(&biased, LayerSteps::spaced(3, 8, 16), layer);
        assert_eq!(r(0).value(2, Part::Main, 1), 128 - (64 * 25 + 127) / 256);
        assert_eq!(r(1).value(2, Part::Main, 1), r(1).value(3, Part::Main, 1) - 32 + (32 * 105 - 32 * 85) / 256);
    }
}
