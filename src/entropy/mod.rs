// SPDX-License-Identifier: MIT OR Apache-2.0
//! Integer-only entropy coding: a binary range coder over adaptive contexts that start from a bundle's static tables.
//!
//! Syntax is written once, generic over [`BitCoder`]: the same code drives the encoder, the decoder, the cost counter and the
//! statistics collector, so they always agree. Nothing that a decoder depends on uses floating point.

mod cost;
mod model;
mod range;
mod tables;

pub use cost::{COST_ONE_BIT, CostTable, bit_cost};
pub use model::{Context, MAX_HISTORY, PROBABILITY_ONE};
pub use range::{RangeDecoder, RangeEncoder};
pub use tables::{ContextInit, HISTORIES, Tables};

/// One side of a binary coder: what the syntax is written against.
pub trait BitCoder {
    /// Whether bits come out of this coder (their argument is ignored) rather than go in.
    const DECODES: bool;

    /// Codes one bit in the entropy context `context` and returns it.
    fn bit(&mut self, context: usize, bit: bool) -> bool;

    /// Codes the low `bits` (0..=16) of `value` without a model, most significant first, and returns them.
    fn bypass(&mut self, value: u32, bits: u32) -> u32;

    /// Codes `value`, one of `total` (1..=65536) equally likely ones, and returns it.
    fn uniform(&mut self, value: u32, total: u32) -> u32;

    /// Whether a decoder has read further beyond its data than any encoder's output makes it.
    fn exhausted(&self) -> bool {
        false
    }
}
