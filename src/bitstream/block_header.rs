// SPDX-License-Identifier: MIT OR Apache-2.0
//! The block header: a block's position, its quantiser, and the times of its frames.

use bytes::{BufMut, BytesMut};

use super::crc::crc8;
use super::limits::MAX_BLOCK_LENGTH;
use super::timing::{Durations, Explicit, TimeUnit, Timing};
use super::varint;
use crate::{Error, Result};

const FLAG_KEY: u8 = 1;
const FLAG_TIMING: u8 = 1 << 1;
const FLAG_NO_PTS: u8 = 1 << 2;
const FLAG_FRAMES: u8 = 1 << 3;
/// Bits 4-6: layers left out.
const LEFT_OUT_SHIFT: u32 = 4;
const MAX_LEFT_OUT: u8 = 7;
const FLAG_BASE: u8 = 1 << 7;

/// Timing byte: bits 0-1 unit, bit 2 differences present, bits 3-5 rule for durations.
const TIMING_DIFFERENCES: u8 = 1 << 2;
const RESERVED_TIMING: u8 = 0xC0;

/// What precedes a block's segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockHeader {
    /// A key block depends on nothing before it.
    pub key: bool,
    /// 0 for the first key block and those that depend on it, one more at each key block after it, modulo 256.
    pub epoch: u8,
    /// Blocks since the key block; 0 in key blocks and only there.
    pub position: u32,
    /// Layers that the stream has and the block was not coded in, 0..=7.
    pub left_out: u8,
    /// Real frames in the block, 1..=T.
    pub frames: u8,
    /// Quantiser index of the last layer; its meaning is the bundle's.
    pub quantiser: u8,
    /// Quantiser index of layer 0, where it is not what the sequence header's layer ratio makes it; not below `quantiser`.
    pub base_quantiser: Option<u8>,
    /// The frames' times.
    pub timing: Timing,
}

/// Why no header could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderFault {
    /// The data ends inside the header.
    Short,
    /// What is wrong.
    Bad(&'static str),
}

impl From<HeaderFault> for Error {
    fn from(fault: HeaderFault) -> Self {
        let what = match fault {
            HeaderFault::Short => "the block ends inside it",
            HeaderFault::Bad(what) => what,
        };
        Self::Malformed(format!("block header: {what}; drop the block and continue with the next key block"))
    }
}

/// A header as far as it can be read without the sequence header.
pub(super) struct RawHeader {
    header: BlockHeader,
    has_frames: bool,
    /// Bytes of the header, checksum included.
    pub len: usize,
}

impl RawHeader {
    pub fn read(data: &[u8]) -> Result<Self, HeaderFault> {
        let mut reader = BlockHeaderReader { data, taken: 0 };
        let flags = reader.byte()?;
        let key = flags & FLAG_KEY != 0;
        let no_pts = flags & FLAG_NO_PTS != 0;
        let epoch = reader.byte()?;
        let position = if key { 0 } else { reader.position()? };
        let quantiser = reader.byte()?;
        let base_quantiser = if flags & FLAG_BASE != 0 { Some(reader.byte()?) } else { None };
        if base_quantiser.is_some_and(|base| base < quantiser) {
            return Err(HeaderFault::Bad("layer 0 has a finer quantiser than the last layer"));
        }
        let has_frames = flags & FLAG_FRAMES != 0;
        let frames = if has_frames { reader.byte()? } else { 0 };
        if has_frames && !(1..=MAX_BLOCK_LENGTH).contains(&frames) {
            return Err(HeaderFault::Bad("the frame count is outside 1..=16"));
        }
        let base = if key && !no_pts { Some(reader.number()?) } else { None };
        if base == Some(u64::MAX) {
            return Err(HeaderFault::Bad("the key block's time is out of range"));
        }
        let explicit = if flags & FLAG_TIMING != 0 { Some(reader.explicit(frames, no_pts)?) } else { None };
        let check = crc8(&data[..reader.taken]);
        if reader.byte()? != check {
            return Err(HeaderFault::Bad("checksum mismatch"));
        }
        let timing = Timing { base, no_pts, explicit };
        let left_out = flags >> LEFT_OUT_SHIFT & MAX_LEFT_OUT;
        let header = BlockHeader { key, epoch, position, left_out, frames, quantiser, base_quantiser, timing };
        Ok(Self { header, has_frames, len: reader.taken })
    }

    pub fn key(&self) -> bool {
        self.header.key
    }

    pub fn epoch(&self) -> u8 {
        self.header.epoch
    }
}

impl BlockHeader {
    /// Reads the header at the front of a block under a sequence header with `block_length`: header and its bytes.
    pub fn parse(data: &[u8], block_length: u8) -> Result<(Self, usize)> {
        let RawHeader { mut header, has_frames, len } = RawHeader::read(data)?;
        if !has_frames {
            header.frames = block_length;
        } else if header.frames > block_length {
            return Err(HeaderFault::Bad("more frames than the sequence header's block length").into());
        }
        Ok((header, len))
    }

