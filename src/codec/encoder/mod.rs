// SPDX-License-Identifier: MIT OR Apache-2.0
//! The encoder: frames to blocks. What all bottlenecks share is here: filling blocks, key blocks, epochs, times, the
//! container. A [`BlockCoder`] turns a block's pixels into segments.

mod coder;
mod config;
mod fixed;
mod load;
mod nested;
mod pace;
mod split;
mod stats;
#[cfg(test)]
mod tests;

use std::time::Instant;

use bytes::{Bytes, BytesMut};

pub use self::coder::BlockView;
use self::coder::{BlockCoder, CodedBlock, Place, sent_layers};
pub use self::config::{DEFAULT_LAYER_RATIO, DEFAULT_LAYERS, EncoderConfig, LAYER_RATIOS};
use self::fixed::FixedBlocks;
pub use self::load::Load;
use self::load::{Change, LoadControl};
use self::nested::NestedBlocks;
use self::pace::Pace;
use self::split::Splitter;
pub use self::stats::EncoderStats;
use self::stats::Meter;
use super::layer_rates::LayerRates;
use super::{FrameTime, LiveSettings};
use crate::bitstream::{BlockHeader, BlockWriter, Limits, SequenceHeader, Timeline, segment_bytes};
use crate::bundle::Bottleneck;
use crate::frame::{Geometry, PlanesRef, load_frame};
use crate::logging::tell;
use crate::{Error, Result};

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

/// Encodes one stream.
pub struct Encoder {
    config: EncoderConfig,
    geometry: Geometry,
    header: SequenceHeader,
    coder: Box<dyn BlockCoder>,
    timeline: Timeline,
    pace: Pace,
    splitter: Splitter,
    times: Vec<FrameTime>,
    block_length: usize,
    force_key: bool,
    /// A receiver waits for the next key block, which takes no more than one frame therefore.
    hurry: bool,
    /// Blocks since the key block; `None` before the first one.
    position: Option<u32>,
    epoch: u8,
    frames_since_key: u32,
    out: BytesMut,
    load: LoadControl,
    rates: LayerRates,
    meter: Meter,
    /// An error that comes with the next block.
    failed: Option<Error>,
}

impl Encoder {
    /// Loads the graphs for the given picture, of any size of the format that memory allows. Above
    /// [`DEFAULT_MAX_PIXELS`](crate::bitstream::DEFAULT_MAX_PIXELS) decoders refuse the stream unless their limit is raised: the log warns of that.
    pub fn new(config: EncoderConfig) -> Result<Self> {
        config.live.validate()?;
        let geometry = config.bundle.geometry(config.width, config.height)?;
        let coder: Box<dyn BlockCoder> = match config.bundle.manifest.bottleneck {
            Bottleneck::Nested { .. } => Box::new(NestedBlocks::new(&config, geometry)?),
            Bottleneck::Fsq { .. } | Bottleneck::Vae { .. } => Box::new(FixedBlocks::new(&config, geometry)?),
        };
        Self::with(config, geometry, coder)
    }

    /// An encoder at the beginning of a stream with `config`. It keeps this one's graphs if they fit, since loading graphs
    /// takes long. Its epochs follow this one's, so that a decoder cannot mistake the blocks of one stream for those of the
    /// other.
    pub fn restart(mut self, config: EncoderConfig) -> Result<Self> {
        let (a, b) = (&self.config, &config);
        let serve = a.bundle.fingerprint == b.bundle.fingerprint
            && a.runtime == b.runtime
            && (a.width, a.height) == (b.width, b.height)
            && (a.search, a.layers, a.layer_ratio, a.drift_free) == (b.search, b.layers, b.layer_ratio, b.drift_free);
        let epoch = self.epoch.wrapping_add(u8::from(self.position.is_some()));
        self.reset();
        let made = if serve {
            config.live.validate()?;
            self.coder.restart(config.live)?;
            Self::with(config, self.geometry, self.coder)?
        } else {
            // Both at once would take twice the memory.
            drop(self);
            Self::new(config)?
        };
        Ok(Self { epoch, ..made })
    }

    fn with(config: EncoderConfig, geometry: Geometry, coder: Box<dyn BlockCoder>) -> Result<Self> {
        let manifest = &config.bundle.manifest;
        let (layers, layer_ratio) = config.stream_layers()?;
        let header = SequenceHeader {
            fingerprint: config.bundle.fingerprint,
            width: config.width,
            height: config.height,
            framerate: config.framerate,
            pixel_aspect_ratio: config.pixel_aspect_ratio,
            colorimetry: config.colorimetry,
            pixel_format: manifest.pixel_format,
            block_length: manifest.block_length as u8,
            chroma_site: config.chroma_site,
            layers,
            layer_ratio,
        };
        header.validate()?;
        if let Err(e) = header.validate_with(&Limits::default()) {
            tell!(Warn, "decoders with the default settings will refuse this stream: {e}");
        }
        let block_length = manifest.block_length as usize;
        Ok(Self {
            timeline: Timeline::new(config.framerate, header.block_length)?,
            pace: Pace::new(config.framerate),
            splitter: Splitter::default(),
            times: Vec::with_capacity(block_length),
            block_length,
            force_key: false,
            hurry: false,
            position: None,
            epoch: 0,
            frames_since_key: 0,
            out: BytesMut::new(),
            load: LoadControl::default(),
            rates: LayerRates::default(),
            meter: Meter::new(layers.into()),
            failed: None,
            coder,
            header,
            geometry,
            config,
        })
    }

