// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decisions on a layer above 0, when the layers before it are fixed.
//!
//! A coefficient that is not zero in the layer before is assumed to have the value that it has there, but it may have any. Each
//! layer of a drift-free stream has latents of its own: it may have to take back what a receiver of fewer layers needed.

use super::TransformSize;
use super::candidates::{Before, SizedLatents};
use super::choose_size::{Decision, Trial};
use super::contexts::{MORE, Set};
use super::counts::{self, CountContext};
use super::decisions::Rule;
use super::layer::ChosenLayer;
use super::neighbourhood::{Around, Neighbourhood};
use super::quantise::{Candidate, Decider, Possible, SLACK, bound};
use super::step::{Part, Prediction, Predictions};
use crate::entropy::COST_ONE_BIT;

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
    /// Weighted squared error in latent units, and what the next layer pays.
    loss: f32,
    /// Bits (1/256), and the part that is not sent for the last token of a cell.
    bits: u32,
    implied: u32,
}

impl Refiner<'_> {
    fn place(&self, cell: usize) -> usize {
        self.decider.layer.layout.place(cell)
    }
}

impl Before for Refiner<'_> {
    fn size(&self, cell: usize) -> Option<TransformSize> {
        self.base.sizes[self.place(cell)]
    }

    fn add_shown(&self, cell: usize, x: SizedLatents<'_>, candidates: &mut Vec<Candidate>, first: usize) -> bool {
        let (layout, place) = (self.decider.layer.layout, self.place(cell));
        let (c, large) = (layout.coefficients, candidates.len());
        let shown = &self.base.values[place * c..place * c + usize::from(self.base.extents[place])];
        let mut next = first;
        for (i, _) in shown.iter().enumerate().filter(|(_, v)| **v != 0) {
            while next < large && usize::from(candidates[next].i) < i {
                next += 1;
            }
            if next == large || usize::from(candidates[next].i) != i {
                candidates.push(Candidate { i: i as u16, x: x.get(layout, i).max(-i16::MAX), above: 0, k: 0 });
            }
        }
        candidates.len() > large
    }
}

impl Refiner<'_> {
    fn prediction(&self, cell: usize, i: usize) -> Prediction {
        self.predictions.of(self.part(cell, i))
    }

    fn part(&self, cell: usize, i: usize) -> Part {
        self.decider.part(cell, i)
    }

    fn assumed(&self, cell: usize, i: usize) -> i32 {
        let place = self.place(cell);
        i32::from(self.prediction(cell, i).assumed(self.base.values[place * self.decider.layer.layout.coefficients + i]))
    }

    /// The index nearest to a latent, and the one next to it on the side of the one that is assumed.
    fn nearest(&self, cell: usize, i: usize, x: i16, assumed: i32) -> (i32, i32) {
        let nearest = (f32::from(x.unsigned_abs()) / self.decider.steps[self.part(cell, i) as usize] as f32 + 0.5) as i32;
        let rounded = nearest * i32::from(x.signum());
        (rounded, rounded + (assumed - rounded).signum())
    }

    /// Squared, in latent units.
    fn error(&self, cell: usize, i: usize, x: i16, k: i32) -> f32 {
        let value = self.decider.value(k.abs(), self.part(cell, i), i) * k.signum();
        (f32::from(x) - value as f32).powi(2)
    }

    /// Weighted squared error of a candidate with the index `k`, and what the next layer pays for it.
    fn loss(&self, cell: usize, one: &Candidate, k: i32) -> f32 {
        let i = usize::from(one.i);
        self.decider.weight(cell, i) * self.error(cell, i, one.x, k) + self.decider.cost_above(cell, one, k)
    }

    fn token(&self, i: usize) -> usize {
        self.decider.layer.index * self.decider.layer.layout.coefficients + i
    }

    fn protected(&self, i: usize) -> bool {
        self.token(i) < self.decider.rdo.min_tokens
    }

    /// The best index for a candidate. `losses`: as in [`Possible`].
    fn choose(
        &self,
        cell: usize,
        one: &Candidate,
        assumed: i32,
        losses: [f32; 3],
        lambda: f32,
        around: &Neighbourhood,
    ) -> PricedRefinement {
        let (i, set) = (usize::from(one.i), self.decider.layer.set(cell));
        let (rounded, nearer) = self.nearest(cell, i, one.x, assumed);
        let [of_assumed, of_rounded, of_nearer] = losses;
        let price = |k: i32, loss: f32| {
            let (bits, implied) = self.bits(cell, set, i, k, assumed, around);
            PricedRefinement { k, loss, bits, implied }
        };
        if self.protected(i) {
            return price(rounded, of_rounded);
        }
        if self.token(i) >= self.decider.rdo.max_tokens {
            return price(assumed, of_assumed);
        }
        let total = |c: &PricedRefinement| c.loss + lambda * c.bits as f32;
        let mut best = price(rounded, of_rounded);
        for (k, before, loss) in [(nearer, rounded, of_nearer), (assumed, nearer, of_assumed)] {
            if k != before {
                let other = price(k, loss);
                if total(&other) < total(&best) {
                    best = other;
                }
            }
        }
        best
    }

    /// Bits (1/256) of a value, and the part that is not sent for the last token of a cell.
    fn bits(&self, cell: usize, set: Set, i: usize, k: i32, assumed: i32, around: &Neighbourhood) -> (u32, u32) {
        let Decider { layer, costs, .. } = &self.decider;
        let (class, coarse_class) = (layer.classes[i], around.coarse_class(i));
        if assumed != 0 {
            let (sign, before) = (assumed.signum(), self.prediction(cell, i).before(assumed));
            let flag = costs.bit(set.middle(before, class, coarse_class), k != assumed);
            if k == assumed {
                return (flag, flag);
            }
            let side = costs.bit(set.upper(before, class, coarse_class), k * sign > assumed.abs());
            return (flag + side + self.beyond(set, false, (k - assumed).unsigned_abs() - 1), flag);
        }
        let flag = costs.bit(set.zero(around.zero_flag(i)), k != 0);
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
}

