// SPDX-License-Identifier: MIT OR Apache-2.0
//! Segments of nested bundles: motion and quantisation indices.

use super::segments::{SegmentReader, wrong_tokens};
use crate::Result;
use crate::bitstream::{BlockHeader, SequenceHeader};
use crate::bundle::Bundle;
use crate::codec::setup::{Nested, StreamLayers, pixel_step};
use crate::frame::Geometry;
use crate::runtime::TokensMut;
use crate::tokens::{BlockShape, FilledCells, NestedDecoder};

pub(super) struct NestedSegments {
    decoder: NestedDecoder,
    layers: StreamLayers,
    /// Latent units per pixel unit.
    scale: f32,
}

impl NestedSegments {
    pub fn new(bundle: &Bundle, geometry: &Geometry, header: &SequenceHeader) -> Result<Self> {
        let layers = StreamLayers::new(header);
        let Nested { layout, tables, scale } = Nested::new(&bundle.manifest, &bundle.tables, geometry, layers.layers)?;
        Ok(Self { decoder: NestedDecoder::new(&layout, &tables)?, layers, scale })
    }
}

impl SegmentReader for NestedSegments {
    fn layers(&self) -> usize {
        self.layers.layers
    }

    fn read_segment(&mut self, layer: usize, header: &BlockHeader, payload: &[u8]) -> Result<()> {
        let shape = BlockShape { key: header.key, steps: self.layers.steps_of(header) };
        self.decoder.read_segment(layer, shape, payload)
    }

    fn commit(&mut self) {
        self.decoder.commit();
    }

    fn counts(&self, counts: &mut [i32]) {
        self.decoder.counts(counts);
    }

    fn tokens(&self, tokens: TokensMut<'_>, filled: &mut FilledCells, counts: &mut [i32]) -> Result<()> {
        match tokens {
            TokensMut::I32(latents) => self.decoder.dequantise(latents, filled, counts),
            TokensMut::I16(latents) => self.decoder.dequantise(latents, filled, counts),
            TokensMut::F32(_) => Err(wrong_tokens()),
        }
    }

    fn motion(&self) -> Option<&[i32]> {
        Some(self.decoder.motion())
    }

    fn step(&self, header: &BlockHeader) -> Option<f32> {
        let last = self.decoder.layers_read().saturating_sub(1);
        Some(pixel_step(self.layers.steps_of(header).quantiser(last), self.scale))
    }
}
