// SPDX-License-Identifier: MIT OR Apache-2.0
//! The search of some of a picture's rows of cells.

use std::ops::Range;

use super::coarse::Coarse;
use super::field::{CELL, Motion, MotionField, RANGE};
use super::pixels::Cell;
use super::planes::{Interpolated, Place, Sources, activity_of};
use crate::tokens::motion::{VectorCost, cost};

/// Steps from which a refinement tries four neighbours instead of eight, in quarter pixels, for bends in eighths.
const LONG_STEP: i32 = 4;
/// Share of the last frame's SAD, as 1/n, by which it may grow in a step of a refinement: the other frames hardly make up for more.
const GROWTH: u32 = 32;

/// A cell in each frame, and its reference.
#[derive(Clone, Copy)]
struct CellSearch<'a> {
    cells: &'a [Cell],
    reference: &'a Interpolated,
    place: Place,
    /// SAD that 1/256 bit is worth, in 1/65536.
    lambda: u32,
}

/// A candidate: Lagrangian cost (see [`CellSearch::rate`] for its unit), SAD, motion.
#[derive(Clone, Copy)]
struct Priced {
    cost: u32,
    sad: Sads,
    motion: Motion,
}

/// SAD of a block's last frame, and of those before it.
#[derive(Clone, Copy)]
struct Sads {
    last: u32,
    others: u32,
}

impl Sads {
    fn total(self) -> u32 {
        self.last + self.others
    }
}

/// What a refinement moves.
#[derive(Clone, Copy)]
enum Moves {
    /// All frames, along the line, to anywhere.
    Anywhere,
    /// All frames, along the line, by a step.
    Vector,
    /// The last frame only: T = 2.
    Last,
    /// The frames before the last.
    Bend,
}

impl Moves {
    fn moved(self, m: Motion, [dy, dx]: [i32; 2]) -> Motion {
        let add = |a: [i32; 2], sign: i32| [a[0] + sign * dy, a[1] + sign * dx];
        match self {
            Self::Anywhere | Self::Vector => Motion { vector: add(m.vector, 1), ..m },
            // A quarter at the last frame is an eighth at the one before it.
            Self::Last => Motion { vector: add(m.vector, 1), bend: add(m.bend, -1) },
            Self::Bend => Motion { bend: add(m.bend, 1), ..m },
        }
    }
}

impl<'a> CellSearch<'a> {
    fn new(scene: Scene<'a>, y: usize, x: usize) -> Self {
        let Scene { sources, reference, lambda, .. } = scene;
        Self { cells: sources.of(y, x), reference, place: reference.place(y * CELL, x * CELL), lambda }
    }

    fn displacement(&self, m: Motion, i: usize) -> (i32, i32) {
        m.displacement(i, self.cells.len())
    }

    /// Of frame `i`; or any number of at least `limit`, once it reaches that.
    #[inline]
    fn sad_of(&self, m: Motion, i: usize, limit: u32) -> u32 {
        self.reference.sad(&self.cells[i], self.place, self.displacement(m, i), limit)
    }

    #[inline]
    fn sad_of_last(&self, m: Motion, limit: u32) -> u32 {
        self.sad_of(m, self.cells.len() - 1, limit)
    }

    /// Of the frames before the last.
    #[inline]
    fn sad_of_others(&self, m: Motion, limit: u32) -> u32 {
        let mut sum = 0;
        for i in (0..self.cells.len() - 1).rev() {
            if sum >= limit {
                break;
            }
            sum += self.sad_of(m, i, limit - sum);
        }
        sum
    }

    /// The last frame first: its vector is the most telling.
    fn sad(&self, m: Motion, limit: u32) -> Sads {
        let last = self.sad_of_last(m, limit);
        Sads { last, others: self.sad_of_others(m, limit.saturating_sub(last)) }
    }

    /// [`sad`](Self::sad), where `moves` made the motion from one with the SADs `before`; or any number of at least `limit` where that is
    /// likely.
    fn sad_moved(&self, m: Motion, moves: Moves, before: Sads, limit: u32) -> Sads {
        match moves {
            Moves::Anywhere => self.sad(m, limit),
            Moves::Vector => {
                let most = limit.min(before.last + before.last / GROWTH);
                let last = self.sad_of_last(m, most);
                if last >= most {
                    return Sads { last: limit, others: 0 };
                }
                Sads { last, others: self.sad_of_others(m, limit.saturating_sub(last)) }
            }
            Moves::Last => Sads { last: self.sad_of_last(m, limit.saturating_sub(before.others)), ..before },
            Moves::Bend => Sads { others: self.sad_of_others(m, limit.saturating_sub(before.last)), ..before },
        }
    }

