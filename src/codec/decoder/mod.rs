// SPDX-License-Identifier: MIT OR Apache-2.0
//! The decoder: blocks to frames. Of damaged blocks it uses the layers that are whole.
//!
//! A new decoder costs almost nothing. Graph and buffers come with the first key block, or where the user asks for them before it.

mod fixed;
mod nested;
mod opening;
mod reader;
mod segments;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::opening::GraphAhead;
use self::opening::{Opening, Source};
pub(super) use self::reader::{BlockReader, usable};
use super::FrameTime;
use super::layer_rates::LayerRates;
use super::setup::{check_model, check_quantiser, max_quantiser};
use crate::bitstream::{Block, BlockHeader, BlockTimes, Limits, SequenceHeader, Tracker};
use crate::bundle::Bundle;
use crate::frame::{PlanesMut, store_frame};
use crate::runtime::{self, DecoderGraph, RuntimeConfig};
use crate::{Error, Result};

/// How to decode.
#[derive(Debug, Clone)]
pub struct DecoderConfig {
    /// The model; its fingerprint must be the stream's.
    pub bundle: Arc<Bundle>,
    /// Where it runs.
    pub runtime: RuntimeConfig,
    /// The stream's header.
    pub header: SequenceHeader,
    /// Most layers to decode; `None` = all that come.
    pub max_layers: Option<usize>,
    /// What is accepted of the stream; `max_pixels` bounds time and memory.
    pub limits: Limits,
}

/// Measurements since the decoder was made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DecoderStats {
    /// Blocks decoded.
    pub blocks: u64,
    /// Key blocks among them.
    pub key_blocks: u64,
    /// Frames decoded.
    pub frames: u64,
    /// Bytes of blocks decoded.
    pub bytes: u64,
    /// Blocks of which a layer was damaged.
    pub damaged: u64,
    /// Blocks refused: broken, or without the context they depend on.
    pub refused: u64,
    /// Sum of layers decoded.
    pub layers: u64,
    /// Layers decoded of the last block, and those that its encoder left out since their steps would be too coarse for its quality:
    /// see LEFT_OUT in `docs/bitstream.md`.
    pub block_layers: u32,
    /// See `block_layers`.
    pub left_out_layers: u32,
    /// bit/s of each layer decoded over about a second of video, without block headers; 0 before a block whose duration is known.
    pub layer_bitrates: Vec<f64>,
    /// Time spent in the decoder.
    pub time: Duration,
    /// Part of it in ONNX Runtime.
    pub runtime_time: Duration,
}

/// Decodes one stream.
pub struct Decoder {
    source: Arc<Source>,
    header: SequenceHeader,
    graph: Opening,
    /// From the first key block on.
    reader: Option<BlockReader>,
    max_layers: usize,
    /// Which key block the times depend on: the last one that was decoded or replaced.
    tracker: Tracker,
    /// Position of the last block decoded, which the graph's context is of; `None` = a key block is needed.
    position: Option<u32>,
    damage: Option<String>,
    /// The block in the graph's output.
    shown: Shown,
    rates: LayerRates,
    stats: DecoderStats,
}

/// A block's frames in the graph's output: which, and when to show them.
#[derive(Debug, Clone, Copy, Default)]
struct Shown {
    times: BlockTimes,
    frames: usize,
    /// All frames are this one: the last good one in place of a block that could not be decoded.
    repeats: Option<usize>,
}

/// How long a block lasts; 0 where nothing says so.
fn seconds(times: &BlockTimes, (numerator, denominator): (u32, u32)) -> f64 {
    let nominal = if numerator == 0 { 0.0 } else { f64::from(denominator) / f64::from(numerator) };
    times.frames().iter().map(|t| t.duration.map_or(nominal, |d| d as f64 / 1e9)).sum()
}

/// The frames of a block.
pub struct DecodedBlock<'a> {
    decoder: &'a Decoder,
}

