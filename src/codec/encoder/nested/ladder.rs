// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the coarser layers of a block are: how many there are, and the quantiser of layer 0. Those between are spaced evenly.

use super::super::super::LiveSettings;
use super::super::super::setup::StreamLayers;
use super::super::pace::BlockSpan;
use crate::rate::{COARSEST, RateControl, RateController};
use crate::tokens::LayerSteps;

/// Ratio of the rates of neighbouring rungs that is aimed at where they are outside [`WELL_APART`].
const APART: f64 = 2.3;
const WELL_APART: std::ops::RangeInclusive<f64> = 2.0..=2.55;
/// Share of the spacing that gives [`APART`] from which on a layer is worth its loop: rates are then 1.8 apart.
const LEAST: f64 = 0.75;
/// Quantiser indices from one layer to the next: at the beginning of a stream, and at the least and most.
const SPACING: f64 = 7.0;
const SPACINGS: (f64, f64) = (3.0, 16.0);
/// Weight of a block in the rates: they are a mean over about a second.
const WEIGHT: f64 = 1.0 / 16.0;
/// Share of the way to a better spacing that one block goes.
const CORRECTION: f64 = 0.1;
/// Least mean bits of layer 0 that say something about rates.
const LEAST_BITS: f64 = 64.0;
/// Trials that a block may take to place layer 0.
pub(super) const TRIALS: usize = 2;

/// Places layers. Where the ratio of steps is not fixed, rungs are to have rates that differ by a factor of about [`APART`]; where a
/// bitrate is set for layer 0, that decides.
pub(super) struct Ladder {
    layers: StreamLayers,
    /// Quantiser indices from one layer to the next; `None`: as the stream's ratio says.
    spacing: Option<f64>,
    /// What came of it in recent blocks; `None` before the first one.
    recent: Option<Recent>,
    /// Holds the bitrate of layer 0, and the quantiser that it gave this block, if it was asked.
    base: Option<(RateController, Option<u8>)>,
}

fn base_live(live: &LiveSettings) -> LiveSettings {
    LiveSettings { rate_control: RateControl::Bitrate, bitrate: live.base_bitrate, ..*live }
}

impl Ladder {
    /// `fixed`: layers are as far apart as the stream's ratio says.
    pub fn new(layers: StreamLayers, fixed: bool, live: &LiveSettings) -> Self {
        let mut ladder = Self { layers, spacing: (!fixed).then_some(SPACING), recent: None, base: None };
        ladder.set_live(live);
        ladder
    }

    /// New settings, from the next block on.
    pub fn set_live(&mut self, live: &LiveSettings) {
        match &mut self.base {
            _ if live.base_bitrate == 0 => self.base = None,
            Some((rate, _)) => rate.set_live(base_live(live)),
            None => self.base = Some((RateController::new(base_live(live)), None)),
        }
    }

    /// Begins the next block.
    pub fn begin(&mut self, span: BlockSpan) {
        if let Some((rate, quantiser)) = &mut self.base {
            rate.begin(span.elapsed, span.seconds);
            *quantiser = None;
        }
    }

    /// Steps of a block of the `depth` that its group has, with `quantiser` in the last layer.
    pub fn steps(&self, key: bool, depth: usize, quantiser: u8) -> LayerSteps {
        match (&self.base, self.spacing) {
            _ if depth == 1 => LayerSteps::new(1, quantiser, quantiser),
            (Some((rate, base)), _) => LayerSteps::new(depth, base.unwrap_or_else(|| rate.propose(key)), quantiser),
            (None, Some(spacing)) => {
                let base = f64::from(quantiser) + spacing * (depth - 1) as f64;
                LayerSteps::new(depth, base.round().min(f64::from(COARSEST)) as u8, quantiser)
            }
            (None, None) => self.layers.steps(depth, quantiser, None),
        }
    }

