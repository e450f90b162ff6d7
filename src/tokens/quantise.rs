// SPDX-License-Identifier: MIT OR Apache-2.0
//! The RDO quantiser of layer 0: the quantisation index of each coefficient, and the end of block of each cell, by
//! rate-distortion optimisation. `refine.rs` has the other layers.

use super::candidates::{Candidates, Nothing};
use super::choose_size::{Cell, Decision, Trials};
use super::contexts::{Set, UNARY};
use super::counts;
use super::layer::{ChosenLayer, Layer, predict_constant};
use super::neighbourhood::{BlockState, Neighbourhood};
use super::step::{Part, Reconstruction};
use super::transform::LumaGrid;
use crate::entropy::{COST_ONE_BIT, CostTable, Tables};
use crate::pair::Pair;

/// A coefficient below this many steps never gets a token.
const HOPELESS: f32 = 0.6;
/// Lagrangian multiplier in squared steps per bit when [`Rdo::lambda`] is 1.
const LAMBDA: f32 = 0.13;
/// Settings of the RDO quantiser.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rdo {
    /// Scale of the Lagrangian multiplier: 1 is tuned for squared error; 0 only rounds.
    pub lambda: f32,
    /// Tokens of a cell with an index below this keep their plainly rounded value.
    pub min_tokens: usize,
    /// Tokens of a cell with an index from this on are not sent.
    pub max_tokens: usize,
}

impl Default for Rdo {
    fn default() -> Self {
        Self { lambda: 1.0, min_tokens: 0, max_tokens: usize::MAX }
    }
}

/// Bits and error of a quantised layer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Estimate {
    /// Bits of counts and digits, without motion.
    pub bits: f64,
    /// Sum of squared errors of luma coefficients, in squared latent units.
    pub luma: f64,
    /// The same of chroma coefficients.
    pub chroma: f64,
    /// Cells with at least one coefficient that is not zero.
    pub coded_cells: usize,
}

/// A coefficient that may get a token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub i: u16,
    /// Latent.
    pub x: i16,
    /// Magnitude: first rounded, then as decided.
    pub k: i32,
}

/// A possible quantisation index of a coefficient, and its costs.
#[derive(Debug, Clone, Copy)]
struct PricedIndex {
    /// Distortion and weighted bits.
    total: f32,
    k: i32,
    /// Bits, and those of the flag that is not sent for the last token of a cell, in 1/256.
    bits: u32,
    implied: u32,
}

/// Working memory, kept between blocks.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    pub candidates: Candidates,
    pub trials: Trials,
}

/// Inputs of the decisions.
pub(super) struct Decider<'a> {
    pub layer: Layer<'a>,
    pub groups: &'a [u8],
    pub costs: &'a CostTable,
    pub reconstruction: Reconstruction,
    /// Steps of the layer's parts in latent units.
    pub steps: [i32; Part::COUNT],
    /// What a squared error of each part counts.
    weights: [f32; Part::COUNT],
    pub rdo: Rdo,
}

impl<'a> Decider<'a> {
    pub fn new(layer: Layer<'a>, groups: &'a [u8], tables: &Tables, costs: &'a CostTable, rdo: &Rdo) -> Self {
        let steps = Part::ALL.map(|part| layer.steps.step_of(layer.index, part));
        // between errors that count alike in number and those that do in steps
        let weights = steps.map(|step| steps[Part::Main as usize] as f32 / step as f32);
        Self {
            reconstruction: Reconstruction::new(tables, layer.steps, layer.index),
            steps,
            weights,
            layer,
            groups,
            costs,
            rdo: *rdo,
        }
    }

