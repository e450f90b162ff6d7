// SPDX-License-Identifier: MIT OR Apache-2.0
//! The codec's state machines: blocks in, packets out, and back.

mod decoder;
mod encoder;
mod quality;
mod setup;

pub use decoder::{DecodedBlock, Decoder, DecoderConfig, DecoderStats};
pub use encoder::{Encoder, EncoderConfig, EncoderStats, Packet};
pub use quality::psnr;

pub use crate::rate::{LiveSettings, RateControl};
pub use crate::timing::FrameTime;

/// How the encoder finds what meets its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SearchMethod {
    /// Decode every candidate and take the cheapest that meets the target: the reference, slow.
    Full,
    /// Bisect, decoding on the way.
    Binary,
    /// Predict from the latents; no decoding but that of the block itself.
    #[default]
    Regression,
}
