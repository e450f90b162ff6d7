// SPDX-License-Identifier: MIT OR Apache-2.0
//! Putting blocks together from packets, some of which were lost or dropped on the way.

use super::descriptor::{AggregatedUnits, Descriptor, Payload};
use super::malformed;
use crate::Result;
use crate::bitstream::header::SequenceHeader;
use crate::bitstream::limits::Limits;

/// A packet in the order of sequence numbers.
#[derive(Debug, Clone, Copy)]
pub struct RtpPacket<'a, T> {
    /// RTP sequence number.
    pub sequence: u16,
    /// RTP marker bit.
    pub marker: bool,
    /// What follows the RTP header.
    pub payload: &'a [u8],
    /// When it plays, in whatever way the caller tells time.
    pub time: T,
}

/// A block that was received, with the layers that came whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received<T> {
    /// The block: header and segments.
    pub data: Vec<u8>,
    /// It is a key block.
    pub key: bool,
    /// Of the first packet.
    pub time: T,
    /// The block's time after `time`, in units of the RTP clock; 0 but in aggregation packets.
    pub offset: u16,
    /// Blocks before it are missing.
    pub discontinuity: bool,
    /// A sequence header that takes effect with this block.
    pub header: Option<SequenceHeader>,
    /// Layers it has, at least 1.
    pub layers: u8,
}

/// What came and what did not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReceiveStats {
    /// Packets that were malformed or did not fit.
    pub refused_packets: u64,
    /// Blocks that came as they were sent.
    pub whole: u64,
    /// Blocks of which upper layers are missing where no packet is: someone on the way dropped them.
    pub thinned: u64,
    /// Blocks of which upper layers are missing, and packets too.
    pub impaired: u64,
    /// Blocks of which nothing came, or not all of the base layer.
    pub lost: u64,
    /// Blocks whose base layer came but which depend on one that was lost.
    pub undecodable: u64,
}

/// Puts blocks together. Memory is bounded by the largest block that the sequence header allows.
#[derive(Debug)]
pub struct Depacketizer<T> {
    limits: Limits,
    /// Blocks that depend on one that is missing are left out.
    waits_for_key: bool,
    /// The largest block in bytes, by the header in force; `None` without one.
    block_bytes: Option<usize>,
    header: Option<SequenceHeader>,
    /// A header that came with a key block, for the next key block that is whole enough.
    next_header: Option<SequenceHeader>,
    /// It is the first one and nobody asked for it yet.
    early: bool,
    sequence: Option<u16>,
    /// A packet may be missing before the next one, whatever its sequence number says.
    missing: bool,
    current: Option<Current<T>>,
    /// The number of the last block.
    number: Option<u16>,
    /// The epoch whose blocks can be decoded.
    epoch: Option<u8>,
    discontinuity: bool,
    /// How many layers the group's key block had when the next block came without a packet missing: those of its other blocks.
    expected: Option<u8>,
    /// More layers than that came.
    more: bool,
    wanted: Option<u8>,
    stats: ReceiveStats,
}

/// A block that is being put together.
#[derive(Debug)]
struct Current<T> {
    key: bool,
    epoch: u8,
    number: u16,
    layers: u8,
    time: T,
    offset: u16,
    data: Vec<u8>,
    /// Layers that are whole, and their bytes.
    whole: u8,
    whole_bytes: usize,
    fragment: u16,
    /// What comes next can be appended.
    open: bool,
    /// A packet is missing somewhere.
    gap: bool,
    /// It was handed on.
    done: bool,
}

impl<T: Copy> Current<T> {
    fn new(descriptor: &Descriptor, time: T, offset: u16) -> Self {
        Self {
            key: descriptor.key,
            epoch: descriptor.epoch,
            number: descriptor.block,
            layers: descriptor.layers,
            time,
            offset,
            data: Vec::new(),
            whole: 0,
            whole_bytes: 0,
            fragment: 0,
            open: true,
            gap: false,
            done: false,
        }
    }

    fn is_of(&self, d: &Descriptor) -> bool {
        (self.number, self.epoch, self.key, self.layers) == (d.block, d.epoch, d.key, d.layers)
    }
}