    /// Quantises all cells into `chosen`; `state` is left cleared.
    pub fn run(
        &self,
        latents: &[i16],
        work: &mut Workspace,
        pair: &Pair,
        state: &mut BlockState,
        around: &mut Neighbourhood,
        chosen: &mut ChosenLayer,
    ) -> Estimate {
        let layout = self.layer.layout;
        let c = layout.coefficients;
        state.clear();
        chosen.clear(c);
        work.candidates.find(self, latents, &Nothing, pair);
        let [luma, chroma] = work.candidates.energies();
        let mut estimate = Estimate { luma, chroma, ..Estimate::default() };
        for y in 0..layout.cells_y {
            for x in 0..layout.cells_x {
                let (cell, place) = (y * layout.cells_x + x, state.place(x, y));
                let of = Cell { cell, place, pitch: state.pitch() };
                let decide = |candidates: &mut [Candidate]| self.decide(cell, place, candidates, state, around, chosen);
                let (Decision { bits, count, .. }, size) =
                    work.trials.run(self, of, work.candidates.of(cell), false, chosen, decide);
                state.counts[self.layer.index][place] = count;
                chosen.sizes[place] = (count > 0).then_some(size);
                estimate.bits += f64::from(bits) / f64::from(COST_ONE_BIT);
                let mut extent = 0;
                for one in work.trials.best.iter().filter(|one| one.k != 0) {
                    let i = usize::from(one.i);
                    let (was, error) =
                        (f64::from(one.x), f64::from(i32::from(one.x.unsigned_abs() as i16) - self.value(one.k, i)));
                    *(if layout.chroma[i] { &mut estimate.chroma } else { &mut estimate.luma }) += error * error - was * was;
                    chosen.values[place * c + i] = (one.k * i32::from(one.x.signum())) as i16;
                    extent = i + 1;
                }
                chosen.extents[place] = extent as u16;
                estimate.coded_cells += usize::from(extent > 0);
            }
        }
        state.clear();
        estimate
    }

    /// Step of most coefficients in latent units.
    pub(super) fn main_step(&self) -> i32 {
        self.steps[Part::Main as usize]
    }

    /// What a squared error of coefficient `i` counts; 1 for luma and most of chroma.
    pub(super) fn weight(&self, i: usize) -> f32 {
        self.weights[self.layer.layout.parts[i] as usize]
    }

    /// Squared latent units that 1/256 bit is worth.
    pub(super) fn lambda(&self) -> f32 {
        self.rdo.lambda * LAMBDA * (self.main_step() as f32).powi(2) / COST_ONE_BIT as f32
    }

    pub(super) fn value(&self, k: i32, i: usize) -> i32 {
        self.reconstruction.value(k, self.layer.layout.parts[i], self.groups[i])
    }

    /// Adds the candidates of one cell in 16x16, in token order. `x`: its latents. Returns the energies of luma and chroma.
    pub(super) fn collect(&self, x: &[i16], candidates: &mut Vec<Candidate>) -> [f64; 2] {
        let layout = self.layer.layout;
        let (first, mut energies) = (candidates.len(), [0.0; 2]);
        for run in &layout.runs {
            let (inverse, threshold) = self.limits(run.part);
            for (chunk, ranks) in x[run.range.clone()].chunks(CHUNK).zip(layout.ranks[run.range.clone()].chunks(CHUNK)) {
                let peak = peak(chunk);
                energies[usize::from(run.chroma)] += sum_squares(chunk, peak);
                if peak >= threshold {
                    self.collect_chunk(chunk, ranks, threshold, inverse, candidates);
                }
            }
        }
        candidates[first..].sort_unstable_by_key(|one| one.i);
        energies
    }

    /// The candidates of one cell's luma in a small transform size, in any order. `x`: as [`LumaGrid::forward`] left it.
    pub(super) fn collect_luma(&self, grid: &LumaGrid, x: &[i16], candidates: &mut Vec<Candidate>) {
        let (inverse, threshold) = self.limits(Part::Main);
        for (chunk, ranks) in x.chunks(CHUNK).zip(grid.ranks.chunks(CHUNK)) {
            if peak(chunk) >= threshold {
                self.collect_chunk(chunk, ranks, threshold, inverse, candidates);
            }
        }
    }

    /// One over the step, and the least latent that may get a token.
    pub(super) fn limits(&self, part: Part) -> (f32, i16) {
        let step = self.steps[part as usize] as f32;
        (1.0 / step, (HOPELESS * step).ceil().min(32_767.0) as i16)
    }

