// SPDX-License-Identifier: MIT OR Apache-2.0
//! Thinning: a block of fewer layers is a prefix of the block.

use super::block::{SegmentFault, SegmentSpan};
use super::block_header::RawHeader;
use super::limits::MAX_LAYERS;
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
            Err(fault) => return Err(fault_of_the_first(fault)),
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

/// Where [`thin`] cuts `block`, whose header takes `header` bytes, to 1 layer, 2, ... The last one is where it cuts nothing that
/// can be used.
pub(super) fn prefixes(block: &[u8], header: usize, ends: &mut Vec<usize>) -> Result<()> {
    ends.clear();
    let mut kept = header;
    loop {
        let span = match SegmentSpan::read(block, kept) {
            Ok(Some(span)) => span,
            Err(fault) if ends.is_empty() => return Err(fault_of_the_first(fault)),
            Ok(None) | Err(_) => break,
        };
        let empty = span.empty.min(MAX_LAYERS - ends.len());
        ends.extend(std::iter::repeat_n(kept, empty));
        if ends.len() == MAX_LAYERS {
            break;
        }
        kept = span.payload.end;
        ends.push(kept);
    }
    if ends.is_empty() {
        ends.push(kept);
    }
    Ok(())
}

fn fault_of_the_first(fault: SegmentFault) -> Error {
    let what = match fault {
        SegmentFault::Truncated => "is cut short",
        SegmentFault::Damaged => "has a broken length",
    };
    Error::Malformed(format!("block: its first segment {what}; drop the block and continue with the next key block"))
}
