// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decisions on all cells of a layer, in the order of coding.
//!
//! A cell's contexts depend on the cells to the left and above, up to the next column. So two threads can take the left and the right side of
//! the picture: the right one follows a row behind, and each hands the cells next to the line between them to the other.

use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

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
    fn error(&self, one: &Candidate) -> f64;
}

/// Working memory, kept between blocks.
#[derive(Debug)]
pub(super) struct Workspace {
    candidates: Candidates,
    sides: [Side; 2],
    /// From the left side to the right one, and back.
    border: [Border; 2],
}

impl Workspace {
    pub fn new(layout: &NestedLayout, classes: &[u8]) -> Self {
        Self {
            candidates: Candidates::default(),
            sides: [(); 2].map(|()| Side::new(layout, classes)),
            border: [(); 2].map(|()| Border::new(layout.cells_y)),
        }
    }

    /// Quantises all cells into `chosen`.
    pub fn run(&mut self, rule: &impl Rule, latents: &[i16], pair: &Pair, chosen: &mut ChosenLayer) -> Estimate {
        let layout = rule.decider().layer.layout;
        let Self { candidates, sides: [left, right], border: [to_right, to_left] } = self;
        candidates.find(rule.decider(), latents, rule, pair);
        let (candidates, width) = (&*candidates, layout.cells_x);
        let line = if pair.is_two() { width.div_ceil(2) } else { width };
        right.clear();
        if line < width {
            to_right.clear();
            to_left.clear();
            let (to_right, to_left) = (&*to_right, &*to_left);
            pair.run(
                || left.run(rule, candidates, 0..line, None, Some((to_left, to_right))),
                || right.run(rule, candidates, line..width, Some((to_right, to_left)), None),
            );
        } else {
            left.run(rule, candidates, 0..width, None, None);
        }
        chosen.clear(layout.coefficients);
        chosen.sizes.fill(None);
        let [luma, chroma] = candidates.energies();
        let mut estimate = Estimate { luma, chroma, ..Estimate::default() };
        for side in [left, right] {
            side.store(layout, chosen);
            estimate.bits += side.estimate.bits;
            estimate.luma += side.estimate.luma;
            estimate.chroma += side.estimate.chroma;
            estimate.coded_cells += side.estimate.coded_cells;
        }
        estimate
    }
}

/// What a cell's neighbours must know of it.
#[derive(Debug, Clone, Default)]
struct Known {
    /// Coefficients up to the last that is not zero; more are zero.
    extent: u16,
    count: u16,
    size: Option<TransformSize>,
}

/// A row of cells with one more at each end.
#[derive(Debug)]
struct Row {
    values: Vec<i16>,
    cells: Vec<Known>,
}

impl Row {
    fn values(&self, at: usize) -> &[i16] {
        let c = self.values.len() / self.cells.len();
        &self.values[at * c..(at + 1) * c]
    }

    fn values_mut(&mut self, at: usize) -> &mut [i16] {
        let c = self.values.len() / self.cells.len();
        &mut self.values[at * c..(at + 1) * c]
    }

    fn clear(&mut self) {
        for at in 0..self.cells.len() {
            let extent = std::mem::take(&mut self.cells[at]).extent;
            if extent > 0 {
                self.values_mut(at)[..extent.into()].fill(0);
            }
        }
    }

    fn set(&mut self, at: usize, (known, values): &(Known, Vec<i16>)) {
        self.values_mut(at)[..values.len()].copy_from_slice(values);
        self.cells[at] = known.clone();
    }
}

/// Cells that one side hands to the other, one of each row.
#[derive(Debug)]
struct Border {
    /// Rows that are there, and their cells.
    rows: Mutex<(usize, Vec<(Known, Vec<i16>)>)>,
    more: Condvar,
}

impl Border {
    fn new(rows: usize) -> Self {
        Self { rows: Mutex::new((0, vec![Default::default(); rows])), more: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, (usize, Vec<(Known, Vec<i16>)>)> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clear(&mut self) {
        self.lock().0 = 0;
    }

    fn give(&self, y: usize, row: &mut Row, at: usize) {
        let mut rows = self.lock();
        let (known, values) = &mut rows.1[y];
        known.clone_from(&row.cells[at]);
        values.clear();
        values.extend_from_slice(&row.values_mut(at)[..known.extent.into()]);
        rows.0 = rows.0.max(y + 1);
        drop(rows);
        self.more.notify_one();
    }

    /// Waits for the cell of row `y`.
    fn take(&self, y: usize, row: &mut Row, at: usize) {
        let mut rows = self.lock();
        while rows.0 <= y {
            rows = self.more.wait(rows).unwrap_or_else(PoisonError::into_inner);
        }
        row.set(at, &rows.1[y]);
    }
}

/// Lets the other side go on if this one ends in a panic.
struct Closing<'a>(&'a Border);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.lock().0 = usize::MAX;
        self.0.more.notify_one();
    }
}

/// Where a side gets cells from, and where it gives its own.
type Borders<'a> = Option<(&'a Border, &'a Border)>;

