// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blocks of a nested bundle: quantised, searched and predicted closed loop around the decoder graph.

use std::time::{Duration, Instant};

use super::super::quality::{luma_mse, psnr};
use super::super::setup::{Nested, effective_step};
use super::super::{LiveSettings, SearchMethod};
use super::{BlockCoder, Coded, EncoderConfig, Spent};
use crate::frame::Geometry;
use crate::motion::MotionSearch;
use crate::rate::{COARSEST, RateControl, RateController};
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
    /// The encoder graph's latents, \[cells, C\] in the graph's order.
    pub latents: &'a [i16],
}

/// Codes blocks of a nested bundle, closed loop around the decoder graph.
pub(super) struct NestedBlocks {
    geometry: Geometry,
    graph: EncoderGraph,
    decoder: DecoderGraph,
    nested: NestedEncoder,
    levels: usize,
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
    /// The block last coded: key, quantiser, luma PSNR before the loop filter and after it.
    last: (bool, u8, f64, f64),
    counts: Vec<i32>,
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
    /// Loads the graphs; `seconds`: the duration of a full block.
    pub fn new(config: &EncoderConfig, geometry: Geometry, seconds: f64) -> Result<Self> {
        check(&config.live)?;
        let manifest = &config.bundle.manifest;
        let Nested { layout, tables, levels, scale } = Nested::new(manifest, &config.bundle.tables, &geometry)?;
        let decoder = DecoderGraph::open(&config.bundle, &geometry, &config.runtime)?;
        let graph = EncoderGraph::open(&config.bundle, &geometry, &config.runtime, &decoder)?;
        let block_length = manifest.block_length as usize;
        Ok(Self {
            nested: NestedEncoder::new(&layout, &tables)?,
            levels,
            scale,
            method: config.search,
            search: MotionSearch::new(geometry.aligned_width, geometry.aligned_height, block_length),
            motion: vec![0; 3 * geometry.cells()],
            intra_share: 1.0,
            rate: RateController::new(config.live, seconds),
            block_length,
            first: true,
            last: (true, 0, 0.0, 0.0),
            counts: vec![0; geometry.cells()],
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
        self.graph.run_time() + self.decoder.run_time()
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
        let estimate = self.nested.quantise(latents, quantiser, (!key).then_some(&self.motion[..]), &rdo)?;
        self.stats.token_time += started.elapsed();
        Ok(estimate)
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
            self.nested.write_segment(level, motion, segment)?;
        }
        // Trailing empty layers are not sent, and a decoder cannot tell them from layers that were cut off: do as it will.
        let sent = self.segments.iter().rposition(|s| !s.is_empty()).map_or(1, |last| last + 1);
        if let TokensMut::I16(latents) = self.decoder.tokens_mut() {
            self.nested.dequantise(sent, motion, latents, &mut self.counts)?;
        }
        self.decoder.counts_mut().copy_from_slice(&self.counts);
        self.stats.token_time += started.elapsed();
        self.decoder.set_step(effective_step(quantiser, self.scale, self.levels - sent));
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
            self.intra_share = 1.0;
        }
        self.graph.motion_mut().copy_from_slice(&self.motion);
        self.decoder.motion_mut().copy_from_slice(&self.motion);
        self.graph.set_position(i64::from(position));
        self.decoder.set_position(i64::from(position));
        let before = self.run_time();
        self.graph.run(&self.decoder)?;
        let (quantiser, estimate) = self.choose(key)?;
        let measured = self.reconstruct(key, quantiser)?;
        self.decoder.commit();
        self.graph.commit();
        self.stats.runtime_time += self.run_time() - before;
        self.last = (key, quantiser, self.estimated_psnr(&estimate), measured);
        self.first = false;
        Ok(Coded { quantiser, psnr: Some(measured), evaluations: 0 })
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
        let Tokens::I16(latents) = self.graph.tokens() else { return None };
        Some(BlockView { key: self.last.0, quantiser: self.last.1, motion: &self.motion, latents })
    }
}
