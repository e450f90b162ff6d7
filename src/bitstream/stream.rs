// SPDX-License-Identifier: MIT OR Apache-2.0
//! The byte stream, for files, TCP and pipes: self-delimiting units, joinable at every key block.

use bytes::{Buf, Bytes, BytesMut};

use super::block_header::RawHeader;
use super::header::SequenceHeader;
use super::limits::Limits;
use super::unit::{Parsed, UnitKind, parse_last_unit, parse_unit, put_unit};
use crate::{Error, Result};

/// How certain it is that data is an ElasticTok byte stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Probe {
    /// It is not.
    No,
    /// More data is needed, or a sequence header comes later, as in a stream that was joined late.
    Maybe,
    /// It starts with a sequence header.
    Yes,
}

/// Tells whether `data`, the front of a file or connection, is an ElasticTok byte stream. 64 bytes are enough for `Yes`.
pub fn probe(data: &[u8]) -> Probe {
    match parse_unit(data, 0) {
        Parsed::Unit { .. } => Probe::Yes,
        Parsed::NeedMore(_) if !data.is_empty() => Probe::Maybe,
        Parsed::NeedMore(_) => Probe::No,
        Parsed::Junk(mut at) => loop {
            // An incomplete candidate after the start is no evidence.
            match parse_last_unit(&data[at..], 0) {
                Parsed::Unit { .. } => break Probe::Maybe,
                Parsed::NeedMore(_) => break Probe::No,
                Parsed::Junk(skip) => at += skip,
            }
        },
    }
}

/// Wraps blocks into units, with a sequence header before each key block.
#[derive(Debug, Clone)]
pub struct StreamWriter {
    sequence: Bytes,
    max_block_bytes: usize,
    started: bool,
}

impl StreamWriter {
    /// A writer of blocks under `header`. After a change of header, start a new writer on the same output.
    pub fn new(header: &SequenceHeader) -> Result<Self> {
        header.validate()?;
        let mut sequence = BytesMut::new();
        put_unit(UnitKind::Sequence, &header.to_bytes(), &mut sequence);
        let max_block_bytes = header.block_bytes(&Limits::FORMAT);
        Ok(Self { sequence: sequence.freeze(), max_block_bytes, started: false })
    }

    /// Appends `block` to `out`; before a key block, and before the first block of all, the sequence header.
    pub fn write(&mut self, block: &[u8], out: &mut BytesMut) -> Result<()> {
        let header = RawHeader::read(block)?;
        if block.len() > self.max_block_bytes {
            return Err(Error::Limit(format!(
                "block of {} bytes, readers take up to {}; use a coarser quantiser or fewer tokens",
                block.len(),
                self.max_block_bytes
            )));
        }
        if let Some(sequence) = self.precede(header.key()) {
            out.extend_from_slice(&sequence);
        }
        put_unit(UnitKind::Block, block, out);
        Ok(())
    }

    /// The sequence header's unit, if it belongs before a block that has its own unit already. It then counts as written.
    pub fn precede(&mut self, key: bool) -> Option<Bytes> {
        let first = !std::mem::replace(&mut self.started, true);
        (key || first).then(|| self.sequence.clone())
    }
}

/// A unit from a [`StreamReader`].
#[derive(Clone, PartialEq, Eq)]
pub struct Unit {
    /// What it carries.
    pub kind: UnitKind,
    /// The sequence header's or block's bytes, not copied.
    pub payload: Bytes,
    /// Bytes between the unit before and this one that belong to no unit.
    pub skipped: u64,
}

impl std::fmt::Debug for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unit")
            .field("kind", &self.kind)
            .field("bytes", &self.payload.len())
            .field("skipped", &self.skipped)
            .finish()
    }
}

/// Finds the units in a byte stream that comes in pieces of any size, and resynchronises after damage.
///
/// It keeps at most one unit and what was pushed since [`next_unit`](Self::next_unit) last answered `None`. Blocks before
/// the first sequence header, and after one that cannot be read, are skipped.
#[derive(Debug)]
pub struct StreamReader {
    limits: Limits,
    buffer: BytesMut,
    max_block_bytes: usize,
    /// Bytes that must be there before parsing is tried again.
    needed: usize,
    skipped: u64,
    ended: bool,
}

impl StreamReader {
    /// A reader that accepts what `limits` allow.
    pub fn new(limits: Limits) -> Self {
        Self { limits, buffer: BytesMut::new(), max_block_bytes: 0, needed: 0, skipped: 0, ended: false }
    }

    /// Appends data; take the units out before the next call.
    pub fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// Nothing more comes: of a block that is cut short, what is there is returned.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// The next unit, or `None` until more is pushed.
    pub fn next_unit(&mut self) -> Option<Unit> {
        while !self.buffer.is_empty() {
            let parsed = if self.ended {
                parse_last_unit(&self.buffer, self.max_block_bytes)
            } else if self.buffer.len() < self.needed {
                return None;
            } else {
                parse_unit(&self.buffer, self.max_block_bytes)
            };
            self.needed = 0;
            match parsed {
                Parsed::NeedMore(needed) => {
                    self.needed = needed;
                    return None;
                }
                Parsed::Junk(bytes) => {
                    self.buffer.advance(bytes);
                    self.skipped += bytes as u64;
                }
                Parsed::Unit { kind, payload, total } => {
                    let unit = self.buffer.split_to(total).freeze();
                    let payload = unit.slice(payload);
                    if kind == UnitKind::Sequence {
                        let header = SequenceHeader::parse_with(&payload, &self.limits);
                        self.max_block_bytes = header.map_or(0, |header| header.block_bytes(&self.limits));
                    }
                    return Some(Unit { kind, payload, skipped: std::mem::take(&mut self.skipped) });
                }
            }
        }
        None
    }

    /// Bytes skipped since the last unit.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Forgets all data but the last sequence header, as after a seek.
    pub fn flush(&mut self) {
        self.buffer.clear();
        (self.needed, self.skipped, self.ended) = (0, 0, false);
    }
}

impl Default for StreamReader {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}