/// The decisions on one side of the picture.
#[derive(Debug)]
struct Side {
    /// The row that is decided on and the one above, by the last bit of their number.
    rows: [Row; 2],
    around: Neighbourhood,
    trials: Trials,
    /// What was decided: cells that have anything, with the end of their indices among all.
    cells: Vec<(usize, Option<TransformSize>, usize)>,
    indices: Vec<(u16, i16)>,
    estimate: Estimate,
}

impl Side {
    fn new(layout: &NestedLayout, classes: &[u8]) -> Self {
        let places = layout.cells_x + 2;
        let row = || Row { values: vec![0; places * layout.coefficients], cells: vec![Known::default(); places] };
        Self {
            rows: [row(), row()],
            around: Neighbourhood::new(layout, classes),
            trials: Trials::default(),
            cells: Vec::new(),
            indices: Vec::new(),
            estimate: Estimate::default(),
        }
    }

    fn clear(&mut self) {
        self.rows.iter_mut().for_each(Row::clear);
        self.cells.clear();
        self.indices.clear();
        self.estimate = Estimate::default();
    }

    /// Decides on the cells of some columns. `before`: the side to the left; `beyond`: that to the right.
    fn run(
        &mut self,
        rule: &impl Rule,
        candidates: &Candidates,
        columns: Range<usize>,
        before: Borders<'_>,
        beyond: Borders<'_>,
    ) {
        let layout = rule.decider().layer.layout;
        let _closing = before.or(beyond).map(|(_, own)| Closing(own));
        self.clear();
        for y in 0..layout.cells_y {
            let [even, odd] = &mut self.rows;
            let (above, row) = if y % 2 == 0 { (odd, even) } else { (even, odd) };
            row.clear();
            if let Some((left, _)) = before {
                left.take(y, row, 0);
            }
            for x in columns.clone() {
                let at = x - columns.start + 1;
                if let (Some((right, _)), true, true) = (beyond, x + 1 == columns.end, y > 0) {
                    right.take(y - 1, above, at + 1);
                }
                let size =
                    Self::cell(rule, candidates, y * layout.cells_x + x, at, above, row, &mut self.around, &mut self.trials);
                let extent = usize::from(row.cells[at].extent);
                if extent > 0 || size.is_some() {
                    for one in self.trials.best.iter().filter(|one| one.k != 0) {
                        let i = usize::from(one.i);
                        let error = rule.error(one);
                        *(if layout.chroma[i] { &mut self.estimate.chroma } else { &mut self.estimate.luma }) += error;
                        self.indices.push((one.i, rule.index(one)));
                    }
                    self.cells.push((y * layout.cells_x + x, size, self.indices.len()));
                    self.estimate.coded_cells += usize::from(extent > 0);
                }
                self.estimate.bits += f64::from(self.trials.bits) / f64::from(COST_ONE_BIT);
                if let (Some((_, left)), true) = (before, x == columns.start) {
                    left.give(y, row, at);
                }
            }
            if let Some((_, right)) = beyond {
                right.give(y, row, columns.len());
            }
        }
    }

    /// Decides on the cell `at` in `row`; returns its transform size if it has tokens.
    #[expect(clippy::too_many_arguments, reason = "parts of a side that are borrowed one by one")]
    fn cell(
        rule: &impl Rule,
        candidates: &Candidates,
        cell: usize,
        at: usize,
        above: &Row,
        row: &mut Row,
        around: &mut Neighbourhood,
        trials: &mut Trials,
    ) -> Option<TransformSize> {
        let decider = rule.decider();
        let counts = [row.cells[at - 1].count, above.cells[at].count, above.cells[at - 1].count, above.cells[at + 1].count];
        let context = count_context(counts, rule.hint(cell));
        let extents = [row.cells[at - 1].extent, above.cells[at].extent, above.cells[at - 1].extent, above.cells[at + 1].extent];
        let of = Around {
            values: [row.values(at - 1), above.values(at), above.values(at - 1), above.values(at + 1)],
            extent: extents.into_iter().max().unwrap_or(0).into(),
        };
        around.begin(decider.layer.intra(cell));
        let known = rule.size(cell);
        let place = Cell { cell, left: row.cells[at - 1].size, top: above.cells[at].size };
        let decide = |trial: Trial<'_>| rule.decide(cell, context, trial, of, around);
        let (Decision { count, .. }, size) = trials.run(decider, place, candidates.of(cell), known.is_some(), decide);
        let mut extent = 0;
        let own = row.values_mut(at);
        for one in trials.best.iter().filter(|one| one.k != 0) {
            own[usize::from(one.i)] = rule.index(one);
            extent = one.i + 1;
        }
        let size = known.or((count > 0).then_some(size));
        row.cells[at] = Known { extent, count, size };
        size
    }

    fn store(&self, layout: &NestedLayout, chosen: &mut ChosenLayer) {
        let mut first = 0;
        for &(cell, size, end) in &self.cells {
            let place = layout.place(cell);
            let values = &mut chosen.values[place * layout.coefficients..][..layout.coefficients];
            let indices = &self.indices[first..end];
            indices.iter().for_each(|&(i, index)| values[usize::from(i)] = index);
            chosen.extents[place] = indices.last().map_or(0, |(i, _)| i + 1);
            chosen.sizes[place] = size;
            first = end;
        }
    }
}
