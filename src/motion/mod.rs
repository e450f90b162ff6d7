// SPDX-License-Identifier: MIT OR Apache-2.0
//! Block motion search: the encoder's half of motion as tokens.
//!
//! A cell of 16x16 luma samples has one displacement D in quarter pixels, between the last decoded frame and the last frame
//! of the block; frame i of T is predicted at D*(i+1)/T. Every choice is by SAD + lambda * bits, because at low rates vectors
//! cost as much as residuals, and bits are counted as the token coder will code them:
//!
//! 1. [`coarse`]: a search at a quarter of the resolution finds large motion;
//! 2. each cell, in coding order, takes the best of its neighbours', its former and the coarse vectors and refines it in
//!    shrinking diamonds;
//! 3. sweeps over the whole field let each cell take the vector of any neighbour, counting what its choice does to the cost of
//!    the cells predicted from it.

mod coarse;
mod field;
mod pixels;
mod planes;
#[cfg(test)]
mod tests;

use crate::tokens::motion::{Near, cost};
use coarse::Coarse;
use field::{Field, Vector};
use planes::Interpolated;

/// Luma samples on a side of a cell.
pub const CELL: usize = 16;
/// Largest |D| in quarter pixels.
pub const RANGE: i32 = 255;

/// What a search found.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct MotionStats {
    /// Mean absolute prediction error per luma sample, inter cells.
    pub error: f32,
    /// Share of cells that are better not predicted from the reference, 0..=1.
    pub intra: f32,
    /// Estimated bits of the field.
    pub bits: f32,
}

/// Finds the motion of blocks. Buffers are allocated once.
#[derive(Debug)]
pub struct MotionSearch {
    width: usize,
    cells_x: usize,
    cells_y: usize,
    block_length: usize,
    reference: Interpolated,
    coarse: Coarse,
    field: Field,
    previous: Vec<Vector>,
    /// Distortion of each cell at its vector.
    sad: Vec<u32>,
}

/// A cell's frames and reference.
#[derive(Clone, Copy)]
struct Cell<'a> {
    frames: &'a [&'a [u8]],
    reference: &'a Interpolated,
    y: usize,
    x: usize,
    /// SAD that 1/256 bit is worth, in 1/65536.
    lambda: u32,
}

/// A candidate: Lagrangian cost (see [`Cell::rate`] for its unit), SAD, vector.
#[derive(Clone, Copy)]
struct Choice {
    cost: u32,
    sad: u32,
    vector: Vector,
}

impl Cell<'_> {
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

    fn consider(&self, best: &mut Choice, v: Vector, bits: impl FnOnce() -> u32) {
        if v == best.vector || v[0].abs() > RANGE || v[1].abs() > RANGE {
            return;
        }
        let rate = self.rate(bits());
        if rate >= best.cost {
            return;
        }
        let sad = self.sad(v, best.cost - rate);
        if sad + rate < best.cost {
            *best = Choice { cost: sad + rate, sad, vector: v };
        }
    }

    /// Searches around `best` in steps that shrink.
    fn refine(&self, best: &mut Choice, near: Near, steps: &[(i32, usize)]) {
        for &(step, rounds) in steps {
            for _ in 0..rounds {
                let centre = best.vector;
                for (dy, dx) in [(-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)] {
                    let v = [centre[0] + dy * step, centre[1] + dx * step];
                    self.consider(best, v, || cost(v, near));
                }
                if best.vector == centre {
                    break;
                }
            }
        }
    }
}

/// Sweeps of step 3.
const SWEEPS: usize = 2;

impl MotionSearch {
    /// A search over pictures of `width` x `height` aligned luma samples (multiples of 16), T = `block_length`.
    pub fn new(width: usize, height: usize, block_length: usize) -> Self {
        let (cells_x, cells_y) = (width / CELL, height / CELL);
        Self {
            width,
            cells_x,
            cells_y,
            block_length,
            reference: Interpolated::new(width, height),
            coarse: Coarse::new(width, height),
            field: Field::new(cells_y, cells_x),
            previous: vec![[0; 2]; cells_x * cells_y],
            sad: vec![0; cells_x * cells_y],
        }
    }

    /// Forgets the previous block's field: a key block follows.
    pub fn reset(&mut self) {
        self.previous.fill([0; 2]);
        self.coarse.reset();
    }