impl Decoder {
    /// Checks that the stream is within the limits and of this model, and that ONNX Runtime and the provider are there.
    pub fn new(config: DecoderConfig) -> Result<Self> {
        let DecoderConfig { bundle, runtime, header, max_layers, limits } = config;
        header.validate_with(&limits)?;
        check_model(&bundle, &header)?;
        let geometry = bundle.geometry(header.width, header.height)?;
        runtime::check(&runtime)?;
        let mut tracker = Tracker::default();
        tracker.set_header(header.clone())?;
        Ok(Self {
            max_layers: max_layers.unwrap_or(usize::MAX).max(1),
            tracker,
            graph: Opening::default(),
            reader: None,
            position: None,
            damage: None,
            shown: Shown::default(),
            rates: LayerRates::default(),
            stats: DecoderStats { layer_bitrates: vec![0.0; header.layers.into()], ..Default::default() },
            header,
            source: Arc::new(Source { bundle, geometry, runtime }),
        })
    }

    /// Begins to open the graph on a thread of its own, so that the first key block need not wait for it. That takes memory for
    /// pictures of the stream's size. `ahead` is used if it is of the same bundle and settings. What fails is the result of decoding the
    /// first key block.
    pub fn open_ahead(&mut self, ahead: Option<GraphAhead>) -> Result<()> {
        self.graph.begin(&self.source, ahead)
    }

    /// Most layers to decode, from the next block on; `None` = all that come.
    pub fn set_max_layers(&mut self, layers: Option<usize>) {
        self.max_layers = layers.unwrap_or(usize::MAX).max(1);
    }

    /// The stream's header.
    pub fn sequence_header(&self) -> &SequenceHeader {
        &self.header
    }

    /// Measurements.
    pub fn stats(&self) -> &DecoderStats {
        &self.stats
    }

