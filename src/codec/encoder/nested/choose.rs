// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which quantiser a block gets, how many layers, and which tokens.

use std::time::Instant;

use super::super::super::SearchMethod;
use super::super::super::quality::psnr;
use super::analyse::Analysis;
use super::ladder;
use super::loops::Loops;
use super::sample::Sample;
use super::steps::{Choice, NestedBlocks};
use crate::Result;
use crate::rate::{COARSEST, KEY_OFFSET, RateControl};
use crate::tokens::{LayerSteps, Rdo};

/// Range around the proposed quantiser in which `search=full` and `binary` look.
const SEARCH_WINDOW: u8 = 16;
/// Trials on a sample that place the first quantiser of a stream.
const SAMPLED_TRIALS: usize = 3;
/// The last of them is one that moves the quantiser by no more indices.
const NEAR: u8 = 1;

impl NestedBlocks {
    /// Chooses quantisers, depth and tokens of the block that was transformed.
    pub(super) fn choose(&mut self, analysis: &Analysis) -> Result<Choice> {
        let mut choice = self.choose_finest(analysis)?;
        for _ in 0..ladder::TRIALS {
            let first = self.prefixes.first().map_or(0.0, |prefix| prefix.0);
            if !self.ladder.reconsider(analysis.key, choice.steps, first) {
                break;
            }
            choice = Choice { evaluations: choice.evaluations, ..self.quantise(analysis, choice.quantiser)? };
        }
        Ok(choice)
    }

    /// Chooses the quantiser of the last layer, with those of the others as they are for now.
    fn choose_finest(&mut self, analysis: &Analysis) -> Result<Choice> {
        let seeks_quality = self.rate.live().rate_control == RateControl::Quality;
        if seeks_quality && self.method != SearchMethod::Regression {
            return self.search_quality(analysis);
        }
        let mut quantiser = analysis.proposed;
        if let Some(psnr) = self.predicted_psnr()?.filter(|_| seeks_quality) {
            // The graph's prediction saves a trial where the picture is new.
            quantiser = self.rate.reconsider(analysis.key, quantiser, 0.0, psnr).unwrap_or(quantiser);
        }
        if seeks_quality && self.first {
            quantiser = self.place_first(quantiser)?;
        }
        let mut choice = self.quantise(analysis, quantiser)?;
        for _ in 0..2 {
            let Some(other) = self.rate.reconsider(analysis.key, choice.quantiser, choice.bits, choice.estimated_psnr) else {
                break;
            };
            choice = self.quantise(analysis, other)?;
        }
        Ok(choice)
    }

    /// Looks for the quantiser of a stream's first block on a sample of its cells, from the proposed one on: trials of the whole block are
    /// much of what the first packet waits for. That one is returned where the picture is too small for a sample.
    fn place_first(&mut self, mut quantiser: u8) -> Result<u8> {
        let started = Instant::now();
        let (rdo, estimated_psnr) = (self.rdo(), self.estimated_psnr());
        let size = (self.geometry.cells_x, self.geometry.cells_y);
        let Some(mut sample) = Sample::new(&self.tokens, self.decoding.loops()?.finest.latents()?, size)? else {
            return Ok(quantiser);
        };
        for _ in 0..SAMPLED_TRIALS {
            let error = sample.luma_error(self.steps_for(true, quantiser), &rdo)?;
            let Some(other) = self.rate.reconsider(true, quantiser, 0.0, estimated_psnr(error)) else { break };
            let near = other.abs_diff(quantiser) <= NEAR;
            quantiser = other;
            if near {
                break;
            }
        }
        self.spent.token_time += started.elapsed();
        Ok(quantiser)
    }

    /// `full` and `binary`: the coarsest quantiser around the proposed one whose decoded block meets the target, or the finest tried.
    fn search_quality(&mut self, analysis: &Analysis) -> Result<Choice> {
        let (first, target) = (analysis.proposed, self.rate.live().target_psnr);
        // Nothing is known before the first block; later ones are close to the block before.
        let window = if self.first { COARSEST } else { SEARCH_WINDOW };
        let (mut low, mut high) = (first.saturating_sub(window), first.saturating_add(window).min(COARSEST));
        let mut evaluations = 0;
        let mut meets = |this: &mut Self, quantiser: u8| -> Result<bool> {
            evaluations += 1;
            let choice = this.quantise(analysis, quantiser)?;
            let (_, gain) = this.without.all_layers(choice.steps.depth() - choice.coded);
            Ok(this.try_tokens(analysis, &choice)? + gain >= target)
        };
        if self.method == SearchMethod::Full {
            let mut best = low;
            for quantiser in low..=high {
                if meets(self, quantiser)? {
                    best = quantiser;
                }
            }
            low = best;
        } else {
            while low < high {
                let middle = (low + high).div_ceil(2);
                if meets(self, middle)? {
                    low = middle;
                } else {
                    high = middle - 1;
                }
            }
        }
        Ok(Choice { evaluations, ..self.quantise(analysis, low)? })
    }

