// SPDX-License-Identifier: MIT OR Apache-2.0
//! Segments of nested bundles: motion and the digits of quantisation indices.

use super::segments::{SegmentReader, wrong_tokens};
use crate::Result;
use crate::bitstream::BlockHeader;
use crate::bundle::Bundle;
use crate::codec::setup::{Nested, depth, effective_step};
use crate::frame::Geometry;
use crate::runtime::TokensMut;
use crate::tokens::{BlockShape, NestedDecoder};

pub(super) struct NestedSegments {
    decoder: NestedDecoder,
    layers: usize,
    /// Latent units per pixel unit.
    scale: f32,
}

impl NestedSegments {
    pub fn new(bundle: &Bundle, geometry: &Geometry) -> Result<Self> {
        let Nested { layout, tables, layers, scale } = Nested::new(&bundle.manifest, &bundle.tables, geometry)?;
        Ok(Self { decoder: NestedDecoder::new(&layout, &tables)?, layers, scale })
    }
}

impl SegmentReader for NestedSegments {
    fn layers(&self) -> usize {
        self.layers
    }

    fn read_segment(&mut self, layer: usize, header: &BlockHeader, payload: &[u8]) -> Result<()> {
        let shape = BlockShape { key: header.key, depth: depth(self.layers, header) };
        self.decoder.read_segment(layer, shape, payload)
    }

    fn commit(&mut self) {
        self.decoder.commit();
    }

    fn counts(&self, counts: &mut [i32]) {
        self.decoder.counts(counts);
    }

    fn tokens(&self, header: &BlockHeader, tokens: TokensMut<'_>, counts: &mut [i32]) -> Result<()> {
        match tokens {
            TokensMut::I32(latents) => self.decoder.dequantise(header.quantiser, latents, counts),
            TokensMut::I16(latents) => self.decoder.dequantise(header.quantiser, latents, counts),
            TokensMut::F32(_) => Err(wrong_tokens()),
        }
    }

    fn motion(&self) -> Option<&[i32]> {
        Some(self.decoder.motion())
    }

    fn step(&self, header: &BlockHeader) -> Option<f32> {
        let missing = depth(self.layers, header).saturating_sub(self.decoder.layers_read());
        Some(effective_step(header.quantiser, self.scale, missing))
    }
}