impl<T: Copy> Depacketizer<T> {
    /// A depacketizer without a sequence header, for streams within `limits`. `waits_for_key`: leave out what depends on blocks that
    /// are missing.
    pub fn new(limits: Limits, waits_for_key: bool) -> Self {
        Self {
            limits,
            waits_for_key,
            block_bytes: None,
            header: None,
            next_header: None,
            early: false,
            sequence: None,
            missing: false,
            current: None,
            number: None,
            epoch: None,
            discontinuity: false,
            expected: None,
            more: false,
            wanted: None,
            stats: ReceiveStats::default(),
        }
    }

    /// Takes a sequence header that came by another way, in force until one comes with a key block.
    pub fn set_header(&mut self, bytes: &[u8]) -> Result<&SequenceHeader> {
        let header = SequenceHeader::parse_with(bytes, &self.limits)?;
        self.block_bytes = Some(header.block_bytes(&self.limits));
        Ok(self.header.insert(header))
    }

    /// Whether there is a sequence header.
    pub fn has_header(&self) -> bool {
        self.block_bytes.is_some()
    }

    /// The first sequence header of all, as soon as it is there: once, when the packet with it has come and its key block is not whole
    /// yet. It may never be.
    pub fn early_header(&mut self) -> Option<&SequenceHeader> {
        std::mem::take(&mut self.early).then_some(self.next_header.as_ref()).flatten()
    }

    /// Sets the limits for sequence headers to come.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Sets what [`new`](Self::new) calls `waits_for_key`.
    pub fn set_waits_for_key(&mut self, yes: bool) {
        self.waits_for_key = yes;
    }

    /// What came so far.
    pub fn stats(&self) -> ReceiveStats {
        self.stats
    }

    /// The epoch of a block that could not be used, once after each: the sender should be asked for a key block. Another epoch than
    /// the time before means that a key block was sent since, and lost.
    pub fn key_wanted(&mut self) -> Option<u8> {
        self.wanted.take()
    }

    /// Forgets what came so far, but not the header nor the statistics: only a key block can be used next.
    pub fn flush(&mut self) {
        (self.sequence, self.current, self.number, self.epoch) = (None, None, None, None);
        (self.expected, self.more, self.wanted, self.discontinuity) = (None, false, None, true);
    }

    /// Notes that a packet was lost before the one that comes next. Sequence numbers show that too, but not where they were written
    /// anew on the way, as decoders of forward error correction do.
    pub fn note_loss(&mut self) {
        self.missing = true;
    }

    /// Ends the block that is being put together, at the end of the stream.
    pub fn finish(&mut self, out: &mut impl FnMut(Received<T>)) {
        self.end(out);
        self.current = None;
    }

    /// Takes a packet; calls `out` with each block that it completes, or that it shows to have ended.
    ///
    /// A malformed packet counts as missing. It is an error, and the next packet is welcome.
    pub fn push(&mut self, packet: &RtpPacket<'_, T>, out: &mut impl FnMut(Received<T>)) -> Result<()> {
        let gap = std::mem::take(&mut self.missing) | self.sequence.is_some_and(|last| last.wrapping_add(1) != packet.sequence);
        let taken = self.take(packet, gap, out);
        // After a packet that was refused the next one comes after a gap.
        self.sequence = taken.is_ok().then_some(packet.sequence).or(Some(packet.sequence.wrapping_sub(1)));
        if taken.is_err() {
            self.stats.refused_packets += 1;
        }
        taken
    }

    fn take(&mut self, packet: &RtpPacket<'_, T>, mut gap: bool, out: &mut impl FnMut(Received<T>)) -> Result<()> {
        let (descriptor, rest) = Descriptor::parse(packet.payload)?;
        if !descriptor.aggregate {
            return self.unit(&Payload::new(descriptor, rest)?, (packet.time, 0), gap, packet.marker, out);
        }
        let mut units = AggregatedUnits::new(rest);
        if units.is_empty() {
            return Err(malformed("an aggregation packet without units"));
        }
        while let Some(unit) = units.next() {
            let (offset, payload) = unit?;
            let marker = packet.marker && units.is_empty();
            self.unit(&payload, (packet.time, offset), gap, marker, out)?;
            gap = false;
        }
        Ok(())
    }

