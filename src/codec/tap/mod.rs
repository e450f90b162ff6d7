// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tokens from blocks and back, without a graph: for use with other models.

mod fixed;
mod nested;

use bytes::{Bytes, BytesMut};

use self::fixed::FixedTokens;
use self::nested::{NestedReader, NestedWriter};
use super::FrameTime;
use super::setup::{check_model, check_quantiser, max_quantiser};
use crate::bitstream::{Block, BlockHeader, BlockWriter, Limits, SequenceHeader, Timeline};
use crate::bundle::{Bottleneck, Bundle};
use crate::{Error, Result};

/// Sizes of a block's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenShape {
    /// Rows of cells.
    pub cells_y: usize,
    /// Cells in a row.
    pub cells_x: usize,
    /// K, tokens of a cell.
    pub tokens: usize,
    /// Numbers of a token: 1 for `fsq`, D for `vae`; for `nested`, C coefficients of a cell in each layer, K = L * C.
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
    /// `nested`: the indices of each layer, and motion.
    Nested {
        /// Signed quantisation indices as a receiver of that many layers has them, \[layers, cells, C\] in token order. Only
        /// the layers that came are there, one or more.
        indices: Vec<i16>,
        /// Coefficients that each cell sent in each layer, \[layers, cells\], 0..=C. They follow from the indices:
        /// [`TokenWriter`] does not read them.
        layer_counts: Vec<i32>,
        /// Planes dy, dx (quarter pixels) and mode (0 inter, 1 intra), \[3, cells\]; in a key block all cells are intra.
        motion: Vec<i32>,
    },
}

/// A block as its tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenBlock {
    /// The block's header: key or position, real frames, times.
    pub header: BlockHeader,
    /// Times of its real frames in ns; from the stream and the packet that it came in. [`TokenWriter`] takes the header's.
    pub times: Vec<FrameTime>,
    /// Tokens kept of each cell, \[cells\], 0..=K. Of `nested` tokens they follow from the others: [`TokenWriter`] does not read
    /// them.
    pub counts: Vec<i32>,
    /// The tokens.
    pub tokens: TokenValues,
}

/// Checks that `bundle` made the stream, and returns the sizes of its tokens.
fn shape(bundle: &Bundle, header: &SequenceHeader) -> Result<TokenShape> {
    check_model(bundle, header)?;
    let manifest = &bundle.manifest;
    let geometry = bundle.geometry(header.width, header.height)?;
    let numbers = match &manifest.bottleneck {
        Bottleneck::Fsq { .. } => 1,
        Bottleneck::Vae { dimensions, .. } => *dimensions as usize,
        Bottleneck::Nested { positions, .. } => positions.len(),
    };
    let tokens = manifest.tokens_per_cell as usize;
    Ok(TokenShape { cells_y: geometry.cells_y, cells_x: geometry.cells_x, tokens, numbers })
}

/// Reads the tokens of one bottleneck.
trait ReadTokens: Send {
    /// Counts and tokens of a block's segments, of which there is one at least.
    fn read(&mut self, header: &BlockHeader, segments: &[&[u8]]) -> Result<(Vec<i32>, TokenValues)>;
}

/// Writes the tokens of one bottleneck.
trait WriteTokens: Send {
    /// The segments of a block.
    fn write(&mut self, block: &TokenBlock) -> Result<Vec<Vec<u8>>>;
}

/// Reads the blocks of one stream, in order.
pub struct TokenReader {
    reader: Box<dyn ReadTokens>,
    shape: TokenShape,
    timeline: Timeline,
    block_length: u8,
    max_quantiser: u8,
}

impl TokenReader {
    /// A reader for a stream, within the default limits; [`Error::Model`]: the stream was made with another bundle;
    /// [`Error::Limit`]: its pictures are too large.
    pub fn new(bundle: &Bundle, header: &SequenceHeader) -> Result<Self> {
        Self::with_limits(bundle, header, &Limits::default())
    }