impl Rule for Refiner<'_> {
    fn decider(&self) -> &Decider<'_> {
        &self.decider
    }

    fn hint(&self, cell: usize) -> usize {
        // The count of the layer before chooses contexts; its extent is close to that count.
        let (extents, place) = (&self.base.extents, self.place(cell));
        let below = place + self.decider.layer.layout.cells_x + 2;
        counts::hint(extents[place], extents[place + 1], extents[below], extents[place] > 0)
    }

    /// Every candidate gets its signed value.
    fn decide(
        &self,
        cell: usize,
        context: CountContext,
        trial: Trial<'_>,
        of: Around<'_>,
        around: &mut Neighbourhood,
    ) -> Decision {
        let Trial { candidates, bounds, limit } = trial;
        let Decider { layer, costs, .. } = &self.decider;
        let (layout, set, lambda) = (layer.layout, layer.set(cell), self.decider.lambda());
        let empty = counts::count_cost(costs, set, context, 0);
        if candidates.is_empty() {
            return Decision { bits: empty, total: lambda * empty as f32, count: 0 };
        }
        around.again();
        let intra = layer.intra(cell);
        let all = bound(bounds, candidates.iter().rev(), |one| {
            let i = usize::from(one.i);
            let assumed = self.assumed(cell, i);
            let (rounded, nearer) = self.nearest(cell, i, one.x, assumed);
            let least = |last: bool| if assumed == 0 { lambda * self.decider.least_bits(intra, i, last) as f32 } else { 0.0 };
            Possible {
                losses: [assumed, rounded, nearer].map(|k| self.loss(cell, one, k)),
                least: least(false),
                least_last: least(true),
                count: counts::count_cost(costs, set, context, one.i + 1),
                lambda,
            }
        });
        let (mut gain, mut bits) = (0.0f32, 0u32);
        let mut best = (lambda * empty as f32, 0usize, empty);
        let mut next = 0;
        for (one, bound) in candidates.iter_mut().zip(bounds.iter().rev()) {
            let i = usize::from(one.i);
            let so_far = gain + lambda * bits as f32;
            let slack = SLACK * (all + gain.abs() + lambda * bits as f32);
            if !self.protected(i) && so_far - bound.gain - slack > best.0.min(limit) {
                break;
            }
            around.reach(of, i + 1);
            bits += self.decider.silence(set, next..i, around);
            next = i + 1;
            let assumed = self.assumed(cell, i);
            let default = bound.losses[0];
            let choice = self.choose(cell, one, assumed, bound.losses, lambda, around);
            one.k = choice.k;
            let magnitude = if assumed != 0 { assumed.abs() } else { choice.k.abs() };
            if magnitude > 0 {
                around.add(layout, i, magnitude);
            }
            let before = gain + lambda * bits as f32;
            gain += choice.loss - default;
            bits += choice.bits;
            if choice.k != assumed {
                let total = before + choice.loss - default + lambda * (choice.bits - choice.implied + bound.count) as f32;
                if total < best.0 || self.protected(i) {
                    best = (total, i + 1, bits - choice.implied + bound.count);
                }
            }
        }
        let (total, count, bits) = best;
        for one in candidates.iter_mut().filter(|one| usize::from(one.i) >= count) {
            one.k = self.assumed(cell, usize::from(one.i));
        }
        Decision { bits, total, count: count as u16 }
    }

    fn index(&self, one: &Candidate) -> i16 {
        one.k as i16
    }

    fn error(&self, cell: usize, one: &Candidate) -> f64 {
        f64::from(Refiner::error(self, cell, one.i.into(), one.x, one.k)) - f64::from(one.x).powi(2)
    }
}
