// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blocks of a nested bundle: quantised, searched and predicted closed loop around the decoder graph.

use std::time::{Duration, Instant};

use super::super::quality::{luma_mse, psnr};
use super::super::setup::{Nested, effective_step};
use super::super::{LiveSettings, SearchMethod};
use super::pace::Span;
use super::{BlockCoder, Coded, EncoderConfig, Spent, sent_layers};
use crate::frame::Geometry;
use crate::motion::MotionSearch;
use crate::rate::{COARSEST, KEY_OFFSET, RateControl, RateController};
use crate::runtime::{DecoderGraph, EncoderGraph, Tokens, TokensMut};
use crate::tokens::{Estimate, NestedEncoder, Rdo, step};
use crate::{Error, Result};

/// Share of cells without a usable prediction from which a block may be a scene cut, and better a key block ..
const SCENE_CUT: f32 = 0.55;
/// .. if the share has grown by this much: fast motion keeps it high, and what can be predicted still pays. Beyond the second
/// nothing does.
const SCENE_CHANGE: f32 = 0.35;
const NOTHING_LEFT: f32 = 0.9;
/// SAD that a bit of motion is worth, in quantiser steps (pixel units).
const MOTION_LAMBDA: f32 = 0.4;
/// Step of a block's coarsest level at the most, in pixel units: what the in-loop filter was trained to.
const COARSEST_BASE: f32 = 110.0;
/// How far `search=full` and `binary` look around the proposed quantiser.
const SEARCH_WINDOW: u8 = 16;

/// Raw material for training, one block as the encoder had it.
#[derive(Debug)]
pub struct BlockView<'a> {
    /// Whether it was a key block.
    pub key: bool,
    /// Its quantiser.
    pub quantiser: u8,
    /// Planes dy, dx, mode.
    pub motion: &'a [i32],
    /// Levels it was coded in.
    pub depth: usize,
    /// The encoder graph's latents, \[cells, C\] in the graph's order: for all levels, or one after the other for each.
    pub latents: Vec<&'a [i16]>,
}

/// A receiver of fewer layers, and what it lacks of the picture.
struct Receiver {
    graph: EncoderGraph,
    decoder: DecoderGraph,
}

