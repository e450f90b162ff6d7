// SPDX-License-Identifier: MIT OR Apache-2.0
//! The RDO quantiser of layer 0: the quantisation index of each coefficient, and the end of block of each cell, by
//! rate-distortion optimisation. `refine.rs` has the other layers.

use super::above::{Above, OWN_BITS};
use super::candidates::{Before, SizedLatents};
use super::choose_size::{Bound, Decision, Trial};
use super::contexts::{DENSITIES, INNER, OUTER, Set, UNARY};
use super::counts::{self, CountContext};
use super::decisions::Rule;
use super::large::{CHUNK, large, large_and_squares};
use super::layer::{Layer, predict_constant};
use super::layout::CLASSES;
use super::neighbourhood::{Around, Neighbourhood};
use super::step::{Part, Reconstruction};
use super::transform::{LumaGrid, TransformSize};
use crate::entropy::{COST_ONE_BIT, CostTable, Tables};

/// A coefficient below this many steps never gets a token.
const HOPELESS: f32 = 0.6;
/// Lagrangian multiplier in squared steps per bit when [`Rdo::lambda`] is 1.
pub(super) const LAMBDA: f32 = 0.1;
/// By how much more errors of chroma count where quantisers are coarse, since small coloured things turn grey there; and between which
/// quantisers it rises to that.
const CHROMA_MORE: f32 = 0.5;
const CHROMA_RISES: [f32; 2] = [56.0, 72.0];

/// What a squared error of chroma counts with a quantiser, where one of luma counts 1.
fn chroma_weight(quantiser: u8) -> f32 {
    let [from, to] = CHROMA_RISES;
    1.0 + CHROMA_MORE * ((f32::from(quantiser) - from) / (to - from)).clamp(0.0, 1.0)
}

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
    /// Latent, here and in the next layer where that counts.
    pub x: i16,
    pub above: i16,
    /// Magnitude: first rounded, then as decided.
    pub k: i32,
}

/// A possible quantisation index of a coefficient, and its costs.
#[derive(Debug, Clone, Copy)]
struct PricedIndex {
    /// Distortion, with what the next layer pays, and weighted bits.
    total: f32,
    /// The former alone.
    loss: f32,
    k: i32,
    /// Bits, and those of the flag that is not sent for the last token of a cell, in 1/256.
    bits: u32,
    implied: u32,
}

/// Inputs of the decisions.
pub(super) struct Decider<'a> {
    pub layer: Layer<'a>,
    pub groups: &'a [u8],
    pub costs: &'a CostTable,
    pub reconstruction: Reconstruction,
    /// Steps of the layer's parts in latent units.
    pub steps: [i32; Part::COUNT],
    /// One over them, and the least latents that may get a token.
    limits: [(f32, i16); Part::COUNT],
    /// What a squared error of luma and of chroma counts, by part.
    weights: [[f32; 2]; Part::COUNT],
    /// What errors of each cell count besides.
    cells: &'a [f32],
    pub rdo: Rdo,
    /// The next layer, where it has latents of its own.
    pub above: Option<Above<'a>>,
    /// Least bits (1/256) of the flag of a coefficient that is not zero, by class, of inter and of intra cells.
    least_flags: [[u32; CLASSES]; 2],
}

impl<'a> Decider<'a> {
    /// `cells`: what errors of each cell count.
    pub fn new(layer: Layer<'a>, groups: &'a [u8], cells: &'a [f32], tables: &Tables, costs: &'a CostTable, rdo: &Rdo) -> Self {
        let steps = Part::ALL.map(|part| layer.steps.step_of(layer.index, part));
        let chroma = chroma_weight(layer.steps.quantiser(layer.index));
        // between errors that count alike in number and those that do in steps
        let weights = steps.map(|step| steps[Part::Main as usize] as f32 / step as f32).map(|weight| [weight, weight * chroma]);
        Self {
            reconstruction: Reconstruction::new(tables, layer.steps, layer.index),
            limits: steps.map(|step| (1.0 / step as f32, (HOPELESS * step as f32).ceil().min(32_767.0) as i16)),
            steps,
            weights,
            cells,
            layer,
            groups,
            costs,
            rdo: *rdo,
            above: None,
            least_flags: [false, true].map(|intra| least_flags(costs, Set::new(layer.index, intra))),
        }
    }

    /// With the next layer, where that has latents of its own.
    pub fn under(self, above: Option<Above<'a>>) -> Self {
        Self { above, ..self }
    }

