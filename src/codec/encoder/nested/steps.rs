// SPDX-License-Identifier: MIT OR Apache-2.0
//! The coder of nested blocks and the steps that a block goes through. `choose.rs` has the one in between: which tokens.

use std::time::{Duration, Instant};

use super::super::super::quality::{luma_mse, psnr};
use super::super::super::setup::{Nested, StreamLayers, pixel_step};
use super::super::super::{LiveSettings, SearchMethod};
use super::super::coder::{Place, Spent, sent_layers};
use super::super::config::EncoderConfig;
use super::analyse::{Analyser, Analysis};
use super::coding_loop::CodingLoop;
use super::without::Without;
use crate::frame::Geometry;
use crate::rate::RateController;
use crate::tokens::{LayerSteps, NestedEncoder};
use crate::{Error, Result};

/// How a block is quantised; its tokens are in [`NestedBlocks`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice {
    /// Quantiser of the last layer, and of all.
    pub quantiser: u8,
    pub steps: LayerSteps,
    /// Layers that are coded: fewer than there are where layers are shed.
    pub coded: usize,
    /// Bits of the tokens, and luma PSNR before the loop filter; of all layers, shed ones included.
    pub bits: f64,
    pub estimated_psnr: f64,
    /// Candidates that were decoded to find it.
    pub evaluations: u32,
}

/// Codes blocks of a nested bundle.
pub(in super::super) struct NestedBlocks {
    pub(super) geometry: Geometry,
    pub(super) analyser: Analyser,
    /// The loop of receivers of all layers.
    pub(super) finest: CodingLoop,
    /// The base-layer loops, fewest layers first: as many as blocks needed so far, none where receivers may drift.
    pub(super) base: Vec<CodingLoop>,
    /// The block's tokens as they were last chosen.
    pub(super) tokens: NestedEncoder,
    pub(super) layers: StreamLayers,
    /// Every layer has a loop of its own.
    pub(super) drift_free: bool,
    /// Depth of the last block. In drift-free streams it stays until the next key block.
    pub(super) group_depth: usize,
    /// Upper layers to leave out, and what leaving them out changes.
    pub(super) shed: usize,
    pub(super) without: Without,
    /// Bits of the first layer, the first two, .. of the block last quantised, and luma PSNR with them before the loop filter.
    pub(super) prefixes: Vec<(f64, f64)>,
    /// Layers of the group that are still coded.
    pub(super) coded: usize,
    /// Latent units per pixel unit.
    pub(super) scale: f32,
    pub(super) method: SearchMethod,
    pub(super) rate: RateController,
    pub(super) block_length: usize,
    /// No block was coded yet.
    pub(super) first: bool,
    /// The block's segments, one for each layer.
    pub(super) segments: Vec<Vec<u8>>,
    /// Whether the block last coded was a key block, and its quantisers: for [`BlockView`].
    pub(super) last: (bool, LayerSteps),
    /// To open another loop.
    config: EncoderConfig,
    pub(super) spent: Spent,
}

pub(super) fn check(live: &LiveSettings) -> Result<()> {
    if live.target_mse > 0.0 {
        return Err(Error::Settings("target-mse is for models with fsq or vae tokens; set target-psnr instead".into()));
    }
    Ok(())
}

impl NestedBlocks {
    /// Loads the graphs.
    pub fn new(config: &EncoderConfig, geometry: Geometry) -> Result<Self> {
        check(&config.live)?;
        let manifest = &config.bundle.manifest;
        let (layers, ratio) = config.stream_layers()?;
        let layers = StreamLayers { layers: layers.into(), ratio };
        let Nested { layout, tables, scale } = Nested::new(manifest, &config.bundle.tables, &geometry, layers.layers)?;
        let block_length = manifest.block_length as usize;
        Ok(Self {
            analyser: Analyser::new(&geometry, block_length, config.runtime.thread_count())?,
            finest: CodingLoop::open(config, &geometry)?,
            base: Vec::new(),
            tokens: NestedEncoder::new(&layout, &tables)?,
            layers,
            drift_free: config.drift_free,
            group_depth: 1,
            shed: 0,
            without: Without::new(layers.layers),
            prefixes: Vec::with_capacity(layers.layers),
            coded: 1,
            scale,
            method: config.search,
            rate: RateController::new(config.live),
            block_length,
            first: true,
            segments: vec![Vec::new(); layers.layers],
            last: (true, LayerSteps::spaced(1, 0, 0)),
            config: config.clone(),
            spent: Spent::default(),
            geometry,
        })
    }

    /// Decides whether the block is a key block, and finds the motion of one that is not.
    pub(super) fn analyse(&mut self, place: Place) -> Analysis {
        let Place { must_be_key, position, span } = place;
        self.rate.begin(span.elapsed, span.seconds);
        let proposed = self.rate.propose(false);
        let key = must_be_key || {
            let started = Instant::now();
            let coded = self.coded_of(self.group_depth, false);
            let steps = self.layers.steps(self.group_depth, proposed, None);
            let finest = steps.quantiser(coded - 1);
            let base = if self.drift_free { steps.quantiser(0) } else { finest };
            // All loops share the motion. A third of the way to the coarsest one, no rung pays much more for that than the others.
            let step = pixel_step(finest + (base - finest) / 3, self.scale);
            let base_loops = if self.drift_free { coded.min(self.group_depth - 1) } else { 0 };
            let whole = coded == self.group_depth;
            let loops = self.base.iter().take(base_loops).chain(whole.then_some(&self.finest));
            let decoded: Vec<&[u8]> = loops.map(CodingLoop::reconstruction).collect();
            let new_scene = self.analyser.search(self.finest.frames(), &decoded, step);
            self.spent.motion_time += started.elapsed();
            new_scene
        };
        if key {
            self.analyser.begin_group();
            return Analysis { key, position: 0, proposed: self.rate.propose(true) };
        }
        Analysis { key, position, proposed }
    }

