// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decisions on a layer above 0, when the layers before it are fixed.
//!
//! A coefficient that is not zero in the layer before is assumed to have the value that it has there, but it may have any. Each
//! layer of a drift-free stream has latents of its own: it may have to take back what a receiver of fewer layers needed.

use super::TransformSize;
use super::candidates::{Before, SizedLatents};
use super::choose_size::{Cell, Decision};
use super::contexts::{MORE, Set};
use super::counts;
use super::layer::ChosenLayer;
use super::neighbourhood::{BlockState, Neighbourhood};
use super::quantise::{Candidate, Decider, Estimate, Workspace};
use super::step::{Part, Prediction, Predictions};
use crate::entropy::COST_ONE_BIT;
use crate::pair::Pair;

/// Decides on `decider.layer`, given the layer before.
pub(super) struct Refiner<'a> {
    pub decider: Decider<'a>,
    pub predictions: Predictions,
    /// The layer before.
    pub base: &'a ChosenLayer,
}

/// A coefficient's possible value, its error and its bits.
#[derive(Debug, Clone, Copy)]
struct PricedRefinement {
    k: i32,
    /// Weighted squared error.
    error: f32,
    /// Bits (1/256), and the part that is not sent for the last token of a cell.
    bits: u32,
    implied: u32,
}

impl Refiner<'_> {
    fn place(&self, cell: usize) -> usize {
        let cells_x = self.decider.layer.layout.cells_x;
        (cell / cells_x + 1) * (cells_x + 2) + cell % cells_x + 1
    }
}

impl Before for Refiner<'_> {
    fn size(&self, cell: usize) -> Option<TransformSize> {
        self.base.sizes[self.place(cell)]
    }

    fn add_shown(&self, cell: usize, x: SizedLatents<'_>, candidates: &mut Vec<Candidate>, first: usize) {
        let (layout, place) = (self.decider.layer.layout, self.place(cell));
        let (c, large) = (layout.coefficients, candidates.len());
        let shown = &self.base.values[place * c..place * c + usize::from(self.base.extents[place])];
        let mut next = first;
        for (i, _) in shown.iter().enumerate().filter(|(_, v)| **v != 0) {
            while next < large && usize::from(candidates[next].i) < i {
                next += 1;
            }
            if next == large || usize::from(candidates[next].i) != i {
                candidates.push(Candidate { i: i as u16, x: x.get(layout, i).max(-i16::MAX), k: 0 });
            }
        }
        if candidates.len() > large {
            candidates[first..].sort_unstable_by_key(|one| one.i);
        }
    }
}

