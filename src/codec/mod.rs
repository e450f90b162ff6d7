// SPDX-License-Identifier: MIT OR Apache-2.0
//! Encoder and decoder: frames to packets and back.

mod counts;
mod decoder;
pub(crate) mod encoder;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod layer_rates;
mod loss;
mod order;
mod quality;
mod setup;
mod tap;

pub use counts::{BlockCounts, CountReader};
pub use decoder::{DecodedBlock, Decoder, DecoderConfig, DecoderStats, GraphAhead};
pub use encoder::{DEFAULT_LAYER_RATIO, DEFAULT_LAYERS, Encoder, EncoderConfig, EncoderStats, LAYER_RATIOS, Load, Packet};
pub use quality::psnr;
pub use tap::{TokenBlock, TokenReader, TokenShape, TokenValues, TokenWriter};

pub use crate::bitstream::FrameTime;
pub use crate::rate::{LiveSettings, RateControl};

use crate::bundle::{Bottleneck, Manifest};

/// How the encoder finds the tokens that meet its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SearchMethod {
    /// Decode every candidate and take the cheapest that meets the target. Slow; a reference for the others.
    Full,
    /// Bisect, decoding each candidate.
    Binary,
    /// Predict from the latents, and decode the chosen block only. `fsq` and `vae` bundles need `has_distortion`.
    #[default]
    Regression,
}

impl SearchMethod {
    /// The fastest method that a bundle offers.
    pub fn best_for(manifest: &Manifest) -> Self {
        match manifest.bottleneck {
            Bottleneck::Nested { .. } => Self::Regression,
            _ if manifest.has_distortion => Self::Regression,
            _ => Self::Binary,
        }
    }
}