    fn collect_chunk(&self, x: &[i16], ranks: &[u16], threshold: i16, inverse: f32, candidates: &mut Vec<Candidate>) {
        for (x, ranks) in x.chunks(BLOCK).zip(ranks.chunks(BLOCK)) {
            if peak(x) < threshold {
                continue;
            }
            for (&v, &i) in x.iter().zip(ranks) {
                if v.saturating_abs() >= threshold {
                    let v = v.max(-i16::MAX);
                    let k = (f32::from(v.unsigned_abs()) * inverse + 0.5) as i32;
                    if k > 0 {
                        candidates.push(Candidate { i, x: v, k });
                    }
                }
            }
        }
    }

    /// Whether token `i` of layer 0 may be sent.
    fn sent(&self, i: usize) -> bool {
        i < self.rdo.max_tokens
    }

    /// Whether token `i` of layer 0 must keep its plainly rounded value.
    fn protected(&self, i: usize) -> bool {
        i < self.rdo.min_tokens
    }

    /// Bits of the flags that refine an `assumed` magnitude, which is `before` in the layer before, to `m`; `flagged`: not the last of its cell.
    #[expect(clippy::too_many_arguments, reason = "hot: everything is at hand where it is called")]
    pub(super) fn refinement_cost(
        &self,
        set: Set,
        class: u8,
        coarse_class: usize,
        before: i32,
        assumed: i32,
        m: i32,
        flagged: bool,
    ) -> u32 {
        let mut total = if flagged { self.costs.bit(set.middle(before, class, coarse_class), m != assumed) } else { 0 };
        if m != assumed {
            total += self.costs.bit(set.upper(before, class, coarse_class), m > assumed);
        }
        total
    }

    /// Costs of sending coefficient `i`, |latent| = `x`, as `k`.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "hot: everything is at hand where it is called")]
    fn price(&self, set: Set, flag: usize, i: usize, k: i32, x: f32, lambda: f32, magnitude_class: usize) -> PricedIndex {
        let implied = self.costs.bit(flag, k != 0);
        let bits = implied + if k > 0 { COST_ONE_BIT + self.magnitude_cost(set, i, magnitude_class, k) } else { 0 };
        let d = x - self.value(k, i) as f32;
        PricedIndex { total: self.weight(i) * d * d + lambda * bits as f32, k, bits, implied }
    }

    /// Bits (1/256) of coefficients that stay zero.
    pub(super) fn silence(&self, set: Set, range: std::ops::Range<usize>, around: &Neighbourhood) -> u32 {
        range.map(|i| self.costs.bit(set.zero(self.layer.classes[i], around.zero_class(i)), false)).sum()
    }

    /// Bits of a layer-0 magnitude >= 1.
    fn magnitude_cost(&self, set: Set, i: usize, class: usize, m: i32) -> u32 {
        let chroma = self.layer.layout.chroma[i];
        let unary = |j: i32| self.costs.bit(set.larger(chroma, class, j as usize - 1), m > j);
        let unary = (1..=m.min(UNARY as i32)).map(unary).sum::<u32>();
        unary + if m > UNARY as i32 { 2 * COST_ONE_BIT * (m - UNARY as i32 + 1).ilog2() } else { 0 }
    }

    /// Decides on a constant term of an intra cell; returns its bits (1/256).
    fn decide_constant(&self, one: &mut Candidate, set: Set, place: usize, pitch: usize, chosen: &ChosenLayer) -> u32 {
        let (i, layer) = (usize::from(one.i), self.layer);
        let value = |p: usize| i32::from(chosen.values[p * layer.layout.coefficients + i]);
        let (prediction, contexts) = predict_constant(layer, set, pitch, place, i, value);
        let sign = if one.x < 0 { -1 } else { 1 };
        let price = |k: i32| {
            let difference = (sign * k - prediction).unsigned_abs();
            let mut bits = self.costs.bit(contexts, difference != 0);
            if difference > 0 {
                bits += COST_ONE_BIT + self.escape_cost(contexts + 1, difference - 1);
            }
            let d = f32::from(one.x.unsigned_abs()) - self.value(k, i) as f32;
            (self.weight(i) * d * d + self.lambda() * bits as f32, k, bits)
        };
        let exact = price(one.k);
        if self.protected(i) {
            return exact.2;
        }
        let nearer = price((sign * prediction).clamp(one.k - 1, one.k + 1).max(0));
        let (_, k, bits) = if nearer.0 < exact.0 { nearer } else { exact };
        one.k = k;
        bits
    }

