// SPDX-License-Identifier: MIT OR Apache-2.0
//! The payload of segments: motion, counts and the indices of the layers' quantisers, or fixed-width tokens. Also the encoder's
//! rate-distortion decisions about them. `docs/bitstream.md` is the specification.

mod above;
mod candidates;
mod choose_size;
mod contexts;
mod counts;
mod decisions;
pub mod fixed;
mod large;
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
pub use nested::{BlockShape, ChosenBlock, FilledCells, NestedDecoder, NestedEncoder};
pub use quantise::{Estimate, Rdo};
pub use step::{BIASES, LayerSteps, MAX_QUANTISER, bias_index, step};
pub use transform::TransformSize;