impl Refiner<'_> {
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
        let layout = self.decider.layer.layout;
        state.clear();
        chosen.clear(layout.coefficients);
        let Workspace { candidates, trials } = work;
        candidates.find(&self.decider, latents, self, pair);
        let [luma, chroma] = candidates.energies();
        let mut estimate = Estimate { luma, chroma, ..Estimate::default() };
        for (place, &extent) in self.base.extents.iter().enumerate() {
            // the count of the layer before chooses contexts; its extent is close to that count
            state.counts[self.decider.layer.index - 1][place] = extent;
            state.extents[place] = extent;
        }
        for y in 0..layout.cells_y {
            for x in 0..layout.cells_x {
                let (cell, place) = (y * layout.cells_x + x, state.place(x, y));
                let of = Cell { cell, place, pitch: state.pitch() };
                let known = self.base.sizes[place].is_some();
                let decide = |candidates: &mut [Candidate]| self.decide(cell, place, candidates, state, around, chosen);
                let (Decision { bits, count, .. }, size) =
                    trials.run(&self.decider, of, candidates.of(cell), known, chosen, decide);
                state.counts[self.decider.layer.index][place] = count;
                estimate.bits += f64::from(bits) / f64::from(COST_ONE_BIT);
                self.keep(place, &trials.best, chosen, &mut estimate);
                chosen.sizes[place] = self.base.sizes[place].or((count > 0).then_some(size));
            }
        }
        // extents were only set for the choice of contexts
        state.extents.fill(0);
        state.clear();
        estimate
    }

    fn prediction(&self, i: usize) -> Prediction {
        self.predictions.of(self.part(i))
    }

    fn part(&self, i: usize) -> Part {
        self.decider.layer.layout.parts[i]
    }

    fn assumed(&self, place: usize, i: usize) -> i32 {
        i32::from(self.prediction(i).assumed(self.base.values[place * self.decider.layer.layout.coefficients + i]))
    }

    /// Decides on a cell: every candidate gets its signed value.
    fn decide(
        &self,
        cell: usize,
        place: usize,
        candidates: &mut [Candidate],
        state: &BlockState,
        around: &mut Neighbourhood,
        chosen: &ChosenLayer,
    ) -> Decision {
        let Decider { layer, costs, .. } = &self.decider;
        let (layout, set, lambda) = (layer.layout, layer.set(cell), self.decider.lambda());
        let context = counts::count_context(state, place, layer.index, layer.hint(cell));
        let empty = counts::count_cost(costs, set, context, 0);
        let Some(reach) = candidates.last().map(|one| usize::from(one.i) + 1) else {
            return Decision { bits: empty, total: lambda * empty as f32, count: 0 };
        };
        around.begin(&chosen.values, &chosen.extents, state.pitch(), place, reach, layer.intra(cell));
        let (mut gain, mut bits) = (0.0f32, 0u32);
        let mut best = (lambda * empty as f32, 0usize, empty);
        let mut next = 0;
        for one in candidates.iter_mut() {
            let i = usize::from(one.i);
            bits += self.decider.silence(set, next..i, around);
            next = i + 1;
            let assumed = self.assumed(place, i);
            let default = self.weighted_error(i, one.x, assumed);
            let choice = self.choose(set, i, one.x, assumed, lambda, around);
            one.k = choice.k;
            let magnitude = if assumed != 0 { assumed.abs() } else { choice.k.abs() };
            if magnitude > 0 {
                around.add(layout, i, magnitude);
            }
            let before = gain + lambda * bits as f32;
            gain += choice.error - default;
            bits += choice.bits;
            if choice.k != assumed {
                let count = counts::count_cost(costs, set, context, one.i + 1);
                let total = before + choice.error - default + lambda * (choice.bits - choice.implied + count) as f32;
                if total < best.0 || self.protected(i) {
                    best = (total, i + 1, bits - choice.implied + count);
                }
            }
        }
        let (total, count, bits) = best;
        for one in candidates.iter_mut().filter(|one| usize::from(one.i) >= count) {
            one.k = self.assumed(place, usize::from(one.i));
        }
        Decision { bits, total, count: count as u16 }
    }

    fn weighted_error(&self, i: usize, x: i16, k: i32) -> f32 {
        self.decider.weight(i) * self.error(i, x, k)
    }

    /// Squared, in latent units.
    fn error(&self, i: usize, x: i16, k: i32) -> f32 {
        let value = self.decider.value(k.abs(), i) * k.signum();
        (f32::from(x) - value as f32).powi(2)
    }

    fn token(&self, i: usize) -> usize {
        self.decider.layer.index * self.decider.layer.layout.coefficients + i
    }

    fn protected(&self, i: usize) -> bool {
        self.token(i) < self.decider.rdo.min_tokens
    }

    fn choose(&self, set: Set, i: usize, x: i16, assumed: i32, lambda: f32, around: &Neighbourhood) -> PricedRefinement {
        let rounded = {
            let nearest = (f32::from(x.unsigned_abs()) / self.decider.steps[self.part(i) as usize] as f32 + 0.5) as i32;
            nearest * i32::from(x.signum())
        };
        let price = |k: i32| {
            let (bits, implied) = self.bits(set, i, k, assumed, around);
            PricedRefinement { k, error: self.weighted_error(i, x, k), bits, implied }
        };
        if self.protected(i) {
            return price(rounded);
        }
        if self.token(i) >= self.decider.rdo.max_tokens {
            return price(assumed);
        }
        let nearer = rounded + (assumed - rounded).signum();
        let total = |c: &PricedRefinement| c.error + lambda * c.bits as f32;
        let all = [rounded, nearer, assumed].map(price);
        all.into_iter().min_by(|a, b| total(a).total_cmp(&total(b))).unwrap_or(all[2])
    }

    /// Bits (1/256) of a value, and the part that is not sent for the last token of a cell.
    fn bits(&self, set: Set, i: usize, k: i32, assumed: i32, around: &Neighbourhood) -> (u32, u32) {
        let Decider { layer, costs, .. } = &self.decider;
        let (class, coarse_class) = (layer.classes[i], around.coarse_class(i));
        if assumed != 0 {
            let (sign, before) = (assumed.signum(), self.prediction(i).before(assumed));
            let cost =
                |flagged: bool| self.decider.refinement_cost(set, class, coarse_class, before, assumed.abs(), k * sign, flagged);
            let (flagged, bare) = (cost(true), cost(false));
            let size = (k - assumed).unsigned_abs();
            return (flagged + if size > 0 { self.beyond(set, false, size - 1) } else { 0 }, flagged - bare);
        }
        let flag = costs.bit(set.zero(class, around.zero_class(i)), k != 0);
        if k == 0 {
            return (flag, 0);
        }
        let two = costs.bit(set.two(class, around.size_class(i)), k.abs() > 1);
        let size = if k.abs() > 1 { self.beyond(set, true, k.unsigned_abs() - 2) } else { 0 };
        (flag + COST_ONE_BIT + two + size, flag)
    }

    fn beyond(&self, set: Set, new: bool, size: u32) -> u32 {
        let first = set.beyond(new);
        let flags = (0..size.min(MORE as u32 - 1) + 1).map(|n| self.decider.costs.bit(first + n as usize, size > n)).sum::<u32>();
        flags + if size >= MORE as u32 { 2 * COST_ONE_BIT * (size - MORE as u32 + 1).ilog2() } else { 0 }
    }

    /// Writes a cell's values into `chosen`, and their errors.
    fn keep(&self, place: usize, candidates: &[Candidate], chosen: &mut ChosenLayer, estimate: &mut Estimate) {
        let layout = self.decider.layer.layout;
        let mut extent = 0;
        for one in candidates.iter().filter(|one| one.k != 0) {
            let i = usize::from(one.i);
            let (was, error) = (f64::from(one.x).powi(2), f64::from(self.error(i, one.x, one.k)));
            *(if layout.chroma[i] { &mut estimate.chroma } else { &mut estimate.luma }) += error - was;
            chosen.values[place * layout.coefficients + i] = one.k as i16;
            extent = i + 1;
        }
        chosen.extents[place] = extent as u16;
        estimate.coded_cells += usize::from(extent > 0);
    }
}
