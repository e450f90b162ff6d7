// SPDX-License-Identifier: MIT OR Apache-2.0
//! What encoder and decoder both derive from a bundle.

use crate::bitstream::{BlockHeader, SequenceHeader};
use crate::bundle::{Bottleneck, Bundle, Manifest, fingerprint_name};
use crate::entropy::Tables;
use crate::frame::Geometry;
use crate::tokens::fixed::{FixedCoder, FixedKind};
use crate::tokens::{LayerSteps, MAX_NESTED_LAYERS, MAX_QUANTISER, NestedLayout, step};
use crate::{Error, Result};

/// Token layout and tables of a nested bundle.
pub(super) struct Nested {
    pub layout: NestedLayout,
    pub tables: Tables,
    /// Latent units per pixel unit.
    pub scale: f32,
}

impl Nested {
    /// For a stream of up to `layers` layers.
    pub fn new(manifest: &Manifest, tables: &[u8], geometry: &Geometry, layers: usize) -> Result<Self> {
        let Bottleneck::Nested { scale, positions, order } = &manifest.bottleneck else {
            return Err(Error::Model(format!("bundle '{}' has no nested bottleneck", manifest.name)));
        };
        let by_importance: Vec<_> = order.iter().map(|&i| positions[usize::from(i)]).collect();
        let layout = NestedLayout::new(&by_importance, layers, geometry.cells_x, geometry.cells_y)?.with_order(order)?;
        Ok(Self { layout, tables: Tables::parse(tables)?, scale: *scale as f32 })
    }
}

/// The coder of an `fsq` or `vae` bundle's tokens.
pub(super) fn fixed(manifest: &Manifest, geometry: &Geometry) -> Result<FixedCoder> {
    let layers: Vec<usize> = manifest.layers.iter().map(|&b| b as usize).collect();
    FixedCoder::new(FixedKind::new(manifest)?, geometry.cells_x, geometry.cells_y, &layers)
}

/// Whether `bundle` made the stream with this header.
pub(super) fn check_model(bundle: &Bundle, header: &SequenceHeader) -> Result<()> {
    let manifest = &bundle.manifest;
    if bundle.fingerprint != header.fingerprint {
        return Err(Error::Model(format!(
            "the stream was made with model {}, but '{}' is {}; set the decoder's model property to the bundle it was encoded with",
            fingerprint_name(&header.fingerprint),
            bundle.manifest.name,
            fingerprint_name(&bundle.fingerprint)
        )));
    }
    let layers = usize::from(header.layers);
    let layers_fit = match &manifest.bottleneck {
        Bottleneck::Nested { .. } => layers <= MAX_NESTED_LAYERS,
        Bottleneck::Fsq { .. } | Bottleneck::Vae { .. } => layers == manifest.layers.len(),
    };
    if u32::from(header.block_length) != manifest.block_length || header.pixel_format != manifest.pixel_format || !layers_fit {
        return Err(Error::Malformed("the sequence header contradicts the model that it names".into()));
    }
    Ok(())
}

/// The largest quantiser that blocks of `bundle` may name.
pub(super) fn max_quantiser(bundle: &Bundle) -> u8 {
    match bundle.manifest.bottleneck {
        Bottleneck::Nested { .. } => MAX_QUANTISER,
        Bottleneck::Fsq { .. } | Bottleneck::Vae { .. } => 0,
    }
}

/// Checks a block's quantisers against the largest one.
pub(super) fn check_quantiser(header: &BlockHeader, most: u8) -> Result<()> {
    if header.quantiser.max(header.base_quantiser.unwrap_or(0)) > most {
        return Err(Error::Malformed(format!(
            "block: quantiser {} is above the model's largest, {most}; waiting for the next key block",
            header.quantiser.max(header.base_quantiser.unwrap_or(0))
        )));
    }
    Ok(())
}

/// Layers that a block with this header was coded in, of `layers` that the stream has; 0: the header does not fit the stream.
pub(super) fn depth(layers: usize, header: &BlockHeader) -> usize {
    layers.saturating_sub(usize::from(header.left_out))
}

/// What the layers of a nested stream's blocks have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StreamLayers {
    /// L, the most layers of a block.
    pub layers: usize,
    /// Quantiser indices from one layer to the next, where a block does not name others.
    pub ratio: u8,
}

impl StreamLayers {
    pub fn new(header: &SequenceHeader) -> Self {
        Self { layers: header.layers.into(), ratio: header.layer_ratio }
    }

    /// The quantisers of a block of `depth` layers with the finest `quantiser`, and in layer 0 `base` or what the ratio makes it.
    pub fn steps(&self, depth: usize, quantiser: u8, base: Option<u8>) -> LayerSteps {
        match base {
            Some(base) => LayerSteps::new(depth, base, quantiser),
            None => LayerSteps::spaced(depth, self.ratio, quantiser),
        }
    }

    /// The base quantiser that the header of a block with these steps must name.
    pub fn named_base(&self, steps: &LayerSteps) -> Option<u8> {
        let finest = steps.quantiser(steps.depth() - 1);
        (*steps != self.steps(steps.depth(), finest, None)).then(|| steps.quantiser(0))
    }

    /// Those of the block with this header.
    pub fn steps_of(&self, header: &BlockHeader) -> LayerSteps {
        self.steps(depth(self.layers, header), header.quantiser, header.base_quantiser)
    }
}

/// The step of a quantiser in pixel units.
pub(super) fn pixel_step(quantiser: u8, scale: f32) -> f32 {
    step(quantiser) as f32 / scale
}
