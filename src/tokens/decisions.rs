// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decisions on all cells of a layer, in the order of coding: a cell's contexts depend on the cells to the left and above.

use super::candidates::{Before, Candidates};
use super::choose_size::{Cell, Decision, Trial, Trials};
use super::counts::{CountContext, count_context};
use super::layer::ChosenLayer;
use super::neighbourhood::{Around, Neighbourhood};
use super::quantise::{Candidate, Decider, Estimate};
use super::{NestedLayout, TransformSize};
use crate::entropy::COST_ONE_BIT;
use crate::pair::Pair;

/// How a layer's cells are decided on.
pub(super) trait Rule: Before {
    fn decider(&self) -> &Decider<'_>;

    /// The part of a count's context that does not depend on the layer's own counts.
    fn hint(&self, cell: usize) -> usize;

    /// Decides on a cell in one transform size.
    fn decide(
        &self,
        cell: usize,
        context: CountContext,
        trial: Trial<'_>,
        of: Around<'_>,
        around: &mut Neighbourhood,
    ) -> Decision;

    /// The signed quantisation index of a candidate that was decided on.
    fn index(&self, one: &Candidate) -> i16;

    /// Its squared error, less that of sending nothing.
    fn error(&self, cell: usize, one: &Candidate) -> f64;
}

/// Working memory, kept between blocks.
#[derive(Debug)]
pub(super) struct Workspace {
    candidates: Candidates,
    decisions: Decisions,
}

#[derive(Debug)]
struct Decisions {
    around: Neighbourhood,
    trials: Trials,
    /// Tokens of each cell, by place.
    counts: Vec<u16>,
}

impl Workspace {
    pub fn new(layout: &NestedLayout, classes: &[u8]) -> Self {
        let decisions = Decisions {
            around: Neighbourhood::new(layout, classes),
            trials: Trials::default(),
            counts: vec![0; (layout.cells_x + 2) * (layout.cells_y + 2)],
        };
        Self { candidates: Candidates::default(), decisions }
    }

    /// Quantises all cells into `chosen`. Where there are two threads, one decides while the other looks for candidates.
    pub fn run(&mut self, rule: &impl Rule, latents: &[i16], pair: &Pair, chosen: &mut ChosenLayer) -> Estimate {
        let layout = rule.decider().layer.layout;
        self.decisions.counts.fill(0);
        chosen.clear(layout.coefficients);
        chosen.sizes.fill(None);
        let mut estimate = Estimate::default();
        let Self { candidates, decisions } = self;
        let [luma, chroma] = candidates.each(rule.decider(), latents, rule, pair, |cell, candidates| {
            decisions.decide(rule, cell, candidates, chosen);
            let kept = decisions.trials.best.iter().filter(|one| one.k != 0);
            estimate.coded_cells += usize::from(kept.clone().next().is_some());
            for one in kept {
                let chroma = layout.chroma[usize::from(one.i)];
                *(if chroma { &mut estimate.chroma } else { &mut estimate.luma }) += rule.error(cell, one);
            }
            estimate.bits += f64::from(decisions.trials.bits) / f64::from(COST_ONE_BIT);
        });
        estimate.luma += luma;
        estimate.chroma += chroma;
        estimate
    }
}

impl Decisions {
    fn decide<'a>(
        &mut self,
        rule: &impl Rule,
        cell: usize,
        candidates: impl Iterator<Item = (TransformSize, &'a [Candidate])>,
        chosen: &mut ChosenLayer,
    ) {
        let Self { around, trials, counts } = self;
        let decider = rule.decider();
        let layout = decider.layer.layout;
        let (place, pitch, c) = (layout.place(cell), layout.cells_x + 2, layout.coefficients);
        let [left, top] = [place - 1, place - pitch];
        let beside = [left, top, top - 1, top + 1];
        let context = count_context(beside.map(|place| counts[place]), rule.hint(cell));
        let of = Around {
            values: beside.map(|place| &chosen.values[place * c..][..c]),
            extent: beside.into_iter().map(|place| chosen.extents[place]).max().unwrap_or(0).into(),
        };
        around.begin(decider.layer.intra(cell));
        let known = rule.size(cell);
        let sizes = Cell { cell, left: chosen.sizes[left], top: chosen.sizes[top] };
        let decide = |trial: Trial<'_>| rule.decide(cell, context, trial, of, around);
        let (Decision { count, .. }, size) = trials.run(decider, sizes, candidates, known.is_some(), decide);
        counts[place] = count;
        chosen.sizes[place] = known.or((count > 0).then_some(size));
        let own = &mut chosen.values[place * c..][..c];
        for one in trials.best.iter().filter(|one| one.k != 0) {
            own[usize::from(one.i)] = rule.index(one);
            chosen.extents[place] = one.i + 1;
        }
    }
}