    /// Where the graph runs; `none` before the first key block.
    pub fn provider(&self) -> &'static str {
        self.graph.graph().map_or("none", DecoderGraph::provider)
    }

    /// Whether nothing but a key block can be decoded next.
    pub fn is_waiting(&self) -> bool {
        self.position.is_none()
    }

    /// Forgets the context: the next block must be a key block. After a seek or a flush.
    pub fn reset(&mut self) {
        self.position = None;
        self.shown = Shown::default();
        self.tracker.jump();
    }

    /// Decodes a block. `pts` is the time stamp of the buffer it came in, which takes precedence over the stream's own. The first
    /// key block loads the graph.
    ///
    /// [`Error::Malformed`]: the block is damaged beyond use; [`Error::ContextLost`]: it depends on blocks that did not come;
    /// [`Error::Cancelled`]: it was ended. After these, decoding can continue with the next key block. Any other error is
    /// permanent: the bundle is broken, or there is too little memory for pictures of this size.
    pub fn decode(&mut self, data: &[u8], pts: Option<u64>) -> Result<DecodedBlock<'_>> {
        let started = Instant::now();
        match self.decode_block(data, pts) {
            Ok(shown) => {
                self.stats.time += started.elapsed();
                self.stats.bytes += data.len() as u64;
                self.shown = shown;
                Ok(DecodedBlock { decoder: self })
            }
            Err(e) => {
                self.position = None;
                if matches!(e, Error::Cancelled) {
                    // The run may have overwritten the frames of the block before.
                    self.shown = Shown::default();
                } else {
                    self.stats.refused += 1;
                }
                Err(e)
            }
        }
    }

    /// The last block again: its frames stay until the next call of [`decode`](Self::decode).
    pub fn block(&self) -> DecodedBlock<'_> {
        DecodedBlock { decoder: self }
    }

    /// Conceals a block that [`decode`](Self::decode) just refused as malformed: each of its frames is the last good frame.
    /// `None` where there is no such frame, or where the block's times are not known.
    pub fn repeat(&mut self, data: &[u8], pts: Option<u64>) -> Option<DecodedBlock<'_>> {
        let (header, _) = BlockHeader::parse(data, self.header.block_length).ok()?;
        let last = self.shown.repeats.or(self.shown.frames.checked_sub(1))?;
        if !self.tracker.accept(&header) {
            return None;
        }
        let times = self.tracker.times(&header, pts)?;
        // What follows depends on the block itself.
        self.position = None;
        self.damage = Some("the block could not be decoded; the last good frame replaces it".into());
        self.shown = Shown { times, frames: usize::from(header.frames), repeats: Some(last) };
        Some(DecodedBlock { decoder: self })
    }

    fn decode_block(&mut self, data: &[u8], pts: Option<u64>) -> Result<Shown> {
        let block = Block::parse(data, self.header.block_length)?;
        let h = block.header();
        if !h.key {
            let Some(last) = self.position else { return Err(Error::ContextLost("waiting for a key block".into())) };
            if !self.tracker.accept(h) {
                return Err(Error::ContextLost("a key block is missing; waiting for the next one".into()));
            }
            if h.position != last.wrapping_add(1) {
                return Err(Error::ContextLost(format!(
                    "block {} came after block {last}; waiting for the next key block",
                    h.position
                )));
            }
        }
        check_quantiser(h, max_quantiser(&self.source.bundle))?;
        usable(&block)?;
        self.graph.begin(&self.source, None)?;
        let reader = match &mut self.reader {
            Some(reader) => reader,
            none => none.insert(BlockReader::new(&self.source.bundle, &self.source.geometry, &self.header)?),
        };
        let read = reader.read(&block, self.max_layers);
        let graph = self.graph.wait()?;
        let (layers, fault) = read?;
        self.damage = fault;
        if h.key {
            graph.reset()?;
        }
        graph.inputs().set_position(i64::from(h.position));
        reader.load(h, graph)?;
        let before = graph.run_time();
        graph.run()?;
        graph.commit();
        reader.commit();
        let runtime_time = graph.run_time() - before;
        self.position = Some(h.position);
        let s = &mut self.stats;
        s.runtime_time += runtime_time;
        s.blocks += 1;
        s.key_blocks += u64::from(h.key);
        s.frames += u64::from(h.frames);
        s.layers += layers as u64;
        s.damaged += u64::from(self.damage.is_some());
        self.tracker.accept(h);
        let times = self.tracker.times(h, pts).unwrap_or_default();
        self.rates.push(seconds(&times, self.header.framerate), block.layer_bytes().take(layers));
        self.rates.read(&mut s.layer_bitrates);
        (s.block_layers, s.left_out_layers) = (layers as u32, h.left_out.into());
        Ok(Shown { times, frames: usize::from(h.frames), repeats: None })
    }
}

impl DecodedBlock<'_> {
    /// Frames of the block.
    pub fn frames(&self) -> usize {
        self.decoder.shown.frames
    }

    /// Times of frame `i`.
    pub fn time(&self, i: usize) -> FrameTime {
        self.decoder.shown.times.frames().get(i).copied().unwrap_or_default()
    }

    /// Copies frame `i` into `target`.
    pub fn store(&self, i: usize, target: &mut PlanesMut<'_>) -> Result<()> {
        let d = self.decoder;
        let n = d.source.geometry.frame_bytes();
        let at = d.shown.repeats.unwrap_or(i);
        let frames = d.graph.graph().map_or(&[][..], DecoderGraph::frames);
        let frame = frames.get(at * n..(at + 1) * n).filter(|_| i < d.shown.frames);
        store_frame(
            &d.source.geometry,
            frame.ok_or_else(|| Error::Settings(format!("frame {i} of a block of {}", d.shown.frames)))?,
            target,
        )
    }

    /// What was wrong with the block, if its upper layers could not be used.
    pub fn damaged(&self) -> Option<&str> {
        self.decoder.damage.as_deref()
    }
}