    /// Bits (1/256) in units of SAD.
    fn rate(&self, bits: u32) -> u32 {
        ((u64::from(self.lambda) * u64::from(bits)) >> 16) as u32
    }

    fn allowed(m: Motion) -> bool {
        let within = |d: i32| (d + RANGE) as u32 <= 2 * RANGE as u32;
        let ([dy, dx], [by, bx]) = (m.vector, m.bend);
        within(dy) & within(dx) & within(by) & within(bx)
    }

    fn consider(&self, best: &mut Priced, m: Motion, bits: impl FnOnce() -> u32) {
        self.consider_moved(best, m, Moves::Anywhere, bits);
    }

    fn consider_moved(&self, best: &mut Priced, m: Motion, moves: Moves, bits: impl FnOnce() -> u32) {
        if m == best.motion || !Self::allowed(m) {
            return;
        }
        let rate = self.rate(bits());
        if rate >= best.cost {
            return;
        }
        let sad = self.sad_moved(m, moves, best.sad, best.cost - rate);
        if sad.total() + rate < best.cost {
            *best = Priced { cost: sad.total() + rate, sad, motion: m };
        }
    }

    /// Considers motion that is likely to repeat, each once.
    fn consider_each(
        &self,
        best: &mut Priced,
        moves: Moves,
        likely: impl Iterator<Item = Motion>,
        mut bits: impl FnMut(Motion) -> u32,
    ) {
        let (mut tried, mut n) = ([best.motion; 16], 1);
        for m in likely {
            if !tried[..n].contains(&m) {
                if n < tried.len() {
                    tried[n] = m;
                    n += 1;
                }
                self.consider_moved(best, m, moves, || bits(m));
            }
        }
    }

    /// Searches around `best` in steps that shrink: (step, rounds).
    fn refine(&self, best: &mut Priced, moves: Moves, mut bits: impl FnMut(Motion) -> u32, steps: &[(i32, usize)]) {
        for &(step, rounds) in steps {
            let mut before: Option<[i32; 2]> = None;
            for _ in 0..rounds {
                let centre = best.motion;
                let mut taken = [0; 2];
                let n = if step >= LONG_STEP { 4 } else { 8 };
                for (dy, dx) in [(-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)].into_iter().take(n) {
                    let offset = [dy * step, dx * step];
                    // the neighbours of the centre before were tried already
                    let known = |b: [i32; 2]| (offset[0] + b[0]).abs().max((offset[1] + b[1]).abs()) <= step;
                    if !before.is_some_and(known) {
                        let m = moves.moved(centre, offset);
                        self.consider_moved(best, m, moves, || bits(m));
                        if best.motion == m {
                            taken = offset;
                        }
                    }
                }
                if best.motion == centre {
                    break;
                }
                before = Some(taken);
            }
        }
    }
}

/// Data that the bands of a picture share.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub sources: &'a Sources,
    pub reference: &'a Interpolated,
    pub coarse: &'a Coarse,
    /// Motion of jumps.
    pub jumps: &'a [Motion],
    /// The last block's motion.
    pub previous: &'a [Motion],
    /// SAD that 1/256 bit is worth, in 1/65536.
    pub lambda: u32,
}

/// Rows of cells that are searched one after the other. Rows of other bands are read from a copy that is made between the
/// passes. So bands can be searched in parallel, and the result is the same as in sequence.
#[derive(Debug)]
pub(super) struct Band {
    pub rows: Range<usize>,
    cells_x: usize,
    cells_y: usize,
    /// Of the whole picture; only the band's own rows and those next to them are used.
    pub field: MotionField,
    /// Distortion of each cell at its vector, in the band's rows.
    sad: Vec<u32>,
    /// Sweeps so far, and for each cell of the picture the first sweep that sees its present vector.
    sweeps: u8,
    changed: Vec<u8>,
    /// Field and distortions without bends.
    saved: (MotionField, Vec<u32>),
}

impl Band {
    pub(super) fn new(rows: Range<usize>, cells_y: usize, cells_x: usize) -> Self {
        let sad = vec![0; rows.len() * cells_x];
        let changed = vec![0; cells_y * cells_x];
        let field = MotionField::new(cells_y, cells_x);
        let saved = (field.clone(), sad.clone());
        Self { rows, cells_x, cells_y, field, sad, sweeps: 0, changed, saved }
    }

    /// Distortion of a cell at its vector.
    pub(super) fn sad(&self, y: usize, x: usize) -> u32 {
        self.sad[(y - self.rows.start) * self.cells_x + x]
    }

    fn sad_mut(&mut self, y: usize, x: usize) -> &mut u32 {
        &mut self.sad[(y - self.rows.start) * self.cells_x + x]
    }

