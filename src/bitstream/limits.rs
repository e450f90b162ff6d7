// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bounds on what a reader accepts of a stream.

use crate::{Error, Result};

/// The most frames in a block.
pub const MAX_BLOCK_LENGTH: u8 = 16;

/// Most layers of a stream.
pub const MAX_LAYERS: usize = 32;

/// The largest width or height in pixels that the format allows.
pub const MAX_DIMENSION: u32 = 8192;

/// Pixels of the largest picture that readers accept by default: 4096x2304.
pub const DEFAULT_MAX_PIXELS: u32 = 4096 * 2304;

/// The most bytes of a sequence header, in this and all later versions: its length is always one byte on the wire.
pub const MAX_SEQUENCE_BYTES: usize = 127;

/// The most bytes of a block header with everything present.
pub const MAX_BLOCK_HEADER_BYTES: usize = 6 + 10 + 1 + 32 * 10 + 1;

/// Limits for streams. A few bytes of a header can ask for gigabytes, so the defaults are below what the format allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest picture width in pixels.
    pub max_width: u32,
    /// Largest picture height in pixels.
    pub max_height: u32,
    /// Largest picture in pixels, width times height.
    pub max_pixels: u32,
    /// Largest block in bytes, whatever the picture size.
    pub max_block_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_pixels: DEFAULT_MAX_PIXELS, ..Self::FORMAT }
    }
}

impl Limits {
    /// All that the format allows.
    pub const FORMAT: Self = Self {
        max_width: MAX_DIMENSION,
        max_height: MAX_DIMENSION,
        max_pixels: MAX_DIMENSION * MAX_DIMENSION,
        max_block_bytes: 64 << 20,
    };

    /// The default limits with another `max_pixels`; 0 = all that the format allows.
    pub fn with_max_pixels(max_pixels: u32) -> Self {
        let max_pixels = if max_pixels == 0 { Self::FORMAT.max_pixels } else { max_pixels };
        Self { max_pixels, ..Self::default() }
    }

    /// Checks the size of a stream's pictures.
    pub(super) fn check_size(&self, width: u32, height: u32) -> Result<()> {
        for (name, value, limit) in [("width", width, self.max_width), ("height", height, self.max_height)] {
            let limit = limit.min(MAX_DIMENSION);
            if value == 0 || value > limit {
                return Err(Error::Limit(format!(
                    "sequence header: {name} {value} is outside 1..={limit}; scale the video to a size within it"
                )));
            }
        }
        let pixels = u64::from(width) * u64::from(height);
        if pixels > u64::from(self.max_pixels) {
            return Err(Error::Limit(format!(
                "sequence header: pictures of {width}x{height} have {pixels} pixels, and max-pixels is {}; set max-pixels to {pixels} or more if you trust the stream, or scale the video down before it is encoded",
                self.max_pixels
            )));
        }
        Ok(())
    }
}
