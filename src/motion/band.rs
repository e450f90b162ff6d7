// SPDX-License-Identifier: MIT OR Apache-2.0
//! The search of some of a picture's rows of cells.

use std::ops::Range;

use super::coarse::Coarse;
use super::field::{CELL, MotionField, RANGE, Vector};
use super::planes::{Interpolated, activity};
use crate::tokens::motion::{Near, cost};

/// A cell's frames and reference.
#[derive(Clone, Copy)]
struct CellSearch<'a> {
    frames: &'a [&'a [u8]],
    reference: &'a Interpolated,
    y: usize,
    x: usize,
    /// SAD that 1/256 bit is worth, in 1/65536.
    lambda: u32,
}

/// A candidate: Lagrangian cost (see [`CellSearch::rate`] for its unit), SAD, vector.
#[derive(Clone, Copy)]
struct PricedVector {
    cost: u32,
    sad: u32,
    vector: Vector,
}

impl<'a> CellSearch<'a> {
    fn new(scene: Scene<'a>, y: usize, x: usize) -> Self {
        Self { frames: scene.frames, reference: scene.reference, y: y * CELL, x: x * CELL, lambda: scene.lambda }
    }

    /// Sum over the block's frames, the last one first: its vector is the most telling.
    fn sad(&self, v: Vector, limit: u32) -> u32 {
        let t = self.frames.len() as i32;
        let mut sum = 0;
        for (i, frame) in self.frames.iter().enumerate().rev() {
            if sum >= limit {
                break;
            }
            let part = |d: i32| (4 * d * (i as i32 + 1) + t).div_euclid(2 * t);
            sum += self.reference.sad(frame, (self.y, self.x), (part(v[0]), part(v[1])), limit - sum);
        }
        sum
    }

    /// Bits (1/256) in units of SAD.
    fn rate(&self, bits: u32) -> u32 {
        ((u64::from(self.lambda) * u64::from(bits)) >> 16) as u32
    }

    fn consider(&self, best: &mut PricedVector, v: Vector, bits: impl FnOnce() -> u32) {
        if v == best.vector || v[0].abs() > RANGE || v[1].abs() > RANGE {
            return;
        }
        let rate = self.rate(bits());
        if rate >= best.cost {
            return;
        }
        let sad = self.sad(v, best.cost - rate);
        if sad + rate < best.cost {
            *best = PricedVector { cost: sad + rate, sad, vector: v };
        }
    }

    /// Considers vectors that are likely to repeat, each once.
    fn consider_each(&self, best: &mut PricedVector, vectors: impl Iterator<Item = Vector>, mut bits: impl FnMut(Vector) -> u32) {
        let (mut tried, mut n) = ([best.vector; 16], 1);
        for v in vectors {
            if !tried[..n].contains(&v) {
                if n < tried.len() {
                    tried[n] = v;
                    n += 1;
                }
                self.consider(best, v, || bits(v));
            }
        }
    }

    /// Searches around `best` in steps that shrink.
    fn refine(&self, best: &mut PricedVector, near: Near, steps: &[(i32, usize)]) {
        for &(step, rounds) in steps {
            let mut before = None;
            for _ in 0..rounds {
                let centre = best.vector;
                for (dy, dx) in [(-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)] {
                    let v = [centre[0] + dy * step, centre[1] + dx * step];
                    // the neighbours of the centre before were tried already
                    let known = |b: Vector| (v[0] - b[0]).abs().max((v[1] - b[1]).abs()) <= step;
                    if !before.is_some_and(known) {
                        self.consider(best, v, || cost(v, near));
                    }
                }
                if best.vector == centre {
                    break;
                }
                before = Some(centre);
            }
        }
    }
}

/// Data that the bands of a picture share.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub frames: &'a [&'a [u8]],
    pub reference: &'a Interpolated,
    pub coarse: &'a Coarse,
    /// The last block's vectors.
    pub previous: &'a [Vector],
    pub width: usize,
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
}

