// SPDX-License-Identifier: MIT OR Apache-2.0
//! The RDO quantiser: the quantisation index of each coefficient, and the end of block of each cell, by rate-distortion
//! optimisation.

use super::choose_size::{Decision, Trials};
use super::contexts::{DENSITIES, OUTER, Set, UNARY};
use super::counts;
use super::layer::{ChosenLayer, Layer};
use super::neighbourhood::{BlockState, Neighbourhood};
use super::step::{Reconstruction, span, step};
use crate::entropy::{COST_ONE_BIT, CostTable, Tables};

/// A coefficient below this many steps never gets a token.
const HOPELESS: f32 = 0.6;
/// Lagrangian multiplier in squared steps per bit when [`Rdo::lambda`] is 1.
const LAMBDA: f32 = 0.13;
/// Estimated bits that a coefficient adds to counts and zero flags of lower layers that show it: a fixed part, and a part for
/// each place in the order of tokens; in 1/256 bit.
const COARSE_TOKEN: u32 = 384;
const COARSE_PLACE: u32 = 5;

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

/// Bits and error of a quantised block, all layers received.
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
    /// Bits in the last layer, in lower layers, and of the flag that is not sent for the last token of a cell, in 1/256.
    fine: u32,
    coarse: u32,
    implied: u32,
}

/// Working memory, kept between blocks.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    pub candidates: Vec<Candidate>,
    /// End of each cell's candidates.
    pub ends: Vec<u32>,
    pub trials: Trials,
}

/// Inputs of the decisions.
pub(super) struct Decider<'a> {
    pub layer: Layer<'a>,
    pub groups: &'a [u8],
    pub costs: &'a CostTable,
    pub reconstruction: Reconstruction,
    /// Step of the layer, the last that is decided on, in latent units.
    pub step: i32,
    pub rdo: Rdo,
}

impl<'a> Decider<'a> {
    pub fn new(layer: Layer<'a>, groups: &'a [u8], tables: &Tables, costs: &'a CostTable, quantiser: u8, rdo: &Rdo) -> Self {
        Self {
            reconstruction: Reconstruction::new(tables, layer.depth, layer.index, quantiser),
            step: step(quantiser) * span(layer.depth, layer.index),
            layer,
            groups,
            costs,
            rdo: *rdo,
        }
    }

    /// Number of layers decided on together, from layer 0 on.
    fn layers(&self) -> usize {
        self.layer.index + 1
    }

