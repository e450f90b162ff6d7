// SPDX-License-Identifier: MIT OR Apache-2.0
//! What encoder and decoder both derive from a bundle.

use crate::bitstream::{BlockHeader, SequenceHeader};
use crate::bundle::{Bottleneck, Bundle, Manifest, fingerprint_name};
use crate::entropy::Tables;
use crate::frame::Geometry;
use crate::tokens::fixed::{FixedCoder, FixedKind};
use crate::tokens::{MAX_QUANTISER, NestedLayout, step};
use crate::{Error, Result};

/// Token layout and tables of a nested bundle.
pub(super) struct Nested {
    pub layout: NestedLayout,
    pub tables: Tables,
    pub layers: usize,
    /// Latent units per pixel unit.
    pub scale: f32,
}

impl Nested {
    pub fn new(manifest: &Manifest, tables: &[u8], geometry: &Geometry) -> Result<Self> {
        let Bottleneck::Nested { layers, scale, positions, order } = &manifest.bottleneck else {
            return Err(Error::Model(format!("bundle '{}' has no nested bottleneck", manifest.name)));
        };
        let layers = *layers as usize;
        let by_importance: Vec<_> = order.iter().map(|&i| positions[usize::from(i)]).collect();
        let layout = NestedLayout::new(&by_importance, layers, geometry.cells_x, geometry.cells_y)?.with_order(order)?;
        Ok(Self { layout, tables: Tables::parse(tables)?, layers, scale: *scale as f32 })
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
    if u32::from(header.block_length) != manifest.block_length || header.pixel_format != manifest.pixel_format {
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

/// Layers that a block with this header was coded in, of `layers` that the bundle has; 0: the header does not fit the bundle.
pub(super) fn depth(layers: usize, header: &BlockHeader) -> usize {
    layers.saturating_sub(usize::from(header.left_out))
}

/// The step, in pixel units, that a block looks quantised with when its upper `missing` layers are not there: a codec with
/// that step would have sent the same.
pub(super) fn effective_step(quantiser: u8, scale: f32, missing: usize) -> f32 {
    step(quantiser) as f32 / scale * 3f32.powi(missing as i32)
}
