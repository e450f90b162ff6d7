// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a block's segments to the decoder graph's inputs, for every bottleneck.

use super::setup::{Nested, effective_step, fixed};
use crate::bitstream::{Block, BlockHeader, SegmentFault};
use crate::bundle::{Bottleneck, Bundle};
use crate::frame::Geometry;
use crate::runtime::{DecoderGraph, TokensMut};
use crate::tokens::fixed::FixedCoder;
use crate::tokens::{MAX_QUANTISER, NestedDecoder, Shape};
use crate::{Error, Result};

/// Reads the segments of a block.
pub(super) struct Unpacker {
    kind: Kind,
    counts: Vec<i32>,
}

enum Kind {
    Nested { decoder: Box<NestedDecoder>, levels: usize, scale: f32 },
    Fixed(FixedCoder),
}

impl Unpacker {
    pub fn new(bundle: &Bundle, geometry: &Geometry) -> Result<Self> {
        let manifest = &bundle.manifest;
        let kind = match manifest.bottleneck {
            Bottleneck::Nested { .. } => {
                let Nested { layout, tables, levels, scale } = Nested::new(manifest, &bundle.tables, geometry)?;
                Kind::Nested { decoder: Box::new(NestedDecoder::new(&layout, &tables)?), levels, scale }
            }
            Bottleneck::Fsq { .. } | Bottleneck::Vae { .. } => Kind::Fixed(fixed(manifest, geometry)?),
        };
        Ok(Self { kind, counts: vec![0; geometry.cells()] })
    }

    /// Layers that a block can have.
    pub fn layers(&self) -> usize {
        match &self.kind {
            Kind::Nested { levels, .. } => *levels,
            Kind::Fixed(coder) => coder.layers(),
        }
    }

    /// Depth of the block with this header; 0: the header does not fit this bundle.
    fn depth(&self, header: &BlockHeader) -> usize {
        self.layers().saturating_sub(usize::from(header.left_out))
    }

    /// Reads the layers of a block that are there and whole, `most` of them at most; returns how many, and what is wrong with
    /// the next one.
    pub fn read(&mut self, block: &Block<'_>, most: usize) -> Result<(usize, Option<String>)> {
        let header = block.header();
        let usable = usable(block)?;
        let mut fault = usable.1;
        let depth = self.depth(header);
        if depth == 0 || block.segments().count() > depth {
            return Err(Error::Malformed(format!("block: not of 1 to {depth} layers; waiting for the next key block")));
        }
        // empty layers at the end count as cut off, as in a thinned block
        let whole = block.segments().take(usable.0.min(most));
        let wanted = whole.enumerate().filter(|(_, s)| s.is_ok_and(|s| !s.is_empty())).map(|(i, _)| i + 1).last().unwrap_or(0);
        let mut read = 0;
        for segment in block.segments().take(wanted) {
            let Ok(payload) = segment else { break };
            if let Err(e) = self.read_segment(read, header, payload) {
                if read == 0 {
                    return Err(e);
                }
                // The checksum is right, but the payload is not valid: read the block again without it.
                fault = Some(format!("layer {read}: {e}"));
                let good = read;
                for (level, segment) in block.segments().take(good).enumerate() {
                    self.read_segment(level, header, segment.unwrap_or_default())?;
                }
                break;
            }
            read += 1;
        }
        if read == 0 {
            // All layers are empty: no motion and no residual.
            self.read_segment(0, header, &[])?;
            read = 1;
        }
        Ok((read, fault))
    }

    /// Reads the segment of `layer` of the block with this header; layer 0 begins a block, the others follow in order.
    fn read_segment(&mut self, layer: usize, header: &BlockHeader, payload: &[u8]) -> Result<()> {
        let shape = Shape { key: header.key, depth: self.depth(header) };
        match &mut self.kind {
            Kind::Nested { decoder, .. } => decoder.read_segment(layer, shape, payload),
            Kind::Fixed(coder) => coder.read_segment(layer, payload),
        }
    }

    /// Counts of the block, of which `layers` layers were read, \[cells\].
    pub fn counts(&mut self, layers: usize) -> &[i32] {
        match &self.kind {
            Kind::Nested { decoder, .. } => decoder.counts(&mut self.counts),
            Kind::Fixed(coder) => coder.store_counts(layers, &mut self.counts),
        }
        &self.counts
    }

    /// Gives `graph` the block with this header, of which `layers` layers were read.
    pub fn load(&mut self, header: &BlockHeader, layers: usize, graph: &mut DecoderGraph) -> Result<()> {
        if let Some(motion) = self.motion() {
            graph.motion_mut().copy_from_slice(motion);
        }
        let counts = self.tokens(header, layers, graph.tokens_mut())?;
        graph.counts_mut().copy_from_slice(counts);
        if let Some(step) = self.step(header, layers) {
            graph.set_step(step);
        }
        Ok(())
    }

    /// Motion planes dy, dx, mode of the block read, \[3, cells\], where the bottleneck has motion.
    pub fn motion(&self) -> Option<&[i32]> {
        match &self.kind {
            Kind::Nested { decoder, .. } => Some(decoder.motion()),
            Kind::Fixed(_) => None,
        }
    }

    /// Writes the tokens of the block read; returns the cells' counts.
    pub fn tokens(&mut self, header: &BlockHeader, layers: usize, tokens: TokensMut<'_>) -> Result<&[i32]> {
        match (&self.kind, tokens) {
            (Kind::Nested { decoder, .. }, TokensMut::I16(latents)) => {
                decoder.dequantise(header.quantiser, latents, &mut self.counts)?;
            }
            (Kind::Fixed(coder), TokensMut::I32(indices)) => coder.store_indices(layers, indices, &mut self.counts)?,
            (Kind::Fixed(coder), TokensMut::F32(means)) => coder.store_means(layers, means, &mut self.counts)?,
            _ => return Err(Error::Model("the decoder graph's tokens are not of the bundle's bottleneck".into())),
        }
        Ok(&self.counts)
    }

    /// The step that the block looks quantised with, where the bottleneck has one.
    pub fn step(&self, header: &BlockHeader, layers: usize) -> Option<f32> {
        match &self.kind {
            Kind::Nested { scale, .. } => Some(effective_step(header.quantiser, *scale, self.depth(header) - layers)),
            Kind::Fixed(_) => None,
        }
    }
}

/// How many layers of a block are whole, at least 1 where there are any, and what is wrong with the next one.
pub(super) fn usable(block: &Block<'_>) -> Result<(usize, Option<String>)> {
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

/// The largest quantiser that blocks of `bundle` may name.
pub(super) fn max_quantiser(bundle: &Bundle) -> u8 {
    match bundle.manifest.bottleneck {
        Bottleneck::Nested { .. } => MAX_QUANTISER,
        Bottleneck::Fsq { .. } | Bottleneck::Vae { .. } => 0,
    }
}

/// Checks a block's quantiser against the largest one.
pub(super) fn check_quantiser(header: &BlockHeader, most: u8) -> Result<()> {
    if header.quantiser > most {
        return Err(Error::Malformed(format!(
            "block: quantiser {} is above the model's largest, {most}; waiting for the next key block",
            header.quantiser
        )));
    }
    Ok(())
}
