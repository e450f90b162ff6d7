// SPDX-License-Identifier: MIT OR Apache-2.0
//! Media segments: some groups of a stream stored layer by layer, so that a prefix of the file is the stream at a lower rate.
//!
//! `docs/http.md` is the specification. The front of a media segment is a byte stream of the base layer. A layer unit for
//! each upper layer follows, with a piece for every block: the bytes that the layer adds to it.

use std::ops::Range;

use bytes::{BufMut, BytesMut};

use super::block_header::RawHeader;
use super::crc::crc8;
use super::header::SequenceHeader;
use super::limits::{Limits, MAX_LAYERS};
use super::stream::StreamWriter;
use super::thin::thin;
use super::unit::{MAX_PAYLOAD_BYTES, Parsed, SYNC, UnitKind, parse_unit, put_unit};
use super::varint;
use crate::{Error, Result};

/// Second byte of a layer unit. Readers of byte streams take it for junk.
const TYPE_LAYER: u8 = 0x4C;

/// The most bytes of a media segment that readers take.
pub const MAX_MEDIA_SEGMENT_BYTES: usize = 256 << 20;

/// Collects blocks into a media segment.
#[derive(Debug)]
pub struct MediaSegmentWriter {
    base: BytesMut,
    /// Pieces of the upper layers.
    upper: Vec<BytesMut>,
    writer: StreamWriter,
    blocks: usize,
}

impl MediaSegmentWriter {
    /// A writer of blocks under `header`.
    pub fn new(header: &SequenceHeader) -> Result<Self> {
        Ok(Self { base: BytesMut::new(), upper: Vec::new(), writer: StreamWriter::new(header)?, blocks: 0 })
    }

    /// Blocks since the last segment was finished.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Adds the stream's next block. The first one of a media segment must be a key block.
    pub fn push(&mut self, block: &[u8]) -> Result<()> {
        if self.blocks == 0 && !RawHeader::read(block)?.key() {
            return Err(Error::Settings(
                "media segment: it must start with a key block; drop the blocks before the first one".into(),
            ));
        }
        let ends = layer_ends(block);
        self.writer.write(&block[..ends[0]], &mut self.base)?;
        for layer in 1..ends.len().max(self.upper.len() + 1) {
            if layer > self.upper.len() {
                // Blocks before this one have nothing in this layer: pieces of length 0.
                self.upper.push(BytesMut::zeroed(self.blocks));
            }
            let piece = ends.get(layer).map_or(&[][..], |&end| &block[ends[layer - 1]..end]);
            let out = &mut self.upper[layer - 1];
            varint::put(out, piece.len() as u64);
            out.put_slice(piece);
        }
        self.blocks += 1;
        Ok(())
    }

    /// Appends the media segment to `out` and starts the next one. Returns where each layer ends, in bytes from the segment's
    /// start: as many as there are layers, and at least one.
    pub fn finish(&mut self, out: &mut BytesMut) -> Result<Vec<u64>> {
        if self.blocks == 0 {
            return Err(Error::Settings("media segment: it has no block".into()));
        }
        let start = out.len();
        out.extend_from_slice(&self.base);
        let mut ends = vec![(out.len() - start) as u64];
        for pieces in &self.upper {
            if pieces.len() > MAX_PAYLOAD_BYTES {
                return Err(too_long(pieces.len()));
            }
            out.put_u8(SYNC);
            let check = out.len();
            out.put_u8(TYPE_LAYER);
            varint::put(out, pieces.len() as u64);
            out.put_u8(crc8(&out[check..]));
            out.extend_from_slice(pieces);
            ends.push((out.len() - start) as u64);
        }
        if out.len() - start > MAX_MEDIA_SEGMENT_BYTES {
            let bytes = out.len() - start;
            out.truncate(start);
            return Err(too_long(bytes));
        }
        self.base.clear();
        self.upper.clear();
        self.blocks = 0;
        Ok(ends)
    }
}

fn too_long(bytes: usize) -> Error {
    Error::Limit(format!(
        "media segment of {bytes} bytes, readers take up to {MAX_MEDIA_SEGMENT_BYTES}; make key blocks more frequent (key-int-max)"
    ))
}

/// Where each layer of a block ends; what cannot be told apart belongs to the last one.
fn layer_ends(block: &[u8]) -> Vec<usize> {
    let mut ends = Vec::with_capacity(4);
    let all = thin(block, usize::MAX).map_or(block.len(), <[u8]>::len);
    for layers in 1..=MAX_LAYERS {
        let end = thin(block, layers).map_or(block.len(), <[u8]>::len);
        ends.push(end);
        if end >= all {
            break;
        }
    }
    // Bytes of a segment that is cut short, and empty segments at the end.
    if let Some(last) = ends.last_mut() {
        *last = block.len();
    }
    ends
}

