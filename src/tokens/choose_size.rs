// SPDX-License-Identifier: MIT OR Apache-2.0
//! The encoder's choice of a cell's transform size: by the RDO quantiser's own costs, among the sizes that may be best.

use super::layer::ChosenLayer;
use super::quantise::{Candidate, Decider};
use super::transform::{LumaGrid, Plane, flags};
use super::{NestedLayout, TransformSize};
use crate::entropy::COST_ONE_BIT;

/// Luma coefficients that may get tokens, below which a cell stays with 16x16.
const FEW: usize = 4;
/// Bits by which a smaller transform must win: its coefficients are worse neighbours to other cells.
const MARGIN: u32 = 3 * COST_ONE_BIT;
/// Estimated bits of a coefficient, and of each doubling of its magnitude.
const COEFFICIENT_BITS: f32 = 5.0;
const DOUBLING_BITS: f32 = 1.5;
/// By how many bits the estimate of a size may be above that of the best so far for it to be tried.
const DOUBT: f32 = 2.0;

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

/// A cell to be decided on.
#[derive(Debug, Clone, Copy)]
pub(super) struct CellLatents<'a> {
    pub cell: usize,
    /// In the grid of the state, whose rows are `pitch` places apart.
    pub place: usize,
    pub pitch: usize,
    /// Latents of 16x16 in the graph's order, and the candidates among them.
    pub latents: &'a [i16],
    pub candidates: &'a [Candidate],
}

/// A cell's latents in one transform size.
#[derive(Debug, Clone, Copy)]
pub(super) struct SizedLatents<'a> {
    /// Of 16x16 in the graph's order.
    whole: &'a [i16],
    /// Luma of a smaller size.
    small: Option<(&'a LumaGrid, &'a [i16])>,
}

impl SizedLatents<'_> {
    /// The latent of coefficient `i` in token order.
    pub fn get(&self, layout: &NestedLayout, i: usize) -> i16 {
        let small = self.small.and_then(|(grid, latents)| grid.latent(latents, i));
        small.unwrap_or_else(|| self.whole[usize::from(layout.slots[i])])
    }
}

/// Working memory of one cell, kept between cells.
#[derive(Debug, Default)]
pub(super) struct Trials {
    /// Luma of 16x16.
    planes: Vec<Plane>,
    /// Luma and candidates of the size that is tried.
    latents: Vec<i16>,
    candidates: Vec<Candidate>,
    /// Candidates of the best size so far, as decided.
    pub best: Vec<Candidate>,
}

impl Trials {
    /// Decides on a cell whose size is known. Arguments as in [`run`](Self::run).
    pub fn fix(
        &mut self,
        decider: &Decider<'_>,
        size: TransformSize,
        of: CellLatents<'_>,
        mut decide: impl FnMut(SizedLatents<'_>, &mut Vec<Candidate>) -> Decision,
    ) -> Decision {
        let whole = of.latents;
        let Some(grid) = decider.layer.layout.luma.as_ref().filter(|_| size != TransformSize::Size16) else {
            self.best.clear();
            self.best.extend_from_slice(of.candidates);
            return decide(SizedLatents { whole, small: None }, &mut self.best);
        };
        grid.load(whole, &mut self.planes);
        self.transform(decider, grid, size, of, 0);
        std::mem::swap(&mut self.best, &mut self.candidates);
        decide(SizedLatents { whole, small: Some((grid, &self.latents)) }, &mut self.best)
    }

    /// Fills `latents` and `candidates` from `planes`. No latents are asked for of frames without any of magnitude `least` or more.
    fn transform(&mut self, decider: &Decider<'_>, grid: &LumaGrid, size: TransformSize, of: CellLatents<'_>, least: i16) {
        let layout = decider.layer.layout;
        grid.forward(size, &self.planes, least, &mut self.latents);
        self.candidates.clear();
        self.candidates.extend(of.candidates.iter().filter(|one| layout.chroma[usize::from(one.i)]));
        decider.collect_luma(grid, &self.latents, &mut self.candidates);
        self.candidates.sort_unstable_by_key(|one| one.i);
    }

    /// Decides on a cell in every size that may be best. `decide` is given latents and candidates of a size, and sets indices.
    pub fn run(
        &mut self,
        decider: &Decider<'_>,
        of: CellLatents<'_>,
        chosen: &ChosenLayer,
        mut decide: impl FnMut(SizedLatents<'_>, &mut Vec<Candidate>) -> Decision,
    ) -> (Decision, TransformSize) {
        let (layout, lambda) = (decider.layer.layout, decider.lambda());
        self.best.clear();
        self.best.extend_from_slice(of.candidates);
        let (mut best, mut best_size) =
            (decide(SizedLatents { whole: of.latents, small: None }, &mut self.best), TransformSize::Size16);
        let Some(grid) = &layout.luma else {
            return (best, best_size);
        };
        let with_size = |mut decision: Decision, size: TransformSize| {
            if decision.count > 0 {
                let (left, top) = (chosen.sizes[of.place - 1], chosen.sizes[of.place - of.pitch]);
                let [small, smallest] = flags(decider.layer.set(of.cell), left, top, size);
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
        best = with_size(best, best_size);
        if luma(layout, of.candidates).count() < FEW {
            return (best, best_size);
        }
        let (_, least_latent) = decider.limits();
        let mut least = estimate_luma(decider, of.candidates);
        let doubt = DOUBT * lambda * COST_ONE_BIT as f32;
        grid.load(of.latents, &mut self.planes);
        for size in TransformSize::SMALL {
            self.transform(decider, grid, size, of, least_latent);
            let estimate = estimate_luma(decider, &self.candidates);
            if estimate > least + doubt {
                continue;
            }
            least = least.min(estimate);
            let decision = with_size(
                decide(SizedLatents { whole: of.latents, small: Some((grid, &self.latents)) }, &mut self.candidates),
                size,
            );
            if decision.total < best.total {
                (best, best_size) = (decision, size);
                std::mem::swap(&mut self.best, &mut self.candidates);
            }
        }
        (best, best_size)
    }
}

fn luma<'a>(layout: &'a NestedLayout, candidates: &'a [Candidate]) -> impl Iterator<Item = &'a Candidate> {
    candidates.iter().filter(|one| !layout.chroma[usize::from(one.i)])
}

/// Estimated cost of luma: squared error, less that of sending nothing, and weighted bits.
fn estimate_luma(decider: &Decider<'_>, candidates: &[Candidate]) -> f32 {
    let bit = decider.lambda() * COST_ONE_BIT as f32;
    let cost = |one: &Candidate| {
        let (x, k) = (f32::from(one.x.unsigned_abs()), one.k as f32);
        let error = x - k * decider.step as f32;
        (error * error - x * x + bit * (COEFFICIENT_BITS + DOUBLING_BITS * k.log2())).min(0.0)
    };
    luma(decider.layer.layout, candidates).map(cost).sum()
}