    /// Quantises all cells into `chosen`; `state` is left cleared.
    pub fn run(
        &self,
        latents: &[i16],
        work: &mut Workspace,
        state: &mut BlockState,
        around: &mut Neighbourhood,
        chosen: &mut ChosenLayer,
    ) -> Estimate {
        let layout = self.layer.layout;
        let c = layout.coefficients;
        let mut estimate = Estimate::default();
        state.clear();
        self.collect(latents, work, state, chosen, &mut estimate);
        let mut first = 0;
        for y in 0..layout.cells_y {
            for x in 0..layout.cells_x {
                let (cell, place) = (y * layout.cells_x + x, state.place(x, y));
                let end = work.ends[cell] as usize;
                let candidates = &work.candidates[first..end];
                first = end;
                let x = &latents[cell * c..(cell + 1) * c];
                let (Decision { bits, count, .. }, size) =
                    work.trials.run(self, cell, place, state.pitch(), x, candidates, chosen, |_, candidates| {
                        self.decide(cell, place, candidates, state, around, chosen)
                    });
                state.counts[self.layer.index][place] = count;
                // where layers are decided on together, lower ones may send what the last leaves as assumed
                let sent = count > 0 || self.layers() > 1 && work.trials.best.iter().any(|one| one.k != 0);
                chosen.sizes[place] = sent.then_some(size);
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

    /// Squared latent units that 1/256 bit is worth.
    pub(super) fn lambda(&self) -> f32 {
        self.rdo.lambda * LAMBDA * (self.step as f32).powi(2) / COST_ONE_BIT as f32
    }

    pub(super) fn value(&self, k: i32, i: usize) -> i32 {
        self.reconstruction.value(k, self.groups[i])
    }

    /// Finds candidates and the counts of the layer before the last, and sums up energies.
    pub(super) fn collect(
        &self,
        latents: &[i16],
        work: &mut Workspace,
        state: &mut BlockState,
        chosen: &mut ChosenLayer,
        estimate: &mut Estimate,
    ) {
        let layout = self.layer.layout;
        let c = layout.coefficients;
        let (inverse, threshold) = self.limits();
        let coarse = self.layers() > 1;
        work.candidates.clear();
        work.ends.clear();
        for (cell, x) in latents.chunks_exact(c).enumerate() {
            let place = state.place(cell % layout.cells_x, cell / layout.cells_x);
            let old = usize::from(std::mem::take(&mut chosen.extents[place]));
            if old > 0 {
                chosen.values[place * c..place * c + old].fill(0);
            }
            let first = work.candidates.len();
            for run in &layout.runs {
                let part = &x[run.range.clone()];
                let sum = if run.chroma { &mut estimate.chroma } else { &mut estimate.luma };
                for (chunk, ranks) in part.chunks(CHUNK).zip(layout.ranks[run.range.clone()].chunks(CHUNK)) {
                    let peak = peak(chunk);
                    *sum += sum_squares(chunk, peak);
                    if peak >= threshold {
                        self.collect_chunk(chunk, ranks, threshold, inverse, &mut work.candidates);
                    }
                }
            }
            let found = &mut work.candidates[first..];
            found.sort_unstable_by_key(|one| one.i);
            if coarse && let Some(last) = found.iter().rfind(|one| one.k >= 3) {
                state.counts[self.layer.index - 1][place] = last.i + 1;
            }
            work.ends.push(work.candidates.len() as u32);
        }
    }

    /// The candidates of one cell's luma, in any order.
    pub(super) fn collect_luma(&self, x: &[i16], candidates: &mut Vec<Candidate>) {
        let layout = self.layer.layout;
        let (inverse, threshold) = self.limits();
        for run in layout.runs.iter().filter(|run| !run.chroma) {
            let (part, ranks) = (&x[run.range.clone()], &layout.ranks[run.range.clone()]);
            self.collect_chunk(part, ranks, threshold, inverse, candidates);
        }
    }

    /// One over the step, and the least latent that may get a token.
    fn limits(&self) -> (f32, i16) {
        (1.0 / self.step as f32, (HOPELESS * self.step as f32).ceil().min(32_767.0) as i16)
    }

    fn collect_chunk(&self, x: &[i16], ranks: &[u16], threshold: i16, inverse: f32, candidates: &mut Vec<Candidate>) {
        for (x, ranks) in x.chunks(BLOCK).zip(ranks.chunks(BLOCK)) {
            if peak(x) < threshold {
                continue;
            }
            for (&v, &i) in x.iter().zip(ranks) {
                if v.saturating_abs() >= threshold {
                    let v = v.max(-i16::MAX);
                    let k = self.limited((f32::from(v.unsigned_abs()) * inverse + 0.5) as i32, usize::from(i));
                    if k > 0 {
                        candidates.push(Candidate { i, x: v, k });
                    }
                }
            }
        }
    }

    /// The nearest magnitude whose tokens from `max_tokens` on are zero or as assumed.
    fn limited(&self, k: i32, i: usize) -> i32 {
        let (layers, c) = (self.layers(), self.layer.layout.coefficients);
        if self.rdo.max_tokens >= layers * c {
            return k;
        }
        let mut m = 0;
        for layer in 0..layers {
            let (low, middle) = if m == 0 { (0, 0) } else { (3 * m, 3 * m + 1) };
            let sent = layer * c + i < self.rdo.max_tokens;
            let most = if layer == 0 { i32::MAX } else { low + 2 };
            m = if sent { (k / span(layers, layer)).clamp(low, most) } else { middle };
        }
        m
    }

    /// Whether coefficient `i` may change from `from` to `to`: tokens below `min_tokens` must stay.
    fn may(&self, i: usize, from: i32, to: i32) -> bool {
        let (layers, c) = (self.layers(), self.layer.layout.coefficients);
        i >= self.rdo.min_tokens
            || (0..layers).all(|l| l * c + i >= self.rdo.min_tokens || from / span(layers, l) == to / span(layers, l))
    }

    /// Bits (1/256) of a magnitude in the layers before the last.
    fn coarse_cost(&self, intra: bool, class: u8, k: i32, i: usize, around: &Neighbourhood) -> u32 {
        let layers = self.layers();
        let (inner, outer) = around.classes(i);
        let coarse_class = around.coarse_class(i);
        let (mut total, mut before) = (0, 0);
        for layer in 0..layers - 1 {
            let (m, set) = (k / span(layers, layer), Set::new(self.layer.depth, layer, intra));
            if before > 0 {
                total += self.refinement_cost(set, class, coarse_class, before, m, true);
            } else if m > 0 {
                // lower layers have less energy than the last
                let seen = (inner.saturating_sub(2) * OUTER + outer.saturating_sub(1)) * DENSITIES;
                total += self.costs.bit(set.zero(class, seen), true) + COST_ONE_BIT;
                total += if layer == 0 {
                    self.magnitude_cost(set, i, around.magnitude_class(i, span(layers, layer)), m)
                } else {
                    self.costs.bit(set.two(class, around.size_class(i)), m > 1)
                };
            }
            before = m;
        }
        total
    }

    /// Bits of a digit that refines `before` to `m`; `flagged`: not the last of its cell.
    pub(super) fn refinement_cost(&self, set: Set, class: u8, coarse_class: usize, before: i32, m: i32, flagged: bool) -> u32 {
        let assumed = 3 * before + 1;
        let mut total = if flagged { self.costs.bit(set.middle(before, class, coarse_class), m != assumed) } else { 0 };
        if m != assumed {
            total += self.costs.bit(set.upper(before, class, coarse_class), m > assumed);
        }
        total
    }

    /// Costs of sending coefficient `i`, |latent| = `x`, as `k`.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "hot: everything is at hand where it is called")]
    fn price(
        &self,
        set: Set,
        intra: bool,
        flag: usize,
        i: usize,
        k: i32,
        x: f32,
        lambda: f32,
        around: &Neighbourhood,
    ) -> PricedIndex {
        let finest = self.layer.index;
        let (mut fine, mut coarse, mut implied) = (self.costs.bit(flag, k != 0), 0, 0);
        if k > 0 {
            let (class, coarse_class) = (self.layer.classes[i], around.coarse_class(i));
            implied = fine;
            if finest > 0 && k >= 3 {
                fine = self.refinement_cost(set, class, coarse_class, k / 3, k, true);
                implied = fine - self.refinement_cost(set, class, coarse_class, k / 3, k, false);
                coarse = COARSE_TOKEN + COARSE_PLACE * i as u32 + self.coarse_cost(intra, class, k, i, around);
            } else if finest > 0 {
                fine += COST_ONE_BIT + self.costs.bit(set.two(class, around.size_class(i)), k > 1);
            } else {
                fine += COST_ONE_BIT + self.magnitude_cost(set, i, around.magnitude_class(i, 1), k);
            }
        }
        let d = x - self.value(k, i) as f32;
        PricedIndex { total: d * d + lambda * (fine + coarse) as f32, k, fine, coarse, implied }
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
        let finest = self.layer.index;
        let (intra, set) = (self.layer.intra(cell), self.layer.set(cell));
        let lambda = self.lambda();
        let context = counts::count_context(state, place, finest, self.layer.hint(cell));
        let empty = counts::count_cost(self.costs, set, context, 0);
        let Some(reach) = candidates.last().map(|one| usize::from(one.i) + 1) else {
            return Decision { bits: empty, total: lambda * empty as f32, count: 0 };
        };
        around.begin(&chosen.values, &chosen.extents, state.pitch(), place, reach, intra);
        let (mut gain, mut bits, mut coarse_bits) = (0.0f32, 0u32, 0u32);
        let mut best = (lambda * empty as f32, 0usize, empty);
        let mut next = 0;
        let mut separate = 0;
        for one in candidates.iter_mut() {
            let i = usize::from(one.i);
            let class = self.layer.classes[i];
            let x = f32::from(one.x.unsigned_abs());
            let rounded = one.k;
            let distance = |k: i32| {
                let d = x - self.value(k, i) as f32;
                d * d
            };
            if finest == 0 && intra && layout.constant[i] {
                separate += 4 * COST_ONE_BIT;
                continue;
            }
            bits += self.silence(set, next..i, around);
            next = i + 1;
            let flag = set.zero(class, around.zero_class(i));
            let option = |k: i32| self.price(set, intra, flag, i, k, x, lambda, around);
            let mut choice = option(rounded);
            for lower in [rounded - 1, 0] {
                if lower < rounded && (lower > 0 || rounded <= 2) && self.may(i, rounded, lower) {
                    let other = option(self.limited(lower, i));
                    if other.total < choice.total {
                        choice = other;
                    }
                }
            }
            let PricedIndex { k, fine, coarse, implied, .. } = choice;
            one.k = k;
            coarse_bits += coarse;
            if k > 0 {
                around.add(layout, i, k);
            }
            let refines = finest > 0 && k >= 3;
            let default = if refines { k / 3 * 3 + 1 } else { 0 };
            let before = gain + lambda * bits as f32;
            gain += distance(k) - distance(default);
            bits += fine;
            if k != default {
                let count = counts::count_cost(self.costs, set, context, one.i + 1);
                let protected = !self.may(i, rounded, default);
                let total = before + distance(k) - distance(default) + lambda * (fine - implied + count) as f32;
                if total < best.0 || protected {
                    best = (total, i + 1, bits - implied + count);
                }
            }
        }
        let (total, count, bits) = best;
        for one in candidates.iter_mut() {
            let i = usize::from(one.i);
            if finest == 0 && intra && layout.constant[i] {
                continue;
            }
            if i >= count {
                // coefficients that lower layers show get the middle digit
                one.k = if finest > 0 && one.k >= 3 { one.k / 3 * 3 + 1 } else { 0 };
            }
        }
        let total = total + lambda * coarse_bits as f32;
        Decision { bits: bits + coarse_bits + separate, total, count: count as u16 }
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
