// SPDX-License-Identifier: MIT OR Apache-2.0
//! Segments of `fsq` and `vae` bundles: tokens of fixed width.

use super::segments::{SegmentReader, wrong_tokens};
use crate::Result;
use crate::bitstream::BlockHeader;
use crate::bundle::Bundle;
use crate::codec::setup::fixed;
use crate::frame::Geometry;
use crate::runtime::TokensMut;
use crate::tokens::FilledCells;
use crate::tokens::fixed::FixedCoder;

pub(super) struct FixedSegments {
    coder: FixedCoder,
    /// Layers read of the block.
    read: usize,
}

impl FixedSegments {
    pub fn new(bundle: &Bundle, geometry: &Geometry) -> Result<Self> {
        Ok(Self { coder: fixed(&bundle.manifest, geometry)?, read: 0 })
    }
}

impl SegmentReader for FixedSegments {
    fn layers(&self) -> usize {
        self.coder.layers()
    }

    fn read_segment(&mut self, layer: usize, _: &BlockHeader, payload: &[u8]) -> Result<()> {
        self.coder.read_segment(layer, payload)?;
        self.read = layer + 1;
        Ok(())
    }

    fn counts(&self, counts: &mut [i32]) {
        self.coder.store_counts(self.read, counts);
    }

    fn tokens(&self, tokens: TokensMut<'_>, _: &mut FilledCells, counts: &mut [i32]) -> Result<()> {
        match tokens {
            TokensMut::I32(indices) => self.coder.store_indices(self.read, indices, counts),
            TokensMut::F32(means) => self.coder.store_means(self.read, means, counts),
            TokensMut::I16(_) => Err(wrong_tokens()),
        }
    }
}
