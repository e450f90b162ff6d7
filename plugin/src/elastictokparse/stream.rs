// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state of the stream, what is next in the input, and how blocks are sent.
//!
//! Inside the element and its base class, times are playback times, which begin at 0 with the first frame. At the source pad
//! the first frame keeps its own time stamp: the segment maps it to 0. Where upstream deals in time, its times are kept.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use elastictok::Error;
use elastictok::bitstream::{
    BlockHeader, Index, Limits, Parsed, SequenceHeader, StreamWriter, Tracker, UnitKind, parse_last_unit, parse_unit,
};

use super::ahead::Ahead;
use crate::keyrequest::KeyRequest;

/// The base class takes more than 2 MiB skipped at once for a broken stream.
pub const MAX_SKIP: usize = 1 << 20;

/// What is next in the input.
pub enum Found {
    /// Too little to tell: this many bytes are needed.
    NeedMore(usize),
    /// Bytes that belong to no unit.
    Junk(usize),
    /// The rest of a unit that is skipped.
    Rest(usize),
    /// A header that is not accepted, and why.
    Refused(Error, usize),
    /// A header with no block after it.
    Header(SequenceHeader, usize),
    /// A block, with the header before it.
    Block(Option<SequenceHeader>, Unit),
}

/// Where a block lies in the input.
#[derive(Debug, Clone)]
pub struct Unit {
    /// Its unit in a byte stream, from its first byte on; `None` where there is none or it is cut short.
    pub whole: Option<Range<usize>>,
    pub payload: Range<usize>,
    /// All bytes to take, those of a header before it included.
    pub total: usize,
}

/// A block that is ready to be sent, or why there is none.
pub enum Made {
    Buffer(gst::Buffer),
    /// A packet whose key block is missing, for a decoder to conceal.
    Orphan(gst::Buffer),
    /// Its key block is missing, so it cannot be decoded.
    Lost,
    /// Skipped in this trick mode.
    PassedOver,
}

/// When a block is shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stamp {
    /// In playback time, where upstream does not deal in time.
    pub start: Option<gst::ClockTime>,
    /// As its buffer has it at the source pad.
    pub pts: Option<gst::ClockTime>,
    pub duration: Option<gst::ClockTime>,
}

/// What downstream was told.
pub struct Output {
    pub header: SequenceHeader,
    /// Set where downstream wants a byte stream.
    pub writer: Option<StreamWriter>,
}

/// How the present position in a byte stream was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Arrival {
    /// By reading on.
    #[default]
    Onwards,
    /// By a seek in a source that pushes: its segment is still to come.
    Seeking,
    /// By a seek.
    Jump,
}

/// Which of the base class's segments are to be corrected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Snap {
    /// None: a seek reached its target.
    #[default]
    Exact,
    /// Nothing was sought: the segment is all of the playback.
    Whole,
    /// A seek may have passed its target: the segment must not begin before the first block.
    NotBefore,
    /// To begin with the first block.
    FirstBlock,
}

/// A duration that is estimated from the bytes read so far.
#[derive(Debug, Clone, Copy)]
pub struct Estimate {
    /// Of the whole file in bytes.
    pub size: u64,
    /// Where the next estimate is due.
    pub next: u64,
}

#[derive(Default)]
pub struct State {
    pub packets_in: bool,
    /// Upstream's buffers carry the times of blocks.
    pub timed: bool,
    pub caps: Option<gst::Caps>,
    pub tracker: Tracker,
    /// Blocks have come, and upstream was queried.
    pub begun: bool,
    pub output: Option<Output>,
    pub index: Option<Index>,
    /// Where the next unit is expected.
    pub offset: u64,
    pub arrival: Arrival,
    /// Bytes of a dropped unit that are still to be skipped.
    pub rest: usize,
    /// Time stamp of a buffer that began with a unit, until a block takes it.
    pub pts: Option<gst::ClockTime>,
    /// Time stamp of the first frame, where upstream does not deal in time.
    pub origin: Option<gst::ClockTime>,
    /// Of the block that is being sent.
    pub stamp: Stamp,
    /// The segment that is in force at the source pad, and the origin that it was made with.
    pub segment: Option<(gst::FormattedSegment<gst::ClockTime>, Option<gst::ClockTime>)>,
    /// Flags of a seek that the base class turns into one of upstream's, which does not keep them.
    pub flags: Option<gst::SegmentFlags>,
    pub snap: Snap,
    /// What is read ahead of a source that pushes.
    pub ahead: Option<Arc<Mutex<Ahead>>>,
    pub estimate: Option<Estimate>,
    pub request: KeyRequest,
}