    /// Whether a cell of the band leaves the straight line.
    pub(super) fn has_bends(&self) -> bool {
        let cells = self.rows.clone().flat_map(|y| (0..self.cells_x).map(move |x| (y, x)));
        cells.into_iter().any(|(y, x)| self.field.get(y, x).is_some_and(|m| m.bend != [0; 2]))
    }

    /// Copies the row `y` of another band.
    pub(super) fn copy_row(&mut self, other: &Self, y: usize) {
        let row = y * self.cells_x..(y + 1) * self.cells_x;
        self.changed[row.clone()].copy_from_slice(&other.changed[row]);
        for x in 0..self.cells_x {
            self.field.set(y, x, other.field.get(y, x));
        }
    }

    /// Searches all cells in coding order.
    pub(super) fn search(&mut self, scene: Scene<'_>) {
        self.field.fill(Some(Motion::default()));
        self.field.bent = false;
        self.sweeps = 0;
        self.changed.fill(1);
        if let Some(above) = self.rows.start.checked_sub(1) {
            // the band above is being searched, so its last field is used
            for x in 0..self.cells_x {
                self.field.set(above, x, Some(Motion::straight(scene.previous[above * self.cells_x + x].vector)));
            }
        }
        for y in self.rows.clone() {
            for x in 0..self.cells_x {
                self.first(scene, y, x);
            }
        }
    }

    /// Lets each cell take the vector of any neighbour.
    pub(super) fn sweep(&mut self, scene: Scene<'_>) {
        self.sweeps += 1;
        for y in self.rows.clone() {
            for x in 0..self.cells_x {
                if self.stirs(y, x) {
                    self.revise(scene, y, x);
                }
            }
        }
    }

    /// Whether something next to a cell has changed since the sweep before.
    fn stirs(&self, y: usize, x: usize) -> bool {
        let columns = x.saturating_sub(1)..=(x + 1).min(self.cells_x - 1);
        let mut rows = y.saturating_sub(1)..=(y + 1).min(self.cells_y - 1);
        rows.any(|y| self.changed[y * self.cells_x..][columns.clone()].iter().any(|&when| when >= self.sweeps))
    }

    fn first(&mut self, scene: Scene<'_>, y: usize, x: usize) {
        let Scene { previous, .. } = scene;
        let cell = CellSearch::new(scene, y, x);
        let of_vector = VectorCost::new(self.field.near(y, x));
        let prediction = Motion::straight(of_vector.prediction());
        let bits = |m: Motion| of_vector.of(m.vector);
        let zero = Motion::default();
        let sad = cell.sad(zero, u32::MAX);
        let mut best = Priced { cost: sad.total() + cell.rate(bits(zero)), sad, motion: zero };
        cell.consider(&mut best, prediction, || bits(prediction));
        let samples = (CELL * CELL * cell.cells.len()) as u32;
        // Below half a grey level there is nothing to gain.
        if best.sad.total() > samples / 2 {
            let i = y * self.cells_x + x;
            let right = (x + 1 < self.cells_x).then(|| previous[i + 1]);
            let below = (y + 1 < self.cells_y).then(|| previous[i + self.cells_x]);
            let around = self.field.around(y, x).into_iter().take(4).flatten();
            let likely = around.chain([previous[i]]).chain(right).chain(below).map(|m| m.vector).chain([scene.coarse.at(y, x)]);
            let likely = likely.map(Motion::straight).filter(|m| *m != zero && *m != prediction);
            cell.consider_each(&mut best, Moves::Anywhere, likely, bits);
            cell.consider_each(&mut best, Moves::Anywhere, scene.jumps.iter().copied(), |m| {
                of_vector.of(m.vector) + cost(m.bend, self.field.near_bends(y, x))
            });
            cell.refine(&mut best, Moves::Vector, bits, &[(16, 4), (8, 4), (4, 8), (2, 2), (1, 2)]);
        }
        let flat = || cell.cells.iter().map(activity_of).sum::<u32>();
        let better = |flat: u32| flat + flat / 7 + cell.rate(12 * 256) < best.cost;
        let intra = best.sad.total() > 4 * samples && better(flat());
        *self.sad_mut(y, x) = best.sad.total();
        self.field.set(y, x, (!intra).then_some(best.motion));
    }

