// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tokens out of blocks and back, without a graph: for those who feed token streams to models of their own.

use bytes::{Bytes, BytesMut};

use super::FrameTime;
use super::setup::{check_model, fixed};
use super::unpack::check_quantiser;
use crate::bitstream::{Block, BlockHeader, BlockWriter, Limits, SequenceHeader};
use crate::bundle::Bundle;
use crate::timing::Timeline;
use crate::tokens::fixed::{FixedCoder, FixedKind};
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
    /// Numbers of a token: 1 for `fsq`, D for `vae`.
    pub numbers: usize,
}

impl TokenShape {
    /// Cells of a block.
    pub fn cells(&self) -> usize {
        self.cells_y * self.cells_x
    }
}

/// The tokens of a block, cells in raster order, zero from each cell's count on.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenValues {
    /// `fsq`: codebook indices, \[cells, K\].
    Indices(Vec<i32>),
    /// `vae`: dequantised means, \[cells, K, D\].
    Means(Vec<f32>),
}

/// A block as its tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenBlock {
    /// What the block says of itself: key or position, real frames, times.
    pub header: BlockHeader,
    /// Times of its real frames in ns; from the stream and the packet that it came in. [`TokenWriter`] takes the header's.
    pub times: Vec<FrameTime>,
    /// Tokens kept of each cell, \[cells\], 0..=K.
    pub counts: Vec<i32>,
    /// The tokens.
    pub tokens: TokenValues,
}

/// The coder for a stream that `bundle` made.
fn coder(bundle: &Bundle, header: &SequenceHeader) -> Result<(FixedCoder, TokenShape)> {
    check_model(bundle, header)?;
    let geometry = bundle.geometry(header.width, header.height)?;
    let coder = fixed(&bundle.manifest, &geometry)?;
    let (cells_y, cells_x) = (geometry.cells_y, geometry.cells_x);
    let shape =
        TokenShape { cells_y, cells_x, tokens: bundle.manifest.tokens_per_cell as usize, numbers: coder.kind().numbers() };
    Ok((coder, shape))
}

/// Reads the blocks of one stream, in order.
pub struct TokenReader {
    coder: FixedCoder,
    shape: TokenShape,
    timeline: Timeline,
    block_length: u8,
}

impl TokenReader {
    /// A reader for a stream, within the default limits; [`Error::Model`]: the stream was made with another bundle;
    /// [`Error::Unsupported`]: the bundle's tokens are neither `fsq` nor `vae`; [`Error::Limit`]: its pictures are too large.
    pub fn new(bundle: &Bundle, header: &SequenceHeader) -> Result<Self> {
        Self::with_limits(bundle, header, &Limits::default())
    }

    /// As [`new`](Self::new), within other limits.
    pub fn with_limits(bundle: &Bundle, header: &SequenceHeader, limits: &Limits) -> Result<Self> {
        header.validate_with(limits)?;
        let (coder, shape) = coder(bundle, header)?;
        let timeline = Timeline::new(header.framerate, header.block_length)?;
        Ok(Self { coder, shape, timeline, block_length: header.block_length })
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
        // fixed-width tokens have none
        check_quantiser(&header, 0)?;
        let damaged = |what: String| Error::Malformed(format!("block: {what}; drop it and go on with the next key block"));
        let mut layers = 0;
        for segment in block.segments() {
            let payload = segment.map_err(|fault| damaged(format!("layer {layers}: {fault}")))?;
            self.coder.read_segment(layers, payload)?;
            layers += 1;
        }
        if layers == 0 {
            self.coder.read_segment(0, &[])?;
        }
        let mut counts = vec![0; self.shape.cells()];
        let numbers = self.shape.cells() * self.shape.tokens * self.shape.numbers;
        let tokens = match self.coder.kind() {
            FixedKind::Fsq { .. } => {
                let mut indices = vec![0; numbers];
                self.coder.store_indices(layers.max(1), &mut indices, &mut counts)?;
                TokenValues::Indices(indices)
            }
            FixedKind::Vae { .. } => {
                let mut means = vec![0.0; numbers];
                self.coder.store_means(layers.max(1), &mut means, &mut counts)?;
                TokenValues::Means(means)
            }
        };
        let times = self.timeline.decode(header.position, header.frames, &header.timing, pts).frames().to_vec();
        Ok(TokenBlock { header, times, counts, tokens })
    }
}

/// Writes the blocks of one stream. What [`TokenReader`] read of a block that this version's encoder made, or of a thinned one, is
/// written byte for byte as it was.
pub struct TokenWriter {
    coder: FixedCoder,
    block_length: u8,
    segment: Vec<u8>,
    out: BytesMut,
}

impl TokenWriter {
    /// A writer for a stream with this header; errors as for [`TokenReader::new`].
    pub fn new(bundle: &Bundle, header: &SequenceHeader) -> Result<Self> {
        header.validate()?;
        let (coder, _) = coder(bundle, header)?;
        Ok(Self { coder, block_length: header.block_length, segment: Vec::new(), out: BytesMut::new() })
    }

    /// The block of these tokens. [`Error::Settings`] or [`Error::Model`]: a count, an index or an array is not as the bundle has it.
    pub fn write(&mut self, block: &TokenBlock) -> Result<Bytes> {
        match &block.tokens {
            TokenValues::Indices(indices) => self.coder.load_indices(indices, &block.counts)?,
            TokenValues::Means(means) => self.coder.load_means(means, &block.counts)?,
        }
        self.out.clear();
        let mut writer = BlockWriter::begin(&block.header, self.block_length, &mut self.out)?;
        for layer in 0..self.coder.layers() {
            self.segment.clear();
            self.coder.write_segment(layer, &mut self.segment)?;
            writer.segment(&self.segment);
        }
        Ok(self.out.split().freeze())
    }
}
