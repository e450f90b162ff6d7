// SPDX-License-Identifier: MIT OR Apache-2.0
//! The payload of segments: motion, counts and the digits of the nested quantiser, or fixed-width tokens. Also the encoder's
//! rate-distortion decisions about them. Identifiers here call a layer of a nested bundle a level. `docs/bitstream.md` is the
//! specification.

mod contexts;
mod counts;
mod field;
pub mod fixed;
mod layout;
mod level;
pub mod motion;
mod nested;
mod quantise;
mod refine;
mod step;
#[cfg(test)]
mod tests;

pub use contexts::{CONTEXTS, describe};
pub use layout::{CLASSES, MAX_LEVELS, NestedLayout};
pub use nested::{NestedDecoder, NestedEncoder, Shape};
pub use quantise::{Estimate, Rdo};
pub use step::{BIASES, MAX_QUANTISER, bias_index, span, step};
