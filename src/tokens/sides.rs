// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decisions on all cells of a layer, in the order of coding.
//!
//! A cell's contexts depend on the cells to the left and above, up to the next column. So two threads can take two sides of the picture: the
//! line between them moves one column to the left with every row, so that the left side needs nothing from the right one, which follows.

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
    border: Border,
}

impl Workspace {
    pub fn new(layout: &NestedLayout, classes: &[u8]) -> Self {
        Self {
            candidates: Candidates::default(),
            sides: [(); 2].map(|()| Side::new(layout, classes)),
            border: Border::new(layout.cells_y),
        }
    }

    /// Quantises all cells into `chosen`.
    pub fn run(&mut self, rule: &impl Rule, latents: &[i16], pair: &Pair, chosen: &mut ChosenLayer) -> Estimate {
        let layout = rule.decider().layer.layout;
        let Self { candidates, sides: [left, right], border } = self;
        candidates.find(rule.decider(), latents, rule, pair);
        let (candidates, width, height) = (&*candidates, layout.cells_x, layout.cells_y);
        right.clear();
        if pair.is_two() {
            border.clear();
            let border = &*border;
            let line = |y: usize| (width + height).div_ceil(2).saturating_sub(y).min(width);
            pair.run(
                || {
                    let _closing = Closing(border);
                    left.run(rule, candidates, |y| 0..line(y), |_, _| (), |y, row| border.give(y, row, line(y)));
                },
                || right.run(rule, candidates, |y| line(y)..width, |y, row| border.take(y, row, line(y)), |_, _| ()),
            );
        } else {
            left.run(rule, candidates, |_| 0..width, |_, _| (), |_, _| ());
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

/// The last two cells of each row on the left side, for the right one.
#[derive(Debug)]
struct Border {
    /// Rows that are there, and their cells.
    rows: Mutex<(usize, Vec<BorderCells>)>,
    more: Condvar,
}

type BorderCells = [(Known, Vec<i16>); 2];

/// The right side is told of rows in such numbers, since waking it takes time.
const ROWS_AT_ONCE: usize = 4;

impl Border {
    fn new(rows: usize) -> Self {
        Self { rows: Mutex::new((0, vec![Default::default(); rows])), more: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, (usize, Vec<BorderCells>)> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clear(&mut self) {
        self.lock().0 = 0;
    }

    /// Gives the cells of row `y` up to `last`.
    fn give(&self, y: usize, row: &Row, last: usize) {
        let mut rows = self.lock();
        for ((known, values), at) in rows.1[y].iter_mut().zip([last.saturating_sub(1), last]) {
            known.clone_from(&row.cells[at]);
            values.clear();
            values.extend_from_slice(&row.values(at)[..known.extent.into()]);
        }
        rows.0 = y + 1;
        drop(rows);
        if (y + 1).is_multiple_of(ROWS_AT_ONCE) {
            self.more.notify_one();
        }
    }

    /// Waits for the cells of row `y`.
    fn take(&self, y: usize, row: &mut Row, last: usize) {
        let mut rows = self.lock();
        while rows.0 <= y {
            rows = self.more.wait(rows).unwrap_or_else(PoisonError::into_inner);
        }
        for (cell, at) in rows.1[y].iter().zip([last.saturating_sub(1), last]) {
            row.set(at, cell);
        }
    }
}

/// Lets the right side go on when the left one has ended, be it in a panic.
struct Closing<'a>(&'a Border);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.lock().0 = usize::MAX;
        self.0.more.notify_one();
    }
}

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

    /// Decides on the cells in the `columns` of each row. Rows are shown to `begin` and `end`.
    fn run(
        &mut self,
        rule: &impl Rule,
        candidates: &Candidates,
        columns: impl Fn(usize) -> Range<usize>,
        begin: impl Fn(usize, &mut Row),
        end: impl Fn(usize, &Row),
    ) {
        let layout = rule.decider().layer.layout;
        self.clear();
        for y in 0..layout.cells_y {
            let [even, odd] = &mut self.rows;
            let (above, row) = if y % 2 == 0 { (&*odd, even) } else { (&*even, odd) };
            row.clear();
            begin(y, row);
            for x in columns(y) {
                let (cell, at) = (y * layout.cells_x + x, x + 1);
                let size = Self::cell(rule, candidates, cell, at, above, row, &mut self.around, &mut self.trials);
                let extent = usize::from(row.cells[at].extent);
                if extent > 0 || size.is_some() {
                    for one in self.trials.best.iter().filter(|one| one.k != 0) {
                        let chroma = layout.chroma[usize::from(one.i)];
                        *(if chroma { &mut self.estimate.chroma } else { &mut self.estimate.luma }) += rule.error(one);
                        self.indices.push((one.i, rule.index(one)));
                    }
                    self.cells.push((cell, size, self.indices.len()));
                    self.estimate.coded_cells += usize::from(extent > 0);
                }
                self.estimate.bits += f64::from(self.trials.bits) / f64::from(COST_ONE_BIT);
            }
            end(y, row);
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
