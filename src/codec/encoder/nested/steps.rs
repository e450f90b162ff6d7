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
use super::crew::Crew;
use super::ladder::Ladder;
use super::masking;
use super::without::Without;
use crate::frame::Geometry;
use crate::pair::Pair;
use crate::rate::RateController;
use crate::tokens::{ChosenBlock, LayerSteps, NestedEncoder};
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
    /// The stream's ratio of steps is that of all blocks.
    pub(super) fixed_ratio: bool,
    pub(super) ladder: Ladder,
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
    crew: Crew,
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
        let fixed_ratio = config.layer_ratio > 0.0;
        let layers = StreamLayers { layers: layers.into(), ratio };
        let Nested { layout, tables, scale } = Nested::new(manifest, &config.bundle.tables, &geometry, layers.layers)?;
        let block_length = manifest.block_length as usize;
        let threads = config.runtime.thread_count();
        let crew = Crew::new(threads, if config.drift_free { layers.layers } else { 1 })?;
        let mut config = config.clone();
        config.runtime.threads = crew.threads_each;
        let not_yet = || Error::Runtime("the encoder was not opened".into());
        let (mut finest, mut tokens) = (Err(not_yet()), Err(not_yet()));
        // ONNX Runtime is loaded on one thread.
        Pair::new(threads, "elastictok-loading")?.run(
            || finest = CodingLoop::open(&config, &geometry),
            || tokens = NestedEncoder::new(&layout, &tables).and_then(|tokens| tokens.with_threads(threads)),
        );
        Ok(Self {
            analyser: Analyser::new(&geometry, block_length, threads)?,
            finest: finest?,
            base: Vec::new(),
            tokens: tokens?,
            layers,
            fixed_ratio,
            ladder: Ladder::new(layers, fixed_ratio, &config.live),
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
            config,
            crew,
            spent: Spent::default(),
            geometry,
        })
    }

    /// Decides whether the block is a key block, and finds the motion of one that is not.
    pub(super) fn analyse(&mut self, place: Place) -> Analysis {
        let Place { must_be_key, position, span } = place;
        self.rate.begin(span.elapsed, span.seconds);
        self.ladder.begin(span);
        self.weigh();
        let proposed = self.rate.propose(false);
        let key = must_be_key || {
            let started = Instant::now();
            let coded = self.coded_of(self.group_depth, false);
            let steps = self.ladder.steps(false, self.group_depth, proposed);
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

    /// Finds what errors count in each cell of the block.
    fn weigh(&mut self) {
        let started = Instant::now();
        let Geometry { aligned_width: width, aligned_height: height, .. } = self.geometry;
        let last = &self.finest.frames()[(self.block_length - 1) * self.geometry.frame_bytes()..][..width * height];
        masking::weigh(last, width, self.tokens.weights_mut());
        self.spent.token_time += started.elapsed();
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
            return self.transform_loops(analysis, true, 0);
        }
        let coded = self.coded_of(self.group_depth, false);
        let base = if self.drift_free { coded.min(self.group_depth - 1) } else { 0 };
        self.transform_loops(analysis, coded == self.group_depth, base)
    }

    /// Transforms a key block in the base-layer loops that it needs.
    pub(super) fn transform_base(&mut self, analysis: &Analysis, choice: &Choice) -> Result<()> {
        if !analysis.key || !self.drift_free {
            return Ok(());
        }
        let loops = base_loops(true, choice);
        let (config, geometry) = (&self.config, &self.geometry);
        // The first loop of a member opens the sessions for all.
        let first = self.base.len() + 1..=loops.min(self.crew.members - 1);
        let mut opened: Vec<Option<CodingLoop>> = first.clone().map(|_| None).collect();
        self.crew.each(first.zip(&mut opened), |_, new| {
            *new = Some(CodingLoop::open(config, geometry)?);
            Ok(())
        })?;
        self.base.extend(opened.into_iter().flatten());
        for number in self.base.len() + 1..=loops {
            let first = self.crew.member(number).checked_sub(1).map_or(&self.finest, |base| &self.base[base]);
            self.base.push(first.open_beside(config, geometry)?);
        }
        self.base.iter_mut().take(loops).try_for_each(CodingLoop::reset)?;
        if !self.finest.is_plain() {
            return self.transform_loops(analysis, false, loops);
        }
        let motion = self.analyser.motion();
        self.base.iter_mut().take(loops).try_for_each(|base| base.transform_like(&self.finest, analysis, motion))
    }

    /// Transforms the block in the `finest` loop, and in the first `base` base-layer loops.
    fn transform_loops(&mut self, analysis: &Analysis, finest: bool, base: usize) -> Result<()> {
        let before = self.run_time();
        let (motion, step) = (self.analyser.motion(), pixel_step(analysis.proposed, self.scale));
        for base in self.base.iter_mut().take(base) {
            base.frames_mut().copy_from_slice(self.finest.frames());
        }
        let loops = (1..).zip(self.base.iter_mut().take(base)).chain(finest.then_some((0, &mut self.finest)));
        let share = self.crew.each(loops, |_, one| one.transform(analysis, motion, step))?;
        self.spent.runtime_time += (self.run_time() - before).mul_f64(share);
        Ok(())
    }

    /// Writes the chosen tokens into segments. Meanwhile it decodes the block as receivers of all layers that are coded do, and as those of
    /// fewer where `all` loops are asked for; returns the luma PSNR of the former.
    pub(super) fn code_tokens(&mut self, analysis: &Analysis, choice: &Choice, all: bool) -> Result<f64> {
        let (started, before, mut decoding) = (Instant::now(), self.run_time(), Duration::ZERO);
        let motion = (!analysis.key).then_some(self.analyser.motion());
        let Choice { steps, coded, .. } = *choice;
        // Without a reference all loops show the same, and those of a key block's base layers come later.
        let in_base = (!analysis.key && coded < steps.depth()).then_some(coded - 1);
        let finest = in_base.is_none().then_some((0, &mut self.finest)).into_iter();
        let base = (1..=base_loops(self.drift_free, choice)).zip(&mut self.base);
        let base = base.filter(|&(layers, _)| all || in_base == Some(layers - 1));
        let (crew, scale) = (&self.crew, self.scale);
        let decode = |block: ChosenBlock<'_>, read: &(dyn Fn(usize) -> usize + Sync)| {
            let started = Instant::now();
            let share = crew.each(finest.chain(base), |number, one| {
                let layers = read(if number == 0 { coded } else { number });
                one.reconstruct(block, layers, motion, pixel_step(steps.quantiser(layers - 1), scale))
            });
            decoding = started.elapsed();
            share
        };
        let (segments, rest) = self.segments.split_at_mut(coded);
        rest.iter_mut().for_each(Vec::clear);
        let block = self.tokens.block();
        let share = if (1..coded).all(|layer| block.sends(layer)) {
            self.tokens.write_segments(motion, segments, |block| decode(block, &|layers| layers))??
        } else {
            // Segments of layers that send nothing may be empty: what receivers read depends on that.
            self.tokens.write_segments(motion, segments, |_| ())?;
            decode(self.tokens.block(), &|layers| layers_read(&segments[..layers]))?
        };
        self.spent.token_time += started.elapsed().saturating_sub(decoding);
        self.spent.runtime_time += (self.run_time() - before).mul_f64(share);
        let best = in_base.map_or(&self.finest, |i| &self.base[i]);
        let n = self.geometry.frame_bytes();
        let frames = best.reconstruction().chunks_exact(n).zip(best.frames().chunks_exact(n));
        let mse: f64 = frames.map(|(a, b)| luma_mse(&self.geometry, a, b)).sum();
        Ok(psnr(mse / self.block_length as f64))
    }

    /// Makes the block, reconstructed in all loops, the reference of the next one.
    pub(super) fn commit(&mut self, analysis: &Analysis, choice: &Choice) {
        let depth = choice.steps.depth();
        if choice.coded == depth {
            self.finest.commit();
        }
        let loops = base_loops(self.drift_free, choice);
        self.base.iter_mut().take(loops).for_each(CodingLoop::commit);
        self.tokens.commit();
        (self.group_depth, self.coded) = (depth, choice.coded);
        self.first = false;
        self.last = (analysis.key, choice.steps);
    }

    /// Layers that are coded of a block of `depth` layers: in the middle of a group never more than before.
    pub(super) fn coded_of(&self, depth: usize, key: bool) -> usize {
        if !self.drift_free {
            return depth;
        }
        let most = if key { depth } else { self.coded };
        depth.saturating_sub(self.shed).clamp(1, most.max(1))
    }

    /// Time that the loops' graphs have taken so far, all together.
    fn run_time(&self) -> Duration {
        self.base.iter().chain([&self.finest]).map(CodingLoop::run_time).sum()
    }
}

/// Base-layer loops that a block takes part in.
fn base_loops(drift_free: bool, choice: &Choice) -> usize {
    if drift_free { choice.coded.min(choice.steps.depth() - 1) } else { 0 }
}

/// Layers that a receiver of `segments` reads: of a block without segments it still reads an empty first one.
fn layers_read(segments: &[Vec<u8>]) -> usize {
    sent_layers(segments).max(1)
}
