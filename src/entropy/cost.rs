// SPDX-License-Identifier: MIT OR Apache-2.0
//! Costs of bits, in 1/256 bit, for encoders' decisions.

use super::model::PROBABILITY_BITS;
use super::{PROBABILITY_ONE, Tables};

/// Costs are in units of 1 / `COST_ONE_BIT` bit.
pub const COST_ONE_BIT: u32 = 256;

const COST_BITS: u32 = 12;

/// `-log2((i + 0.5) / 4096)` in 1/256 bit.
static COSTS: std::sync::LazyLock<Box<[u16; 1 << COST_BITS]>> = std::sync::LazyLock::new(|| {
    let mut costs = Box::new([0; 1 << COST_BITS]);
    for (i, cost) in costs.iter_mut().enumerate() {
        let p = (i as f64 + 0.5) / f64::from(1u32 << COST_BITS);
        *cost = (-p.log2() * f64::from(COST_ONE_BIT)).round() as u16;
    }
    costs
});

/// Cost in 1/256 bit of coding `bit` where a zero has probability `zero` / 2^26.
#[inline]
pub fn bit_cost(zero: u32, bit: bool) -> u32 {
    let p = if bit { PROBABILITY_ONE - zero } else { zero };
    u32::from(COSTS[((p >> (PROBABILITY_BITS - COST_BITS)) as usize) & ((1 << COST_BITS) - 1)])
}

/// Costs of both bits in every context of a table, before any adaptation.
#[derive(Debug, Clone)]
pub struct CostTable {
    costs: Vec<[u16; 2]>,
}

impl CostTable {
    /// The static costs of `tables`.
    pub fn new(tables: &Tables) -> Self {
        let costs = tables.contexts().map(|c| [bit_cost(c.zero(), false) as u16, bit_cost(c.zero(), true) as u16]).collect();
        Self { costs }
    }

    /// Cost of `bit` in `context`, in 1/256 bit.
    #[inline]
    pub fn bit(&self, context: usize, bit: bool) -> u32 {
        u32::from(self.costs[context][usize::from(bit)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_logarithms() {
        assert!(bit_cost(PROBABILITY_ONE / 2, true).abs_diff(256) <= 1);
        assert!(bit_cost(PROBABILITY_ONE / 4, false).abs_diff(512) <= 1);
        assert!(bit_cost(PROBABILITY_ONE - 1, false) <= 1);
    }
}
