// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a reader accepts before it gives up on a stream.

use super::header::SequenceHeader;

/// The most frames in a block.
pub const MAX_BLOCK_LENGTH: u8 = 16;

/// Most layers of a model.
pub const MAX_LAYERS: usize = 32;

/// The largest width or height in pixels that the format allows.
pub const MAX_DIMENSION: u32 = 8192;

/// The most bytes of a sequence header, in this and all later versions: its length is always one byte on the wire.
pub const MAX_SEQUENCE_BYTES: usize = 127;

/// The most bytes of a block header with everything present.
pub const MAX_BLOCK_HEADER_BYTES: usize = 5 + 10 + 1 + 32 * 10 + 1;

/// Bounds on what is taken from a stream; the defaults accept all that the format allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest picture width in pixels.
    pub max_width: u32,
    /// Largest picture height in pixels.
    pub max_height: u32,
    /// Largest block in bytes, whatever the picture size.
    pub max_block_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_width: MAX_DIMENSION, max_height: MAX_DIMENSION, max_block_bytes: 64 << 20 }
    }
}

impl Limits {
    /// The largest block in bytes to expect under `header`: twice the pictures in RGB and 64 KiB, within `max_block_bytes`.
    pub fn block_bytes(&self, header: &SequenceHeader) -> usize {
        let pixels = u64::from(header.width) * u64::from(header.height) * u64::from(header.block_length);
        let bytes = pixels.saturating_mul(2 * 3).saturating_add(64 << 10);
        usize::try_from(bytes).unwrap_or(usize::MAX).min(self.max_block_bytes)
    }
}
