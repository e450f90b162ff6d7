// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blocks of nested bundles start from the entropy contexts of the block before: they must be read and written in order.

use crate::bitstream::BlockHeader;
use crate::{Error, Result};

/// Where a reader or writer is in a stream.
#[derive(Debug, Default)]
pub(super) struct BlockOrder {
    /// Epoch and position of the last block.
    last: Option<(u8, u32)>,
}

impl BlockOrder {
    /// Takes the block with `header` as the current one; returns whether it follows the one before, which then must be committed
    /// first. It may also be a key block, or the last block again.
    pub fn take(&mut self, header: &BlockHeader) -> Result<bool> {
        let this = (header.epoch, if header.key { 0 } else { header.position });
        let follows = self.last.is_some_and(|last| (last.0, last.1.wrapping_add(1)) == this);
        if header.key || follows || self.last == Some(this) {
            self.last = Some(this);
            return Ok(follows && !header.key);
        }
        Err(Error::ContextLost(format!("block {} does not follow the last one; go on with the next key block", header.position)))
    }

    /// The current block could not be read or written: only a key block can follow.
    pub fn lose(&mut self) {
        self.last = None;
    }
}
