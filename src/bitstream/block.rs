// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blocks: a header and one segment per layer, each with its own length and checksum.

use std::iter::FusedIterator;
use std::ops::Range;

use bytes::{BufMut, BytesMut};

use super::block_header::BlockHeader;
use super::crc::crc16_of;
use super::varint;
use crate::Result;

const CHECK_BYTES: usize = 2;

/// A block whose header was read and whose segments were not yet.
#[derive(Clone)]
pub struct Block<'a> {
    header: BlockHeader,
    header_bytes: usize,
    data: &'a [u8],
}

impl std::fmt::Debug for Block<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Block").field("header", &self.header).field("bytes", &self.data.len()).finish_non_exhaustive()
    }
}

impl<'a> Block<'a> {
    /// Reads the header of the block that fills all of `data`, under a sequence header with `block_length`.
    pub fn parse(data: &'a [u8], block_length: u8) -> Result<Self> {
        let (header, header_bytes) = BlockHeader::parse(data, block_length)?;
        Ok(Self { header, header_bytes, data })
    }

    /// The block's header.
    pub fn header(&self) -> &BlockHeader {
        &self.header
    }

    /// Bytes of the header, checksum included.
    pub fn header_bytes(&self) -> usize {
        self.header_bytes
    }

    /// The segments in layer order; a layer after the last one was cut off or is empty. An empty segment only counts where
    /// the checksum of a later one covers it.
    pub fn segments(&self) -> Segments<'a> {
        Segments { data: self.data, at: Some(self.header_bytes), empty: 0, next: None }
    }

    /// Bytes of each layer that is not cut short, lengths and checksum included. Payloads are not read.
    pub(crate) fn layer_bytes(&self) -> impl Iterator<Item = usize> + use<'a> {
        let (data, mut at) = (self.data, self.header_bytes);
        let spans = std::iter::from_fn(move || {
            let span = SegmentSpan::read(data, at).ok()??;
            at = span.payload.end;
            Some(span)
        });
        let empty = |span: &SegmentSpan| std::iter::repeat_n(segment_bytes(0), span.empty);
        spans.flat_map(move |span| empty(&span).chain([segment_bytes(span.payload.len())]))
    }

    /// How many layers can be decoded, and what is wrong with the next one, if anything is.
    pub fn usable(&self) -> (usize, Option<SegmentFault>) {
        let mut layers = 0;
        for segment in self.segments() {
            match segment {
                Ok(_) => layers += 1,
                Err(fault) => return (layers, Some(fault)),
            }
        }
        (layers, None)
    }
}

/// Why a segment cannot be used. The segments after it cannot be used either, though they may be undamaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SegmentFault {
    /// Its bytes, or the lengths before them, do not match their checksum, or its length is no number.
    #[error("checksum mismatch")]
    Damaged,
    /// The block ends inside it; it counts as absent.
    #[error("cut short")]
    Truncated,
}

/// The segments of a block, each good or with its fault.
#[derive(Debug, Clone)]
pub struct Segments<'a> {
    data: &'a [u8],
    /// `None` when nothing more can be found.
    at: Option<usize>,
    /// Empty segments still to be given before `next`.
    empty: usize,
    next: Option<&'a [u8]>,
}

impl<'a> Iterator for Segments<'a> {
    type Item = Result<&'a [u8], SegmentFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next.is_none() {
            let span = match SegmentSpan::read(self.data, self.at.take()?) {
                Ok(span) => span?,
                Err(fault) => return Some(Err(fault)),
            };
            self.at = Some(span.payload.end);
            if !span.intact(self.data) {
                return Some(Err(SegmentFault::Damaged));
            }
            (self.empty, self.next) = (span.empty, Some(&self.data[span.payload]));
        }
        match self.empty.checked_sub(1) {
            Some(left) => {
                self.empty = left;
                Some(Ok(&[]))
            }
            None => self.next.take().map(Ok),
        }
    }
}

impl FusedIterator for Segments<'_> {}

/// Where a segment that is not empty lies; it ends where its payload does.
pub(super) struct SegmentSpan {
    /// Empty segments before it.
    pub empty: usize,
    pub payload: Range<usize>,
    /// Their lengths and its own.
    lengths: Range<usize>,
    check: u16,
}

impl SegmentSpan {
    /// Finds the first segment from `at` on that is not empty, without reading its payload. `None`: there is none.
    pub fn read(data: &[u8], at: usize) -> Result<Option<Self>, SegmentFault> {
        let empty = data[at..].iter().take_while(|&&length| length == 0).count();
        if at + empty == data.len() {
            return Ok(None);
        }
        let (length, taken) = varint::get(&data[at + empty..]).map_err(|fault| match fault {
            varint::VarintFault::Short => SegmentFault::Truncated,
            varint::VarintFault::Malformed => SegmentFault::Damaged,
        })?;
        let lengths = at..at + empty + taken;
        let length = usize::try_from(length).map_err(|_| SegmentFault::Truncated)?;
        let (check, rest) = data[lengths.end..].split_first_chunk::<CHECK_BYTES>().ok_or(SegmentFault::Truncated)?;
        if length > rest.len() {
            return Err(SegmentFault::Truncated);
        }
        let start = lengths.end + CHECK_BYTES;
        Ok(Some(Self { empty, payload: start..start + length, lengths, check: u16::from_le_bytes(*check) }))
    }

    fn intact(&self, data: &[u8]) -> bool {
        self.check == crc16_of(&[&data[self.lengths.clone()], &data[self.payload.clone()]])
    }
}

/// Bytes that a segment with `payload` bytes takes in a block, where it is not a trailing empty one.
pub fn segment_bytes(payload: usize) -> usize {
    varint::len(payload as u64) + if payload > 0 { CHECK_BYTES + payload } else { 0 }
}

/// Appends a block to a buffer: header first, then segments in layer order.
#[derive(Debug)]
pub struct BlockWriter<'a> {
    out: &'a mut BytesMut,
    empty: usize,
}

impl<'a> BlockWriter<'a> {
    /// Appends the header, for a stream with `block_length`.
    pub fn begin(header: &BlockHeader, block_length: u8, out: &'a mut BytesMut) -> Result<Self> {
        header.write(block_length, out)?;
        Ok(Self { out, empty: 0 })
    }

    /// Appends the next layer's segment. An empty one is only written when one that is not empty follows.
    pub fn segment(&mut self, payload: &[u8]) {
        if payload.is_empty() {
            self.empty += 1;
            return;
        }
        self.out.reserve(self.empty + segment_bytes(payload.len()));
        let start = self.out.len();
        self.out.put_bytes(0, self.empty);
        self.empty = 0;
        varint::put(self.out, payload.len() as u64);
        let check = crc16_of(&[&self.out[start..], payload]);
        self.out.put_u16_le(check);
        self.out.put_slice(payload);
    }
}