    /// Appends the header for a stream with `block_length`.
    pub fn write(&self, block_length: u8, out: &mut BytesMut) -> Result<()> {
        self.validate(block_length).map_err(|what| Error::Settings(format!("block header: {what}")))?;
        let start = out.len();
        let timing = &self.timing;
        let lists = timing.explicit.is_some_and(|explicit| has_lists(&explicit));
        let has_frames = self.frames < block_length || lists;
        let flag = |set, flag| if set { flag } else { 0 };
        out.put_u8(
            flag(self.key, FLAG_KEY)
                | flag(timing.explicit.is_some(), FLAG_TIMING)
                | flag(timing.no_pts, FLAG_NO_PTS)
                | flag(has_frames, FLAG_FRAMES)
                | flag(self.base_quantiser.is_some(), FLAG_BASE)
                | self.left_out << LEFT_OUT_SHIFT,
        );
        out.put_u8(self.epoch);
        if !self.key {
            varint::put(out, self.position.into());
        }
        out.put_u8(self.quantiser);
        if let Some(base) = self.base_quantiser {
            out.put_u8(base);
        }
        if has_frames {
            out.put_u8(self.frames);
        }
        if let Some(base) = timing.base {
            varint::put(out, base);
        }
        if let Some(explicit) = &timing.explicit {
            put_explicit(out, explicit, usize::from(self.frames));
        }
        let check = crc8(&out[start..]);
        out.put_u8(check);
        Ok(())
    }

    fn validate(&self, block_length: u8) -> Result<(), &'static str> {
        if !(1..=MAX_BLOCK_LENGTH).contains(&block_length) || !(1..=block_length).contains(&self.frames) {
            return Err("frames must be 1..=block length, and that 1..=16");
        }
        if self.left_out > MAX_LEFT_OUT {
            return Err("at most seven layers can be left out");
        }
        if self.base_quantiser.is_some_and(|base| base < self.quantiser) {
            return Err("layer 0 cannot have a finer quantiser than the last layer");
        }
        if self.key != (self.position == 0) {
            return Err("position must be 0 in key blocks and only there");
        }
        if self.timing.base.is_some() != (self.key && !self.timing.no_pts) || self.timing.base == Some(u64::MAX) {
            return Err("a base time belongs in key blocks with time stamps, and only there");
        }
        if self.timing.no_pts && self.timing.explicit.is_some_and(|explicit| explicit.differences.is_some()) {
            return Err("no differences of times where there are no times");
        }
        Ok(())
    }
}

fn has_lists(explicit: &Explicit) -> bool {
    explicit.differences.is_some() || matches!(explicit.durations, Durations::Each(_))
}

fn put_explicit(out: &mut BytesMut, explicit: &Explicit, frames: usize) {
    let unit = match explicit.unit {
        TimeUnit::Nanosecond => 0,
        TimeUnit::Microsecond => 1,
        TimeUnit::Millisecond => 2,
    };
    let rule: u8 = match explicit.durations {
        Durations::Grid => 0,
        Durations::Nominal => 1,
        Durations::Absent => 2,
        Durations::Next(_) => 3,
        Durations::Each(_) => 4,
    };
    let differences = explicit.differences.as_ref();
    out.put_u8(unit | if differences.is_some() { TIMING_DIFFERENCES } else { 0 } | rule << 3);
    for &difference in differences.iter().flat_map(|list| &list[..frames]) {
        varint::put(out, varint::zigzag(difference));
    }
    match &explicit.durations {
        Durations::Next(last) => varint::put(out, varint::zigzag(*last)),
        Durations::Each(list) => list[..frames].iter().for_each(|&value| varint::put(out, varint::zigzag(value))),
        Durations::Grid | Durations::Nominal | Durations::Absent => {}
    }
}

struct BlockHeaderReader<'a> {
    data: &'a [u8],
    taken: usize,
}

impl BlockHeaderReader<'_> {
    fn byte(&mut self) -> Result<u8, HeaderFault> {
        let byte = *self.data.get(self.taken).ok_or(HeaderFault::Short)?;
        self.taken += 1;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u64, HeaderFault> {
        let (value, taken) = varint::get(&self.data[self.taken..]).map_err(|fault| match fault {
            varint::VarintFault::Short => HeaderFault::Short,
            varint::VarintFault::Malformed => HeaderFault::Bad("a number is not in its shortest form"),
        })?;
        self.taken += taken;
        Ok(value)
    }

    fn position(&mut self) -> Result<u32, HeaderFault> {
        match u32::try_from(self.number()?) {
            Ok(0) => Err(HeaderFault::Bad("position 0 in a block that is not a key block")),
            Ok(position) => Ok(position),
            Err(_) => Err(HeaderFault::Bad("the position is beyond 32 bits")),
        }
    }

    fn list(&mut self, frames: u8) -> Result<[i64; MAX_BLOCK_LENGTH as usize], HeaderFault> {
        if frames == 0 {
            return Err(HeaderFault::Bad("times per frame without a frame count"));
        }
        let mut list = [0; MAX_BLOCK_LENGTH as usize];
        for slot in &mut list[..usize::from(frames)] {
            *slot = varint::unzigzag(self.number()?);
        }
        Ok(list)
    }

    fn explicit(&mut self, frames: u8, no_pts: bool) -> Result<Explicit, HeaderFault> {
        let byte = self.byte()?;
        if byte & RESERVED_TIMING != 0 {
            return Err(HeaderFault::Bad("a reserved bit of the timing byte is set"));
        }
        let unit = match byte & 3 {
            0 => TimeUnit::Nanosecond,
            1 => TimeUnit::Microsecond,
            2 => TimeUnit::Millisecond,
            _ => return Err(HeaderFault::Bad("unknown unit of time")),
        };
        let present = byte & TIMING_DIFFERENCES != 0;
        if present && no_pts {
            return Err(HeaderFault::Bad("differences of times in a block without times"));
        }
        let differences = if present { Some(self.list(frames)?) } else { None };
        let durations = match byte >> 3 {
            0 => Durations::Grid,
            1 => Durations::Nominal,
            2 => Durations::Absent,
            3 => Durations::Next(varint::unzigzag(self.number()?)),
            4 => Durations::Each(self.list(frames)?),
            _ => return Err(HeaderFault::Bad("unknown rule for durations")),
        };
        Ok(Explicit { unit, differences, durations })
    }
}
