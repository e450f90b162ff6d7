// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which cells are blended: predicted by their own motion in the middle, and towards their edges more and more by that of the cells
//! beside them (overlapped block motion compensation).

use super::MotionSearch;
use super::band::Band;
use super::field::{CELL, Motion};
#[cfg(target_arch = "x86_64")]
use super::pixels::Avx2;
use super::pixels::{Cell, Common, Machine};
use super::planes::{Interpolated, Place, Prediction};
use crate::tokens::motion::{BLENDED, INTRA, may_blend};

/// Bits that a blended cell must save: those of its flag, and some for the time that it takes.
const LEAST_BITS: f32 = 3.0;
/// Parts of one that the predictions have.
const PARTS: u8 = 1 << PARTS_BITS;
const PARTS_BITS: i32 = 5;
/// Mean absolute error of a sample below which nothing is gained.
const GOOD: u32 = 1;

impl MotionSearch {
    /// Marks blended cells in the planes of `motion`. `lambda`: SAD per bit.
    pub(super) fn blend(&mut self, lambda: f32, motion: &mut [i32]) {
        let least = (lambda.clamp(0.0, 1e4) * LEAST_BITS) as i32;
        let [mut first, mut second] = std::mem::take(&mut self.blended);
        let (search, known, [upper, lower]) = (&*self, &*motion, &self.bands);
        search.pair.run(
            || search.find_blended(upper, least, known, &mut first),
            || search.find_blended(lower, least, known, &mut second),
        );
        let cells = self.previous.len();
        for cell in first.iter().chain(&second) {
            motion[2 * cells + cell] = BLENDED;
        }
        self.blended = [first, second];
    }

    /// Finds the cells of a band whose SAD blending lowers by more than `least`.
    fn find_blended(&self, band: &Band, least: i32, motion: &[i32], blended: &mut Vec<usize>) {
        blended.clear();
        let cells = self.previous.len();
        for (y, x) in band.rows.clone().flat_map(|y| (0..self.cells_x).map(move |x| (y, x))) {
            let cell = y * self.cells_x + x;
            if !may_blend(motion, self.cells_x, cell) || band.sad(y, x) <= GOOD * (CELL * CELL * self.block_length) as u32 {
                continue;
            }
            let beside = |inside: bool, beside: usize| {
                let moves = inside && motion[2 * cells + beside] != INTRA;
                self.previous[if moves { beside } else { cell }]
            };
            let around = [
                self.previous[cell],
                beside(y > 0, cell.wrapping_sub(self.cells_x)),
                beside(cell + self.cells_x < cells, cell + self.cells_x),
                beside(x > 0, cell.wrapping_sub(1)),
                beside(x + 1 < self.cells_x, cell + 1),
            ];
            if self.gain(self.sources.of(y, x), self.reference.place(y * CELL, x * CELL), around) > least {
                blended.push(cell);
            }
        }
    }

    /// By how much blending lowers the SAD of a cell. `around`: its motion, and that above, below, left and right of it.
    fn gain(&self, cells: &[Cell], at: Place, around: [Motion; 5]) -> i32 {
        let of = |(i, cell): (usize, &Cell)| {
            let moved = around.map(|motion| motion.displacement(i, cells.len()));
            self.reference.blending_gain(cell, at, moved)
        };
        cells.iter().enumerate().map(of).sum()
    }
}

impl Interpolated {
    /// By how much blending lowers the SAD of a cell. `moved`: its displacement, and those above, below, left and right of it.
    fn blending_gain(&self, cell: &Cell, at: Place, moved: [(i32, i32); 5]) -> i32 {
        #[cfg(target_arch = "x86_64")]
        if let Some(avx2) = self.avx2 {
            #[allow(unsafe_code, reason = "a call of a function for processors with AVX2")]
            // SAFETY: the processor has AVX2.
            return unsafe { self.blending_gain_avx2(avx2, cell, at, moved) };
        }
        self.blending_gain_with(Common, cell, at, moved)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn blending_gain_avx2(&self, avx2: Avx2, cell: &Cell, at: Place, moved: [(i32, i32); 5]) -> i32 {
        self.blending_gain_with(avx2, cell, at, moved)
    }

    #[inline(always)]
    fn blending_gain_with<M: Machine>(&self, m: M, cell: &Cell, at: Place, moved: [(i32, i32); 5]) -> i32 {
        let [here, above, below, left, right] = moved.map(|moved| self.quarters(at, moved));
        let (mut own, mut blended) = (m.zero(), m.zero());
        for (rows, vertical) in [(0..CELL / 2, above), (CELL / 2..CELL, below)] {
            for r in rows.step_by(M::ROWS) {
                let weight = |n: usize| m.load(&WEIGHTS[n][r], || &WEIGHTS[n][r + 1]);
                let parts = [here.row(m, r), vertical.row(m, r), m.halves(left.row(m, r), right.row(m, r))];
                let mix = m.mix::<PARTS_BITS>(parts, [weight(0), weight(1), weight(2)]);
                let source = m.of_cell(cell, r);
                own = m.add(own, source, parts[0]);
                blended = m.add(blended, source, mix);
            }
        }
        m.total(own) as i32 - m.total(blended) as i32
    }
}

/// Parts that a sample has, by rows: of its cell's own prediction, of that across the nearer of the upper and lower edge, and of that across
/// the nearer of the left and right one.
const WEIGHTS: [[[u8; CELL]; CELL]; 3] = {
    let (mut weights, mut row) = ([[[0; CELL]; CELL]; 3], 0);
    while row < CELL {
        let mut i = 0;
        while i < CELL {
            (weights[1][row][i], weights[2][row][i]) = (across_edge(row), across_edge(i));
            weights[0][row][i] = PARTS - across_edge(row) - across_edge(i);
            i += 1;
        }
        row += 1;
    }
    weights
};

/// Parts of the prediction across the nearer edge, `i` samples into a cell.
const fn across_edge(i: usize) -> u8 {
    (CELL / 2 - if i < CELL / 2 { i } else { CELL - 1 - i }) as u8
}
