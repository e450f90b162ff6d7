// SPDX-License-Identifier: MIT OR Apache-2.0
//! Splitting blocks into pieces that fit in packets.

use std::ops::Range;

use super::descriptor::{DESCRIPTOR_BYTES, Descriptor};
use crate::bitstream::block::SegmentSpan;
use crate::bitstream::block_header::RawHeader;
use crate::bitstream::limits::{MAX_LAYERS, MAX_SEQUENCE_BYTES};
use crate::{Error, Result};

/// What one packet, or one unit of an aggregation packet, carries of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// What stands before it.
    pub descriptor: Descriptor,
    /// Which bytes of the block.
    pub data: Range<usize>,
    /// It ends the block.
    pub last: bool,
}

/// Numbers blocks and splits them.
#[derive(Debug, Clone)]
pub struct Packetizer {
    next: u16,
}

impl Packetizer {
    /// A packetizer whose first block gets the number `first`. A random one tells receivers that a sender has started again.
    pub fn new(first: u16) -> Self {
        Self { next: first }
    }

    /// Fills `pieces` with those of `block`, layer after layer, for payloads of at most `room` bytes. `header`: bytes of the sequence
    /// header that goes before a key block, 0 for none.
    ///
    /// Segments after one that is cut short are left out, as in thinning. A block whose first segment is cut short is an error; it
    /// takes a number all the same, so receivers know that a block is missing.
    pub fn split(&mut self, block: &[u8], header: usize, room: usize, pieces: &mut Vec<Piece>) -> Result<()> {
        pieces.clear();
        let number = self.next;
        self.next = number.wrapping_add(1);
        let raw = RawHeader::read(block)?;
        let mut ends = [0; MAX_LAYERS];
        let layers = layer_ends(block, raw.len, &mut ends)?;
        let header = if raw.key() { header } else { 0 };
        debug_assert!(header <= MAX_SEQUENCE_BYTES);
        let taken = DESCRIPTOR_BYTES + if header > 0 { 1 + header } else { 0 };
        if room <= taken {
            return Err(Error::Settings(format!("an RTP payload of {room} bytes has no room for data; raise the mtu")));
        }
        let mut from = 0;
        for (layer, &to) in ends[..layers].iter().enumerate() {
            let mut fragment = 0u16;
            loop {
                let has_header = header > 0 && layer == 0 && fragment == 0;
                let data = from..to.min(from + room - if has_header { taken } else { DESCRIPTOR_BYTES });
                from = data.end;
                let end = from == to;
                let descriptor = Descriptor {
                    key: raw.key(),
                    end,
                    header: has_header,
                    aggregate: false,
                    epoch: raw.epoch(),
                    block: number,
                    layer: layer as u8,
                    layers: layers as u8,
                    fragment,
                };
                pieces.push(Piece { descriptor, data, last: end && layer + 1 == layers });
                if end {
                    break;
                }
                fragment = fragment.checked_add(1).ok_or_else(|| {
                    pieces.clear();
                    Error::Settings("a layer takes more than 65536 packets; raise the mtu".into())
                })?;
            }
        }
        Ok(())
    }
}

/// Where each layer of a block ends that has its header up to `at`, and how many there are. The header belongs to layer 0, an empty
/// layer below one that is not is its one byte.
fn layer_ends(block: &[u8], mut at: usize, ends: &mut [usize; MAX_LAYERS]) -> Result<usize> {
    let mut layers = 0;
    while let Some(span) = match SegmentSpan::read(block, at) {
        Ok(span) => span,
        Err(_) if layers > 0 => None,
        Err(fault) => return Err(Error::Malformed(format!("block: its first segment is {fault}; it is not sent"))),
    } {
        if layers + span.empty + 1 > MAX_LAYERS {
            return Err(Error::Malformed(format!("block: more than {MAX_LAYERS} segments; it is not sent")));
        }
        for empty in 1..=span.empty {
            ends[layers] = at + empty;
            layers += 1;
        }
        ends[layers] = span.payload.end;
        layers += 1;
        at = span.payload.end;
    }
    if layers == 0 {
        // All layers are empty: the header is all there is.
        (ends[0], layers) = (at, 1);
    }
    Ok(layers)
}
