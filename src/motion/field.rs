// SPDX-License-Identifier: MIT OR Apache-2.0
//! A field of vectors and what it costs to code, with the token coder's own prediction.

use crate::tokens::motion::{Near, cost, predict};

/// Luma samples on a side of a cell.
pub const CELL: usize = 16;
/// Largest |D| in quarter pixels.
pub const RANGE: i32 = 255;

/// A displacement (dy, dx) in quarter pixels.
pub(super) type Vector = [i32; 2];

/// The motion of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Motion {
    /// Displacement of the last frame.
    pub vector: Vector,
    /// By how much the frames before it leave the straight line, in eighths of a pixel.
    pub bend: [i32; 2],
}

impl Motion {
    pub(super) fn straight(vector: Vector) -> Self {
        Self { vector, bend: [0; 2] }
    }
}

/// Cost of the flag of an inter cell among inter cells, in 1/256 bit.
const INTER: u32 = 16;
/// Cost of the flag of an intra cell with no, one and two intra neighbours.
const INTRA: [u32; 3] = [1536, 640, 256];

/// Motion of all cells, with a border of absent cells; `None` = absent, or intra.
#[derive(Debug, Clone)]
pub(super) struct MotionField {
    pitch: usize,
    cells_x: usize,
    cells_y: usize,
    cells: Vec<Option<Motion>>,
    /// Whether bends are coded.
    pub bent: bool,
}

impl MotionField {
    pub(super) fn new(cells_y: usize, cells_x: usize) -> Self {
        let pitch = cells_x + 2;
        Self { pitch, cells_x, cells_y, cells: vec![None; pitch * (cells_y + 2)], bent: false }
    }

    /// Becomes like another field of the same size.
    pub(super) fn copy_from(&mut self, other: &Self) {
        self.cells.copy_from_slice(&other.cells);
        self.bent = other.bent;
    }

    /// Sets all cells of the picture.
    pub(super) fn fill(&mut self, value: Option<Motion>) {
        for row in self.cells.chunks_exact_mut(self.pitch).skip(1).take(self.cells_y) {
            row[1..=self.cells_x].fill(value);
        }
    }

    #[inline]
    fn index(&self, y: usize, x: usize) -> usize {
        (y + 1) * self.pitch + x + 1
    }

    #[inline]
    pub(super) fn get(&self, y: usize, x: usize) -> Option<Motion> {
        self.cells[self.index(y, x)]
    }

    #[inline]
    pub(super) fn set(&mut self, y: usize, x: usize, value: Option<Motion>) {
        let i = self.index(y, x);
        self.cells[i] = value;
    }

    /// The eight cells around a cell: those coded before it first.
    pub(super) fn around(&self, y: usize, x: usize) -> [Option<Motion>; 8] {
        let i = self.index(y, x);
        let (above, below) = (i - self.pitch, i + self.pitch);
        let at = |i: usize| self.cells[i];
        // map() of arrays is not inlined
        [at(i - 1), at(above), at(above + 1), at(above - 1), at(i + 1), at(below), at(below + 1), at(below - 1)]
    }

    #[inline(always)]
    fn near_of(&self, i: usize, part: impl Fn(Motion) -> [i32; 2]) -> Near {
        let above = i - self.pitch;
        [self.cells[i - 1].map(&part), self.cells[above].map(&part), self.cells[above + 1].map(&part)]
    }

    #[inline]
    fn near_index(&self, i: usize) -> Near {
        self.near_of(i, |m| m.vector)
    }

    #[inline]
    fn near_bends_index(&self, i: usize) -> Near {
        self.near_of(i, |m| m.bend)
    }

    /// The neighbours from which a cell's vector is predicted.
    pub(super) fn near(&self, y: usize, x: usize) -> Near {
        self.near_index(self.index(y, x))
    }

    /// The neighbours from which a cell's bend is predicted.
    pub(super) fn near_bends(&self, y: usize, x: usize) -> Near {
        self.near_bends_index(self.index(y, x))
    }

    /// The decoder's prediction of a cell's vector.
    pub(super) fn prediction(&self, y: usize, x: usize) -> Vector {
        predict(self.near(y, x))
    }

    #[inline]
    fn bits_at(&self, i: usize) -> u32 {
        match self.cells[i] {
            Some(m) => {
                let bend = if self.bent { cost(m.bend, self.near_bends_index(i)) } else { 0 };
                INTER + cost(m.vector, self.near_index(i)) + bend
            }
            None => INTRA[usize::from(self.cells[i - 1].is_none()) + usize::from(self.cells[i - self.pitch].is_none())],
        }
    }

    /// Cost of a cell in 1/256 bit.
    pub(super) fn bits(&self, y: usize, x: usize) -> u32 {
        self.bits_at(self.index(y, x))
    }

    /// Cost in 1/256 bit of a cell and of those it helps to predict, if it had `value`.
    pub(super) fn bits_with(&mut self, y: usize, x: usize, value: Option<Motion>) -> u32 {
        let i = self.index(y, x);
        let old = std::mem::replace(&mut self.cells[i], value);
        let mut bits = self.bits_at(i);
        if x + 1 < self.cells_x {
            bits += self.bits_at(i + 1);
        }
        if y + 1 < self.cells_y {
            bits += self.bits_at(i + self.pitch);
            if x > 0 {
                bits += self.bits_at(i + self.pitch - 1);
            }
        }
        self.cells[i] = old;
        bits
    }
}
