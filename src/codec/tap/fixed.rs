// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tokens of `fsq` and `vae` bundles.

use super::values::{ReadTokens, TokenBlock, TokenShape, TokenValues, WriteTokens};
use crate::bitstream::BlockHeader;
use crate::bundle::Bundle;
use crate::codec::setup::fixed;
use crate::frame::Geometry;
use crate::tokens::fixed::{FixedCoder, FixedKind};
use crate::{Error, Result};

pub(super) struct FixedTokens {
    coder: FixedCoder,
    shape: TokenShape,
}

impl FixedTokens {
    pub fn new(bundle: &Bundle, geometry: &Geometry, shape: TokenShape) -> Result<Self> {
        Ok(Self { coder: fixed(&bundle.manifest, geometry)?, shape })
    }
}

impl ReadTokens for FixedTokens {
    fn read(&mut self, _: &BlockHeader, segments: &[&[u8]]) -> Result<(Vec<i32>, TokenValues)> {
        let Self { coder, shape } = self;
        for (layer, payload) in segments.iter().enumerate() {
            coder.read_segment(layer, payload)?;
        }
        let numbers = shape.cells() * shape.tokens * shape.numbers;
        let mut counts = vec![0; shape.cells()];
        let tokens = match coder.kind() {
            FixedKind::Fsq { .. } => {
                let mut indices = vec![0; numbers];
                coder.store_indices(segments.len(), &mut indices, &mut counts)?;
                TokenValues::Indices(indices)
            }
            FixedKind::Vae { .. } => {
                let mut means = vec![0.0; numbers];
                coder.store_means(segments.len(), &mut means, &mut counts)?;
                TokenValues::Means(means)
            }
        };
        Ok((counts, tokens))
    }
}

impl WriteTokens for FixedTokens {
    fn write(&mut self, block: &TokenBlock) -> Result<Vec<Vec<u8>>> {
        let coder = &mut self.coder;
        match &block.tokens {
            TokenValues::Indices(indices) => coder.load_indices(indices, &block.counts)?,
            TokenValues::Means(means) => coder.load_means(means, &block.counts)?,
            TokenValues::Nested { .. } => {
                return Err(Error::Settings(
                    "the tokens are nested and those of the bundle are not; use the bundle that they came from".into(),
                ));
            }
        }
        let mut segments = vec![Vec::new(); coder.layers()];
        for (layer, segment) in segments.iter_mut().enumerate() {
            coder.write_segment(layer, segment)?;
        }
        Ok(segments)
    }
}
