// SPDX-License-Identifier: MIT OR Apache-2.0
//! The payload descriptor: which part of the stream a packet carries.

use super::malformed;
use crate::Result;
use crate::bitstream::limits::{MAX_LAYERS, MAX_SEQUENCE_BYTES};

/// Bytes of the descriptor, in every packet.
pub const DESCRIPTOR_BYTES: usize = 8;

/// Bytes before each unit of an aggregation packet: its length and its time offset.
pub const UNIT_PREFIX_BYTES: usize = 4;

/// The format's version, in the upper two bits of a descriptor.
const VERSION: u8 = 1;

const KEY: u8 = 1 << 5;
const END: u8 = 1 << 4;
const HEADER: u8 = 1 << 3;
const AGGREGATE: u8 = 1 << 2;

/// What stands before a piece of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// The block is a key block.
    pub key: bool,
    /// The packet has the end of the layer.
    pub end: bool,
    /// A sequence header stands before the layer's bytes.
    pub header: bool,
    /// The packet is made of units, each with a descriptor of its own. This one is that of the first unit.
    pub aggregate: bool,
    /// The epoch of the block, as in its block header.
    pub epoch: u8,
    /// Counts the sender's blocks, modulo 2^16.
    pub block: u16,
    /// Which layer, below `layers`.
    pub layer: u8,
    /// The layers that the sender sent of this block, 1..=32. Who drops layers on the way does not change it.
    pub layers: u8,
    /// Counts the packets of a layer from 0.
    pub fragment: u16,
}

impl Descriptor {
    /// The bytes of the descriptor.
    pub fn to_bytes(&self) -> [u8; DESCRIPTOR_BYTES] {
        let flag = |set, flag| if set { flag } else { 0 };
        let flags = flag(self.key, KEY) | flag(self.end, END) | flag(self.header, HEADER) | flag(self.aggregate, AGGREGATE);
        let [block, fragment] = [self.block, self.fragment].map(u16::to_be_bytes);
        [VERSION << 6 | flags, self.epoch, block[0], block[1], self.layer, self.layers, fragment[0], fragment[1]]
    }

    /// Reads the descriptor at the front of `payload`: descriptor and what follows.
    pub fn parse(payload: &[u8]) -> Result<(Self, &[u8])> {
        let Some((&[flags, epoch, b0, b1, layer, layers, f0, f1], rest)) = payload.split_first_chunk() else {
            return Err(malformed("shorter than its descriptor"));
        };
        if flags >> 6 != VERSION {
            return Err(malformed(format_args!("version {}, this build reads {VERSION}", flags >> 6)));
        }
        if usize::from(layers) > MAX_LAYERS || layer >= layers {
            return Err(malformed(format_args!("layer {layer} of {layers}, at most {MAX_LAYERS} allowed")));
        }
        let descriptor = Self {
            key: flags & KEY != 0,
            end: flags & END != 0,
            header: flags & HEADER != 0,
            aggregate: flags & AGGREGATE != 0,
            epoch,
            block: u16::from_be_bytes([b0, b1]),
            layer,
            layers,
            fragment: u16::from_be_bytes([f0, f1]),
        };
        if descriptor.header && !(descriptor.key && layer == 0 && descriptor.fragment == 0) {
            return Err(malformed("a sequence header elsewhere than at the start of a key block"));
        }
        Ok((descriptor, rest))
    }
}

/// A piece of a layer, or all of it, as it is found in a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload<'a> {
    /// Whose layer it is.
    pub descriptor: Descriptor,
    /// The bytes of a sequence header, unread; `None` where there is none.
    pub header: Option<&'a [u8]>,
    /// The layer's bytes.
    pub data: &'a [u8],
}

impl<'a> Payload<'a> {
    /// Takes the sequence header, if there is one, off what follows `descriptor`.
    pub fn new(descriptor: Descriptor, rest: &'a [u8]) -> Result<Self> {
        if !descriptor.header {
            return Ok(Self { descriptor, header: None, data: rest });
        }
        let (&length, rest) = rest.split_first().ok_or_else(|| malformed("it ends before its sequence header"))?;
        if usize::from(length) > MAX_SEQUENCE_BYTES {
            return Err(malformed(format_args!("sequence header of {length} bytes, at most {MAX_SEQUENCE_BYTES} allowed")));
        }
        let (header, data) =
            rest.split_at_checked(length.into()).ok_or_else(|| malformed("it ends inside its sequence header"))?;
        Ok(Self { descriptor, header: Some(header), data })
    }
}

/// The units of an aggregation packet, each with its time after the packet's time stamp in units of the RTP clock. Ends after an
/// error.
#[derive(Debug, Clone)]
pub struct AggregatedUnits<'a>(&'a [u8]);

impl<'a> AggregatedUnits<'a> {
    /// The units in what follows the descriptor of an aggregation packet.
    pub fn new(rest: &'a [u8]) -> Self {
        Self(rest)
    }

    /// No unit follows.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn read(&mut self) -> Result<(u16, Payload<'a>)> {
        let short = || malformed("an aggregation packet ends inside a unit");
        let (&[l0, l1, o0, o1], rest) = std::mem::take(&mut self.0).split_first_chunk::<UNIT_PREFIX_BYTES>().ok_or_else(short)?;
        let (unit, rest) = rest.split_at_checked(u16::from_be_bytes([l0, l1]).into()).ok_or_else(short)?;
        let (descriptor, data) = Descriptor::parse(unit)?;
        if descriptor.aggregate {
            return Err(malformed("an aggregation packet inside another"));
        }
        let payload = Payload::new(descriptor, data)?;
        self.0 = rest;
        Ok((u16::from_be_bytes([o0, o1]), payload))
    }
}

impl<'a> Iterator for AggregatedUnits<'a> {
    type Item = Result<(u16, Payload<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_empty()).then(|| self.read())
    }
}

/// The bytes before the data of a unit that has `length` bytes after its descriptor and comes `offset` after the packet's time
/// stamp. `None` where the unit is too long.
pub fn put_unit(descriptor: &Descriptor, length: usize, offset: u16) -> Option<[u8; UNIT_PREFIX_BYTES + DESCRIPTOR_BYTES]> {
    let length = u16::try_from(length + DESCRIPTOR_BYTES).ok()?;
    let mut bytes = [0; UNIT_PREFIX_BYTES + DESCRIPTOR_BYTES];
    bytes[..2].copy_from_slice(&length.to_be_bytes());
    bytes[2..4].copy_from_slice(&offset.to_be_bytes());
    bytes[4..].copy_from_slice(&descriptor.to_bytes());
    Some(bytes)
}