    /// Bits (1/256) of an escape.
    fn escape_cost(&self, contexts: usize, value: u32) -> u32 {
        let size = (value + 1).ilog2();
        (0..=size).map(|n| self.costs.bit(contexts + n as usize, n < size)).sum::<u32>() + size * COST_ONE_BIT
    }

    /// Decides on a cell's candidates.
    fn decide(
        &self,
        cell: usize,
        place: usize,
        candidates: &mut [Candidate],
        state: &BlockState,
        around: &mut Neighbourhood,
        chosen: &ChosenLayer,
    ) -> Decision {
        let layout = self.layer.layout;
        let (intra, set) = (self.layer.intra(cell), self.layer.set(cell));
        let lambda = self.lambda();
        let context = counts::count_context(state, place, 0, self.layer.hint(cell));
        let empty = counts::count_cost(self.costs, set, context, 0);
        let Some(reach) = candidates.last().map(|one| usize::from(one.i) + 1) else {
            return Decision { bits: empty, total: lambda * empty as f32, count: 0 };
        };
        around.begin(&chosen.values, &chosen.extents, state.pitch(), place, reach, intra);
        let separate = |i: usize| intra && layout.constant[i];
        let (mut gain, mut bits, mut constants) = (0.0f32, 0u32, 0u32);
        let mut best = (lambda * empty as f32, 0usize, empty);
        let mut next = 0;
        for one in candidates.iter_mut() {
            let i = usize::from(one.i);
            if !self.sent(i) {
                one.k = 0;
                continue;
            }
            if separate(i) {
                constants += self.decide_constant(one, set, place, state.pitch(), chosen);
                continue;
            }
            bits += self.silence(set, next..i, around);
            next = i + 1;
            let (x, rounded) = (f32::from(one.x.unsigned_abs()), one.k);
            let flag = set.zero(self.layer.classes[i], around.zero_class(i));
            let magnitude_class = around.magnitude_class(i);
            let option = |k: i32| self.price(set, flag, i, k, x, lambda, magnitude_class);
            let mut choice = option(rounded);
            if !self.protected(i) {
                for lower in [rounded - 1, 0] {
                    if lower < rounded && (lower > 0 || rounded <= 2) {
                        let other = option(lower);
                        if other.total < choice.total {
                            choice = other;
                        }
                    }
                }
            }
            let PricedIndex { k, bits: own, implied, .. } = choice;
            one.k = k;
            let before = gain + lambda * bits as f32;
            bits += own;
            if k > 0 {
                around.add(layout, i, k);
                let d = x - self.value(k, i) as f32;
                let saved = self.weight(i) * (d * d - x * x);
                gain += saved;
                let count = counts::count_cost(self.costs, set, context, one.i + 1);
                let total = before + saved + lambda * (own - implied + count) as f32;
                if total < best.0 || self.protected(i) {
                    best = (total, i + 1, bits - implied + count);
                }
            }
        }
        let (total, count, bits) = best;
        for one in candidates.iter_mut().filter(|one| usize::from(one.i) >= count && !separate(usize::from(one.i))) {
            one.k = 0;
        }
        Decision { bits: bits + constants, total, count: count as u16 }
    }
}

/// Latents that are examined together.
const CHUNK: usize = 64;
/// The same, where some of them are large.
const BLOCK: usize = 8;

// As functions of their own these are vectorised; inlined into the loop above they are not.

/// Largest magnitude, at most 32767.
#[inline(never)]
fn peak(x: &[i16]) -> i16 {
    let (low, high) = x.iter().fold((0i16, 0i16), |(low, high), &v| (low.min(v), high.max(v)));
    high.max(low.saturating_neg())
}

/// Sum of squares of at most [`CHUNK`] latents whose largest magnitude is `peak`.
fn sum_squares(x: &[i16], peak: i16) -> f64 {
    #[inline(never)]
    fn small(x: &[i16]) -> i32 {
        x.iter().map(|&v| i32::from(v) * i32::from(v)).sum()
    }
    debug_assert!(x.len() <= CHUNK);
    // 64 * 2^24 fits
    if peak < 4096 { f64::from(small(x)) } else { x.iter().map(|&v| f64::from(v) * f64::from(v)).sum() }
}