    fn revise(&mut self, scene: Scene<'_>, y: usize, x: usize) {
        let Some(motion) = self.field.get(y, x) else { return };
        let cell = CellSearch::new(scene, y, x);
        // Moves::Anywhere does not look at the parts.
        let sad = Sads { last: self.sad(y, x), others: 0 };
        let price = self.field.motion_cost(y, x);
        let mut best = Priced { cost: sad.total() + cell.rate(price.bits(motion)), sad, motion };
        let prediction = Motion::straight(price.prediction());
        let likely = self.field.around(y, x).into_iter().flatten().chain([prediction, Motion::default()]);
        cell.consider_each(&mut best, Moves::Anywhere, likely, |m| price.bits(m));
        if best.motion != motion {
            let centre = best.motion;
            for (dy, dx) in [(-1, 0), (1, 0), (0, -1), (0, 1)] {
                let m = Moves::Vector.moved(centre, [dy, dx]);
                cell.consider(&mut best, m, || price.bits(m));
            }
            *self.sad_mut(y, x) = best.sad.total();
            self.field.set(y, x, Some(best.motion));
            self.changed[y * self.cells_x + x] = self.sweeps + 1;
        }
    }

    /// Lets cells leave the straight line, in coding order. T = 2.
    pub(super) fn bend(&mut self, scene: Scene<'_>) {
        self.sweeps = 0;
        self.changed.fill(1);
        for y in self.rows.clone() {
            for x in 0..self.cells_x {
                self.bend_cell(scene, y, x);
            }
        }
        self.field.bent = true;
    }

    fn bend_cell(&mut self, scene: Scene<'_>, y: usize, x: usize) {
        let Some(motion) = self.field.get(y, x) else { return };
        let cell = CellSearch::new(scene, y, x);
        let near = self.field.near_bends(y, x);
        let sad = cell.sad(motion, u32::MAX);
        // The cells that depend on the bend have none yet, so only its own bits count.
        let (price, of_bend) = (self.field.motion_cost(y, x), VectorCost::new(near));
        let of_vector = price.bits(motion);
        let bits = |m: Motion| of_vector + of_bend.of(m.bend);
        let mut best = Priced { cost: sad.total() + cell.rate(bits(motion)), sad, motion };
        let likely = near.into_iter().flatten().chain([of_bend.prediction(), scene.previous[y * self.cells_x + x].bend]);
        cell.consider_each(&mut best, Moves::Bend, likely.map(|bend| Motion { bend, ..motion }), bits);
        if best.sad.total() > (CELL * CELL * cell.cells.len()) as u32 {
            cell.refine(&mut best, Moves::Bend, bits, &[(16, 2), (8, 2), (4, 4), (2, 2), (1, 2)]);
            if best.motion.bend != [0; 2] {
                let bits = |m: Motion| price.bits(m) + of_bend.of(m.bend);
                cell.refine(&mut best, Moves::Last, bits, &[(4, 2), (2, 2), (1, 2)]);
                let of_vector = price.bits(best.motion);
                cell.refine(&mut best, Moves::Bend, |m| of_vector + of_bend.of(m.bend), &[(2, 1), (1, 1)]);
            }
        }
        *self.sad_mut(y, x) = best.sad.total();
        self.field.set(y, x, Some(best.motion));
    }

    /// By how much bends would lower the SAD of every eighth cell, and that SAD.
    pub(super) fn bend_gain(&self, scene: Scene<'_>) -> (u64, u64) {
        let (mut gain, mut sum) = (0, 0);
        let samples = (CELL * CELL * scene.sources.frames()) as u32;
        for y in self.rows.clone() {
            for x in (3 * y % 8..self.cells_x).step_by(8) {
                let Some(motion) = self.field.get(y, x) else { continue };
                if self.sad(y, x) <= samples {
                    sum += u64::from(self.sad(y, x));
                    continue;
                }
                let cell = CellSearch::new(scene, y, x);
                let sad = cell.sad(motion, u32::MAX);
                let mut best = Priced { cost: sad.total(), sad, motion };
                cell.refine(&mut best, Moves::Bend, |_| 0, &[(8, 2), (4, 2), (2, 2)]);
                sum += u64::from(sad.total());
                gain += u64::from(sad.total() - best.sad.total());
            }
        }
        (gain, sum)
    }

    /// SAD of the band's cells and the bits of their motion (1/256), in the unit of [`CellSearch::rate`].
    pub(super) fn total_cost(&self, lambda: u32) -> u64 {
        let cells = self.rows.clone().flat_map(|y| (0..self.cells_x).map(move |x| (y, x)));
        let (sad, bits) =
            cells.fold((0, 0), |(sad, bits), (y, x)| (sad + u64::from(self.sad(y, x)), bits + u64::from(self.field.bits(y, x))));
        sad + ((u64::from(lambda) * bits) >> 16)
    }

    /// Keeps a copy of what was found, for [`restore`](Self::restore).
    pub(super) fn save(&mut self) {
        self.saved.0.copy_from(&self.field);
        self.saved.1.copy_from_slice(&self.sad);
    }

    pub(super) fn restore(&mut self) {
        self.field.copy_from(&self.saved.0);
        self.sad.copy_from_slice(&self.saved.1);
    }
}