    /// Searches one block. `frames`: the T aligned luma planes; `reference`: the last decoded luma plane; `lambda`: SAD per
    /// bit; `motion`: out, planes dy, dx, mode [3, cells_y, cells_x].
    pub fn search(&mut self, frames: &[&[u8]], reference: &[u8], lambda: f32, motion: &mut [i32]) -> MotionStats {
        debug_assert_eq!(frames.len(), self.block_length);
        let Some(last) = frames.last() else { return MotionStats::default() };
        self.reference.load(reference);
        self.coarse.search(last, reference);
        self.field.fill(Some([0; 2]));
        let lambda = (lambda.clamp(0.0, 1e4) * 256.0) as u32;
        for y in 0..self.cells_y {
            for x in 0..self.cells_x {
                self.first(frames, lambda, (y, x));
            }
        }
        for _ in 0..SWEEPS {
            for y in 0..self.cells_y {
                for x in 0..self.cells_x {
                    self.sweep(frames, lambda, (y, x));
                }
            }
        }
        self.finish(motion)
    }

    fn cell<'a>(&'a self, frames: &'a [&'a [u8]], lambda: u32, (y, x): (usize, usize)) -> Cell<'a> {
        Cell { frames, reference: &self.reference, y: y * CELL, x: x * CELL, lambda }
    }

    fn first(&mut self, frames: &[&[u8]], lambda: u32, (y, x): (usize, usize)) {
        let cell = self.cell(frames, lambda, (y, x));
        let prediction = self.field.prediction(y, x);
        let near = self.field.near(y, x);
        let bits = |v| cost(v, near);
        let zero = [0; 2];
        let sad = cell.sad(zero, u32::MAX);
        let mut best = Choice { cost: sad + cell.rate(bits(zero)), sad, vector: zero };
        let consider = |best: &mut Choice, v: Vector| cell.consider(best, v, || bits(v));
        consider(&mut best, prediction);
        // Below half a grey level nothing is to be won.
        let samples = (CELL * CELL * frames.len()) as u32;
        if best.sad > samples / 2 {
            for v in self.field.around(y, x).into_iter().take(4).flatten() {
                consider(&mut best, v);
            }
            let i = y * self.cells_x + x;
            consider(&mut best, self.previous[i]);
            if x + 1 < self.cells_x {
                consider(&mut best, self.previous[i + 1]);
            }
            if y + 1 < self.cells_y {
                consider(&mut best, self.previous[i + self.cells_x]);
            }
            consider(&mut best, self.coarse.at(y, x));
            cell.refine(&mut best, near, &[(16, 4), (8, 4), (4, 8), (2, 2), (1, 2)]);
        }
        let flat: u32 = frames.iter().map(|f| planes::activity(f, self.width, y * CELL, x * CELL)).sum();
        let intra = best.sad > 4 * samples && flat + flat / 7 + cell.rate(12 * 256) < best.cost;
        self.sad[y * self.cells_x + x] = best.sad;
        self.field.set(y, x, (!intra).then_some(best.vector));
    }

    fn sweep(&mut self, frames: &[&[u8]], lambda: u32, (y, x): (usize, usize)) {
        let Some(vector) = self.field.get(y, x) else { return };
        let i = y * self.cells_x + x;
        let cell = Cell { frames, reference: &self.reference, y: y * CELL, x: x * CELL, lambda };
        let sad = self.sad[i];
        let cost = sad + cell.rate(self.field.bits_with(y, x, Some(vector)));
        let mut best = Choice { cost, sad, vector };
        let prediction = self.field.prediction(y, x);
        let zero = [0; 2];
        for v in self.field.around(y, x).into_iter().flatten().chain([prediction, zero]) {
            cell.consider(&mut best, v, || self.field.bits_with(y, x, Some(v)));
        }
        if best.vector != vector {
            let centre = best.vector;
            for (dy, dx) in [(-1, 0), (1, 0), (0, -1), (0, 1)] {
                let v = [centre[0] + dy, centre[1] + dx];
                cell.consider(&mut best, v, || self.field.bits_with(y, x, Some(v)));
            }
            self.sad[i] = best.sad;
            self.field.set(y, x, Some(best.vector));
        }
    }

    fn finish(&mut self, motion: &mut [i32]) -> MotionStats {
        let n = self.previous.len();
        let (dy, rest) = motion.split_at_mut(n);
        let (dx, mode) = rest.split_at_mut(n);
        let (mut error, mut intra, mut bits) = (0u64, 0usize, 0u64);
        for y in 0..self.cells_y {
            for x in 0..self.cells_x {
                let i = y * self.cells_x + x;
                let vector = self.field.get(y, x);
                bits += u64::from(self.field.bits(y, x));
                match vector {
                    Some(_) => error += u64::from(self.sad[i]),
                    None => intra += 1,
                }
                self.previous[i] = vector.unwrap_or_default();
                [dy[i], dx[i]] = self.previous[i];
                mode[i] = i32::from(vector.is_none());
            }
        }
        let samples = (n - intra).max(1) * CELL * CELL * self.block_length;
        MotionStats { error: error as f32 / samples as f32, intra: intra as f32 / n as f32, bits: bits as f32 / 256.0 }
    }
}