    /// As [`new`](Self::new), within other limits.
    pub fn with_limits(bundle: &Bundle, header: &SequenceHeader, limits: &Limits) -> Result<Self> {
        header.validate_with(limits)?;
        let shape = shape(bundle, header)?;
        let geometry = bundle.geometry(header.width, header.height)?;
        let reader: Box<dyn ReadTokens> = match &bundle.manifest.bottleneck {
            Bottleneck::Nested { .. } => Box::new(NestedReader::new(bundle, &geometry)?),
            Bottleneck::Fsq { .. } | Bottleneck::Vae { .. } => Box::new(FixedTokens::new(bundle, &geometry, shape)?),
        };
        let timeline = Timeline::new(header.framerate, header.block_length)?;
        Ok(Self { reader, shape, timeline, block_length: header.block_length, max_quantiser: max_quantiser(bundle) })
    }

    /// Sizes of every block.
    pub fn shape(&self) -> TokenShape {
        self.shape
    }

    /// The tokens of a block, whole or thinned; `pts` (ns): the time stamp of the buffer it came in, if that has one. A block
    /// that is damaged anywhere is refused.
    pub fn read(&mut self, block: &[u8], pts: Option<u64>) -> Result<TokenBlock> {
        let block = Block::parse(block, self.block_length)?;
        let header = block.header().clone();
        check_quantiser(&header, self.max_quantiser)?;
        let mut segments = Vec::new();
        for segment in block.segments() {
            segments.push(segment.map_err(|fault| {
                Error::Malformed(format!(
                    "block: layer {}: {fault}; drop it and continue with the next key block",
                    segments.len()
                ))
            })?);
        }
        if segments.is_empty() {
            // Without a segment, the first layer is empty.
            segments.push(&[]);
        }
        let (counts, tokens) = self.reader.read(&header, &segments)?;
        let times = self.timeline.decode(header.position, header.frames, &header.timing, pts).frames().to_vec();
        Ok(TokenBlock { header, times, counts, tokens })
    }
}

/// Writes the blocks of one stream. What [`TokenReader`] read of a block that this version's encoder made, or of a thinned one, is
/// written byte for byte as it was.
pub struct TokenWriter {
    writer: Box<dyn WriteTokens>,
    block_length: u8,
    max_quantiser: u8,
    out: BytesMut,
}

impl TokenWriter {
    /// A writer for a stream with this header; errors as for [`TokenReader::new`].
    pub fn new(bundle: &Bundle, header: &SequenceHeader) -> Result<Self> {
        header.validate()?;
        let shape = shape(bundle, header)?;
        let geometry = bundle.geometry(header.width, header.height)?;
        let writer: Box<dyn WriteTokens> = match &bundle.manifest.bottleneck {
            Bottleneck::Nested { .. } => Box::new(NestedWriter::new(bundle, &geometry)?),
            Bottleneck::Fsq { .. } | Bottleneck::Vae { .. } => Box::new(FixedTokens::new(bundle, &geometry, shape)?),
        };
        Ok(Self { writer, block_length: header.block_length, max_quantiser: max_quantiser(bundle), out: BytesMut::new() })
    }

    /// The block of these tokens. [`Error::Settings`] or [`Error::Model`]: a count, an index or an array is not as the bundle has it.
    pub fn write(&mut self, block: &TokenBlock) -> Result<Bytes> {
        if block.header.quantiser > self.max_quantiser {
            return Err(Error::Settings(format!(
                "quantiser {} is above the model's largest, {}",
                block.header.quantiser, self.max_quantiser
            )));
        }
        let segments = self.writer.write(block)?;
        self.out.clear();
        let mut writer = BlockWriter::begin(&block.header, self.block_length, &mut self.out)?;
        segments.iter().for_each(|segment| writer.segment(segment));
        Ok(self.out.split().freeze())
    }
}