impl Band {
    pub(super) fn new(rows: Range<usize>, cells_y: usize, cells_x: usize) -> Self {
        let sad = vec![0; rows.len() * cells_x];
        let changed = vec![0; cells_y * cells_x];
        Self { rows, cells_x, cells_y, field: MotionField::new(cells_y, cells_x), sad, sweeps: 0, changed }
    }

    /// Distortion of a cell at its vector.
    pub(super) fn sad(&self, y: usize, x: usize) -> u32 {
        self.sad[(y - self.rows.start) * self.cells_x + x]
    }

    fn sad_mut(&mut self, y: usize, x: usize) -> &mut u32 {
        &mut self.sad[(y - self.rows.start) * self.cells_x + x]
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
        self.field.fill(Some([0; 2]));
        self.sweeps = 0;
        self.changed.fill(1);
        if let Some(above) = self.rows.start.checked_sub(1) {
            // the band above is being searched, so its last field is used
            for x in 0..self.cells_x {
                self.field.set(above, x, Some(scene.previous[above * self.cells_x + x]));
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
        let Scene { frames, previous, .. } = scene;
        let cell = CellSearch::new(scene, y, x);
        let prediction = self.field.prediction(y, x);
        let near = self.field.near(y, x);
        let bits = |v| cost(v, near);
        let zero = [0; 2];
        let sad = cell.sad(zero, u32::MAX);
        let mut best = PricedVector { cost: sad + cell.rate(bits(zero)), sad, vector: zero };
        cell.consider(&mut best, prediction, || bits(prediction));
        // Below half a grey level there is nothing to gain.
        let samples = (CELL * CELL * frames.len()) as u32;
        if best.sad > samples / 2 {
            let i = y * self.cells_x + x;
            let right = (x + 1 < self.cells_x).then(|| previous[i + 1]);
            let below = (y + 1 < self.cells_y).then(|| previous[i + self.cells_x]);
            let around = self.field.around(y, x).into_iter().take(4).flatten();
            let likely = around.chain([previous[i]]).chain(right).chain(below).chain([scene.coarse.at(y, x)]);
            cell.consider_each(&mut best, likely.filter(|v| *v != zero && *v != prediction), bits);
            cell.refine(&mut best, near, &[(16, 4), (8, 4), (4, 8), (2, 2), (1, 2)]);
        }
        let flat: u32 = frames.iter().map(|f| activity(f, scene.width, y * CELL, x * CELL)).sum();
        let intra = best.sad > 4 * samples && flat + flat / 7 + cell.rate(12 * 256) < best.cost;
        *self.sad_mut(y, x) = best.sad;
        self.field.set(y, x, (!intra).then_some(best.vector));
    }

    fn revise(&mut self, scene: Scene<'_>, y: usize, x: usize) {
        let Some(vector) = self.field.get(y, x) else { return };
        let cell = CellSearch::new(scene, y, x);
        let sad = self.sad(y, x);
        let cost = sad + cell.rate(self.field.bits_with(y, x, Some(vector)));
        let mut best = PricedVector { cost, sad, vector };
        let prediction = self.field.prediction(y, x);
        let zero = [0; 2];
        let likely = self.field.around(y, x).into_iter().flatten().chain([prediction, zero]);
        cell.consider_each(&mut best, likely, |v| self.field.bits_with(y, x, Some(v)));
        if best.vector != vector {
            let centre = best.vector;
            for (dy, dx) in [(-1, 0), (1, 0), (0, -1), (0, 1)] {
                let v = [centre[0] + dy, centre[1] + dx];
                cell.consider(&mut best, v, || self.field.bits_with(y, x, Some(v)));
            }
            *self.sad_mut(y, x) = best.sad;
            self.field.set(y, x, Some(best.vector));
            self.changed[y * self.cells_x + x] = self.sweeps + 1;
        }
    }
}