    /// The sequence header, which a decoder needs first.
    pub fn sequence_header(&self) -> &SequenceHeader {
        &self.header
    }

    /// Frames of a full block.
    pub fn block_length(&self) -> usize {
        self.block_length
    }

    /// Takes new settings, effective from the next block. Waits as [`settle`](Self::settle) does; errors of that come with the next block.
    pub fn set_live(&mut self, live: LiveSettings) -> Result<()> {
        live.validate()?;
        self.failed = self.settle().err();
        self.coder.set_live(live)?;
        self.config.live = live;
        Ok(())
    }

    /// The settings in force.
    pub fn live(&self) -> &LiveSettings {
        &self.config.live
    }

    /// Makes the next block to be coded a key block.
    pub fn force_key(&mut self) {
        self.force_key = true;
    }

    /// As [`force_key`](Self::force_key), for a receiver that waits: the key block has the frames that wait now, which
    /// [`drain`](Self::drain) codes, or else the next frame alone. One frame by itself costs more bits where little moves.
    pub fn hurry_key(&mut self) {
        (self.force_key, self.hurry) = (true, true);
    }

    /// Learns how the last block fared in a live pipeline. An encoder that cannot keep up leaves out upper layers, the highest
    /// first and never the first, from the next block on; streams without `drift_free` have none whose absence saves time. They
    /// come back one by one, each with a key block, when there is time again. Returns whether something changed.
    pub fn note_load(&mut self, load: Load) -> bool {
        let layers = self.coder.layers();
        let Some(change) = self.load.note(load, layers.coded, layers.sheddable) else { return false };
        self.coder.shed(self.load.shed());
        self.meter.stats.shed_layers = self.load.shed() as u32;
        self.force_key |= change == Change::Restore;
        true
    }

    /// Frames that wait for their block to fill.
    pub fn pending(&self) -> usize {
        self.times.len()
    }

