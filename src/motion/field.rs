// SPDX-License-Identifier: MIT OR Apache-2.0
//! A field of vectors and what it costs to code, with the token coder's own prediction.

use crate::tokens::motion::{Near, NeighbourCost, VectorCost, cost};

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

    /// Displacement of frame `i` of `t` in eighths of a pixel.
    pub(super) fn displacement(self, i: usize, t: usize) -> (i32, i32) {
        if t == 2 {
            // the same without divisions
            let [y, x] = self.vector;
            return if i == 0 { (y + self.bend[0], x + self.bend[1]) } else { (2 * y, 2 * x) };
        }
        let part = |d: i32| (4 * d * (i as i32 + 1) + t as i32).div_euclid(2 * t as i32);
        let [by, bx] = if i + 1 < t { self.bend } else { [0; 2] };
        (part(self.vector[0]) + by, part(self.vector[1]) + bx)
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

    /// What different motion of an inter cell costs.
    pub(super) fn motion_cost(&self, y: usize, x: usize) -> MotionCost {
        let i = self.index(y, x);
        let (left, above, right, below) = (i - 1, i - self.pitch, i + 1, i + self.pitch);
        // the cells that are predicted from it, and their other neighbours
        let followers = [
            (x + 1 < self.cells_x, right, [above + 1, above + 2]),
            (y + 1 < self.cells_y, below, [below - 1, right]),
            (y + 1 < self.cells_y && x > 0, below - 1, [below - 2, left]),
        ];
        let mut cost = MotionCost {
            vector: VectorCost::new(self.near_index(i)),
            bend: self.bent.then(|| VectorCost::new(self.near_bends_index(i))),
            fixed: INTER,
            followers: [(NeighbourCost::default(), NeighbourCost::default()); 3],
            count: 0,
        };
        for (_, at, others) in followers.into_iter().filter(|f| f.0) {
            let Some(own) = self.cells[at] else {
                cost.fixed += self.bits_at(at);
                continue;
            };
            let others = [self.cells[others[0]], self.cells[others[1]]];
            let of = |part: fn(Motion) -> Vector| NeighbourCost::new(part(own), [others[0].map(part), others[1].map(part)]);
            let bend = if self.bent { of(|m| m.bend) } else { NeighbourCost::default() };
            cost.fixed += INTER;
            cost.followers[cost.count] = (of(|m| m.vector), bend);
            cost.count += 1;
        }
        cost
    }
}

/// What a cell's motion costs, for itself and for the cells that are predicted from it.
pub(super) struct MotionCost {
    vector: VectorCost,
    /// Where bends are coded.
    bend: Option<VectorCost>,
    /// What does not depend on it.
    fixed: u32,
    /// Vectors and bends of cells that are predicted from it.
    followers: [(NeighbourCost, NeighbourCost); 3],
    count: usize,
}

impl MotionCost {
    /// The neighbours' prediction of its vector.
    pub(super) fn prediction(&self) -> Vector {
        self.vector.prediction()
    }

    /// In 1/256 bit.
    pub(super) fn bits(&self, m: Motion) -> u32 {
        let followers = &self.followers[..self.count];
        let vectors = self.vector.of(m.vector) + followers.iter().map(|(vector, _)| vector.with(m.vector)).sum::<u32>();
        let bends = match &self.bend {
            Some(bend) => bend.of(m.bend) + followers.iter().map(|(_, bend)| bend.with(m.bend)).sum::<u32>(),
            None => 0,
        };
        self.fixed + vectors + bends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cells_motion_costs_what_the_field_costs_with_it() {
        let mut state = 3u32;
        let mut random = |n: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % n
        };
        // few different vectors, so that some are those of neighbours
        let mut part = |n: u32| [random(n) as i32 * 3 - 4, random(n) as i32 * 40 - 80];
        let mut motion = || Motion { vector: part(4), bend: part(3) };
        for bent in [false, true] {
            for (h, w) in [(1, 1), (1, 4), (4, 1), (4, 5)] {
                let mut field = MotionField::new(h, w);
                field.bent = bent;
                for i in 0..h * w {
                    let one = motion();
                    field.set(i / w, i % w, (i == 0 || one.vector[0] != 2).then_some(one));
                }
                for (y, x) in (0..h * w).map(|i| (i / w, i % w)).filter(|&(y, x)| field.get(y, x).is_some()) {
                    let cost = field.motion_cost(y, x);
                    let prices = [(); 20].map(|()| {
                        let one = motion();
                        let mut with = field.clone();
                        with.set(y, x, Some(one));
                        let all: u32 = (0..h * w).map(|i| with.bits(i / w, i % w)).sum();
                        all.wrapping_sub(cost.bits(one))
                    });
                    assert!(prices.iter().all(|rest| *rest == prices[0]), "{y}, {x} of {h}, {w}: {prices:?}");
                }
            }
        }
    }
}
