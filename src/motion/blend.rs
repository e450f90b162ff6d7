// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which cells are blended: predicted by their own motion in the middle, and towards their edges more and more by that of the cells
//! beside them (overlapped block motion compensation).

use super::MotionSearch;
use super::field::{CELL, Motion};
use crate::tokens::motion::{BLENDED, INTRA, may_blend};

/// Bits that a blended cell must save: those of its flag, and some for the time that it takes.
const LEAST_BITS: f32 = 3.0;
/// Parts of one that the predictions have.
const PARTS: u16 = 32;
/// Mean absolute error of a sample below which nothing is gained.
const GOOD: u32 = 1;

/// Samples of a cell.
type Samples = [u8; CELL * CELL];

impl MotionSearch {
    /// Marks blended cells in the planes of `motion`. `lambda`: SAD per bit.
    pub(super) fn blend(&self, frames: &[&[u8]], lambda: f32, motion: &mut [i32]) {
        let cells = self.previous.len();
        let least = (lambda.clamp(0.0, 1e4) * LEAST_BITS) as i32;
        let mut own = [[0; CELL * CELL]; 5];
        for cell in 0..cells {
            if !may_blend(motion, self.cells_x, cell) || self.error(cell) <= GOOD * (CELL * CELL * frames.len()) as u32 {
                continue;
            }
            let (y, x) = (cell / self.cells_x, cell % self.cells_x);
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
            if self.gain(frames, (y * CELL, x * CELL), around, &mut own) > least {
                motion[2 * cells + cell] = BLENDED;
            }
        }
    }

    /// SAD of a cell at its motion.
    fn error(&self, cell: usize) -> u32 {
        let (y, x) = (cell / self.cells_x, cell % self.cells_x);
        let [upper, lower] = &self.bands;
        if y < upper.rows.end { upper.sad(y, x) } else { lower.sad(y, x) }
    }

    /// By how much blending lowers the SAD of a cell at (y, x). `around`: its motion, and that above, below, left and right of it.
    fn gain(&self, frames: &[&[u8]], (y, x): (usize, usize), around: [Motion; 5], made: &mut [Samples; 5]) -> i32 {
        let mut gain = 0;
        for (i, frame) in frames.iter().enumerate() {
            for (n, motion) in around.iter().enumerate() {
                match around[..n].iter().position(|m| m == motion) {
                    Some(same) => made[n] = made[same],
                    None => self.reference.fetch((y, x), motion.displacement(i, frames.len()), &mut made[n]),
                }
            }
            for row in 0..CELL {
                let source = &frame[(y + row) * self.width + x..][..CELL];
                let of = |n: usize| -> &[u8; CELL] { made[n][row * CELL..][..CELL].try_into().expect("a row of a cell") };
                let vertical = if row < CELL / 2 { of(1) } else { of(2) };
                gain += row_gain(source.try_into().expect("a row of a cell"), of(0), (row_part(row), vertical), [of(3), of(4)]);
            }
        }
        gain
    }
}

/// Parts of the prediction across the nearer edge, `i` samples into a cell.
const fn row_part(i: usize) -> u16 {
    (CELL / 2 - if i < CELL / 2 { i } else { CELL - 1 - i }) as u16
}

const COLUMN_PARTS: [u16; CELL] = {
    let (mut parts, mut i) = ([0; CELL], 0);
    while i < CELL {
        parts[i] = row_part(i);
        i += 1;
    }
    parts
};

fn row_gain(source: &[u8; CELL], own: &[u8; CELL], (part, vertical): (u16, &[u8; CELL]), [left, right]: [&[u8; CELL]; 2]) -> i32 {
    let mut gain = 0;
    for i in 0..CELL {
        let side = if i < CELL / 2 { left[i] } else { right[i] };
        let column = COLUMN_PARTS[i];
        let sum = (PARTS - part - column) * u16::from(own[i]) + part * u16::from(vertical[i]) + column * u16::from(side);
        let blended = (sum + PARTS / 2) / PARTS;
        gain += i32::from(source[i].abs_diff(own[i])) - i32::from(u16::from(source[i]).abs_diff(blended));
    }
    gain
}