    /// The most layers for which a block has room, where later blocks of its group have `coarser` quantisers by so many indices.
    pub fn depth(&self, key: bool, quantiser: u8, coarser: u8) -> usize {
        let finest = quantiser.saturating_add(coarser);
        let fits = |depth: &usize| match (&self.base, self.spacing) {
            // A second layer is always there, for the blocks in which layer 0 must be coarser to hold its bitrate.
            (Some(_), _) => {
                let spread = self.steps(key, *depth, quantiser).quantiser(0) - quantiser;
                *depth == 2 || usize::from(spread) >= SPACINGS.0 as usize * (depth - 1)
            }
            (None, Some(spacing)) => LEAST * spacing * (depth - 1) as f64 <= f64::from(COARSEST.saturating_sub(finest)),
            (None, None) => self.layers.steps(*depth, finest, None).quantiser(0) <= COARSEST,
        };
        (1..=self.layers.layers).rev().find(fits).unwrap_or(1)
    }

    /// Learns of a trial with `steps`, in which layer 0 took `bits`. Returns whether another would be better.
    pub fn reconsider(&mut self, key: bool, steps: LayerSteps, bits: f64) -> bool {
        let Some((rate, held)) = &mut self.base else { return false };
        let base = steps.quantiser(0);
        let other = rate.reconsider(key, base, bits, 0.0);
        *held = Some(other.unwrap_or(base));
        other.is_some()
    }

    /// Learns the result of a block, coded with `steps`: bits of layer 0 and of all layers, with the header; `whole`: no layer is missing.
    pub fn learn(&mut self, key: bool, steps: LayerSteps, bits: (f64, f64), whole: bool) {
        if let Some((rate, _)) = &mut self.base {
            rate.learn(key, steps.quantiser(0), bits.0, 0.0, 0.0);
        }
        if !whole {
            return;
        }
        let gaps = (steps.depth() - 1) as f64;
        let spread = f64::from(steps.quantiser(0) - steps.quantiser(steps.depth() - 1));
        let mut recent = Recent { first: bits.0, all: bits.1, spread: spread * bits.1 };
        if let Some(before) = self.recent.filter(|_| steps.depth() > 1) {
            let mean = |before: f64, now: f64| before + WEIGHT * (now - before);
            recent = Recent {
                first: mean(before.first, recent.first),
                all: mean(before.all, recent.all),
                spread: mean(before.spread, recent.spread),
            };
        }
        self.recent = Some(recent);
        if let (Some(spacing), Some(better)) = (&mut self.spacing, recent.better(gaps)) {
            *spacing += CORRECTION * (better - *spacing);
        }
    }
}

/// Means over recent blocks.
#[derive(Debug, Clone, Copy)]
struct Recent {
    /// Bits of layer 0, and of all layers.
    first: f64,
    all: f64,
    /// Quantiser indices from layer 0 to the last one, times the latter bits.
    spread: f64,
}

