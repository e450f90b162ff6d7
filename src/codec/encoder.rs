// SPDX-License-Identifier: MIT OR Apache-2.0
//! The encoder: frames to blocks, closed loop around the decoder graph.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::quality::{luma_mse, psnr};
use super::setup::{Nested, effective_step, stream_format};
use super::{FrameTime, LiveSettings, SearchMethod};
use crate::bitstream::{BlockHeader, BlockWriter, SequenceHeader, segment_bytes};
use crate::bundle::Bundle;
use crate::frame::{Geometry, PlanesRef, load_frame};
use crate::motion::MotionSearch;
use crate::rate::{COARSEST, RateControl, RateController};
use crate::runtime::{DecoderGraph, EncoderGraph, RuntimeConfig, Tokens, TokensMut};
use crate::timing::Timeline;
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

/// How to encode.
#[derive(Debug, Clone)]
pub struct EncoderConfig {
    /// The model.
    pub bundle: Arc<Bundle>,
    /// Where it runs.
    pub runtime: RuntimeConfig,
    /// Picture width in pixels.
    pub width: u32,
    /// Picture height in pixels.
    pub height: u32,
    /// Frames per second as a fraction, (0, 1) = variable.
    pub framerate: (u32, u32),
    /// Width to height of a pixel.
    pub pixel_aspect_ratio: (u32, u32),
    /// Goes into the sequence header; see [`SequenceHeader::colorimetry`].
    pub colorimetry: [u8; 4],
    /// Goes into the sequence header; see [`SequenceHeader::chroma_site`].
    pub chroma_site: u8,
    /// Most frames from one key block to the next; 0 = only the first block is key.
    pub key_int_max: u32,
    /// How targets are met.
    pub search: SearchMethod,
    /// Layers to code blocks in at the most; 0 = as many as the bundle has.
    pub layers: u32,
    /// Gives every layer a reference of its own, so that no receiver of fewer layers drifts. Costs a run of both graphs for each
    /// layer but one, and some bits.
    pub drift_free: bool,
    /// What may change while coding.
    pub live: LiveSettings,
}

/// Measurements since the encoder was made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EncoderStats {
    /// Blocks coded.
    pub blocks: u64,
    /// Key blocks among them.
    pub key_blocks: u64,
    /// Frames coded.
    pub frames: u64,
    /// Sum of all cells' counts.
    pub tokens: u64,
    /// Bytes of packets.
    pub bytes: u64,
    /// Bytes of each layer's segments.
    pub layer_bytes: Vec<u64>,
    /// Time spent in the encoder.
    pub time: Duration,
    /// Part of it in ONNX Runtime.
    pub runtime_time: Duration,
    /// Part of it in the motion search.
    pub motion_time: Duration,
    /// Part of it in quantisation and entropy coding.
    pub token_time: Duration,
    /// Luma PSNR of the last block in dB.
    pub psnr: f64,
    /// Quantiser of the last block.
    pub quantiser: u8,
}

/// One coded block.
#[derive(Debug, Clone, PartialEq)]
pub struct Packet {
    /// The block; see `docs/bitstream.md`.
    pub data: Bytes,
    /// Decoding can begin here.
    pub key: bool,
    /// Frames in it.
    pub frames: u32,
}

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
    /// The encoder graph's latents, [cells, C] in the graph's order: for all levels, or one after the other for each.
    pub latents: Vec<&'a [i16]>,
}

/// A receiver of fewer layers, and what it lacks of the picture.
struct Receiver {
    graph: EncoderGraph,
    decoder: DecoderGraph,
}

/// Encodes one stream.
pub struct Encoder {
    config: EncoderConfig,
    geometry: Geometry,
    header: SequenceHeader,
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
    search: MotionSearch,
    motion: Vec<i32>,
    /// Share of intra cells in the last block; 1 in a key block.
    intra_share: f32,
    rate: RateController,
    timeline: Timeline,
    times: Vec<FrameTime>,
    block_length: usize,
    force_key: bool,
    /// Blocks since the key block; `None` before the first one.
    position: Option<u32>,
    epoch: u8,
    frames_since_key: u32,
    counts: Vec<i32>,
    /// The block's segments, one for each level.
    segments: Vec<Vec<u8>>,
    out: BytesMut,
    stats: EncoderStats,
}