    /// Step of most coefficients in latent units.
    pub(super) fn main_step(&self) -> i32 {
        self.steps[Part::Main as usize]
    }

    /// What a squared error of coefficient `i` of a cell counts; 1 for luma, where nothing is plain.
    pub(super) fn weight(&self, cell: usize, i: usize) -> f32 {
        let layout = self.layer.layout;
        self.cells[cell] * self.weights[self.part(cell, i) as usize][usize::from(layout.chroma[i])]
    }

    /// Squared latent units that 1/256 bit is worth.
    pub(super) fn lambda(&self) -> f32 {
        let weight = if self.above.is_some() { OWN_BITS } else { 1.0 };
        weight * self.rdo.lambda * LAMBDA * (self.main_step() as f32).powi(2) / COST_ONE_BIT as f32
    }

    /// What the next layer pays if a candidate gets the signed index `k` here.
    pub(super) fn cost_above(&self, cell: usize, one: &Candidate, k: i32) -> f32 {
        let part = self.part(cell, one.i.into());
        self.above.as_ref().map_or(0.0, |above| above.cost(part, self.cells[cell], one.above, k))
    }

    /// Weighted squared error of a candidate with magnitude `k`, and what the next layer pays for it.
    fn loss(&self, cell: usize, one: &Candidate, k: i32) -> f32 {
        let i = usize::from(one.i);
        let d = f32::from(one.x.unsigned_abs()) - self.value(k, self.part(cell, i), i) as f32;
        self.weight(cell, i) * d * d + self.cost_above(cell, one, k * i32::from(one.x.signum()))
    }

    /// The part that coefficient `i` of a cell belongs to.
    pub(super) fn part(&self, cell: usize, i: usize) -> Part {
        self.layer.parts(cell)[i]
    }

    pub(super) fn value(&self, k: i32, part: Part, i: usize) -> i32 {
        self.reconstruction.value(k, part, self.groups[i])
    }

    /// Adds the candidates of one cell in 16x16, in any order. `x`: its latents. Returns the energies of luma and chroma.
    pub(super) fn collect(&self, cell: usize, x: &[i16], candidates: &mut Vec<Candidate>) -> [f64; 2] {
        let layout = self.layer.layout;
        let mut energies = [0.0; 2];
        let parts = self.layer.parts(cell);
        for run in &layout.runs {
            let least = if run.chroma { self.least_of(Part::ChromaConstant) } else { self.least_luma(cell) };
            let part = &x[run.range.clone()];
            for (chunk, ranks) in part.chunks(CHUNK).zip(layout.ranks[run.range.clone()].chunks(CHUNK)) {
                let (found, squares) = large_and_squares(chunk, least);
                energies[usize::from(run.chroma)] += squares;
                self.collect_chunk(parts, chunk, ranks, found, candidates);
            }
        }
        energies
    }

    /// The least latent that may get a token among those of a constant term's part and the main one.
    fn least_of(&self, constant: Part) -> i16 {
        self.least(Part::Main).min(self.least(constant))
    }

    /// The same for luma of a cell.
    fn least_luma(&self, cell: usize) -> i16 {
        if self.layer.intra(cell) { self.least_of(Part::LumaConstant) } else { self.least(Part::Main) }
    }

    /// The candidates of one cell's luma in a small transform size, in any order. `x`: as [`LumaGrid::forward`] left it.
    pub(super) fn collect_luma(&self, cell: usize, grid: &LumaGrid, x: &[i16], candidates: &mut Vec<Candidate>) {
        let (parts, least) = (self.layer.parts(cell), self.least_luma(cell));
        for (chunk, ranks) in x.chunks(CHUNK).zip(grid.ranks.chunks(CHUNK)) {
            self.collect_chunk(parts, chunk, ranks, large(chunk, least), candidates);
        }
    }

    /// Adds those latents of a chunk, of coefficients of `parts` by token order, whose bits are set and that may get a token.
    #[inline]
    fn collect_chunk(&self, parts: &[Part], x: &[i16], ranks: &[u16], mut found: u64, candidates: &mut Vec<Candidate>) {
        while found != 0 {
            let n = found.trailing_zeros() as usize;
            found &= found - 1;
            let (v, i) = (x[n].max(-i16::MAX), ranks[n]);
            let (inverse, least) = self.limits[parts[usize::from(i)] as usize];
            if v.abs() >= least {
                candidates.push(Candidate { i, x: v, above: 0, k: (f32::from(v.unsigned_abs()) * inverse + 0.5) as i32 });
            }
        }
    }

