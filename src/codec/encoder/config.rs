// SPDX-License-Identifier: MIT OR Apache-2.0
//! An encoder's settings.

use std::sync::Arc;

use crate::bundle::Bundle;
use crate::codec::{LiveSettings, SearchMethod};
use crate::runtime::RuntimeConfig;

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
    /// Most layers to code a block in; 0 = as many as the bundle has.
    pub layers: u32,
    /// Gives every layer its own reference, so that no receiver of fewer layers drifts. Costs a run of both graphs for each
    /// layer but one, and some bits. Nested bundles only.
    pub drift_free: bool,
    /// What may change while coding.
    pub live: LiveSettings,
}