    fn unit(
        &mut self,
        payload: &Payload<'_>,
        (time, offset): (T, u16),
        gap: bool,
        marker: bool,
        out: &mut impl FnMut(Received<T>),
    ) -> Result<()> {
        let d = &payload.descriptor;
        if let Some(current) = self.current.as_mut().filter(|current| current.is_of(d)) {
            current.gap |= gap;
        } else {
            if let Some(current) = &mut self.current {
                current.gap |= gap;
            }
            self.end(out);
            self.begin(d, time, offset);
        }
        let refused = self.append(payload);
        let Some(current) = &self.current else { return refused };
        if marker || current.whole == current.layers || self.expected == Some(current.whole) {
            self.end(out);
        }
        refused
    }

    /// Begins a block, and counts those before it that are missing.
    fn begin(&mut self, d: &Descriptor, time: T, offset: u16) {
        let missing = self.number.map_or(0, |last| d.block.wrapping_sub(last).wrapping_sub(1));
        // A number that is not ahead: the sender has started again.
        let restarted = missing > u16::MAX / 2;
        if missing > 0 {
            self.stats.lost += if restarted { 0 } else { u64::from(missing) };
            (self.epoch, self.discontinuity) = (None, true);
        }
        self.number = Some(d.block);
        if d.key && self.more {
            (self.expected, self.more) = (None, false);
        }
        self.current = Some(Current::new(d, time, offset));
    }

    /// Appends to the block what follows what is there; anything else ends the layers that can be used.
    fn append(&mut self, payload: &Payload<'_>) -> Result<()> {
        let d = &payload.descriptor;
        let Some(current) = &mut self.current else { return Ok(()) };
        if current.done {
            self.more |= !current.gap && self.expected.is_some();
            return Ok(());
        }
        if !current.open || (d.layer, d.fragment) != (current.whole, current.fragment) {
            current.open = false;
            return Ok(());
        }
        if let Some(bytes) = payload.header {
            let header = SequenceHeader::parse_with(bytes, &self.limits).inspect_err(|_| current.open = false)?;
            self.early |= self.block_bytes.is_none();
            self.block_bytes = Some(header.block_bytes(&self.limits));
            self.next_header = Some(header);
        }
        let Some(most) = self.block_bytes else {
            // Nothing is known of the stream, so nothing is kept of it.
            current.open = false;
            return Ok(());
        };
        if payload.data.len() > most.saturating_sub(current.data.len()) {
            current.open = false;
            return Err(malformed(format_args!(
                "the block is larger than {most} bytes, the most that its sequence header allows"
            )));
        }
        current.data.extend_from_slice(payload.data);
        if d.end {
            current.whole += 1;
            current.whole_bytes = current.data.len();
            current.fragment = 0;
        } else {
            match current.fragment.checked_add(1) {
                Some(next) => current.fragment = next,
                None => current.open = false,
            }
        }
        Ok(())
    }

    /// Ends the current block, if it was not ended before.
    fn end(&mut self, out: &mut impl FnMut(Received<T>)) {
        let Some(current) = self.current.as_mut().filter(|current| !current.done) else { return };
        current.done = true;
        let (key, epoch, layers, gap) = (current.key, current.epoch, current.whole, current.gap);
        let mut data = std::mem::take(&mut current.data);
        if layers == 0 {
            self.stats.lost += 1;
            (self.epoch, self.discontinuity, self.wanted) = (None, true, Some(epoch));
            return;
        }
        let (time, offset, sent) = (current.time, current.offset, current.layers);
        if key {
            self.epoch = Some(epoch);
            self.expected = (layers < sent && !gap).then_some(layers);
        } else if self.epoch != Some(epoch) {
            self.epoch = None;
            self.wanted = Some(epoch);
            self.discontinuity = true;
            if self.waits_for_key {
                self.stats.undecodable += 1;
                return;
            }
        }
        match (layers == sent, gap) {
            (true, _) => self.stats.whole += 1,
            (false, false) => self.stats.thinned += 1,
            (false, true) => self.stats.impaired += 1,
        }
        let next = self.next_header.take_if(|_| key).filter(|next| self.header.as_ref() != Some(next));
        let header = next.map(|next| self.header.insert(next).clone());
        data.truncate(current.whole_bytes);
        let discontinuity = std::mem::take(&mut self.discontinuity);
        out(Received { data, key, time, offset, discontinuity, header, layers });
    }
}
