// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blocks of a nested bundle, coded in a closed loop around the decoder graph.
//!
//! A block goes straight through [`BlockCoder::code`]: analyse, transform, choose, code, reconstruct, commit.

mod analyse;
mod choose;
mod coding_loop;

use std::time::{Duration, Instant};

use self::analyse::{Analyser, Analysis};
use self::choose::Choice;
use self::coding_loop::CodingLoop;
use super::super::quality::{luma_mse, psnr};
use super::super::setup::{Nested, effective_step};
use super::super::{LiveSettings, SearchMethod};
use super::coder::{BlockCoder, BlockView, CodedBlock, Place, Spent, sent_layers};
use super::config::EncoderConfig;
use crate::frame::Geometry;
use crate::rate::RateController;
use crate::tokens::NestedEncoder;
use crate::{Error, Result};

/// Codes blocks of a nested bundle.
pub(super) struct NestedBlocks {
    geometry: Geometry,
    analyser: Analyser,
    /// The loop of receivers of all layers.
    finest: CodingLoop,
    /// The base-layer loops, fewest layers first; empty where receivers may drift.
    base: Vec<CodingLoop>,
    /// The block's tokens as they were last chosen.
    tokens: NestedEncoder,
    /// Layers that the bundle has, and those that a block may have.
    layers: usize,
    most_layers: usize,
    /// Depth of the last block. In drift-free streams it stays until the next key block.
    group_depth: usize,
    /// Latent units per pixel unit.
    scale: f32,
    method: SearchMethod,
    rate: RateController,
    block_length: usize,
    /// No block was coded yet.
    first: bool,
    /// The block's segments, one for each layer.
    segments: Vec<Vec<u8>>,
    /// Whether the block last coded was a key block, and its quantiser: for [`BlockView`].
    last: (bool, u8),
    spent: Spent,
}

fn check(live: &LiveSettings) -> Result<()> {
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
    fn analyse(&mut self, place: Place) -> Analysis {
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
    fn transform(&mut self, analysis: &Analysis) -> Result<()> {
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
    fn code_tokens(&mut self, analysis: &Analysis, choice: &Choice) -> Result<()> {
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
    fn reconstruct(&mut self, analysis: &Analysis, choice: &Choice) -> Result<f64> {
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
    fn commit(&mut self, analysis: &Analysis, choice: &Choice) -> Result<()> {
        self.finest.commit();
        let motion = (!analysis.key).then_some(self.analyser.motion());
        for (layers, base) in (1..choice.depth).zip(&mut self.base) {
            let layers = layers_read(&self.segments[..layers]);
            let step = effective_step(choice.quantiser, self.scale, choice.depth - layers);
            base.reconstruct(&self.tokens, layers, motion, step)?;
            base.commit();
        }
        self.group_depth = choice.depth;
        self.first = false;
        self.last = (analysis.key, choice.quantiser);
        Ok(())
    }

    fn run_time(&self) -> Duration {
        self.base.iter().chain([&self.finest]).map(CodingLoop::run_time).sum()
    }
}

impl BlockCoder for NestedBlocks {
    fn frames_mut(&mut self) -> &mut [u8] {
        self.finest.frames_mut()
    }

    fn set_live(&mut self, live: LiveSettings) -> Result<()> {
        check(&live)?;
        self.rate.set_live(live);
        Ok(())
    }

    fn restart(&mut self, live: LiveSettings) -> Result<()> {
        check(&live)?;
        self.rate = RateController::new(live);
        self.first = true;
        self.spent = Spent::default();
        Ok(())
    }

    fn least_bitrate(&self) -> Option<f64> {
        self.rate.least_bitrate()
    }

    fn code(&mut self, place: Place) -> Result<CodedBlock> {
        let before = self.run_time();
        let analysis = self.analyse(place);
        self.transform(&analysis)?;
        let choice = self.choose(&analysis)?;
        self.code_tokens(&analysis, &choice)?;
        let psnr = self.reconstruct(&analysis, &choice)?;
        self.commit(&analysis, &choice)?;
        self.spent.runtime_time += self.run_time() - before;
        Ok(CodedBlock {
            key: analysis.key,
            left_out: (self.layers - choice.depth) as u8,
            quantiser: choice.quantiser,
            estimated_psnr: Some(choice.estimated_psnr),
            psnr: Some(psnr),
            evaluations: choice.evaluations,
        })
    }

    fn segments(&self) -> &[Vec<u8>] {
        &self.segments
    }

    fn counts(&self) -> &[i32] {
        self.finest.counts()
    }

    fn learn(&mut self, block: &CodedBlock, bits: f64) {
        if let (Some(estimated), Some(measured)) = (block.estimated_psnr, block.psnr) {
            self.rate.learn(block.key, block.quantiser, bits, estimated, measured);
        }
    }

    fn spent(&self) -> Spent {
        self.spent
    }

    fn provider(&self) -> &'static str {
        self.finest.provider()
    }

    fn view(&self) -> Option<BlockView<'_>> {
        let loops = self.base.iter().take(self.group_depth - 1).chain([&self.finest]);
        let latents = loops.map(|l| l.latents().ok()).collect::<Option<Vec<_>>>()?;
        let (key, quantiser) = self.last;
        Some(BlockView { key, quantiser, motion: self.analyser.motion(), depth: self.group_depth, latents })
    }
}

/// Layers that a receiver of `segments` reads: of a block without segments it still reads an empty first one.
fn layers_read(segments: &[Vec<u8>]) -> usize {
    sent_layers(segments).max(1)
}
