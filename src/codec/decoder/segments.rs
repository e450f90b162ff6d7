// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the reader of blocks asks of a bottleneck.

use crate::bitstream::BlockHeader;
use crate::runtime::TokensMut;
use crate::tokens::FilledCells;
use crate::{Error, Result};

/// Reads the segments of one bottleneck: the decoder's side of the encoder's `BlockCoder`.
pub(super) trait SegmentReader: Send {
    /// Layers that a block can have.
    fn layers(&self) -> usize;

    /// Reads the segment of `layer` of the block with this header; layer 0 begins a block, the others follow in order.
    fn read_segment(&mut self, layer: usize, header: &BlockHeader, payload: &[u8]) -> Result<()>;

    /// Makes the block read the one that the next block follows.
    fn commit(&mut self) {}

    /// Counts by the layers read, \[cells\].
    fn counts(&self, counts: &mut [i32]);

    /// The decoder graph's tokens by the layers read, and the cells' counts. `filled` belongs to the tokens, and is new if anything else
    /// was written there.
    fn tokens(&self, tokens: TokensMut<'_>, filled: &mut FilledCells, counts: &mut [i32]) -> Result<()>;

    /// Motion planes dy, dx, mode, by, bx, \[5, cells\], for bottlenecks with motion.
    fn motion(&self) -> Option<&[i32]> {
        None
    }

    /// The step of the last layer read, in pixel units, for bottlenecks with a quantiser.
    fn step(&self, _header: &BlockHeader) -> Option<f32> {
        None
    }
}

pub(super) fn wrong_tokens() -> Error {
    Error::Model("the decoder graph's tokens are not of the bundle's bottleneck".into())
}
