// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the next layer pays for an index that is chosen here. The layers of a drift-free stream have different references, and so different
//! latents: what one layer needs, the next may have to take back. An encoder has all latents before it chooses, so it can prefer what
//! both need.

use super::quantise::{LAMBDA, Rdo};
use super::step::{LayerSteps, Part, Predictions};

/// Weight of the next layer's cost. Its bits and errors count as much as those of the layer itself, ..
const WEIGHT: f32 = 1.0;
/// .. whose bits count more than if it were the last, since all rungs above send them too.
pub(super) const OWN_BITS: f32 = 1.4;

/// Estimated bits of a coefficient in a layer above 0: one that stays zero, a new one of magnitude 1, each doubling of that, one that is
/// as assumed, one that is not, and each step by which it is not.
const SILENT: f32 = 0.15;
const NEW: f32 = 5.5;
const DOUBLING: f32 = 1.5;
const RIGHT: f32 = 0.6;
const WRONG: f32 = 1.2;
const EACH_STEP: f32 = 1.1;

/// The next layer.
#[derive(Clone, Copy)]
pub(super) struct Above<'a> {
    /// \[cells, C\], as those of this layer.
    pub latents: &'a [i16],
    predictions: Predictions,
    /// One over the steps of its parts, in latent units.
    inverse: [f32; Part::COUNT],
    /// Squared latent units of this layer that a bit of the next one counts.
    bit: f32,
}

impl<'a> Above<'a> {
    /// The layer after `layer`.
    pub fn new(latents: &'a [i16], steps: LayerSteps, layer: usize, rdo: &Rdo) -> Self {
        Self {
            latents,
            predictions: steps.prediction(layer + 1),
            inverse: Part::ALL.map(|part| 1.0 / steps.step_of(layer + 1, part) as f32),
            bit: WEIGHT * rdo.lambda * LAMBDA * (steps.step(layer) as f32).powi(2),
        }
    }

    /// Cost of a coefficient of `part` there, with latent `x`, where its signed index here is `k`: that of the best index it can get,
    /// bits and error. `weight`: what an error of its cell counts.
    pub fn cost(&self, part: Part, weight: f32, x: i16, k: i32) -> f32 {
        let y = f32::from(x) * self.inverse[part as usize];
        let assumed = i32::from(self.predictions.of(part).assumed(k as i16));
        let cost = |index: i32| {
            let bits = match ((index - assumed).unsigned_abs(), assumed, index) {
                (0, 0, _) => SILENT,
                (0, ..) => RIGHT,
                (_, 0, _) => NEW + DOUBLING * (index.unsigned_abs() as f32).log2(),
                (steps, ..) => WRONG + EACH_STEP * steps as f32,
            };
            bits + weight * (y - index as f32).powi(2) / LAMBDA
        };
        let nearest = y.round() as i32;
        let least = [nearest - nearest.signum(), assumed, 0].map(cost).into_iter().fold(cost(nearest), f32::min);
        self.bit * least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_both_layers_need_is_cheaper_than_what_one_must_take_back() {
        let steps = LayerSteps::spaced(3, 8, 16);
        let above = Above::new(&[], steps, 0, &Rdo::default());
        let step = steps.step(0) as i16;
        assert!(
            above.cost(Part::Main, 1.0, step, 1) < above.cost(Part::Main, 1.0, step, 0),
            "sent here, it need not be sent there"
        );
        assert!(above.cost(Part::Main, 1.0, 0, 1) > above.cost(Part::Main, 1.0, 0, 0), "sent here, it must be taken back");
        for x in [-3 * step, -step / 2, 0, step / 3, step, 20 * step] {
            for k in -4..=4 {
                assert_eq!(above.cost(Part::Main, 1.0, x, k), above.cost(Part::Main, 1.0, -x, -k));
            }
        }
        let none = Above::new(&[], steps, 0, &Rdo { lambda: 0.0, ..Rdo::default() });
        assert_eq!(
            none.cost(Part::Main, 1.0, step, 1),
            none.cost(Part::Main, 1.0, step, 0),
            "where bits are free, errors here decide alone"
        );
        assert!(above.cost(Part::Main, 1.0, i16::MIN, 32767).is_finite());
    }
}