/// Appends the byte stream of what there is of a media segment to `out`; `data` is the segment or a prefix of it. Returns the
/// number of layers that came whole, 1 or more.
///
/// Blocks have the layers that came for them. Where a layer came in part, the first blocks have it and the others do not; pass
/// a prefix that ends with a layer where receivers should not change their number of layers between key blocks. From the whole
/// segment comes the byte stream that it was made of.
///
/// Fails where the data is not the front of a media segment or a layer unit is damaged, and then `out` is left as it was. Damage
/// in a block is left to its decoder.
pub fn read_media_segment(data: &[u8], limits: &Limits, out: &mut BytesMut) -> Result<usize> {
    if data.len() > MAX_MEDIA_SEGMENT_BYTES {
        return Err(too_long(data.len()));
    }
    let (units, mut at) = base_units(data, limits)?;
    let blocks = || units.iter().filter(|unit| unit.kind == UnitKind::Block);
    let mut whole = 1;
    // Of each layer, the pieces that came.
    let mut layers: Vec<Pieces<'_>> = Vec::new();
    while let Some(payload) = layer_unit(&data[at..])? {
        if layers.len() + 1 >= MAX_LAYERS {
            return Err(malformed("it has more than 32 layers"));
        }
        let there = &data[(at + payload.start).min(data.len())..(at + payload.end).min(data.len())];
        at += payload.end;
        let complete = at <= data.len();
        let pieces = Pieces { rest: there };
        if complete {
            let mut left = pieces.clone();
            if !blocks().all(|_| left.next().is_some()) || !left.rest.is_empty() {
                return Err(malformed("a layer's pieces are not as many as there are blocks"));
            }
            whole += 1;
        }
        layers.push(pieces);
        if !complete {
            break;
        }
    }
    let start = out.len();
    let mut block = BytesMut::new();
    for unit in &units {
        let base = &data[unit.payload.clone()];
        if unit.kind == UnitKind::Sequence {
            put_unit(UnitKind::Sequence, base, out);
            continue;
        }
        block.clear();
        block.extend_from_slice(base);
        for pieces in &mut layers {
            block.extend_from_slice(pieces.next().unwrap_or_default());
        }
        if block.len() > unit.max_bytes {
            out.truncate(start);
            return Err(malformed("its layers make a block that is too long"));
        }
        put_unit(UnitKind::Block, &block, out);
    }
    Ok(whole)
}

struct BaseUnit {
    kind: UnitKind,
    payload: Range<usize>,
    /// Of a block, under the header before it.
    max_bytes: usize,
}

/// The units of the base layer, and where they end. A unit that is cut short is none.
fn base_units(data: &[u8], limits: &Limits) -> Result<(Vec<BaseUnit>, usize)> {
    let mut units = Vec::new();
    let (mut at, mut max_bytes) = (0, 0);
    loop {
        let rest = &data[at..];
        if rest.is_empty() || (!units.is_empty() && rest.starts_with(&[SYNC, TYPE_LAYER])) {
            break;
        }
        let (kind, payload) = match parse_unit(rest, max_bytes) {
            Parsed::Unit { kind, payload, .. } => (kind, at + payload.start..at + payload.end),
            Parsed::NeedMore(_) => break,
            Parsed::Junk(_) if units.is_empty() => return Err(malformed("it does not start with a sequence header")),
            Parsed::Junk(_) => return Err(malformed("there are bytes between its units")),
        };
        if kind == UnitKind::Sequence {
            max_bytes = SequenceHeader::parse_with(&data[payload.clone()], limits)?.block_bytes(limits);
        }
        at = payload.end;
        units.push(BaseUnit { kind, payload, max_bytes });
    }
    if !units.iter().any(|unit| unit.kind == UnitKind::Block) {
        return Err(malformed("it ends before its first block"));
    }
    Ok((units, at))
}

/// The payload's place in the layer unit at the front of `data`, which may end before it. `None`: the data ends within the
/// unit's header.
fn layer_unit(data: &[u8]) -> Result<Option<Range<usize>>> {
    match data {
        [] | [SYNC] => return Ok(None),
        [SYNC, TYPE_LAYER, ..] => {}
        _ => return Err(malformed("there are bytes between its layers")),
    }
    let (length, taken) = match varint::get(&data[2..]) {
        Ok(found) => found,
        Err(varint::VarintFault::Short) => return Ok(None),
        Err(varint::VarintFault::Malformed) => return Err(malformed("the length of a layer is damaged")),
    };
    let end = 2 + taken;
    let Some(&check) = data.get(end) else { return Ok(None) };
    let length = usize::try_from(length).ok().filter(|&length| length <= MAX_PAYLOAD_BYTES);
    match length {
        Some(length) if check == crc8(&data[1..end]) => Ok(Some(end + 1..end + 1 + length)),
        _ => Err(malformed("the length of a layer is damaged")),
    }
}

/// Pieces of a layer, as far as they came.
#[derive(Clone)]
struct Pieces<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, taken) = varint::get(self.rest).ok()?;
        let piece = self.rest[taken..].get(..usize::try_from(length).ok()?);
        // Nothing is read behind a piece that is cut short.
        self.rest = piece.map_or(&[], |piece| &self.rest[taken + piece.len()..]);
        piece
    }
}

fn malformed(what: &str) -> Error {
    Error::Malformed(format!("media segment: {what}; get it again, or make it again with etok segment"))
}
