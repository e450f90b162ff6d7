// SPDX-License-Identifier: MIT OR Apache-2.0
//! The payload of segments: motion, counts and the digits of the nested quantiser, or fixed-width tokens. Also the encoder's
//! rate-distortion decisions about them. `docs/bitstream.md` is the specification.

mod choose_size;
mod contexts;
mod counts;
pub mod fixed;
mod layer;
mod layout;
pub mod motion;
mod neighbourhood;
mod nested;
mod quantise;
mod refine;
mod step;
#[cfg(test)]
mod tests;
mod transform;

pub use contexts::{CONTEXTS, describe};
pub use layout::{CLASSES, MAX_NESTED_LAYERS, NestedLayout};
pub use nested::{BlockShape, NestedDecoder, NestedEncoder};
pub use quantise::{Estimate, Rdo};
pub use step::{BIASES, MAX_QUANTISER, bias_index, span, step};
pub use transform::TransformSize;