    /// The least latent of a part that may get a token.
    pub(super) fn least(&self, part: Part) -> i16 {
        self.limits[part as usize].1
    }

    /// Whether token `i` of layer 0 may be sent.
    fn sent(&self, i: usize) -> bool {
        i < self.rdo.max_tokens
    }

    /// Whether token `i` of layer 0 must keep its plainly rounded value.
    fn protected(&self, i: usize) -> bool {
        i < self.rdo.min_tokens
    }

    /// Costs of sending coefficient `i` as `k`, with the loss that this leaves.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "hot: everything is at hand where it is called")]
    fn price(&self, set: Set, flag: usize, i: usize, k: i32, loss: f32, lambda: f32, magnitude_class: usize) -> PricedIndex {
        let implied = self.costs.bit(flag, k != 0);
        let bits = implied + if k > 0 { COST_ONE_BIT + self.magnitude_cost(set, i, magnitude_class, k) } else { 0 };
        PricedIndex { total: loss + lambda * bits as f32, loss, k, bits, implied }
    }

    /// Bits (1/256) of coefficients that stay zero.
    pub(super) fn silence(&self, set: Set, range: std::ops::Range<usize>, around: &Neighbourhood) -> u32 {
        around.zero_flags(range).map(|flag| self.costs.bit(set.zero(flag), false)).sum()
    }

    /// Least bits (1/256) of a coefficient that is not zero: its sign, and its flag unless it is the last one.
    pub(super) fn least_bits(&self, intra: bool, i: usize, last: bool) -> u32 {
        COST_ONE_BIT + if last { 0 } else { self.least_flags[usize::from(intra)][usize::from(self.layer.classes[i])] }
    }

    /// Bits of a layer-0 magnitude >= 1.
    fn magnitude_cost(&self, set: Set, i: usize, class: usize, m: i32) -> u32 {
        let chroma = self.layer.layout.chroma[i];
        let unary = |j: i32| self.costs.bit(set.larger(chroma, class, j as usize - 1), m > j);
        let unary = (1..=m.min(UNARY as i32)).map(unary).sum::<u32>();
        unary + if m > UNARY as i32 { 2 * COST_ONE_BIT * (m - UNARY as i32 + 1).ilog2() } else { 0 }
    }

