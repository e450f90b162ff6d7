// SPDX-License-Identifier: MIT OR Apache-2.0
//! An encoder's settings.

use std::sync::Arc;

use crate::bundle::{Bottleneck, Bundle};
use crate::codec::{LiveSettings, SearchMethod};
use crate::runtime::RuntimeConfig;
use crate::tokens::MAX_NESTED_LAYERS;
use crate::{Error, Result};

/// Layers of nested bundles' streams by default.
pub const DEFAULT_LAYERS: u32 = 4;
/// Ratio of neighbouring layers' steps by default: chosen for each block, so that the rates of neighbouring rungs differ by a factor of
/// about 2.3.
pub const DEFAULT_LAYER_RATIO: f64 = 0.0;
/// Layer ratio that sequence headers have then; a block whose layers are spaced otherwise says so.
const USUAL_LAYER_RATIO: u8 = 7;
/// Ratios of neighbouring layers' steps that there are.
pub const LAYER_RATIOS: std::ops::RangeInclusive<f64> = 1.25..=4.0;

/// How to encode.
#[derive(Debug, Clone)]
pub struct EncoderConfig {
    /// The model.
    pub bundle: Arc<Bundle>,
    /// Where it runs.
    pub runtime: RuntimeConfig,
    /// Picture width in pixels.
    pub width: u32,
    /// Picture height in pixels.
    pub height: u32,
    /// Frames per second as a fraction, (0, 1) = variable.
    pub framerate: (u32, u32),
    /// Width to height of a pixel.
    pub pixel_aspect_ratio: (u32, u32),
    /// Goes into the sequence header; see [`SequenceHeader::colorimetry`](crate::bitstream::SequenceHeader::colorimetry).
    pub colorimetry: [u8; 4],
    /// Goes into the sequence header; see [`SequenceHeader::chroma_site`](crate::bitstream::SequenceHeader::chroma_site).
    pub chroma_site: u8,
    /// Most frames from one key block to the next; 0 = only the first block is key.
    pub key_int_max: u32,
    /// How targets are met.
    pub search: SearchMethod,
    /// Most layers to code a block in: 1 to 5 with nested bundles, where 0 is [`DEFAULT_LAYERS`]; 0 = as many as there are with others.
    /// Blocks whose quantiser is coarse have fewer.
    pub layers: u32,
    /// Ratio of the quantiser steps of neighbouring layers, [`LAYER_RATIOS`], in eighths of an octave; 0: it is chosen for each block, so
    /// that the rates of neighbouring rungs differ by a factor of about 2.3. Nested bundles only.
    pub layer_ratio: f64,
    /// Gives every layer its own reference, so that no receiver of fewer layers drifts. Costs a run of both graphs for each
    /// layer but one, and some bits. Without it only receivers of all layers have the encoder's pictures; the others drift until
    /// the next key block. Nested bundles only.
    pub drift_free: bool,
    /// What may change while coding.
    pub live: LiveSettings,
}

impl EncoderConfig {
    /// L and the layer ratio of the stream, as the sequence header has them.
    pub(super) fn stream_layers(&self) -> Result<(u8, u8)> {
        let manifest = &self.bundle.manifest;
        if !matches!(manifest.bottleneck, Bottleneck::Nested { .. }) {
            return Ok((manifest.layers.len() as u8, 0));
        }
        let layers = if self.layers == 0 { DEFAULT_LAYERS } else { self.layers };
        if layers as usize > MAX_NESTED_LAYERS {
            return Err(Error::Settings(format!("layers {layers} is outside 1 to {MAX_NESTED_LAYERS} for '{}'", manifest.name)));
        }
        if self.layer_ratio == 0.0 {
            return Ok((layers as u8, USUAL_LAYER_RATIO));
        }
        if !LAYER_RATIOS.contains(&self.layer_ratio) {
            let (least, most) = LAYER_RATIOS.into_inner();
            return Err(Error::Settings(format!("layer-ratio {} is neither 0 nor from {least} to {most}", self.layer_ratio)));
        }
        Ok((layers as u8, (8.0 * self.layer_ratio.log2()).round() as u8))
    }
}
