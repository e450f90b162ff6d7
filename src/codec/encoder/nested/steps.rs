// SPDX-License-Identifier: MIT OR Apache-2.0
//! The coder of nested blocks and the steps that a block goes through. `choose.rs` has the one in between: which tokens.

use std::time::{Duration, Instant};

use super::super::super::quality::{luma_mse, psnr};
use super::super::super::setup::{Nested, effective_step};
use super::super::super::{LiveSettings, SearchMethod};
use super::super::coder::{Place, Spent, sent_layers};
use super::super::config::EncoderConfig;
use super::analyse::{Analyser, Analysis};
use super::coding_loop::CodingLoop;
use crate::frame::Geometry;
use crate::rate::RateController;
use crate::tokens::NestedEncoder;
use crate::{Error, Result};

/// How a block is quantised; its tokens are in [`NestedBlocks`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice {
    pub quantiser: u8,
    /// Layers that the block is coded in.
    pub depth: usize,
    /// Bits of the tokens, and luma PSNR before the loop filter.
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
    /// The base-layer loops, fewest layers first; empty where receivers may drift.
    pub(super) base: Vec<CodingLoop>,
    /// The block's tokens as they were last chosen.
    pub(super) tokens: NestedEncoder,
    /// Layers that the bundle has, and those that a block may have.
    pub(super) layers: usize,
    pub(super) most_layers: usize,
    /// Depth of the last block. In drift-free streams it stays until the next key block.
    pub(super) group_depth: usize,
    /// Latent units per pixel unit.
    pub(super) scale: f32,
    pub(super) method: SearchMethod,
    pub(super) rate: RateController,
    pub(super) block_length: usize,
    /// No block was coded yet.
    pub(super) first: bool,
    /// The block's segments, one for each layer.
    pub(super) segments: Vec<Vec<u8>>,
    /// Whether the block last coded was a key block, and its quantiser: for [`BlockView`].
    pub(super) last: (bool, u8),
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
        let Nested { layout, tables, layers, scale } = Nested::new(manifest, &config.bundle.tables, &geometry)?;
        let most_layers = if config.layers == 0 { layers } else { layers.min(config.layers as usize) };
        let base_loops = if config.drift_free { most_layers - 1 } else { 0 };
        let block_length = manifest.block_length as usize;
        Ok(Self {
            analyser: Analyser::new(&geometry, block_length, config.runtime.thread_count())?,
            finest: CodingLoop::open(config, &geometry)?,
            base: (0..base_loops).map(|_| CodingLoop::open(config, &geometry)).collect::<Result<_>>()?,
            tokens: NestedEncoder::new(&layout, &tables)?,
            layers,
            most_layers,
            group_depth: most_layers,
            scale,
            method: config.search,
            rate: RateController::new(config.live),
            block_length,
            first: true,
            segments: vec![Vec::new(); layers],
            last: (true, 0),
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
            let step = effective_step(proposed, self.scale, 0);
            let new_scene = self.analyser.search(self.finest.frames(), self.finest.reconstruction(), step);
            self.spent.motion_time += started.elapsed();
            new_scene
        };
        if key {
            self.analyser.begin_group();
            return Analysis { key, position: 0, proposed: self.rate.propose(true) };
        }
        Analysis { key, position, proposed }
    }

    /// Predicts and transforms the block in every coding loop that the depth needs.
    pub(super) fn transform(&mut self, analysis: &Analysis) -> Result<()> {
        if analysis.key {
            self.finest.reset()?;
            self.base.iter_mut().try_for_each(CodingLoop::reset)?;
        }
        let (motion, step) = (self.analyser.motion(), effective_step(analysis.proposed, self.scale, 0));
        self.finest.transform(analysis, motion, step)?;
        // The depth of a key block is still to be chosen.
        let loops = if analysis.key { self.base.len() } else { self.group_depth - 1 };
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
            if layer < choice.depth {
                self.tokens.write_segment(layer, motion, segment)?;
            }
        }
        self.spent.token_time += started.elapsed();
        Ok(())
    }

    /// Decodes the block as receivers of all layers do; returns its luma PSNR.
    pub(super) fn reconstruct(&mut self, analysis: &Analysis, choice: &Choice) -> Result<f64> {
        let motion = (!analysis.key).then_some(self.analyser.motion());
        let layers = layers_read(&self.segments);
        let step = effective_step(choice.quantiser, self.scale, choice.depth - layers);
        self.finest.reconstruct(&self.tokens, layers, motion, step)?;
        let n = self.geometry.frame_bytes();
        let frames = self.finest.reconstruction().chunks_exact(n).zip(self.finest.frames().chunks_exact(n));
        let mse: f64 = frames.map(|(a, b)| luma_mse(&self.geometry, a, b)).sum();
        Ok(psnr(mse / self.block_length as f64))
    }

    /// Makes the block the reference of the next one, in all loops.
    pub(super) fn commit(&mut self, analysis: &Analysis, choice: &Choice) -> Result<()> {
        self.finest.commit();
        let motion = (!analysis.key).then_some(self.analyser.motion());
        for (layers, base) in (1..choice.depth).zip(&mut self.base) {
            let layers = layers_read(&self.segments[..layers]);
            let step = effective_step(choice.quantiser, self.scale, choice.depth - layers);
            base.reconstruct(&self.tokens, layers, motion, step)?;
            base.commit();
        }
        self.tokens.commit();
        self.group_depth = choice.depth;
        self.first = false;
        self.last = (analysis.key, choice.quantiser);
        Ok(())
    }

    pub(super) fn run_time(&self) -> Duration {
        self.base.iter().chain([&self.finest]).map(CodingLoop::run_time).sum()
    }
}

/// Layers that a receiver of `segments` reads: of a block without segments it still reads an empty first one.
fn layers_read(segments: &[Vec<u8>]) -> usize {
    sent_layers(segments).max(1)
}