impl Encoder {
    /// Loads the graphs for the given picture.
    pub fn new(config: EncoderConfig) -> Result<Self> {
        config.live.validate()?;
        let manifest = &config.bundle.manifest;
        let geometry = config.bundle.geometry(config.width, config.height)?;
        let Nested { layout, tables, levels, scale } = Nested::new(manifest, &config.bundle.tables, &geometry)?;
        let header = SequenceHeader {
            fingerprint: config.bundle.fingerprint,
            width: config.width,
            height: config.height,
            framerate: config.framerate,
            pixel_aspect_ratio: config.pixel_aspect_ratio,
            colorimetry: config.colorimetry,
            pixel_format: stream_format(manifest.pixel_format),
            block_length: manifest.block_length as u8,
            chroma_site: config.chroma_site,
        };
        header.validate()?;
        let decoder = DecoderGraph::open(&config.bundle, &geometry, &config.runtime)?;
        let graph = EncoderGraph::open(&config.bundle, &geometry, &config.runtime, &decoder)?;
        let most_levels = if config.layers == 0 { levels } else { levels.min(config.layers as usize) };
        let receiver = |_| -> Result<Receiver> {
            let decoder = DecoderGraph::open(&config.bundle, &geometry, &config.runtime)?;
            Ok(Receiver { graph: EncoderGraph::open(&config.bundle, &geometry, &config.runtime, &decoder)?, decoder })
        };
        let lower = (1..if config.drift_free { most_levels } else { 1 }).map(receiver).collect::<Result<_>>()?;
        let block_length = manifest.block_length as usize;
        let fps = if config.framerate.0 == 0 { 30.0 } else { f64::from(config.framerate.0) / f64::from(config.framerate.1) };
        Ok(Self {
            nested: NestedEncoder::new(&layout, &tables)?,
            levels,
            most_levels,
            depth: most_levels,
            lower,
            scale,
            search: MotionSearch::new(geometry.aligned_width, geometry.aligned_height, block_length),
            motion: vec![0; 3 * geometry.cells()],
            intra_share: 1.0,
            rate: RateController::new(config.live, block_length as f64 / fps),
            timeline: Timeline::new(config.framerate, header.block_length)?,
            times: Vec::with_capacity(block_length),
            block_length,
            force_key: false,
            position: None,
            epoch: 0,
            frames_since_key: 0,
            counts: vec![0; geometry.cells()],
            segments: vec![Vec::new(); levels],
            out: BytesMut::new(),
            stats: EncoderStats { layer_bytes: vec![0; levels], ..Default::default() },
            graph,
            decoder,
            header,
            geometry,
            config,
        })
    }

    /// What a decoder needs first.
    pub fn sequence_header(&self) -> &SequenceHeader {
        &self.header
    }

    /// Frames of a full block.
    pub fn block_length(&self) -> usize {
        self.block_length
    }

    /// Takes new settings, effective from the next block.
    pub fn set_live(&mut self, live: LiveSettings) -> Result<()> {
        live.validate()?;
        self.rate.set_live(live);
        Ok(())
    }

    /// Makes the next block to be coded a key block.
    pub fn force_key(&mut self) {
        self.force_key = true;
    }

    /// Frames that wait for their block to fill.
    pub fn pending(&self) -> usize {
        self.times.len()
    }

    /// Measurements.
    pub fn stats(&self) -> &EncoderStats {
        &self.stats
    }