fn clock_time(ns: Option<u64>) -> Option<gst::ClockTime> {
    ns.and_then(|t| gst::ClockTime::try_from(t).ok())
}

impl State {
    /// What is at the front of `data`, which is at `offset` in the input.
    pub fn find(&mut self, data: &[u8], offset: u64, pts: Option<gst::ClockTime>, draining: bool, limits: &Limits) -> Found {
        self.pts = pts.or(self.pts).filter(|_| self.timed);
        if self.packets_in {
            let unit = Unit { whole: None, payload: 0..data.len(), total: data.len() };
            return if data.is_empty() { Found::NeedMore(1) } else { Found::Block(None, unit) };
        }
        if offset != self.offset || self.arrival == Arrival::Jump {
            self.rest = 0;
            self.arrival = Arrival::Onwards;
            match &self.index {
                Some(index) => index.resume(&mut self.tracker, offset),
                None => self.tracker.jump(),
            }
        }
        self.offset = offset;
        let found = match self.rest.min(data.len()).min(MAX_SKIP) {
            0 => self.examine(data, draining, limits),
            bytes => {
                self.rest -= bytes;
                Found::Rest(bytes)
            }
        };
        self.offset += match &found {
            Found::NeedMore(_) => 0,
            Found::Junk(bytes) | Found::Rest(bytes) | Found::Refused(_, bytes) | Found::Header(_, bytes) => *bytes as u64,
            Found::Block(_, unit) => unit.total as u64,
        };
        found
    }

    fn examine(&mut self, data: &[u8], draining: bool, limits: &Limits) -> Found {
        let limit = |header: Option<&SequenceHeader>| header.map_or(0, |header| header.block_bytes(limits));
        let (payload, total) = match unit(data, limit(self.tracker.header()), draining) {
            Next::NeedMore(bytes) => return Found::NeedMore(bytes),
            Next::Junk(bytes) => return Found::Junk(bytes.min(MAX_SKIP)),
            Next::Block(unit) => return Found::Block(None, unit),
            Next::Header(payload, total) => (payload, total),
        };
        let header = match SequenceHeader::parse_with(&data[payload], limits) {
            Ok(header) => header,
            Err(e) => {
                self.tracker.forget_header();
                return Found::Refused(e, total);
            }
        };
        match unit(&data[total..], limit(Some(&header)), draining) {
            Next::NeedMore(bytes) if !draining => Found::NeedMore(total + bytes),
            Next::Block(Unit { whole, payload, total: bytes }) => {
                let shift = |range: Range<usize>| range.start + total..range.end + total;
                let unit = Unit { whole: whole.map(shift), payload: shift(payload), total: total + bytes };
                Found::Block(Some(header), unit)
            }
            _ => Found::Header(header, total),
        }
    }

    /// Skips a unit of `total` bytes; returns how many of them are to be skipped now.
    pub fn leave_out(&mut self, total: usize) -> usize {
        let now = total.min(MAX_SKIP);
        self.rest = total - now;
        self.offset -= self.rest as u64;
        now
    }

