// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rate-distortion optimised quantisation: which k each coefficient gets, and where each cell's tokens end.

use super::contexts::Set;
use super::counts;
use super::field::{Field, Surroundings};
use super::level::{Level, Target};
use super::step::{Reconstruction, span, step};
use crate::entropy::{COST_ONE_BIT, CostTable};

/// Below this many steps a coefficient is never worth a token.
const HOPELESS: f32 = 0.6;
/// Lagrangian multiplier in squared steps per bit when [`Rdo::lambda`] is 1.
const LAMBDA: f32 = 0.165;

/// What an encoder prefers.
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

/// What a quantised block costs and how far it is from its latents, all levels received.
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

/// A coefficient that might be worth a token.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    i: u16,
    /// Latent.
    x: i16,
    /// Magnitude by plain rounding, then as decided.
    k: i32,
}

/// Working memory, kept between blocks.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    candidates: Vec<Candidate>,
    /// End of each cell's candidates.
    ends: Vec<u32>,
}

/// What the decisions need to know.
pub(super) struct Decider<'a> {
    pub level: Level<'a>,
    pub groups: &'a [u8],
    pub costs: &'a CostTable,
    pub reconstruction: Reconstruction,
    pub quantiser: u8,
    pub rdo: Rdo,
}

impl Decider<'_> {
    /// Quantises all cells into `target`; `field` is left cleared.
    pub fn run(
        &self,
        latents: &[i16],
        work: &mut Workspace,
        field: &mut Field,
        around: &mut Surroundings,
        target: &mut Target,
    ) -> Estimate {
        let layout = self.level.layout;
        let c = layout.coefficients;
        let mut estimate = Estimate::default();
        field.clear();
        self.collect(latents, work, field, target, &mut estimate);
        let mut first = 0;
        for y in 0..layout.cells_y {
            for x in 0..layout.cells_x {
                let (cell, place) = (y * layout.cells_x + x, field.place(x, y));
                let end = work.ends[cell] as usize;
                let candidates = &mut work.candidates[first..end];
                first = end;
                let cost = self.decide(cell, place, candidates, field, around, target);
                estimate.bits += f64::from(cost) / f64::from(COST_ONE_BIT);
                let mut extent = 0;
                for one in candidates.iter().filter(|one| one.k != 0) {
                    let i = usize::from(one.i);
                    let (was, error) =
                        (f64::from(one.x), f64::from(i32::from(one.x.unsigned_abs() as i16) - self.value(one.k, i)));
                    *(if layout.chroma[i] { &mut estimate.chroma } else { &mut estimate.luma }) += error * error - was * was;
                    target.values[place * c + i] = (one.k * i32::from(one.x.signum())) as i16;
                    extent = i + 1;
                }
                target.extents[place] = extent as u16;
                estimate.coded_cells += usize::from(extent > 0);
            }
        }
        field.clear();
        estimate
    }

    fn value(&self, k: i32, i: usize) -> i32 {
        self.reconstruction.value(k, self.groups[i])
    }

    /// Finds candidates and the counts of the level before the finest, and sums up energies.
    fn collect(&self, latents: &[i16], work: &mut Workspace, field: &mut Field, target: &mut Target, estimate: &mut Estimate) {
        let layout = self.level.layout;
        let c = layout.coefficients;
        let step = step(self.quantiser);
        let (inverse, threshold) = (1.0 / step as f32, (HOPELESS * step as f32).ceil().min(32_767.0) as i16);
        let coarse = layout.levels > 1;
        work.candidates.clear();
        work.ends.clear();
        for (cell, x) in latents.chunks_exact(c).enumerate() {
            let place = field.place(cell % layout.cells_x, cell / layout.cells_x);
            let old = usize::from(std::mem::take(&mut target.extents[place]));
            if old > 0 {
                target.values[place * c..place * c + old].fill(0);
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
                field.counts[layout.levels - 2][place] = last.i + 1;
            }
            work.ends.push(work.candidates.len() as u32);
        }
    }

    fn collect_chunk(&self, x: &[i16], ranks: &[u16], threshold: i16, inverse: f32, candidates: &mut Vec<Candidate>) {
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

    /// The nearest magnitude whose tokens from `max_tokens` on say nothing.
    fn limited(&self, k: i32, i: usize) -> i32 {
        let (levels, c) = (self.level.layout.levels, self.level.layout.coefficients);
        let mut m = 0;
        for level in 0..levels {
            let (low, middle) = if m == 0 { (0, 0) } else { (3 * m, 3 * m + 1) };
            let sent = level * c + i < self.rdo.max_tokens;
            let most = if level == 0 { i32::MAX } else { low + 2 };
            m = if sent { (k / span(levels, level)).clamp(low, most) } else { middle };
        }
        m
    }

    /// Whether coefficient `i` may go from `from` to `to`: tokens below `min_tokens` must stay.
    fn may(&self, i: usize, from: i32, to: i32) -> bool {
        let (levels, c) = (self.level.layout.levels, self.level.layout.coefficients);
        (0..levels).all(|l| l * c + i >= self.rdo.min_tokens || from / span(levels, l) == to / span(levels, l))
    }

    /// Bits (1/256) of what levels before the finest say about a magnitude that they can see.
    fn coarse_cost(&self, intra: bool, class: u8, k: i32, i: usize, around: &Surroundings) -> u32 {
        let levels = self.level.layout.levels;
        let (inner, outer) = around.classes(i);
        let energy = around.coarse_class(i);
        let (mut total, mut before) = (0, 0);
        for level in 0..levels - 1 {
            let (m, set) = (k / span(levels, level), Set::new(level, intra));
            if before > 0 {
                total += self.refinement_cost(set, class, energy, before, m, true);
            } else if m > 0 {
                // coarser levels see less energy than the finest
                let classes = (inner.saturating_sub(2), outer.saturating_sub(1));
                total += self.costs.bit(set.zero(class, classes, 0), true) + COST_ONE_BIT;
                total += if level == 0 {
                    (1..=m.min(12)).map(|j| self.costs.bit(set.larger(energy, j as usize - 1), m > j)).sum::<u32>()
                        + if m > 12 { 2 * COST_ONE_BIT * (m - 11).ilog2() } else { 0 }
                } else {
                    self.costs.bit(set.two(class, energy), m > 1)
                };
            }
            before = m;
        }
        total
    }

    /// Bits of a digit that refines `before` to `m`; `flagged`: not the last of its cell.
    fn refinement_cost(&self, set: Set, class: u8, energy: usize, before: i32, m: i32, flagged: bool) -> u32 {
        let assumed = 3 * before + 1;
        let mut total = if flagged { self.costs.bit(set.middle(before, class, energy), m != assumed) } else { 0 };
        if m != assumed {
            total += self.costs.bit(set.upper(before, class, energy), m > assumed);
        }
        total
    }

    /// Decides on a cell; returns its bits in 1/256. `field` learns what the cell says.
    fn decide(
        &self,
        cell: usize,
        place: usize,
        candidates: &mut [Candidate],
        field: &mut Field,
        around: &mut Surroundings,
        target: &Target,
    ) -> u32 {
        let layout = self.level.layout;
        let finest = layout.levels - 1;
        let intra = self.level.intra(cell);
        let set = Set::new(finest, intra);
        let step = step(self.quantiser) as f32;
        let lambda = self.rdo.lambda * LAMBDA * step * step / COST_ONE_BIT as f32;
        let context = counts::context(field, place, finest, self.level.hint(cell));
        let empty = counts::cost(self.costs, set, context, 0);
        let Some(reach) = candidates.last().map(|one| usize::from(one.i) + 1) else { return empty };
        around.begin(&target.values, &target.extents, field.pitch(), place, reach);
        let (mut gain, mut bits, mut coarse_bits) = (0.0f32, 0u32, 0u32);
        let mut best = (lambda * empty as f32, 0usize, empty);
        let mut next = 0;
        let mut separate = 0;
        for one in candidates.iter_mut() {
            let i = usize::from(one.i);
            let class = self.level.classes[i];
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
            for skipped in next..i {
                let flag = set.zero(self.level.classes[skipped], around.classes(skipped), around.crowd(intra));
                bits += self.costs.bit(flag, false);
            }
            next = i + 1;
            let energy = around.coarse_class(i);
            let flag = set.zero(class, around.classes(i), around.crowd(intra));
            // (cost, k, fine bits, coarse bits, bits of the flag)
            let price = |k: i32| {
                let before = if finest > 0 { k / 3 } else { 0 };
                let (fine, coarse, implied) = if before > 0 {
                    let all = self.refinement_cost(set, class, energy, before, k, true);
                    let last = self.refinement_cost(set, class, energy, before, k, false);
                    (all, self.coarse_cost(intra, class, k, i, around), all - last)
                } else if k == 0 {
                    (self.costs.bit(flag, false), 0, 0)
                } else {
                    let size = if finest == 0 {
                        (1..=k.min(12)).map(|j| self.costs.bit(set.larger(energy, j as usize - 1), k > j)).sum::<u32>()
                            + if k > 12 { 2 * COST_ONE_BIT * (k - 11).ilog2() } else { 0 }
                    } else {
                        self.costs.bit(set.two(class, energy), k > 1)
                    };
                    let implied = self.costs.bit(flag, true);
                    (implied + COST_ONE_BIT + size, 0, implied)
                };
                (distance(k) + lambda * (fine + coarse) as f32, k, fine, coarse, implied)
            };
            let mut choice = price(rounded);
            for lower in [rounded - 1, 0] {
                if lower >= 0 && lower < rounded && (lower > 0 || rounded <= 2) && self.may(i, rounded, lower) {
                    let lower = self.limited(lower, i);
                    let other = price(lower);
                    if other.0 < choice.0 {
                        choice = other;
                    }
                }
            }
            let (_, k, fine, coarse, implied) = choice;
            one.k = k;
            coarse_bits += coarse;
            if k > 0 {
                around.hear(layout, i, k);
            }
            let loud = finest > 0 && k >= 3;
            let default = if loud { k / 3 * 3 + 1 } else { 0 };
            let before = gain + lambda * bits as f32;
            gain += distance(k) - distance(default);
            bits += fine;
            if k != default {
                let count = counts::cost(self.costs, set, context, one.i + 1);
                let protected = !self.may(i, rounded, default);
                let total = before + distance(k) - distance(default) + lambda * (fine - implied + count) as f32;
                if total < best.0 || protected {
                    best = (total, i + 1, bits - implied + count);
                }
            }
        }
        let (_, count, bits) = best;
        for one in candidates.iter_mut() {
            let i = usize::from(one.i);
            if finest == 0 && intra && layout.constant[i] {
                continue;
            }
            if i >= count {
                // what coarser levels show gets the middle digit
                one.k = if finest > 0 && one.k >= 3 { one.k / 3 * 3 + 1 } else { 0 };
            }
        }
        field.counts[finest][place] = count as u16;
        bits + coarse_bits + separate
    }
}

/// Latents looked at together.
const CHUNK: usize = 64;

// Compiled on their own these become vector code; inlined into the loop above they do not.

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