impl Recent {
    /// A better spacing than the recent one, with so many gaps between layers.
    fn better(&self, gaps: f64) -> Option<f64> {
        let (used, apart) = (self.spread / self.all / gaps, (self.all / self.first).powf(1.0 / gaps));
        let out = gaps > 0.0 && self.first >= LEAST_BITS && used > 0.0 && apart > 1.0 && !WELL_APART.contains(&apart);
        out.then(|| (used * APART.ln() / apart.ln()).clamp(SPACINGS.0, SPACINGS.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::KEY_OFFSET;

    const SECONDS: f64 = 1.0 / 15.0;

    fn stream(ratio: u8) -> StreamLayers {
        StreamLayers { layers: 4, ratio }
    }

    /// Bits of the first layers, each prefix as if it were a stream of one layer: they halve over so many quantiser indices.
    fn prefixes(steps: LayerSteps, key: bool, halving: f64) -> Vec<(f64, f64)> {
        let bits = |q: u8| if key { 3e6 } else { 3e5 } * 2f64.powf(-f64::from(q) / halving);
        (0..steps.depth()).map(|layer| (bits(steps.quantiser(layer)), 30.0)).collect()
    }

    /// Codes a group of blocks with a `quantiser`; returns the steps of each and the bits of its layer 0 and of all.
    fn group(ladder: &mut Ladder, blocks: usize, quantiser: u8, halving: f64) -> Vec<(LayerSteps, f64, f64)> {
        let mut depth = 0;
        (0..blocks)
            .map(|i| {
                let key = i == 0;
                ladder.begin(BlockSpan { elapsed: if key { 0.0 } else { SECONDS }, seconds: SECONDS });
                let mut steps = LayerSteps::new(1, 0, 0);
                for trial in 0..=TRIALS {
                    if key {
                        depth = ladder.depth(key, quantiser, KEY_OFFSET as u8);
                    }
                    steps = ladder.steps(key, depth, if key { quantiser } else { quantiser + KEY_OFFSET as u8 });
                    if trial == TRIALS || !ladder.reconsider(key, steps, prefixes(steps, key, halving)[0].0) {
                        break;
                    }
                }
                let made = prefixes(steps, key, halving);
                let (first, all) = (made[0].0, made[made.len() - 1].0);
                ladder.learn(key, steps, (first, all), true);
                (steps, first, all)
            })
            .collect()
    }

    fn apart(blocks: &[(LayerSteps, f64, f64)]) -> f64 {
        let sum = |of: fn(&(LayerSteps, f64, f64)) -> f64| blocks.iter().map(of).sum::<f64>();
        (sum(|b| b.2) / sum(|b| b.1)).powf(1.0 / (blocks[0].0.depth() - 1) as f64)
    }

    #[test]
    fn rates_are_about_a_factor_of_two_apart_whatever_the_content() {
        for halving in [4.0, 5.5, 6.5, 8.0, 9.0] {
            let mut ladder = Ladder::new(stream(7), false, &LiveSettings::default());
            let blocks = group(&mut ladder, 60, 20, halving);
            assert_eq!(blocks[0].0.depth(), 4);
            let apart = apart(&blocks[40..]);
            assert!((1.9..2.6).contains(&apart), "{apart}, halving over {halving}");
        }
    }

    #[test]
    fn there_are_as_many_layers_as_there_is_room_for() {
        let mut depths = Vec::new();
        for quantiser in 20..=64 {
            let mut ladder = Ladder::new(stream(7), false, &LiveSettings::default());
            let blocks = group(&mut ladder, 4, quantiser, 6.5);
            for (steps, ..) in &blocks {
                assert!(steps.quantiser(0) <= COARSEST, "{steps:?}");
            }
            depths.push(blocks[0].0.depth());
        }
        assert!(depths.is_sorted_by(|a, b| a >= b) && depths[0] == 4 && depths.ends_with(&[1]), "{depths:?}");
    }

    #[test]
    fn a_fixed_ratio_stays() {
        let mut ladder = Ladder::new(stream(5), true, &LiveSettings::default());
        for (steps, ..) in group(&mut ladder, 40, 20, 3.0) {
            let finest = steps.quantiser(3);
            assert_eq!([0, 1, 2].map(|layer| steps.quantiser(layer) - finest), [15, 10, 5]);
        }
    }

    #[test]
    fn layer_0_holds_its_bitrate() {
        for kbits in [40, 100, 300] {
            let live = LiveSettings { base_bitrate: kbits, ..Default::default() };
            let mut ladder = Ladder::new(stream(7), false, &live);
            let rate = |blocks: &[(LayerSteps, f64, f64)]| {
                blocks.iter().map(|b| b.1).sum::<f64>() / blocks.len() as f64 / SECONDS / 1000.0
            };
            let blocks = group(&mut ladder, 300, 10, 6.5);
            let found = rate(&blocks);
            assert!((found / f64::from(kbits) - 1.0).abs() < 0.1, "{found} for {kbits} kbit/s");
            ladder.set_live(&LiveSettings { base_bitrate: kbits / 2, ..live });
            let found = rate(&group(&mut ladder, 90, 10, 6.5)[8..]);
            assert!((found / f64::from(kbits / 2) - 1.0).abs() < 0.25, "{found} for {} kbit/s", kbits / 2);
        }
    }
}