    /// The group's loops of receivers of 1 to `coded` layers; in one loop, that of all layers.
    pub(super) fn loops(&self, coded: usize) -> impl Iterator<Item = &CodingLoop> {
        let (base, whole) = match self.drift_free {
            true => (coded.min(self.group_depth - 1), coded == self.group_depth),
            false => (0, true),
        };
        self.base.iter().take(base).chain(whole.then_some(&self.finest))
    }

    /// Predicts and transforms the block in every coding loop; a key block, the depth of which is still to be chosen, in the finest
    /// one.
    pub(super) fn transform(&mut self, analysis: &Analysis) -> Result<()> {
        if analysis.key {
            self.finest.reset()?;
        }
        let (motion, step) = (self.analyser.motion(), pixel_step(analysis.proposed, self.scale));
        let coded = self.coded_of(self.group_depth, false);
        if analysis.key || coded == self.group_depth {
            self.finest.transform(analysis, motion, step)?;
        }
        if analysis.key || !self.drift_free { Ok(()) } else { self.transform_loops(analysis, coded.min(self.group_depth - 1)) }
    }

    /// Transforms a key block in the base-layer loops that it needs.
    pub(super) fn transform_base(&mut self, analysis: &Analysis, choice: &Choice) -> Result<()> {
        if !analysis.key || !self.drift_free {
            return Ok(());
        }
        let loops = choice.coded.min(choice.steps.depth() - 1);
        while self.base.len() < loops {
            self.base.push(CodingLoop::open(&self.config, &self.geometry)?);
        }
        self.base.iter_mut().take(loops).try_for_each(CodingLoop::reset)?;
        self.transform_loops(analysis, loops)
    }

    /// Transforms the block in the first `loops` base-layer loops.
    fn transform_loops(&mut self, analysis: &Analysis, loops: usize) -> Result<()> {
        let (motion, step) = (self.analyser.motion(), pixel_step(analysis.proposed, self.scale));
        for base in self.base.iter_mut().take(loops) {
            base.frames_mut().copy_from_slice(self.finest.frames());
            base.transform(analysis, motion, step)?;
        }
        Ok(())
    }

    /// Writes the chosen tokens into segments.
    pub(super) fn code_tokens(&mut self, analysis: &Analysis, choice: &Choice) -> Result<()> {
        let started = Instant::now();
        let motion = (!analysis.key).then_some(self.analyser.motion());
        for (layer, segment) in self.segments.iter_mut().enumerate() {
            segment.clear();
            if layer < choice.coded {
                self.tokens.write_segment(layer, motion, segment)?;
            }
        }
        self.spent.token_time += started.elapsed();
        Ok(())
    }

    /// Decodes the block as receivers of all layers that are coded do; returns its luma PSNR.
    pub(super) fn reconstruct(&mut self, analysis: &Analysis, choice: &Choice) -> Result<f64> {
        let motion = (!analysis.key).then_some(self.analyser.motion());
        let layers = layers_read(&self.segments);
        let step = pixel_step(choice.steps.quantiser(layers - 1), self.scale);
        // Without a reference all loops show the same, and those of a key block's base layers come later.
        let shed = !analysis.key && choice.coded < choice.steps.depth();
        let best = match self.base.get_mut(choice.coded - 1).filter(|_| shed) {
            Some(base) => base,
            None => &mut self.finest,
        };
        best.reconstruct(&self.tokens, layers, motion, step)?;
        let n = self.geometry.frame_bytes();
        let frames = best.reconstruction().chunks_exact(n).zip(best.frames().chunks_exact(n));
        let mse: f64 = frames.map(|(a, b)| luma_mse(&self.geometry, a, b)).sum();
        Ok(psnr(mse / self.block_length as f64))
    }

    /// Makes the block the reference of the next one, in all loops.
    pub(super) fn commit(&mut self, analysis: &Analysis, choice: &Choice) -> Result<()> {
        let depth = choice.steps.depth();
        if choice.coded == depth {
            self.finest.commit();
        }
        let motion = (!analysis.key).then_some(self.analyser.motion());
        for (layers, base) in (1..depth.min(choice.coded + 1)).zip(&mut self.base).filter(|_| self.drift_free) {
            if layers == choice.coded && !analysis.key {
                // It was reconstructed as the best there is.
                base.commit();
                continue;
            }
            let layers = layers_read(&self.segments[..layers]);
            let step = pixel_step(choice.steps.quantiser(layers - 1), self.scale);
            base.reconstruct(&self.tokens, layers, motion, step)?;
            base.commit();
        }
        self.tokens.commit();
        (self.group_depth, self.coded) = (depth, choice.coded);
        self.first = false;
        self.last = (analysis.key, choice.steps);
        Ok(())
    }

    /// Layers that are coded of a block of `depth` layers: in the middle of a group never more than before.
    pub(super) fn coded_of(&self, depth: usize, key: bool) -> usize {
        if !self.drift_free {
            return depth;
        }
        let most = if key { depth } else { self.coded };
        depth.saturating_sub(self.shed).clamp(1, most.max(1))
    }

    pub(super) fn run_time(&self) -> Duration {
        self.base.iter().chain([&self.finest]).map(CodingLoop::run_time).sum()
    }
}

/// Layers that a receiver of `segments` reads: of a block without segments it still reads an empty first one.
fn layers_read(segments: &[Vec<u8>]) -> usize {
    sent_layers(segments).max(1)
}
