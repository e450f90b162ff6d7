// SPDX-License-Identifier: MIT OR Apache-2.0
//! Thinning: a block of fewer layers is a prefix of the block.

use super::block::{SegmentFault, SegmentSpan};
use super::block_header::RawHeader;
use crate::{Error, Result};

/// The block with its first `layers` layers only: a prefix of `block`, at least header and first segment.
///
/// What follows a segment that is cut short is dropped. Payloads are not read, so damage in them passes through. A block
/// whose first segment with a payload is cut short is an error.
pub fn thin(block: &[u8], layers: usize) -> Result<&[u8]> {
    let layers = layers.max(1);
    let mut kept = RawHeader::read(block)?.len;
    let mut at = kept;
    let mut layer = 0;
    while layer < layers {
        let span = match SegmentSpan::read(block, at) {
            Ok(Some(span)) => span,
            Ok(None) => break,
            Err(_) if layer > 0 => break,
            Err(SegmentFault::Truncated) => return Err(malformed("is cut short")),
            Err(SegmentFault::Damaged) => return Err(malformed("has a broken length")),
        };
        layer += span.empty + 1;
        at = span.payload.end;
        if layer > layers {
            break;
        }
        kept = at;
    }
    Ok(&block[..kept])
}

fn malformed(what: &str) -> Error {
    Error::Malformed(format!("block: its first segment {what}; drop the block and continue with the next key block"))
}
