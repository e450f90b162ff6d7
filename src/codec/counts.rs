// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many tokens each cell of a block keeps, read without a graph: for tools that inspect streams.

use super::decoder::BlockReader;
use super::order::BlockOrder;
use super::setup::{check_model, check_quantiser, max_quantiser};
use crate::Result;
use crate::bitstream::{Block, BlockHeader, SequenceHeader};
use crate::bundle::{Bottleneck, Bundle};
use crate::frame::Geometry;

/// Reads the counts of a stream's blocks, whatever the model's bottleneck. Blocks of `nested` bundles must come in order, and may be
/// read again; others may come in any order.
pub struct CountReader {
    reader: BlockReader,
    /// Of nested bundles.
    order: Option<BlockOrder>,
    geometry: Geometry,
    block_length: u8,
    max_quantiser: u8,
}

/// The counts of a block.
#[derive(Debug, Clone)]
pub struct BlockCounts<'a> {
    /// What the block says of itself.
    pub header: BlockHeader,
    /// Layers that were read.
    pub layers: usize,
    /// Tokens that these layers hold of each cell, \[cells\] in raster order, 0..=K.
    pub counts: &'a [i32],
    /// What is wrong with the layer after them, if anything is.
    pub damage: Option<String>,
}

impl CountReader {
    /// A reader for a stream that `bundle` made; [`Error::Model`](crate::Error::Model): another one did.
    pub fn new(bundle: &Bundle, header: &SequenceHeader) -> Result<Self> {
        header.validate()?;
        check_model(bundle, header)?;
        let geometry = bundle.geometry(header.width, header.height)?;
        Ok(Self {
            reader: BlockReader::new(bundle, &geometry, header)?,
            order: matches!(bundle.manifest.bottleneck, Bottleneck::Nested { .. }).then(BlockOrder::default),
            geometry,
            block_length: header.block_length,
            max_quantiser: max_quantiser(bundle),
        })
    }

    /// The grid that the counts lie on.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The counts of a block, whole or thinned, by `max_layers` layers at most.
    /// [`Error::Malformed`](crate::Error::Malformed): not even its first layer can be read;
    /// [`Error::ContextLost`](crate::Error::ContextLost): a block before it is missing.
    pub fn read(&mut self, block: &[u8], max_layers: usize) -> Result<BlockCounts<'_>> {
        let block = Block::parse(block, self.block_length)?;
        let header = block.header().clone();
        check_quantiser(&header, self.max_quantiser)?;
        if let Some(order) = &mut self.order
            && order.take(&header)?
        {
            self.reader.commit();
        }
        let read = self.reader.read(&block, max_layers);
        if let (Err(_), Some(order)) = (&read, &mut self.order) {
            order.lose();
        }
        let (layers, damage) = read?;
        Ok(BlockCounts { counts: self.reader.counts(), header, layers, damage })
    }
}
