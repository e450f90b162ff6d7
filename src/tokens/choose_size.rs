// SPDX-License-Identifier: MIT OR Apache-2.0
//! The encoder's choice of a cell's transform size: by the RDO quantiser's own costs, among the sizes that may be best.

use super::quantise::{Candidate, Decider};
use super::transform::flags;
use super::{NestedLayout, TransformSize};
use crate::entropy::COST_ONE_BIT;

/// Luma coefficients that may get tokens, below which a cell stays with 16x16.
pub(super) const FEW: usize = 4;
/// Bits by which a smaller transform must win: its coefficients are worse neighbours to other cells.
const MARGIN: u32 = 3 * COST_ONE_BIT;
/// Estimated bits of a coefficient, and of each doubling of its magnitude.
const COEFFICIENT_BITS: f32 = 5.0;
const DOUBLING_BITS: f32 = 1.5;
/// By how many bits the estimate of a size may be above that of the best so far for it to be tried.
pub(super) const DOUBT: f32 = 2.0;

/// What was decided on a cell's coefficients.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decision {
    /// In 1/256.
    pub bits: u32,
    /// Squared error, less that of sending nothing, and weighted bits.
    pub total: f32,
    /// Coefficients that are sent.
    pub count: u16,
}

/// A cell, and the transform sizes of those to the left and above.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell {
    pub cell: usize,
    pub left: Option<TransformSize>,
    pub top: Option<TransformSize>,
}

/// A cell's coefficients in one transform size, to be decided on.
pub(super) struct Trial<'a> {
    /// They get the indices that are decided.
    pub candidates: &'a mut [Candidate],
    pub bounds: &'a mut Vec<Bound>,
    /// The total of the best size so far: a decision whose total is not below it may be any such decision.
    pub limit: f32,
}

/// What can still be won from a candidate on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    /// The most that it and those after it can take off the total.
    pub gain: f32,
    /// Bits of the count if it is the last one sent, in 1/256.
    pub count: u32,
    /// Of the candidate: see [`Possible`](super::quantise::Possible).
    pub losses: [f32; 3],
}

/// Working memory of one cell, kept between cells.
#[derive(Debug, Default)]
pub(super) struct Trials {
    bounds: Vec<Bound>,
    /// Candidates of the size that is tried.
    candidates: Vec<Candidate>,
    /// Candidates of the best size so far, as decided.
    pub best: Vec<Candidate>,
    /// Bits of the decision, in 1/256.
    pub bits: u32,
}

impl Trials {
    /// Decides on a cell in each of the sizes that `candidates` has, which is one where the size is `known`.
    pub fn run<'a>(
        &mut self,
        decider: &Decider<'_>,
        of: Cell,
        candidates: impl Iterator<Item = (TransformSize, &'a [Candidate])>,
        known: bool,
        mut decide: impl FnMut(Trial<'_>) -> Decision,
    ) -> (Decision, TransformSize) {
        let lambda = decider.lambda();
        let with_size = |mut decision: Decision, size: TransformSize| {
            if decision.count > 0 && !known && decider.layer.layout.luma.is_some() {
                let [small, smallest] = flags(decider.layer.set(of.cell), of.left, of.top, size);
                let mut bits = decider.costs.bit(small.0, small.1);
                if small.1 {
                    bits += decider.costs.bit(smallest.0, smallest.1);
                    decision.total += lambda * MARGIN as f32;
                }
                decision.bits += bits;
                decision.total += lambda * bits as f32;
            }
            decision
        };
        let mut best = (Decision { bits: 0, total: f32::INFINITY, count: 0 }, TransformSize::Size16);
        self.best.clear();
        for (size, candidates) in candidates {
            self.candidates.clear();
            self.candidates.extend_from_slice(candidates);
            let trial = Trial { candidates: &mut self.candidates, bounds: &mut self.bounds, limit: best.0.total };
            let decision = with_size(decide(trial), size);
            if decision.total < best.0.total {
                best = (decision, size);
                std::mem::swap(&mut self.best, &mut self.candidates);
            }
        }
        self.bits = best.0.bits;
        best
    }
}

pub(super) fn luma<'a>(layout: &'a NestedLayout, candidates: &'a [Candidate]) -> impl Iterator<Item = &'a Candidate> {
    candidates.iter().filter(|one| !layout.chroma[usize::from(one.i)])
}

/// Estimated cost of a cell's luma: weighted squared error, less that of sending nothing, and weighted bits.
pub(super) fn estimate<'a>(decider: &Decider<'_>, cell: usize, luma: impl Iterator<Item = &'a Candidate>) -> f32 {
    let bit = decider.lambda() * COST_ONE_BIT as f32;
    let cost = |one: &Candidate| {
        let (x, k) = (f32::from(one.x.unsigned_abs()), one.k as f32);
        let i = usize::from(one.i);
        let (error, weight) = (x - k * decider.steps[decider.part(cell, i) as usize] as f32, decider.weight(cell, i));
        (weight * (error * error - x * x) + bit * (COEFFICIENT_BITS + DOUBLING_BITS * k.log2())).min(0.0)
    };
    luma.map(cost).sum()
}
