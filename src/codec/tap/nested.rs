// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tokens of nested bundles: quantisation indices of every layer, and motion.

use super::TokenValues;
use crate::bitstream::BlockHeader;
use crate::codec::setup::Nested;
use crate::tokens::{NestedDecoder, NestedEncoder, Shape, motion};
use crate::{Error, Result};

/// Layers that a block with this header was coded in, of at most `levels`.
fn depth(levels: usize, header: &BlockHeader) -> usize {
    levels.saturating_sub(usize::from(header.left_out))
}

pub(super) struct NestedReader {
    decoder: NestedDecoder,
    levels: usize,
}

impl NestedReader {
    pub fn new(nested: &Nested) -> Result<Self> {
        Ok(Self { decoder: NestedDecoder::new(&nested.layout, &nested.tables)?, levels: nested.levels })
    }

    /// Counts and tokens of a block's segments, of which there is one at least.
    pub fn read(&mut self, header: &BlockHeader, segments: &[&[u8]]) -> Result<(Vec<i32>, TokenValues)> {
        let shape = Shape { key: header.key, depth: depth(self.levels, header) };
        let (mut indices, mut layer_counts) = (Vec::new(), Vec::new());
        for (level, payload) in segments.iter().enumerate() {
            self.decoder.read_segment(level, shape, payload)?;
            indices.extend(self.decoder.indices());
            layer_counts.extend(self.decoder.level_counts().map(i32::from));
        }
        let motion = self.decoder.motion().to_vec();
        let mut counts = vec![0; motion.len() / 3];
        self.decoder.counts(&mut counts);
        Ok((counts, TokenValues::Nested { indices, layer_counts, motion }))
    }
}

pub(super) struct NestedWriter {
    encoder: NestedEncoder,
    levels: usize,
    cells: usize,
    /// C, coefficients of a cell.
    coefficients: usize,
}

impl NestedWriter {
    pub fn new(nested: &Nested) -> Result<Self> {
        let Nested { layout, tables, levels, .. } = nested;
        let encoder = NestedEncoder::new(layout, tables)?;
        Ok(Self { encoder, levels: *levels, cells: layout.cells(), coefficients: layout.coefficients() })
    }

    /// The segments of a block with these tokens.
    pub fn write(&mut self, header: &BlockHeader, indices: &[i16], motion: &[i32]) -> Result<Vec<Vec<u8>>> {
        self.check_motion(header.key, motion)?;
        let (depth, layer) = (depth(self.levels, header), self.cells * self.coefficients);
        let layers = indices.len() / layer;
        if !(1..=depth).contains(&layers) || indices.len() != layers * layer {
            return Err(Error::Settings(format!(
                "{} indices for a block of {depth} layers; give {layer} for each layer, from the first on",
                indices.len()
            )));
        }
        self.encoder.begin_block(depth, header.quantiser)?;
        let motion = (!header.key).then_some(motion);
        let mut segments = Vec::with_capacity(layers);
        for (level, indices) in indices.chunks_exact(layer).enumerate() {
            self.encoder.load_layer(level, indices)?;
            let mut segment = Vec::new();
            self.encoder.write_segment(level, motion, &mut segment).map_err(|e| match e {
                Error::Malformed(what) => Error::Settings(format!("layer {level} cannot be coded: {what}")),
                other => other,
            })?;
            segments.push(segment);
        }
        Ok(segments)
    }

    fn check_motion(&self, key: bool, planes: &[i32]) -> Result<()> {
        let wrong = |what: &str| Err(Error::Settings(format!("motion: {what}")));
        if planes.len() != 3 * self.cells {
            return wrong(&format!("{} values; give dy, dx and mode of {} cells", planes.len(), self.cells));
        }
        let (vectors, modes) = planes.split_at(2 * self.cells);
        if vectors.iter().any(|v| v.unsigned_abs() > motion::MAX_MOTION.unsigned_abs()) {
            return wrong(&format!("a component beyond {} quarter pixels", motion::MAX_MOTION));
        }
        for (cell, &mode) in modes.iter().enumerate() {
            let moves = vectors[cell] != 0 || vectors[self.cells + cell] != 0;
            match mode {
                0 if key => return wrong("the cells of a key block are all intra; set their mode to 1"),
                0 => {}
                1 if moves => return wrong("an intra cell has no vector; set its dy and dx to 0"),
                1 => {}
                _ => return wrong(&format!("mode {mode}; 0 is inter, 1 is intra")),
            }
        }
        Ok(())
    }
}