    /// Decides on a constant term of an intra cell; returns its bits (1/256).
    fn decide_constant(&self, one: &mut Candidate, set: Set, cell: usize, of: Around<'_>) -> u32 {
        let i = usize::from(one.i);
        let (prediction, contexts) = predict_constant(self.layer, set, cell, i, |n| i32::from(of.values[n][i]));
        let sign = if one.x < 0 { -1 } else { 1 };
        let price = |k: i32| {
            let difference = (sign * k - prediction).unsigned_abs();
            let mut bits = self.costs.bit(contexts, difference != 0);
            if difference > 0 {
                bits += COST_ONE_BIT + self.escape_cost(contexts + 1, difference - 1);
            }
            (self.loss(cell, one, k) + self.lambda() * bits as f32, k, bits)
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
}

impl Before for Decider<'_> {
    fn size(&self, _: usize) -> Option<TransformSize> {
        None
    }

    fn add_shown(&self, _: usize, _: SizedLatents<'_>, _: &mut Vec<Candidate>, _: usize) -> bool {
        false
    }
}

impl Rule for Decider<'_> {
    fn decider(&self) -> &Decider<'_> {
        self
    }

    fn hint(&self, cell: usize) -> usize {
        self.layer.hint(cell)
    }

    fn decide(
        &self,
        cell: usize,
        context: CountContext,
        trial: Trial<'_>,
        of: Around<'_>,
        around: &mut Neighbourhood,
    ) -> Decision {
        let Trial { candidates, bounds, limit } = trial;
        let layout = self.layer.layout;
        let (intra, set) = (self.layer.intra(cell), self.layer.set(cell));
        let lambda = self.lambda();
        let empty = counts::count_cost(self.costs, set, context, 0);
        if candidates.is_empty() {
            return Decision { bits: empty, total: lambda * empty as f32, count: 0 };
        }
        around.again();
        let separate = |i: usize| intra && layout.constant[i];
        let all = bound(bounds, candidates.iter().rev(), |one| Possible {
            losses: [0, one.k, one.k - 1].map(|k| self.loss(cell, one, k)),
            least: lambda * self.least_bits(intra, one.i.into(), false) as f32,
            least_last: lambda * self.least_bits(intra, one.i.into(), true) as f32,
            count: counts::count_cost(self.costs, set, context, one.i + 1),
            lambda,
        });
        let (mut gain, mut bits, mut constants) = (0.0f32, 0u32, 0u32);
        let mut best = (lambda * empty as f32, 0usize, empty);
        let (mut next, mut over) = (0, false);
        for (one, bound) in candidates.iter_mut().zip(bounds.iter().rev()) {
            let i = usize::from(one.i);
            if !self.sent(i) {
                one.k = 0;
                continue;
            }
            if separate(i) {
                constants += self.decide_constant(one, set, cell, of);
                continue;
            }
            let so_far = gain + lambda * bits as f32;
            over |=
                !self.protected(i) && so_far - bound.gain - SLACK * (all + gain.abs() + lambda * bits as f32) > best.0.min(limit);
            if over {
                continue;
            }
            around.reach(of, i + 1);
            bits += self.silence(set, next..i, around);
            next = i + 1;
            let rounded = one.k;
            let flag = set.zero(around.zero_flag(i));
            let magnitude_class = around.magnitude_class(i);
            let [of_none, of_rounded, of_lower] = bound.losses;
            let option = |k: i32, loss: f32| self.price(set, flag, i, k, loss, lambda, magnitude_class);
            let mut choice = option(rounded, of_rounded);
            if !self.protected(i) {
                for (lower, loss) in [(rounded - 1, of_lower), (0, of_none)] {
                    if lower < rounded && (lower > 0 || rounded <= 2) {
                        let other = option(lower, loss);
                        if other.total < choice.total {
                            choice = other;
                        }
                    }
                }
            }
            let PricedIndex { k, loss, bits: own, implied, .. } = choice;
            one.k = k;
            let before = gain + lambda * bits as f32;
            bits += own;
            if k > 0 {
                around.add(layout, i, k);
                let saved = loss - of_none;
                gain += saved;
                let total = before + saved + lambda * (own - implied + bound.count) as f32;
                if total < best.0 || self.protected(i) {
                    best = (total, i + 1, bits - implied + bound.count);
                }
            }
        }
        let (total, count, bits) = best;
        for one in candidates.iter_mut().filter(|one| usize::from(one.i) >= count && !separate(usize::from(one.i))) {
            one.k = 0;
        }
        Decision { bits: bits + constants, total, count: count as u16 }
    }

    fn index(&self, one: &Candidate) -> i16 {
        (one.k * i32::from(one.x.signum())) as i16
    }

    fn error(&self, cell: usize, one: &Candidate) -> f64 {
        let was = i32::from(one.x.unsigned_abs() as i16);
        let error = f64::from(was - self.value(one.k, self.part(cell, one.i.into()), one.i.into()));
        error * error - f64::from(was) * f64::from(was)
    }
}

/// Share of the terms of a bound by which rounding may make it wrong, and more.
pub(super) const SLACK: f32 = 1e-4;

/// What sending a candidate can change.
pub(super) struct Possible {
    /// Weighted squared error, and what the next layer pays, if nothing is sent, with the nearest index, and with the one next to that.
    pub losses: [f32; 3],
    /// Least cost of its bits, and that if it is the last one sent, without the count.
    pub least: f32,
    pub least_last: f32,
    /// Bits (1/256) of the count in that case.
    pub count: u32,
    pub lambda: f32,
}

/// Finds the bounds of candidates that come from the last to the first. Returns the sum of what they can save, the scale of rounding errors.
pub(super) fn bound<'a>(
    bounds: &mut Vec<Bound>,
    candidates: impl Iterator<Item = &'a Candidate>,
    possible: impl Fn(&Candidate) -> Possible,
) -> f32 {
    bounds.clear();
    let (mut after, mut all) = (f32::NEG_INFINITY, 0.0);
    for one in candidates {
        let Possible { losses, least, least_last, count, lambda } = possible(one);
        let gain = losses[0] - losses[1].min(losses[2]);
        after = (gain - least_last - lambda * count as f32).max((gain - least).max(0.0) + after);
        all += gain.max(0.0);
        bounds.push(Bound { gain: after, count, losses });
    }
    all
}

/// Least bits (1/256) of flags that say that a coefficient is not zero, by class.
fn least_flags(costs: &CostTable, set: Set) -> [u32; CLASSES] {
    const EACH: usize = INNER * OUTER * DENSITIES;
    std::array::from_fn(|class| (class * EACH..(class + 1) * EACH).map(|flag| costs.bit(set.zero(flag), true)).min().unwrap_or(0))
}
