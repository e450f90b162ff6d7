// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stream's container: sequence header, blocks and their segments, thinning, and the byte stream.
//!
//! `docs/bitstream.md` is the specification. Nothing here depends on a model or on the meaning of a segment's payload.
//! Nothing here trusts its input, allocates by a length that the input claims, or panics on it.

mod block;
mod block_header;
mod crc;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod header;
mod limits;
pub mod stream;
#[cfg(test)]
mod tests;
mod thin;
mod thinner;
mod unit;
pub(crate) mod varint;

pub use block::{Block, BlockWriter, SegmentFault, Segments, segment_bytes};
pub use block_header::BlockHeader;
pub use crc::{crc8, crc16};
pub use header::{MAGIC, PixelFormat, SequenceHeader, VERSION_MAJOR, VERSION_MINOR};
pub use limits::{
    DEFAULT_MAX_PIXELS, Limits, MAX_BLOCK_HEADER_BYTES, MAX_BLOCK_LENGTH, MAX_DIMENSION, MAX_LAYERS, MAX_SEQUENCE_BYTES,
};
pub use stream::{Parsed, Probe, StreamReader, StreamWriter, Unit, UnitKind, parse_last_unit, parse_unit, probe};
pub use thin::{thin, thin_to_bytes};
pub use thinner::Thinner;