    /// Waits until the last block has been decoded, as the next one does: an encoder with more than one thread may go on with that when it
    /// has given out the packet. Statistics are then of that block. After an error the next block is a key block.
    pub fn settle(&mut self) -> Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let started = Instant::now();
        if let Some(settled) = self.coder.settle().inspect_err(|_| self.force_key = true)? {
            self.meter.settle(settled, started);
            self.meter.take_over(&*self.coder);
        }
        self.meter.add_call(started);
        Ok(())
    }

    /// Measurements.
    pub fn stats(&self) -> &EncoderStats {
        &self.meter.stats
    }

    /// Counts of the last block, \[cells\] in raster order.
    pub fn counts(&self) -> &[i32] {
        self.coder.counts()
    }

    /// Where the graphs run.
    pub fn provider(&self) -> &'static str {
        self.coder.provider()
    }

    /// Drops waiting frames, and errors that would come with the next block; that is a key block. Waits as [`settle`](Self::settle) does.
    pub fn reset(&mut self) {
        // Nothing is predicted from the last block any more.
        let _ = self.settle();
        self.times.clear();
        self.force_key = true;
    }

    /// Takes a frame; gives a packet when it fills a block. After an error the frames of the block are lost, and the next one
    /// begins with a key block. [`Error::Cancelled`](crate::Error::Cancelled): it was ended, and coding can continue.
    pub fn push(&mut self, picture: &PlanesRef<'_>, time: FrameTime) -> Result<Option<Packet>> {
        let started = Instant::now();
        let n = self.geometry.frame_bytes();
        let at = self.times.len() * n;
        load_frame(&self.geometry, picture, &mut self.coder.frames_mut()[at..at + n])?;
        if self.begins_another() {
            self.meter.add_call(started);
            let packet = self.block()?;
            load_frame(&self.geometry, picture, &mut self.coder.frames_mut()[..n])?;
            self.times.push(time);
            return Ok(Some(packet));
        }
        self.times.push(time);
        self.meter.add_call(started);
        if self.times.len() < self.room() { Ok(None) } else { self.block().map(Some) }
    }

    /// Codes the waiting frames as a partial block.
    pub fn drain(&mut self) -> Result<Option<Packet>> {
        if self.times.is_empty() { Ok(None) } else { self.block().map(Some) }
    }

    /// The last block as it was quantised; `None` for bottlenecks without a quantiser. For dumps; not stable.
    #[doc(hidden)]
    pub fn last_block(&mut self) -> Result<Option<BlockView<'_>>> {
        self.position.map_or(Ok(None), |_| self.coder.view())
    }

    /// The T frames of the last block, padded to the bundle's alignment, as the encoder's loop for receivers of `layers` layers has
    /// them; `None` where there is no such loop. For tests and measurements; not stable.
    #[doc(hidden)]
    pub fn reconstruction(&mut self, layers: usize) -> Result<Option<&[u8]>> {
        self.position.map_or(Ok(None), |_| self.coder.reconstruction(layers))
    }

    /// Frames that the current block takes: only those before the next key block is due.
    fn room(&self) -> usize {
        if self.hurry {
            return 1;
        }
        let since = if self.must_be_key() { 0 } else { self.frames_since_key };
        match self.config.key_int_max {
            0 => self.block_length,
            limit => self.block_length.min((limit - since) as usize),
        }
    }

    /// Whether the frame after those that wait, which has been loaded, is too different to be coded with them.
    fn begins_another(&mut self) -> bool {
        let (waiting, n, key) = (self.times.len(), self.geometry.frame_bytes(), self.must_be_key());
        // afterwards there must be room for more than this frame
        let limit = self.config.key_int_max as usize;
        let since = if key { 0 } else { self.frames_since_key as usize };
        if waiting == 0 || !self.coder.has_quantiser() || (limit > 0 && since + waiting + 1 >= limit) {
            return false;
        }
        let (before, frame) = self.coder.frames_mut()[(waiting - 1) * n..(waiting + 1) * n].split_at(n);
        self.splitter.splits(&self.geometry, before, frame, key)
    }

    fn must_be_key(&self) -> bool {
        let limit = self.config.key_int_max;
        let full = self.config.bundle.manifest.max_context_blocks;
        match self.position {
            None => true,
            Some(p) => {
                self.force_key
                    || (limit > 0 && self.frames_since_key >= limit)
                    || full.is_some_and(|blocks| p + 1 >= blocks)
                    || p == u32::MAX
            }
        }
    }

    fn block(&mut self) -> Result<Packet> {
        let coded = self.try_block();
        if coded.is_err() {
            // The state of the contexts is unknown.
            self.reset();
        }
        coded
    }

    fn try_block(&mut self) -> Result<Packet> {
        self.settle()?;
        let started = Instant::now();
        let real = self.times.len();
        let n = self.geometry.frame_bytes();
        for i in real..self.block_length {
            self.coder.frames_mut().copy_within((real - 1) * n..real * n, i * n);
        }
        let next = self.position.map_or(0, |p| p.saturating_add(1));
        let place = Place { must_be_key: self.must_be_key(), position: next, span: self.pace.next(&self.times) };
        let coded = self.coder.code(place)?;
        let key = coded.key;
        if key {
            self.epoch = self.epoch.wrapping_add(u8::from(self.position.is_some()));
            self.frames_since_key = 0;
        }
        let position = if key { 0 } else { next };
        let packet = self.pack(position, real, &coded)?;
        let segments = self.coder.segments();
        let sent = &segments[..sent_layers(segments)];
        self.rates.push(place.span.seconds, sent.iter().map(|s| segment_bytes(s.len())));
        let s = &mut self.meter.stats;
        self.rates.read(&mut s.layer_bitrates);
        (s.block_layers, s.left_out_layers) = (sent.len() as u32, coded.left_out.into());
        self.coder.learn(&coded, packet.data.len() as f64 * 8.0);
        self.position = Some(position);
        self.frames_since_key += real as u32;
        (self.force_key, self.hurry) = (false, false);
        self.times.clear();
        s.blocks += 1;
        s.key_blocks += u64::from(key);
        s.frames += real as u64;
        s.tokens += self.coder.counts().iter().map(|&c| c as u64).sum::<u64>();
        s.bytes += packet.data.len() as u64;
        s.evaluations += u64::from(coded.evaluations);
        s.quantiser = coded.quantiser;
        s.shed_blocks += u64::from(coded.shed);
        self.meter.take_over(&*self.coder);
        self.meter.add_call(started);
        self.meter.give(packet.frames);
        if self.coder.is_settled() {
            self.meter.add_psnr(coded.psnr, packet.frames);
            self.settle()?;
        }
        Ok(packet)
    }

    /// Writes the block as coded.
    fn pack(&mut self, position: u32, real: usize, coded: &CodedBlock) -> Result<Packet> {
        let timing = self.timeline.encode(position, &self.times)?;
        let CodedBlock { key, left_out, quantiser, base_quantiser, .. } = *coded;
        let frames = real as u8;
        let header = BlockHeader { key, epoch: self.epoch, position, left_out, frames, quantiser, base_quantiser, timing };
        let mut writer = BlockWriter::begin(&header, self.header.block_length, &mut self.out)?;
        let segments = self.coder.segments();
        for (segment, bytes) in segments.iter().take(sent_layers(segments)).zip(&mut self.meter.stats.layer_bytes) {
            writer.segment(segment);
            *bytes += segment_bytes(segment.len()) as u64;
        }
        Ok(Packet { data: self.out.split().freeze(), key, frames: real as u32 })
    }
}