    /// Where the graphs run.
    pub fn provider(&self) -> &'static str {
        self.graph.provider()
    }

    /// Drops waiting frames; the next block is a key block.
    pub fn reset(&mut self) {
        self.times.clear();
        self.force_key = true;
    }

    /// Takes a frame; gives a packet when it fills a block.
    pub fn push(&mut self, picture: &PlanesRef<'_>, time: FrameTime) -> Result<Option<Packet>> {
        let started = Instant::now();
        let n = self.geometry.frame_bytes();
        let at = self.times.len() * n;
        load_frame(&self.geometry, picture, &mut self.graph.frames_mut()[at..at + n])?;
        self.times.push(time);
        self.stats.time += started.elapsed();
        if self.times.len() < self.block_length { Ok(None) } else { self.block().map(Some) }
    }

    /// Codes the frames that wait, as a shorter block.
    pub fn drain(&mut self) -> Result<Option<Packet>> {
        if self.times.is_empty() { Ok(None) } else { self.block().map(Some) }
    }

    /// The last block as it was quantised.
    pub fn last_block(&self) -> Option<BlockView<'_>> {
        let key = self.position? == 0;
        let lower = self.lower.iter().take(self.depth - 1).map(|r| &r.graph);
        let latents = lower.chain([&self.graph]).map(|g| if let Tokens::I16(latents) = g.tokens() { Some(latents) } else { None });
        let latents = latents.collect::<Option<Vec<_>>>()?;
        Some(BlockView { key, quantiser: self.stats.quantiser, motion: &self.motion, depth: self.depth, latents })
    }

    fn must_be_key(&self) -> bool {
        let limit = self.config.key_int_max;
        let full = self.config.bundle.manifest.max_context_blocks;
        match self.position {
            None => true,
            Some(p) => {
                self.force_key
                    || (limit > 0 && self.frames_since_key + self.block_length as u32 > limit)
                    || full.is_some_and(|blocks| p + 1 >= blocks)
                    || p == u32::MAX
            }
        }
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

    fn block(&mut self) -> Result<Packet> {
        let started = Instant::now();
        let real = self.times.len();
        let n = self.geometry.frame_bytes();
        for i in real..self.block_length {
            self.graph.frames_mut().copy_within((real - 1) * n..real * n, i * n);
        }
        let mut key = self.must_be_key();
        if !key {
            key = self.find_motion(self.rate.propose(false));
        }
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
            self.epoch = self.epoch.wrapping_add(u8::from(self.position.is_some()));
            self.frames_since_key = 0;
            self.intra_share = 1.0;
        }
        let position = if key { 0 } else { self.position.map_or(0, |p| p + 1) };
        self.graph.motion_mut().copy_from_slice(&self.motion);
        self.decoder.motion_mut().copy_from_slice(&self.motion);
        self.graph.set_position(i64::from(position));
        self.decoder.set_position(i64::from(position));
        let before = self.run_time();
        self.graph.run(&self.decoder)?;
        for Receiver { graph, decoder } in &mut self.lower {
            graph.frames_mut().copy_from_slice(self.graph.frames());
            graph.motion_mut().copy_from_slice(&self.motion);
            decoder.motion_mut().copy_from_slice(&self.motion);
            graph.set_position(i64::from(position));
            decoder.set_position(i64::from(position));
            graph.run(decoder)?;
        }
        let (quantiser, estimate) = self.choose(key)?;
        let measured = self.reconstruct(key, quantiser)?;
        self.decoder.commit();
        self.graph.commit();
        self.follow(key, quantiser)?;
        self.stats.runtime_time += self.run_time() - before;
        let packet = self.pack(key, position, real, quantiser)?;
        let bits = packet.data.len() as f64 * 8.0;
        self.rate.learn(key, quantiser, bits, self.estimated_psnr(&estimate), measured);
        self.position = Some(position);
        self.frames_since_key += real as u32;
        self.force_key = false;
        self.times.clear();
        let s = &mut self.stats;
        s.blocks += 1;
        s.key_blocks += u64::from(key);
        s.frames += real as u64;
        s.bytes += packet.data.len() as u64;
        (s.psnr, s.quantiser) = (measured, quantiser);
        s.time += started.elapsed();
        Ok(packet)
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
        let fits = |levels: &usize| effective_step(quantiser, self.scale, levels - 1) <= COARSEST_BASE;
        (1..=self.most_levels).rev().find(fits).unwrap_or(1)
    }

    /// Decodes the block as receivers of fewer layers do.
    fn follow(&mut self, key: bool, quantiser: u8) -> Result<()> {
        let motion = (!key).then_some(&self.motion[..]);
        let sent = sent_levels(&self.segments);
        // a block of fewer levels than there are receivers: the others get all of it
        for (layers, r) in (1..).zip(&mut self.lower) {
            let layers = sent.min(layers);
            if let TokensMut::I16(latents) = r.decoder.tokens_mut() {
                self.nested.dequantise(layers, motion, latents, &mut self.counts)?;
            }
            r.decoder.counts_mut().copy_from_slice(&self.counts);
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

    /// Luma PSNR before the loop filter, from what quantisation took away: the transform is orthonormal.
    fn estimated_psnr(&self, estimate: &Estimate) -> f64 {
        let samples = (self.geometry.aligned_width * self.geometry.aligned_height * self.block_length) as f64;
        psnr(estimate.luma / f64::from(self.scale * self.scale) / samples)
    }

    /// Chooses the quantiser; the block stays quantised with it.
    fn choose(&mut self, key: bool) -> Result<(u8, Estimate)> {
        let first = self.rate.propose(key);
        let seeks_quality = self.rate.live().rate_control == RateControl::Quality;
        if seeks_quality && self.config.search != SearchMethod::Regression {
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
        let window = if self.position.is_none() { COARSEST } else { SEARCH_WINDOW };
        let (mut low, mut high) = (first.saturating_sub(window), first.saturating_add(window).min(COARSEST));
        let meets = |this: &mut Self, q: u8| -> Result<bool> {
            this.quantise(key, q)?;
            Ok(this.reconstruct(key, q)? >= target)
        };
        if self.config.search == SearchMethod::Full {
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
        let sent = sent_levels(&self.segments);
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

    /// Writes the block as quantised.
    fn pack(&mut self, key: bool, position: u32, real: usize, quantiser: u8) -> Result<Packet> {
        let started = Instant::now();
        let timing = self.timeline.encode(position, &self.times)?;
        let left_out = (self.levels - self.depth) as u8;
        let header = BlockHeader { key, epoch: self.epoch, position, left_out, frames: real as u8, quantiser, timing };
        let mut writer = BlockWriter::begin(&header, self.header.block_length, &mut self.out)?;
        for (segment, bytes) in self.segments.iter().zip(&mut self.stats.layer_bytes) {
            writer.segment(segment);
            *bytes += segment_bytes(segment.len()) as u64;
        }
        self.stats.tokens += self.counts.iter().map(|&c| c as u64).sum::<u64>();
        self.stats.token_time += started.elapsed();
        Ok(Packet { data: self.out.split().freeze(), key, frames: real as u32 })
    }
}

/// Levels that a block is sent with. Trailing empty layers are not sent, and a decoder cannot tell them from layers that were cut
/// off: the encoder must do as it will.
fn sent_levels(segments: &[Vec<u8>]) -> usize {
    segments.iter().rposition(|s| !s.is_empty()).map_or(1, |last| last + 1)
}
