// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stream: sequence header, blocks and their segments, times, thinning, the byte stream, and how a stream is followed.
//!
//! `docs/bitstream.md` is the specification. Nothing here depends on a model or on the meaning of a segment's payload.
//! Nothing here trusts its input, allocates by a length that the input claims, or panics on it.

mod block;
mod block_header;
mod crc;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod header;
mod index;
mod limits;
mod media;
mod media_index;
pub mod rtp;
mod stream;
#[cfg(test)]
mod tests;
mod thin;
mod thinner;
mod timing;
mod track;
mod unit;
mod varint;

pub use block::{Block, BlockWriter, SegmentFault, Segments, segment_bytes};
pub use block_header::BlockHeader;
pub use crc::crc16;
pub use header::{MAGIC, SequenceHeader, VERSION_MAJOR, VERSION_MINOR};
pub use index::{Index, KeyBlock};
pub use limits::{
    DEFAULT_MAX_PIXELS, Limits, MAX_BLOCK_HEADER_BYTES, MAX_BLOCK_LENGTH, MAX_DIMENSION, MAX_LAYERS, MAX_SEQUENCE_BYTES,
};
pub use media::{MAX_MEDIA_SEGMENT_BYTES, MediaSegmentWriter, read_media_segment};
pub use media_index::{MAX_MEDIA_INDEX_BYTES, MediaIndex, MediaSegmentEntry};
pub use stream::{Probe, StreamReader, StreamWriter, Unit, probe};
pub use thin::thin;
pub use thinner::Thinner;
pub use timing::{BlockTimes, Durations, Explicit, FrameTime, TimeUnit, Timeline, Timing};
pub use track::{Playback, Tracker};
pub use unit::{Parsed, UnitKind, parse_last_unit, parse_unit};
