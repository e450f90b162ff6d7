// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tokens of nested bundles: quantisation indices of every layer, and motion.

use super::values::{ReadTokens, TokenBlock, TokenValues, WriteTokens};
use crate::bitstream::{BlockHeader, SequenceHeader};
use crate::bundle::Bundle;
use crate::codec::order::BlockOrder;
use crate::codec::setup::{Nested, StreamLayers, depth};
use crate::frame::Geometry;
use crate::tokens::{BlockShape, NestedDecoder, NestedEncoder, TransformSize, motion};
use crate::{Error, Result};

pub(super) struct NestedReader {
    decoder: NestedDecoder,
    layers: StreamLayers,
    order: BlockOrder,
}

impl NestedReader {
    pub fn new(bundle: &Bundle, geometry: &Geometry, header: &SequenceHeader) -> Result<Self> {
        let layers = StreamLayers::new(header);
        let Nested { layout, tables, .. } = Nested::new(&bundle.manifest, &bundle.tables, geometry, layers.layers)?;
        Ok(Self { decoder: NestedDecoder::new(&layout, &tables)?, layers, order: BlockOrder::default() })
    }
}

impl ReadTokens for NestedReader {
    fn read(&mut self, header: &BlockHeader, segments: &[&[u8]]) -> Result<(Vec<i32>, TokenValues)> {
        if self.order.take(header)? {
            self.decoder.commit();
        }
        let shape = BlockShape { key: header.key, steps: self.layers.steps_of(header) };
        let (mut indices, mut layer_counts) = (Vec::new(), Vec::new());
        for (layer, payload) in segments.iter().enumerate() {
            self.decoder.read_segment(layer, shape, payload).inspect_err(|_| self.order.lose())?;
            indices.extend(self.decoder.indices());
            layer_counts.extend(self.decoder.layer_counts().map(i32::from));
        }
        let transform_sizes = self.decoder.sizes().map(TransformSize::number).collect();
        let motion = self.decoder.motion().to_vec();
        let mut counts = vec![0; motion.len() / motion::PLANES];
        self.decoder.counts(&mut counts);
        Ok((counts, TokenValues::Nested { indices, layer_counts, transform_sizes, motion }))
    }
}

pub(super) struct NestedWriter {
    encoder: NestedEncoder,
    layers: StreamLayers,
    cells: usize,
    cells_x: usize,
    /// C, coefficients of a cell.
    coefficients: usize,
    order: BlockOrder,
}

impl NestedWriter {
    pub fn new(bundle: &Bundle, geometry: &Geometry, header: &SequenceHeader) -> Result<Self> {
        let layers = StreamLayers::new(header);
        let Nested { layout, tables, .. } = Nested::new(&bundle.manifest, &bundle.tables, geometry, layers.layers)?;
        let encoder = NestedEncoder::new(&layout, &tables)?;
        Ok(Self {
            encoder,
            layers,
            cells: layout.cells(),
            cells_x: geometry.cells_x,
            coefficients: layout.coefficients(),
            order: BlockOrder::default(),
        })
    }

    fn check_motion(&self, key: bool, planes: &[i32]) -> Result<()> {
        let wrong = |what: &str| Err(Error::Settings(format!("motion: {what}")));
        if planes.len() != motion::PLANES * self.cells {
            return wrong(&format!("{} values; give dy, dx, mode, by and bx of {} cells", planes.len(), self.cells));
        }
        if planes.iter().any(|v| v.unsigned_abs() > motion::MAX_MOTION.unsigned_abs()) {
            return wrong(&format!("a component beyond {}", motion::MAX_MOTION));
        }
        for (cell, &mode) in planes[2 * self.cells..3 * self.cells].iter().enumerate() {
            let moves = [0, 1, 3, 4].iter().any(|plane| planes[plane * self.cells + cell] != 0);
            match mode {
                0 if key => return wrong("the cells of a key block are all intra; set their mode to 1"),
                0 => {}
                1 if moves => return wrong("an intra cell has no vector; set its dy, dx, by and bx to 0"),
                1 => {}
                motion::BLENDED if key || !motion::may_blend(planes, self.cells_x, cell) => {
                    return wrong("a cell is blended only where an inter cell beside it moves differently; set its mode to 0");
                }
                motion::BLENDED => {}
                _ => return wrong(&format!("mode {mode}; 0 is inter, 1 is intra, 2 is inter and blended")),
            }
        }
        Ok(())
    }
}

fn sizes(numbers: &[i32]) -> Result<Vec<TransformSize>> {
    let size = |number: &i32| {
        TransformSize::from_number(*number)
            .ok_or_else(|| Error::Settings(format!("transform size {number}; 0 is 16x16, 1 is 8x8, 2 is 4x4")))
    };
    numbers.iter().map(size).collect()
}

impl WriteTokens for NestedWriter {
    fn write(&mut self, block: &TokenBlock) -> Result<Vec<Vec<u8>>> {
        let header = &block.header;
        let TokenValues::Nested { indices, transform_sizes, motion, .. } = &block.tokens else {
            return Err(Error::Settings(
                "the bundle's tokens are nested; give indices of layers, transform sizes and motion".into(),
            ));
        };
        self.check_motion(header.key, motion)?;
        let (depth, size) = (depth(self.layers.layers, header), self.cells * self.coefficients);
        let layers = indices.len() / size;
        if !(1..=depth).contains(&layers) || indices.len() != layers * size {
            return Err(Error::Settings(format!(
                "{} indices for a block of {depth} layers; give {size} for each layer, from the first on",
                indices.len()
            )));
        }
        if self.order.take(header)? {
            self.encoder.commit();
        }
        self.encoder.begin_block(self.layers.steps_of(header))?;
        self.encoder.load_sizes(&sizes(transform_sizes)?)?;
        let motion = (!header.key).then_some(&motion[..]);
        let mut segments = Vec::with_capacity(layers);
        for (layer, indices) in indices.chunks_exact(size).enumerate() {
            self.encoder.load_layer(layer, indices).inspect_err(|_| self.order.lose())?;
            let mut segment = Vec::new();
            let written = self.encoder.write_segment(layer, motion, &mut segment).inspect_err(|_| self.order.lose());
            written.map_err(|e| match e {
                Error::Malformed(what) => Error::Settings(format!("layer {layer} cannot be coded: {what}")),
                other => other,
            })?;
            segments.push(segment);
        }
        Ok(segments)
    }
}