/// Codes blocks of a nested bundle, closed loop around the decoder graph.
pub(super) struct NestedBlocks {
    geometry: Geometry,
    graph: EncoderGraph,
    decoder: DecoderGraph,
    /// What receivers of fewer layers have, the fewest first; empty where they may drift.
    lower: Vec<Receiver>,
    nested: NestedEncoder,
    levels: usize,
    /// Most levels of a block, and those of the block in hand.
    most_levels: usize,
    depth: usize,
    scale: f32,
    method: SearchMethod,
    search: MotionSearch,
    motion: Vec<i32>,
    /// Share of intra cells in the last block; 1 in a key block.
    intra_share: f32,
    rate: RateController,
    block_length: usize,
    /// No block was coded yet.
    first: bool,
    /// Candidates decoded for the block in hand.
    evaluations: u32,
    /// The block last coded: key, quantiser, luma PSNR before the loop filter and after it.
    last: (bool, u8, f64, f64),
    counts: Vec<i32>,
    /// Counts as receivers of fewer layers have them.
    lower_counts: Vec<i32>,
    /// The block's segments, one for each level.
    segments: Vec<Vec<u8>>,
    stats: Spent,
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
        let Nested { layout, tables, levels, scale } = Nested::new(manifest, &config.bundle.tables, &geometry)?;
        let open = || -> Result<(EncoderGraph, DecoderGraph)> {
            let mut decoder = DecoderGraph::open_loop(&config.bundle, &geometry, &config.runtime)?;
            Ok((EncoderGraph::open(&config.bundle, &geometry, &config.runtime, &mut decoder)?, decoder))
        };
        let (graph, decoder) = open()?;
        let most_levels = if config.layers == 0 { levels } else { levels.min(config.layers as usize) };
        let receiver = |_| open().map(|(graph, decoder)| Receiver { graph, decoder });
        let lower = (1..if config.drift_free { most_levels } else { 1 }).map(receiver).collect::<Result<_>>()?;
        let block_length = manifest.block_length as usize;
        Ok(Self {
            nested: NestedEncoder::new(&layout, &tables)?,
            levels,
            most_levels,
            depth: most_levels,
            lower,
            scale,
            method: config.search,
            search: MotionSearch::new(
                geometry.aligned_width,
                geometry.aligned_height,
                block_length,
                config.runtime.thread_count(),
            )?,
            motion: vec![0; 3 * geometry.cells()],
            intra_share: 1.0,
            rate: RateController::new(config.live),
            block_length,
            first: true,
            evaluations: 0,
            last: (true, 0, 0.0, 0.0),
            counts: vec![0; geometry.cells()],
            lower_counts: vec![0; geometry.cells()],
            segments: vec![Vec::new(); levels],
            stats: Spent::default(),
            graph,
            decoder,
            geometry,
        })
    }

    /// Finds motion; says whether the block had better be a key block.
    fn find_motion(&mut self, quantiser: u8) -> bool {
        let started = Instant::now();
        let (n, luma) = (self.geometry.frame_bytes(), self.geometry.aligned_width * self.geometry.aligned_height);
        let frames = self.graph.frames();
        let planes: Vec<&[u8]> = frames.chunks_exact(n).map(|f| &f[..luma]).collect();
        let reference = &self.decoder.frames()[(self.block_length - 1) * n..][..luma];
        let lambda = MOTION_LAMBDA * step(quantiser) as f32 / self.scale;
        let found = self.search.search(&planes, reference, lambda, &mut self.motion);
        self.stats.motion_time += started.elapsed();
        let before = std::mem::replace(&mut self.intra_share, found.intra);
        found.intra > NOTHING_LEFT || (found.intra > SCENE_CUT && found.intra - before > SCENE_CHANGE)
    }

    fn run_time(&self) -> Duration {
        let lower: Duration = self.lower.iter().map(|r| r.graph.run_time() + r.decoder.run_time()).sum();
        self.graph.run_time() + self.decoder.run_time() + lower
    }

    /// Levels for a block: no more than leave the coarsest one a picture, and always the same between key blocks where
    /// receivers must not drift.
    fn levels_for(&self, key: bool, quantiser: u8) -> usize {
        if !key && !self.lower.is_empty() {
            return self.depth;
        }
        // a key block's depth stays: it must fit the coarser blocks that follow
        let quantiser = if self.lower.is_empty() { quantiser } else { quantiser.saturating_add(KEY_OFFSET as u8) };
        let fits = |levels: &usize| effective_step(quantiser, self.scale, levels - 1) <= COARSEST_BASE;
        (1..=self.most_levels).rev().find(fits).unwrap_or(1)
    }

    /// Decodes the block as receivers of fewer layers do.
    fn follow(&mut self, key: bool, quantiser: u8) -> Result<()> {
        let motion = (!key).then_some(&self.motion[..]);
        // those of as many levels as the block has are the main loop; depth stays until the next key block begins them anew
        for (layers, r) in (1..self.depth).zip(&mut self.lower) {
            let layers = levels_read(&self.segments[..layers]);
            if let TokensMut::I16(latents) = r.decoder.tokens_mut() {
                self.nested.dequantise(layers, motion, latents, &mut self.lower_counts)?;
            }
            r.decoder.counts_mut().copy_from_slice(&self.lower_counts);
            r.decoder.set_step(effective_step(quantiser, self.scale, self.depth - layers));
            r.decoder.run()?;
            r.decoder.commit();
            r.graph.commit();
        }
        Ok(())
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

    fn quantise(&mut self, key: bool, quantiser: u8) -> Result<Estimate> {
        let started = Instant::now();
        let rdo = self.rdo();
        let Tokens::I16(latents) = self.graph.tokens() else {
            return Err(Error::Model("a nested bundle's encoder gave no i16 latents; export the bundle again".into()));
        };
        let depth = self.levels_for(key, quantiser);
        self.depth = depth;
        let motion = (!key).then_some(&self.motion[..]);
        let estimate = if self.lower.is_empty() || depth == 1 {
            self.nested.quantise(latents, quantiser, depth, motion, &rdo)?
        } else {
            self.nested.begin_block(depth, quantiser)?;
            let mut bits = 0.0;
            for (level, r) in self.lower.iter().take(depth - 1).enumerate() {
                let Tokens::I16(theirs) = r.graph.tokens() else { continue };
                bits += self.nested.quantise_level(level, theirs, motion, &rdo)?.bits;
            }
            let finest = self.nested.quantise_level(depth - 1, latents, motion, &rdo)?;
            Estimate { bits: bits + finest.bits, ..finest }
        };
        self.stats.token_time += started.elapsed();
        Ok(estimate)
    }

    /// Luma PSNR that the encoder graph predicts for the quantiser it was told of, all layers received.
    fn predicted_psnr(&self) -> Option<f64> {
        let cells = self.graph.distortion()?.chunks_exact(self.levels);
        let (n, sum) = (cells.len(), cells.map(|layers| f64::from(layers[self.levels - 1])).sum::<f64>());
        Some(psnr(sum / n as f64)).filter(|p| p.is_finite())
    }

    /// Luma PSNR before the loop filter, from what quantisation took away: the transform is orthonormal.
    fn estimated_psnr(&self, estimate: &Estimate) -> f64 {
        let samples = (self.geometry.aligned_width * self.geometry.aligned_height * self.block_length) as f64;
        psnr(estimate.luma / f64::from(self.scale * self.scale) / samples)
    }

    /// Chooses the quantiser; the block stays quantised with it.
    fn choose(&mut self, key: bool) -> Result<(u8, Estimate)> {
        let first = self.rate.propose(key);
        let seeks_quality = self.rate.live().rate_control == RateControl::Quality;
        if seeks_quality && self.method != SearchMethod::Regression {
            return self.search_quality(key, first);
        }
        let mut quantiser = first;
        if let Some(psnr) = self.predicted_psnr().filter(|_| seeks_quality) {
            // what the graph foresees spares a trial where the picture is new
            quantiser = self.rate.reconsider(key, first, 0.0, psnr).unwrap_or(first);
        }
        let mut estimate = self.quantise(key, quantiser)?;
        for _ in 0..2 {
            let psnr = self.estimated_psnr(&estimate);
            let Some(other) = self.rate.reconsider(key, quantiser, estimate.bits, psnr) else { break };
            quantiser = other;
            estimate = self.quantise(key, quantiser)?;
        }
        Ok((quantiser, estimate))
    }

    /// `full` and `binary`: the coarsest quantiser around `first` whose decoded block meets the target, or the finest tried.
    fn search_quality(&mut self, key: bool, first: u8) -> Result<(u8, Estimate)> {
        let target = self.rate.live().target_psnr;
        // Nothing is known of the first block; later ones are near the one before.
        let window = if self.first { COARSEST } else { SEARCH_WINDOW };
        let (mut low, mut high) = (first.saturating_sub(window), first.saturating_add(window).min(COARSEST));
        let meets = |this: &mut Self, q: u8| -> Result<bool> {
            this.evaluations += 1;
            this.quantise(key, q)?;
            Ok(this.reconstruct(key, q)? >= target)
        };
        if self.method == SearchMethod::Full {
            let mut best = low;
            for q in low..=high {
                if meets(self, q)? {
                    best = q;
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
        Ok((low, self.quantise(key, low)?))
    }

    /// Codes the block as quantised, then decodes it without committing; returns its luma PSNR.
    fn reconstruct(&mut self, key: bool, quantiser: u8) -> Result<f64> {
        let started = Instant::now();
        let motion = (!key).then_some(&self.motion[..]);
        for (level, segment) in self.segments.iter_mut().enumerate() {
            segment.clear();
            if level < self.depth {
                self.nested.write_segment(level, motion, segment)?;
            }
        }
        let sent = levels_read(&self.segments);
        if let TokensMut::I16(latents) = self.decoder.tokens_mut() {
            self.nested.dequantise(sent, motion, latents, &mut self.counts)?;
        }
        self.decoder.counts_mut().copy_from_slice(&self.counts);
        self.stats.token_time += started.elapsed();
        self.decoder.set_step(effective_step(quantiser, self.scale, self.depth - sent));
        self.decoder.run()?;
        let n = self.geometry.frame_bytes();
        let frames = self.decoder.frames().chunks_exact(n).zip(self.graph.frames().chunks_exact(n));
        let mse: f64 = frames.map(|(a, b)| luma_mse(&self.geometry, a, b)).sum();
        Ok(psnr(mse / self.block_length as f64))
    }
}

impl BlockCoder for NestedBlocks {
    fn frames_mut(&mut self) -> &mut [u8] {
        self.graph.frames_mut()
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
        self.evaluations = 0;
        self.stats = Spent::default();
        Ok(())
    }

    fn begin(&mut self, span: Span) {
        self.rate.begin(span.elapsed, span.seconds);
    }

    fn least_bitrate(&self) -> Option<f64> {
        self.rate.least_bitrate()
    }

    fn wants_key(&mut self) -> bool {
        self.find_motion(self.rate.propose(false))
    }

    fn code(&mut self, key: bool, position: u32) -> Result<Coded> {
        if key {
            self.motion.fill(0);
            let cells = self.geometry.cells();
            self.motion[2 * cells..].fill(1);
            self.search.reset();
            self.decoder.reset()?;
            self.graph.reset()?;
            for r in &mut self.lower {
                r.decoder.reset()?;
                r.graph.reset()?;
            }
            self.intra_share = 1.0;
        }
        self.graph.motion_mut().copy_from_slice(&self.motion);
        self.decoder.motion_mut().copy_from_slice(&self.motion);
        self.graph.set_position(i64::from(position));
        self.decoder.set_position(i64::from(position));
        // the finest level's: the graph knows how many times coarser the others are
        self.graph.set_step(effective_step(self.rate.propose(key), self.scale, 0));
        let before = self.run_time();
        self.graph.run(&self.decoder)?;
        let receivers = if key { self.lower.len() } else { self.depth - 1 };
        for Receiver { graph, decoder } in self.lower.iter_mut().take(receivers) {
            graph.frames_mut().copy_from_slice(self.graph.frames());
            graph.motion_mut().copy_from_slice(&self.motion);
            decoder.motion_mut().copy_from_slice(&self.motion);
            graph.set_position(i64::from(position));
            decoder.set_position(i64::from(position));
            graph.run(&*decoder)?;
        }
        let (quantiser, estimate) = self.choose(key)?;
        let measured = self.reconstruct(key, quantiser)?;
        self.decoder.commit();
        self.graph.commit();
        self.follow(key, quantiser)?;
        self.stats.runtime_time += self.run_time() - before;
        self.last = (key, quantiser, self.estimated_psnr(&estimate), measured);
        self.first = false;
        Ok(Coded {
            left_out: (self.levels - self.depth) as u8,
            quantiser,
            psnr: Some(measured),
            evaluations: std::mem::take(&mut self.evaluations),
        })
    }

    fn segments(&self) -> &[Vec<u8>] {
        &self.segments
    }

    fn counts(&self) -> &[i32] {
        &self.counts
    }

    fn learn(&mut self, bits: f64) {
        let (key, quantiser, estimated, measured) = self.last;
        self.rate.learn(key, quantiser, bits, estimated, measured);
    }

    fn spent(&self) -> Spent {
        self.stats
    }

    fn provider(&self) -> &'static str {
        self.graph.provider()
    }

    fn view(&self) -> Option<BlockView<'_>> {
        let lower = self.lower.iter().take(self.depth - 1).map(|r| &r.graph);
        let latents =
            lower.chain([&self.graph]).map(|g| if let Tokens::I16(latents) = g.tokens() { Some(latents) } else { None });
        let (key, quantiser, ..) = self.last;
        Some(BlockView { key, quantiser, motion: &self.motion, depth: self.depth, latents: latents.collect::<Option<Vec<_>>>()? })
    }
}

/// Levels that a receiver of `segments` reads: of a block without any it still reads an empty first one.
fn levels_read(segments: &[Vec<u8>]) -> usize {
    sent_layers(segments).max(1)
}
