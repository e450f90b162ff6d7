// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tokens of a block, and what reader and writer ask of a bottleneck.

use crate::Result;
use crate::bitstream::{BlockHeader, FrameTime};

/// Sizes of a block's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenShape {
    /// Rows of cells.
    pub cells_y: usize,
    /// Cells in a row.
    pub cells_x: usize,
    /// K, tokens of a cell.
    pub tokens: usize,
    /// Numbers of a token: 1 for `fsq`, D for `vae`; for `nested`, C coefficients of a cell in each layer, K = L * C in a stream of up to L layers.
    pub numbers: usize,
}

impl TokenShape {
    /// Cells of a block.
    pub fn cells(&self) -> usize {
        self.cells_y * self.cells_x
    }
}

/// The tokens of a block, cells in raster order.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenValues {
    /// `fsq`: codebook indices, \[cells, K\], zero from each cell's count on.
    Indices(Vec<i32>),
    /// `vae`: dequantised means, \[cells, K, D\], zero from each cell's count on.
    Means(Vec<f32>),
    /// `nested`: the indices of each layer, transform sizes and motion.
    Nested {
        /// Signed quantisation indices as a receiver of that many layers has them, \[layers, cells, C\] in token order. Only
        /// the layers that came are there, one or more.
        indices: Vec<i16>,
        /// Coefficients that each cell sent in each layer, \[layers, cells\], 0..=C. They follow from the indices:
        /// [`TokenWriter`](super::TokenWriter) does not read them.
        layer_counts: Vec<i32>,
        /// Transform size of each cell, \[cells\]: 0 is 16x16, 1 is 8x8, 2 is 4x4; 0 in cells without tokens.
        transform_sizes: Vec<i32>,
        /// Planes dy, dx (quarter pixels), mode (0 inter, 1 intra, 2 inter and blended), by and bx (eighths of a pixel), \[5, cells\]; in a key block all
        /// cells are intra.
        motion: Vec<i32>,
    },
}

/// A block as its tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenBlock {
    /// The block's header: key or position, real frames, times.
    pub header: BlockHeader,
    /// Times of its real frames in ns; from the stream and the packet that it came in. [`TokenWriter`](super::TokenWriter) takes the header's.
    pub times: Vec<FrameTime>,
    /// Tokens kept of each cell, \[cells\], 0..=K. Those of `nested` tokens follow from the tokens: [`TokenWriter`](super::TokenWriter) does not read
    /// them.
    pub counts: Vec<i32>,
    /// The tokens.
    pub tokens: TokenValues,
}

/// Reads the tokens of one bottleneck.
pub(super) trait ReadTokens: Send {
    /// Counts and tokens of a block's segments, of which there is one at least.
    fn read(&mut self, header: &BlockHeader, segments: &[&[u8]]) -> Result<(Vec<i32>, TokenValues)>;
}

/// Writes the tokens of one bottleneck.
pub(super) trait WriteTokens: Send {
    /// The segments of a block.
    fn write(&mut self, block: &TokenBlock) -> Result<Vec<Vec<u8>>>;
}
