// SPDX-License-Identifier: MIT OR Apache-2.0
//! The coder of nested blocks and the steps that a block goes through. `choose.rs` has the one in between: which tokens.

use std::time::{Duration, Instant};

use super::super::super::setup::{Nested, StreamLayers, pixel_step};
use super::super::super::{LiveSettings, SearchMethod};
use super::super::coder::{CodedBlock, Place, Spent, sent_layers};
use super::super::config::EncoderConfig;
use super::analyse::{Analyser, Analysis};
use super::coding_loop::CodingLoop;
use super::decoding::Decoding;
use super::ladder::Ladder;
use super::loops::{Loops, Part};
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

impl Choice {
    /// The loops that the block takes part in.
    pub fn part(&self, drift_free: bool) -> Part {
        Part::of(drift_free, self.coded, self.steps.depth())
    }
}

/// Codes blocks of a nested bundle.
pub(in super::super) struct NestedBlocks {
    pub(super) geometry: Geometry,
    pub(super) analyser: Analyser,
    /// The block's T aligned frames.
    pub(super) frames: Vec<u8>,
    /// The coding loops, which may still decode the block before.
    pub(super) decoding: Decoding,
    /// Where they run.
    pub(super) provider: &'static str,
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
    /// Tokens of each cell as receivers of most layers have them, \[cells\].
    pub(super) counts: Vec<i32>,
    /// Whether the block last coded was a key block, and its quantisers: for [`BlockView`].
    pub(super) last: (bool, LayerSteps),
    /// That block and its bits, until its picture is known: rate control learns of all together.
    pub(super) to_learn: Option<(CodedBlock, f64)>,
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
        let most_loops = if config.drift_free { layers.layers } else { 1 };
        let not_yet = || Error::Runtime("the encoder was not opened".into());
        let (mut loops, mut tokens) = (Err(not_yet()), Err(not_yet()));
        // ONNX Runtime is loaded on one thread.
        Pair::new(threads, "elastictok-loading")?.run(
            || loops = Loops::open(config, &geometry, threads, most_loops),
            || tokens = NestedEncoder::new(&layout, &tables).and_then(|tokens| tokens.with_threads(threads)),
        );
        let loops = loops?;
        Ok(Self {
            analyser: Analyser::new(&geometry, block_length, threads)?,
            frames: vec![0; block_length * geometry.frame_bytes()],
            provider: loops.finest.provider(),
            decoding: Decoding::new(loops, threads)?,
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
            counts: vec![0; geometry.cells()],
            last: (true, LayerSteps::spaced(1, 0, 0)),
            to_learn: None,
            spent: Spent::default(),
            geometry,
        })
    }

    /// Decides whether the block is a key block, and finds the motion of one that is not.
    pub(super) fn analyse(&mut self, place: Place) -> Result<Analysis> {
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
            let loops = self.decoding.loops()?.of(Part::of(self.drift_free, coded, self.group_depth));
            let decoded: Vec<&[u8]> = loops.map(CodingLoop::reconstruction).collect();
            let new_scene = self.analyser.search(&self.frames, &decoded, step);
            self.spent.motion_time += started.elapsed();
            new_scene
        };
        if key {
            self.analyser.begin_group();
            return Ok(Analysis { key, position: 0, proposed: self.rate.propose(true) });
        }
        Ok(Analysis { key, position, proposed })
    }

    /// Finds what errors count in each cell of the block.
    fn weigh(&mut self) {
        let started = Instant::now();
        let Geometry { aligned_width: width, aligned_height: height, .. } = self.geometry;
        let last = &self.frames[(self.block_length - 1) * self.geometry.frame_bytes()..][..width * height];
        masking::weigh(last, width, self.tokens.weights_mut());
        self.spent.token_time += started.elapsed();
    }

    /// The loops that the group's blocks of `coded` layers take part in.
    pub(super) fn part(&self, coded: usize) -> Part {
        Part::of(self.drift_free, coded, self.group_depth)
    }

    /// Predicts and transforms the block in every coding loop; a key block, the depth of which is still to be chosen, in the finest
    /// one.
    pub(super) fn transform(&mut self, analysis: &Analysis) -> Result<()> {
        let part = if analysis.key { Part::FINEST } else { self.part(self.coded_of(self.group_depth, false)) };
        let (motion, step) = (self.analyser.motion(), pixel_step(analysis.proposed, self.scale));
        let loops = self.decoding.loops()?;
        if analysis.key {
            loops.finest.reset()?;
        }
        self.spent.runtime_time += loops.transform(part, &self.frames, analysis, motion, step)?;
        Ok(())
    }

    /// Transforms a key block in the base-layer loops that it needs.
    pub(super) fn transform_base(&mut self, analysis: &Analysis, choice: &Choice) -> Result<()> {
        if !analysis.key || !self.drift_free {
            return Ok(());
        }
        let (motion, step) = (self.analyser.motion(), pixel_step(analysis.proposed, self.scale));
        let base = choice.part(self.drift_free).base;
        self.spent.runtime_time += self.decoding.loops()?.transform_base(base, &self.frames, analysis, motion, step)?;
        Ok(())
    }

    /// Writes the chosen tokens into segments, and begins to decode them as receivers do.
    pub(super) fn code_tokens(&mut self, analysis: &Analysis, choice: &Choice) -> Result<()> {
        let part = choice.part(self.drift_free);
        self.write(analysis, choice, part, |decoding| decoding.start(part))?;
        self.tokens.commit();
        (self.group_depth, self.coded) = (choice.steps.depth(), choice.coded);
        self.first = false;
        self.last = (analysis.key, choice.steps);
        Ok(())
    }

    /// Decodes the chosen tokens as receivers of all layers that are coded do; returns the luma PSNR.
    pub(super) fn try_tokens(&mut self, analysis: &Analysis, choice: &Choice) -> Result<f64> {
        // Without a reference all loops show the same, and those of a key block's base layers come later.
        let part = if analysis.key { Part::FINEST } else { choice.part(self.drift_free) };
        let (psnr, runtime) = self.write(analysis, choice, part, |decoding| {
            let loops = decoding.loops()?;
            let runtime = loops.decode(part)?;
            Ok((loops.psnr(part), runtime))
        })?;
        self.spent.runtime_time += runtime;
        Ok(psnr)
    }

    /// Writes the chosen tokens into segments. Beside that it loads them into the loops of `part`, and does `decode`.
    fn write<R>(
        &mut self,
        analysis: &Analysis,
        choice: &Choice,
        part: Part,
        decode: impl FnOnce(&mut Decoding) -> Result<R>,
    ) -> Result<R> {
        let (started, mut decoding_time) = (Instant::now(), Duration::ZERO);
        let motion = (!analysis.key).then_some(self.analyser.motion());
        let (Choice { steps, coded, .. }, scale) = (*choice, self.scale);
        let (decoding, counts) = (&mut self.decoding, &mut self.counts);
        let decode = |block: ChosenBlock<'_>, read: &(dyn Fn(usize) -> usize + Sync)| {
            let (loops, step) = (decoding.loops()?, |layers| pixel_step(steps.quantiser(layers - 1), scale));
            loops.load(part, block, motion, |layers| read(layers.unwrap_or(coded)), step)?;
            counts.copy_from_slice(loops.counts(part));
            let started = Instant::now();
            let done = decode(decoding);
            decoding_time = started.elapsed();
            done
        };
        let (segments, rest) = self.segments.split_at_mut(coded);
        rest.iter_mut().for_each(Vec::clear);
        let block = self.tokens.block();
        let done = if (1..coded).all(|layer| block.sends(layer, motion)) {
            self.tokens.write_segments(motion, segments, |block| decode(block, &|layers| layers))??
        } else {
            // Segments of layers that send nothing may be empty: what receivers read depends on that.
            self.tokens.write_segments(motion, segments, |_| ())?;
            decode(self.tokens.block(), &|layers| layers_read(&segments[..layers]))?
        };
        self.spent.token_time += started.elapsed().saturating_sub(decoding_time);
        Ok(done)
    }

    /// Layers that are coded of a block of `depth` layers: in the middle of a group never more than before.
    pub(super) fn coded_of(&self, depth: usize, key: bool) -> usize {
        if !self.drift_free {
            return depth;
        }
        let most = if key { depth } else { self.coded };
        depth.saturating_sub(self.shed).clamp(1, most.max(1))
    }
}

/// Layers that a receiver of `segments` reads: of a block without segments it still reads an empty first one.
fn layers_read(segments: &[Vec<u8>]) -> usize {
    sent_layers(segments).max(1)
}
