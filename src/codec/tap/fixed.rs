// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tokens of `fsq` and `vae` bundles.

use super::{TokenShape, TokenValues};
use crate::tokens::fixed::{FixedCoder, FixedKind};
use crate::{Error, Result};

/// Counts and tokens of a block's segments, of which there is one at least.
pub(super) fn read(coder: &mut FixedCoder, shape: TokenShape, segments: &[&[u8]]) -> Result<(Vec<i32>, TokenValues)> {
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

/// The segments of a block with these tokens.
pub(super) fn write(coder: &mut FixedCoder, tokens: &TokenValues, counts: &[i32]) -> Result<Vec<Vec<u8>>> {
    match tokens {
        TokenValues::Indices(indices) => coder.load_indices(indices, counts)?,
        TokenValues::Means(means) => coder.load_means(means, counts)?,
        TokenValues::Nested { .. } => {
            return Err(Error::Settings(
                "the tokens are nested, those of the bundle are not; take the bundle that they came from".into(),
            ));
        }
    }
    let mut segments = vec![Vec::new(); coder.layers()];
    for (layer, segment) in segments.iter_mut().enumerate() {
        coder.write_segment(layer, segment)?;
    }
    Ok(segments)
}
