// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sequence header: what a decoder must know before the first block.

use bytes::{BufMut, Bytes, BytesMut};

use super::crc::crc16;
use super::limits::{Limits, MAX_BLOCK_LENGTH, MAX_LAYERS, MAX_SEQUENCE_BYTES};
use super::varint;
use crate::frame::PixelFormat;
use crate::{Error, Result};

/// First bytes of every sequence header.
pub const MAGIC: [u8; 4] = *b"ETOK";

/// The format's major version. Streams of another one cannot be read.
pub const VERSION_MAJOR: u8 = 2;

/// The format's minor version: a higher one only adds fields that may be ignored.
pub const VERSION_MINOR: u8 = 0;

/// Largest layer ratio: a factor of four between the steps of neighbouring layers.
pub const MAX_LAYER_RATIO: u8 = 16;

/// What a decoder must know before the first block; constant until the next key block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceHeader {
    /// The bundle that made the stream.
    pub fingerprint: [u8; 8],
    /// Width in pixels, 1..=8192.
    pub width: u32,
    /// Height in pixels, 1..=8192.
    pub height: u32,
    /// Frames per second as a fraction; (0, 1) is a variable rate.
    pub framerate: (u32, u32),
    /// Width to height of a pixel, both at least 1.
    pub pixel_aspect_ratio: (u32, u32),
    /// Range (0 unspecified, 1 full, 2 limited), then matrix, transfer and primaries as H.273 code points (2 = unspecified).
    pub colorimetry: [u8; 4],
    /// How pixels lie in the frames.
    pub pixel_format: PixelFormat,
    /// T, frames in a full block, 1..=16.
    pub block_length: u8,
    /// 0 unspecified, else 1 + the H.273 chroma sample location type: 1 left, 2 centre, 3 top-left, 4 top, 5 bottom-left, 6 bottom.
    pub chroma_site: u8,
    /// L, the most layers that a block can have, 1..=32.
    pub layers: u8,
    /// Quantiser indices between neighbouring layers, where the model has a quantiser and a block does not say otherwise, 0..=16: the
    /// ratio of their steps is 2^(n / 8).
    pub layer_ratio: u8,
}

impl SequenceHeader {
    /// Checks every field against the format's limits.
    pub fn validate(&self) -> Result<()> {
        self.validate_with(&Limits::FORMAT)
    }

    /// Checks every field against `limits` and the format's.
    pub fn validate_with(&self, limits: &Limits) -> Result<()> {
        limits.check_size(self.width, self.height)?;
        if !(1..=MAX_BLOCK_LENGTH).contains(&self.block_length) {
            return Err(Error::Limit(format!(
                "sequence header: block length {} is outside 1..={MAX_BLOCK_LENGTH}; the stream's model is not for this version",
                self.block_length
            )));
        }
        let (rate, rate_denominator) = self.framerate;
        if rate_denominator == 0 || (rate == 0 && rate_denominator != 1) {
            return Err(malformed(format!("framerate {rate}/{rate_denominator} is not a fraction; use 0/1 for a variable rate")));
        }
        let (par_width, par_height) = self.pixel_aspect_ratio;
        if par_width == 0 || par_height == 0 {
            return Err(malformed(format!("pixel aspect ratio {par_width}/{par_height} has a zero; use 1/1 if unknown")));
        }
        if self.colorimetry[0] > 2 {
            return Err(malformed(format!("colour range {} is not 0, 1 or 2", self.colorimetry[0])));
        }
        if self.chroma_site > 6 {
            return Err(malformed(format!("chroma site {} is outside 0..=6", self.chroma_site)));
        }
        if !(1..=MAX_LAYERS).contains(&usize::from(self.layers)) {
            return Err(malformed(format!("{} layers are outside 1..={MAX_LAYERS}", self.layers)));
        }
        if self.layer_ratio > MAX_LAYER_RATIO {
            return Err(malformed(format!("layer ratio {} is outside 0..={MAX_LAYER_RATIO}", self.layer_ratio)));
        }
        Ok(())
    }

    /// The largest block in bytes to expect under this header: twice the pictures in RGB and 64 KiB, within `limits`.
    pub fn block_bytes(&self, limits: &Limits) -> usize {
        let pixels = u64::from(self.width) * u64::from(self.height) * u64::from(self.block_length);
        let bytes = pixels.saturating_mul(2 * 3).saturating_add(64 << 10);
        usize::try_from(bytes).unwrap_or(usize::MAX).min(limits.max_block_bytes)
    }