    /// Stamps the block of `unit` in `input`, whose bytes are `data`, and brings it into downstream's form.
    pub fn make(&mut self, input: &gst::BufferRef, data: &[u8], unit: &Unit, key_units_only: bool) -> Result<Made, Error> {
        let packet_pts = self.pts.take();
        let Some(output) = &mut self.output else { return Ok(Made::Lost) };
        let block = &data[unit.payload.clone()];
        let (header, _) = BlockHeader::parse(block, output.header.block_length)?;
        let known = self.tracker.accept(&header);
        // Packets have their own times, so a decoder can conceal a loss. In a byte stream such blocks are dropped.
        if !known && (!self.packets_in || output.writer.is_some()) {
            return Ok(Made::Lost);
        }
        if key_units_only && !header.key {
            return Ok(Made::PassedOver);
        }
        let Some(times) = self.tracker.times(&header, packet_pts.map(|t| t.nseconds())) else { return Ok(Made::Lost) };
        let own = clock_time(times.frames().first().and_then(|frame| frame.pts));
        let duration = clock_time(times.length());
        self.stamp = if self.timed {
            Stamp { start: own, pts: own, duration }
        } else {
            let start = clock_time(self.tracker.place(&header, &times).start);
            self.origin = self.origin.or(own.filter(|_| start.is_some()));
            Stamp { start, pts: start.zip(self.origin).and_then(|(start, origin)| start.checked_add(origin)), duration }
        };
        let mut buffer = output.form(input, block, unit, header.key)?;
        mark(buffer.make_mut(), self.stamp.start, self.stamp.duration);
        let flags = gst::BufferFlags::DELTA_UNIT;
        let out = buffer.make_mut();
        out.unset_flags(flags | gst::BufferFlags::HEADER);
        if !header.key {
            out.set_flags(flags);
        }
        if header.key {
            self.request.fulfilled();
        }
        Ok(if known { Made::Buffer(buffer) } else { Made::Orphan(buffer) })
    }
}

impl Output {
    /// The block in downstream's form, with the input's metas; its bytes are shared where they already have that form.
    fn form(&mut self, input: &gst::BufferRef, block: &[u8], unit: &Unit, key: bool) -> Result<gst::Buffer, Error> {
        // all() would copy the bytes too
        let shared = gst::BUFFER_COPY_METADATA | gst::BufferCopyFlags::MEMORY;
        let unshared = |_| Error::Runtime("a part of an input buffer cannot be shared".into());
        match (&mut self.writer, unit.whole.clone()) {
            (None, _) => input.copy_region(shared, unit.payload.clone()).map_err(unshared),
            (Some(writer), Some(whole)) => {
                let mut buffer = input.copy_region(shared, whole).map_err(unshared)?;
                if let Some(sequence) = writer.precede(key) {
                    buffer.make_mut().prepend_memory(gst::Memory::from_slice(sequence));
                }
                Ok(buffer)
            }
            (Some(writer), None) => {
                let mut bytes = bytes::BytesMut::new();
                writer.write(block, &mut bytes)?;
                let mut buffer = gst::Buffer::from_slice(bytes);
                input.copy_into(buffer.make_mut(), gst::BUFFER_COPY_METADATA, ..).map_err(unshared)?;
                Ok(buffer)
            }
        }
    }
}

pub fn mark(buffer: &mut gst::BufferRef, pts: Option<gst::ClockTime>, duration: Option<gst::ClockTime>) {
    buffer.set_pts(pts);
    buffer.set_dts(pts);
    buffer.set_duration(duration);
}

enum Next {
    NeedMore(usize),
    Junk(usize),
    Header(Range<usize>, usize),
    Block(Unit),
}

fn unit(data: &[u8], limit: usize, draining: bool) -> Next {
    let (parsed, whole) = match parse_unit(data, limit) {
        Parsed::NeedMore(_) if draining => (parse_last_unit(data, limit), false),
        parsed => (parsed, true),
    };
    match parsed {
        Parsed::NeedMore(bytes) => Next::NeedMore(bytes),
        Parsed::Junk(bytes) => Next::Junk(bytes),
        Parsed::Unit { kind: UnitKind::Sequence, payload, total } => Next::Header(payload, total),
        Parsed::Unit { kind: UnitKind::Block, payload, total } => {
            Next::Block(Unit { whole: whole.then_some(0..total), payload, total })
        }
    }
}