    /// Chooses the tokens for one quantiser.
    fn quantise(&mut self, analysis: &Analysis, quantiser: u8) -> Result<Choice> {
        let started = Instant::now();
        let (rdo, steps) = (self.rdo(), self.steps_for(analysis.key, quantiser));
        let motion = (!analysis.key).then_some(self.analyser.motion());
        self.prefixes.clear();
        self.tokens.begin_block(steps)?;
        let (depth, coded) = (steps.depth(), self.coded_of(steps.depth(), analysis.key));
        let (mut bits, estimated_psnr) = (0.0, self.estimated_psnr());
        // Without a reference all loops have the same residual, and base-layer loops come later.
        let own = self.drift_free && !analysis.key;
        let loops: &Loops = self.decoding.loops()?;
        let base = |layer: usize| loops.base(layer + 1).filter(|_| own && layer + 1 < depth).unwrap_or(&loops.finest).latents();
        for layer in 0..coded {
            let above = (own && layer + 1 < coded).then(|| base(layer + 1)).transpose()?;
            let estimate = self.tokens.quantise_layer(layer, base(layer)?, above, motion, &rdo)?;
            bits += estimate.bits;
            self.prefixes.push((bits, estimated_psnr(estimate.luma)));
        }
        self.spent.token_time += started.elapsed();
        let (factor, gain) = self.without.all_layers(depth - coded);
        let psnr = self.prefixes.last().map_or(0.0, |prefix| prefix.1);
        Ok(Choice { quantiser, steps, coded, bits: bits * factor, estimated_psnr: psnr + gain, evaluations: 0 })
    }

    /// Steps for a block: those of the most layers for which there is room. In drift-free streams their number stays the same until the
    /// next key block.
    fn steps_for(&self, key: bool, quantiser: u8) -> LayerSteps {
        let depth = if !key && self.drift_free {
            self.group_depth
        } else {
            // A key block's depth holds for its group, so it must also suit the coarser blocks that follow.
            self.ladder.depth(key, quantiser, if self.drift_free { KEY_OFFSET as u8 } else { 0 })
        };
        self.ladder.steps(key, depth, quantiser)
    }

    fn rdo(&self) -> Rdo {
        let live = self.rate.live();
        let or_all = |n: u32| if n == 0 { usize::MAX } else { n as usize };
        let mut most = or_all(live.max_tokens);
        if live.rate_control == RateControl::Tokens {
            most = most.min(or_all(live.tokens));
        }
        Rdo { min_tokens: (live.min_tokens as usize).min(most), max_tokens: most, ..Rdo::default() }
    }

    /// Luma PSNR that the encoder graph predicts for the proposed quantiser, all layers received; `None` where it predicts nothing.
    fn predicted_psnr(&mut self) -> Result<Option<f64>> {
        if self.coded < self.group_depth {
            return Ok(None);
        }
        let Some(cells) = self.decoding.loops()?.finest.distortion() else { return Ok(None) };
        Ok(mean_psnr(cells))
    }

    /// Luma PSNR before the loop filter, by the squared error of luma coefficients: the transform is orthonormal.
    fn estimated_psnr(&self) -> impl Fn(f64) -> f64 + use<> {
        let samples = (self.geometry.aligned_width * self.geometry.aligned_height * self.block_length) as f64;
        let scale = self.scale;
        move |error| psnr(error / f64::from(scale * scale) / samples)
    }
}

/// Luma PSNR of cells with these mean squared errors; `None` where one of them is not known.
fn mean_psnr(cells: &[f32]) -> Option<f64> {
    let mean = cells.iter().copied().map(f64::from).sum::<f64>() / cells.len() as f64;
    mean.is_finite().then(|| psnr(mean))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_of_which_nothing_is_predicted_leaves_no_mean() {
        assert_eq!(mean_psnr(&[1.0, 3.0]), Some(psnr(2.0)));
        assert_eq!(mean_psnr(&[1.0, f32::NAN]), None);
        assert_eq!(mean_psnr(&[]), None);
    }
}