    /// The bytes of the header: caps `codec_data`, or the payload of a sequence unit.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(MAX_SEQUENCE_BYTES);
        out.put_slice(&MAGIC);
        out.put_u8(VERSION_MAJOR << 4 | VERSION_MINOR);
        out.put_slice(&self.fingerprint);
        let (framerate, aspect) = (self.framerate, self.pixel_aspect_ratio);
        for value in [self.width, self.height, framerate.0, framerate.1, aspect.0, aspect.1] {
            varint::put(&mut out, value.into());
        }
        out.put_slice(&self.colorimetry);
        out.put_u8(match self.pixel_format {
            PixelFormat::I420 => 0,
            PixelFormat::Rgb => 1,
        });
        out.put_u8(self.block_length);
        out.put_u8(self.chroma_site);
        out.put_u8(self.layers);
        out.put_u8(self.layer_ratio);
        let check = crc16(&out);
        out.put_u16_le(check);
        out.freeze()
    }

    /// Reads a header that fills all of `data`, within the format's limits: for callers that allocate nothing by its sizes.
    pub fn parse(data: &[u8]) -> Result<Self> {
        Self::parse_with(data, &Limits::FORMAT)
    }

    /// Reads a header that fills all of `data`, within `limits`.
    pub fn parse_with(data: &[u8], limits: &Limits) -> Result<Self> {
        let Some((body, check)) = data.split_last_chunk::<2>() else {
            return Err(malformed("it is shorter than its checksum; send the whole codec_data".into()));
        };
        if data.len() > MAX_SEQUENCE_BYTES {
            return Err(Error::Limit(format!("sequence header of {} bytes, at most {MAX_SEQUENCE_BYTES} allowed", data.len())));
        }
        let Some(body) = body.strip_prefix(&MAGIC) else {
            return Err(malformed("it does not start with \"ETOK\"; this is not an ElasticTok stream".into()));
        };
        if crc16(&data[..data.len() - 2]) != u16::from_le_bytes(*check) {
            return Err(malformed("checksum mismatch; get the stream again".into()));
        }
        let mut reader = SequenceHeaderReader { rest: body };
        let version = reader.byte()?;
        let (major, minor) = (version >> 4, version & 0x0F);
        if major != VERSION_MAJOR {
            return Err(Error::Unsupported(format!(
                "stream format version {major}.{minor}, this build reads {VERSION_MAJOR}.x; {}",
                if major < VERSION_MAJOR {
                    "encode the source again, or use the build that made the stream"
                } else {
                    "use a newer build"
                }
            )));
        }
        let header = Self {
            fingerprint: reader.array()?,
            width: reader.number()?,
            height: reader.number()?,
            framerate: (reader.number()?, reader.number()?),
            pixel_aspect_ratio: (reader.number()?, reader.number()?),
            colorimetry: reader.array()?,
            pixel_format: match reader.byte()? {
                0 => PixelFormat::I420,
                1 => PixelFormat::Rgb,
                other => {
                    return Err(Error::Unsupported(format!("pixel format {other}; use a newer build")));
                }
            },
            block_length: reader.byte()?,
            chroma_site: reader.byte()?,
            layers: reader.byte()?,
            layer_ratio: reader.byte()?,
        };
        let newer = minor > VERSION_MINOR;
        if !reader.rest.is_empty() && !newer {
            return Err(malformed(format!("{} bytes too many for version {major}.{minor}", reader.rest.len())));
        }
        header.validate_with(limits)?;
        Ok(header)
    }
}

fn malformed(what: String) -> Error {
    Error::Malformed(format!("sequence header: {what}"))
}

struct SequenceHeaderReader<'a> {
    rest: &'a [u8],
}

impl SequenceHeaderReader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (array, rest) = self.rest.split_first_chunk().ok_or_else(|| malformed("it ends early".into()))?;
        self.rest = rest;
        Ok(*array)
    }

    fn byte(&mut self) -> Result<u8> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u32> {
        let (value, taken) = varint::get(self.rest).map_err(|_| malformed("a number in it is broken".into()))?;
        self.rest = &self.rest[taken..];
        u32::try_from(value).map_err(|_| malformed(format!("a number in it, {value}, is beyond 32 bits")))
    }
}
