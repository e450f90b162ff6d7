// SPDX-License-Identifier: MIT OR Apache-2.0
//! Units of the byte stream: where one starts, how long it is, and which bytes belong to none.

use std::ops::Range;

use bytes::{BufMut, BytesMut};

use super::block_header::{HeaderFault, RawHeader};
use super::crc::{crc8, crc16};
use super::header::MAGIC;
use super::limits::MAX_SEQUENCE_BYTES;
use super::varint;

/// First byte of every unit.
pub const SYNC: u8 = 0xE7;

const TYPE_SEQUENCE: u8 = 0x53;
const TYPE_BLOCK: u8 = 0xAC;

/// Sync, type, shortest length, check.
const MIN_UNIT_HEADER_BYTES: usize = 4;

/// Flags, epoch, quantiser, check: the shortest block.
const MIN_BLOCK_BYTES: usize = 4;

/// Lengths stay below 2^31, so that positions never overflow.
pub(super) const MAX_PAYLOAD_BYTES: usize = 0x7FFF_FFFF;

/// What a unit carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnitKind {
    /// A [`SequenceHeader`](super::SequenceHeader).
    Sequence,
    /// A [`Block`](super::Block).
    Block,
}

/// What is at the front of some data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// So many bytes are needed in all to tell: more than are there, at most those of the unit.
    NeedMore(usize),
    /// A unit whose header holds.
    Unit {
        /// What it carries.
        kind: UnitKind,
        /// Where its payload lies in the data.
        payload: Range<usize>,
        /// Bytes of the whole unit.
        total: usize,
    },
    /// This many bytes (at least 1) are not the start of a unit.
    Junk(usize),
}

/// Looks at the front of `data`, in which blocks of up to `max_block_bytes` are accepted (0: none, as long as no sequence
/// header is known).
///
/// Where a unit starts is decided by its own checksum together with that of the header in its payload. Damage after that is
/// left to [`Block::segments`](super::Block::segments). What follows a unit does not change the result.
pub fn parse_unit(data: &[u8], max_block_bytes: usize) -> Parsed {
    examine(data, max_block_bytes, More::MayCome)
}

/// As [`parse_unit`] at the end of a stream: a block that is cut short is a unit, as far as it is there. Returns `NeedMore`
/// only where `data` is empty.
pub fn parse_last_unit(data: &[u8], max_block_bytes: usize) -> Parsed {
    examine(data, max_block_bytes, More::Ended)
}

#[derive(Clone, Copy, PartialEq)]
enum More {
    MayCome,
    Ended,
}

fn examine(data: &[u8], max_block_bytes: usize, more: More) -> Parsed {
    match start(data, max_block_bytes) {
        Start::Junk => Parsed::Junk(next_candidate(data)),
        Start::Unknown(_) if more == More::Ended && !data.is_empty() => Parsed::Junk(next_candidate(data)),
        Start::Unknown(needed) => Parsed::NeedMore(needed),
        Start::Unit { kind, payload } if payload.end <= data.len() => {
            let total = payload.end;
            let body = &data[payload.clone()];
            let holds = match kind {
                UnitKind::Block => true,
                UnitKind::Sequence => {
                    body.split_last_chunk::<2>().is_some_and(|(body, check)| crc16(body) == u16::from_le_bytes(*check))
                }
            };
            if holds { Parsed::Unit { kind, payload, total } } else { Parsed::Junk(next_candidate(data)) }
        }
        Start::Unit { payload, .. } if more == More::MayCome => Parsed::NeedMore(payload.end),
        Start::Unit { kind: UnitKind::Block, payload } => {
            Parsed::Unit { kind: UnitKind::Block, payload: payload.start..data.len(), total: data.len() }
        }
        Start::Unit { kind: UnitKind::Sequence, .. } => Parsed::Junk(next_candidate(data)),
    }
}

enum Start {
    Junk,
    /// Bytes needed to decide.
    Unknown(usize),
    /// The headers hold; the payload may reach beyond the data.
    Unit {
        kind: UnitKind,
        payload: Range<usize>,
    },
}

fn start(data: &[u8], max_block_bytes: usize) -> Start {
    if data.first().is_some_and(|&byte| byte != SYNC) {
        return Start::Junk;
    }
    let (kind, min, max) = match data.get(1) {
        None => return Start::Unknown(MIN_UNIT_HEADER_BYTES),
        Some(&TYPE_SEQUENCE) => (UnitKind::Sequence, MAGIC.len() + 3, MAX_SEQUENCE_BYTES),
        Some(&TYPE_BLOCK) => (UnitKind::Block, MIN_BLOCK_BYTES, max_block_bytes.min(MAX_PAYLOAD_BYTES)),
        Some(_) => return Start::Junk,
    };
    let (length, taken) = match varint::get(&data[2..]) {
        Ok((length, taken)) => (usize::try_from(length).unwrap_or(usize::MAX), taken),
        // A varint longer than the limit needs is rejected early.
        Err(varint::VarintFault::Short) if data.len() - 2 < varint::len(max as u64) => {
            return Start::Unknown(MIN_UNIT_HEADER_BYTES.max(data.len() + 2));
        }
        Err(_) => return Start::Junk,
    };
    if !(min..=max).contains(&length) {
        return Start::Junk;
    }
    let at = 2 + taken;
    match data.get(at) {
        None => return Start::Unknown(at + 1 + min),
        Some(&check) if check != crc8(&data[1..at]) => return Start::Junk,
        Some(_) => {}
    }
    let payload = at + 1..at + 1 + length;
    let there = &data[payload.start..payload.end.min(data.len())];
    match kind {
        UnitKind::Sequence if !there.iter().zip(&MAGIC).all(|(byte, magic)| byte == magic) => Start::Junk,
        UnitKind::Sequence => Start::Unit { kind, payload },
        UnitKind::Block => match RawHeader::read(there) {
            Ok(_) => Start::Unit { kind, payload },
            Err(HeaderFault::Short) if payload.end > data.len() => Start::Unknown(payload.end.min(data.len() + MIN_BLOCK_BYTES)),
            Err(_) => Start::Junk,
        },
    }
}

/// Index after 0 of the next byte where a unit may start, else the data's length.
fn next_candidate(data: &[u8]) -> usize {
    let candidate = |index: &usize| {
        data[*index] == SYNC && data.get(index + 1).is_none_or(|next| matches!(*next, TYPE_SEQUENCE | TYPE_BLOCK))
    };
    (1..data.len()).find(candidate).unwrap_or(data.len())
}

/// Appends a unit.
pub(super) fn put_unit(kind: UnitKind, payload: &[u8], out: &mut BytesMut) {
    out.reserve(2 + varint::MAX_BYTES + 1 + payload.len());
    out.put_u8(SYNC);
    let start = out.len();
    out.put_u8(match kind {
        UnitKind::Sequence => TYPE_SEQUENCE,
        UnitKind::Block => TYPE_BLOCK,
    });
    varint::put(out, payload.len() as u64);
    let check = crc8(&out[start..]);
    out.put_u8(check);
    out.put_slice(payload);
}
