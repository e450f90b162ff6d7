// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a block to its tokens: the layers that are there and whole, for every bottleneck.

use super::fixed::FixedSegments;
use super::nested::NestedSegments;
use super::segments::SegmentReader;
use crate::bitstream::{Block, BlockHeader, SegmentFault, SequenceHeader};
use crate::bundle::{Bottleneck, Bundle};
use crate::codec::setup::depth;
use crate::frame::Geometry;
use crate::runtime::DecoderGraph;
#[cfg(any(test, fuzzing))]
use crate::runtime::TokensMut;
use crate::tokens::FilledCells;
use crate::{Error, Result};

/// Reads blocks.
pub struct BlockReader {
    segments: Box<dyn SegmentReader>,
    counts: Vec<i32>,
    /// Of the graph's tokens.
    filled: FilledCells,
}

impl BlockReader {
    /// For the stream with this header, which is of the bundle.
    pub fn new(bundle: &Bundle, geometry: &Geometry, header: &SequenceHeader) -> Result<Self> {
        let segments: Box<dyn SegmentReader> = match bundle.manifest.bottleneck {
            Bottleneck::Nested { .. } => Box::new(NestedSegments::new(bundle, geometry, header)?),
            Bottleneck::Fsq { .. } | Bottleneck::Vae { .. } => Box::new(FixedSegments::new(bundle, geometry)?),
        };
        Ok(Self { segments, counts: vec![0; geometry.cells()], filled: FilledCells::default() })
    }

    /// Layers that a block can have.
    pub fn layers(&self) -> usize {
        self.segments.layers()
    }

    /// Reads the layers of a block that are there and whole, `most` of them at most; returns how many, and what is wrong with
    /// the next one.
    pub fn read(&mut self, block: &Block<'_>, most: usize) -> Result<(usize, Option<String>)> {
        let header = block.header();
        let usable = usable(block)?;
        let mut fault = usable.1;
        let depth = depth(self.layers(), header);
        if depth == 0 || block.segments().count() > depth {
            return Err(Error::Malformed(format!("block: not of 1 to {depth} layers; waiting for the next key block")));
        }
        // empty layers at the end count as cut off, as in a thinned block
        let whole = block.segments().take(usable.0.min(most));
        let wanted = whole.enumerate().filter(|(_, s)| s.is_ok_and(|s| !s.is_empty())).map(|(i, _)| i + 1).last().unwrap_or(0);
        let mut read = 0;
        for segment in block.segments().take(wanted) {
            let Ok(payload) = segment else { break };
            if let Err(e) = self.segments.read_segment(read, header, payload) {
                if read == 0 {
                    return Err(e);
                }
                // The checksum is right, but the payload is not valid: read the block again without it.
                fault = Some(format!("layer {read}: {e}"));
                let good = read;
                for (layer, segment) in block.segments().take(good).enumerate() {
                    self.segments.read_segment(layer, header, segment.unwrap_or_default())?;
                }
                break;
            }
            read += 1;
        }
        if read == 0 {
            // All layers are empty: no motion and no residual.
            self.segments.read_segment(0, header, &[])?;
            read = 1;
        }
        Ok((read, fault))
    }

    /// Makes the block read the one that the next block follows.
    pub fn commit(&mut self) {
        self.segments.commit();
    }

    /// Counts of the block read, \[cells\].
    pub fn counts(&mut self) -> &[i32] {
        self.segments.counts(&mut self.counts);
        &self.counts
    }

    /// Gives `graph`, always the same one, the block read, which has this header.
    pub fn load(&mut self, header: &BlockHeader, graph: &mut DecoderGraph) -> Result<()> {
        if let Some(motion) = self.motion() {
            graph.inputs().motion_mut().copy_from_slice(motion);
        }
        self.segments.tokens(graph.tokens_mut(), &mut self.filled, &mut self.counts)?;
        graph.inputs().counts_mut().copy_from_slice(&self.counts);
        if let Some(step) = self.step(header) {
            graph.inputs().set_step(step);
        }
        Ok(())
    }

    /// Motion planes dy, dx, mode, by, bx of the block read, \[5, cells\], where the bottleneck has motion.
    pub fn motion(&self) -> Option<&[i32]> {
        self.segments.motion()
    }

    /// Writes the tokens of the block read; returns the cells' counts.
    #[cfg(any(test, fuzzing))]
    pub fn tokens(&mut self, tokens: TokensMut<'_>) -> Result<&[i32]> {
        self.segments.tokens(tokens, &mut FilledCells::default(), &mut self.counts)?;
        Ok(&self.counts)
    }

    /// The step of the last layer read of the block in pixel units, where the bottleneck has one.
    pub fn step(&self, header: &BlockHeader) -> Option<f32> {
        self.segments.step(header)
    }
}

/// How many layers of a block are whole, at least 1 where there are any, and what is wrong with the next one.
pub fn usable(block: &Block<'_>) -> Result<(usize, Option<String>)> {
    let (usable, fault) = block.usable();
    let fault = fault.map(|f| match f {
        SegmentFault::Truncated => format!("layer {usable} is cut short"),
        SegmentFault::Damaged => format!("layer {usable} is damaged"),
    });
    match fault {
        Some(fault) if usable == 0 => Err(Error::Malformed(format!("block: {fault}; waiting for the next key block"))),
        fault => Ok((usable, fault)),
    }
}
