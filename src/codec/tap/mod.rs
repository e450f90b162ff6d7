// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tokens from blocks and back, without a graph: for use with other models.

mod fixed;
mod nested;
mod values;

use bytes::{Bytes, BytesMut};

use self::fixed::FixedTokens;
use self::nested::{NestedReader, NestedWriter};
use self::values::{ReadTokens, WriteTokens};
pub use self::values::{TokenBlock, TokenShape, TokenValues};
use super::setup::{check_model, check_quantiser, max_quantiser};
use crate::bitstream::{Block, BlockWriter, Limits, SequenceHeader, Timeline};
use crate::bundle::{Bottleneck, Bundle};
use crate::{Error, Result};

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
    let tokens = manifest.stream_tokens_per_cell(usize::from(header.layers)) as usize;
    Ok(TokenShape { cells_y: geometry.cells_y, cells_x: geometry.cells_x, tokens, numbers })
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
            Bottleneck::Nested { .. } => Box::new(NestedReader::new(bundle, &geometry, header)?),
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
    /// that is damaged anywhere is refused. [`Error::ContextLost`]: of a nested bundle, a block before this one is missing.
    /// The last block may be read again.
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

/// Writes the blocks of one stream. Tokens that [`TokenReader`] read from a block of this version's encoder, whole or thinned,
/// become the same bytes again.
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
            Bottleneck::Nested { .. } => Box::new(NestedWriter::new(bundle, &geometry, header)?),
            Bottleneck::Fsq { .. } | Bottleneck::Vae { .. } => Box::new(FixedTokens::new(bundle, &geometry, shape)?),
        };
        Ok(Self { writer, block_length: header.block_length, max_quantiser: max_quantiser(bundle), out: BytesMut::new() })
    }

    /// The block of these tokens. [`Error::Settings`] or [`Error::Model`]: a count, an index or an array does not fit the bundle;
    /// [`Error::ContextLost`]: a block of a nested bundle is neither a key block nor the last one again nor the one after it.
    pub fn write(&mut self, block: &TokenBlock) -> Result<Bytes> {
        let quantiser = block.header.quantiser.max(block.header.base_quantiser.unwrap_or(0));
        if quantiser > self.max_quantiser {
            return Err(Error::Settings(format!("quantiser {quantiser} is above the model's largest, {}", self.max_quantiser)));
        }
        let segments = self.writer.write(block)?;
        self.out.clear();
        let mut writer = BlockWriter::begin(&block.header, self.block_length, &mut self.out)?;
        segments.iter().for_each(|segment| writer.segment(segment));
        Ok(self.out.split().freeze())
    }
}
