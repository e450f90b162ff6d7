// SPDX-License-Identifier: MIT OR Apache-2.0
//! Jumps: shifts of whole pixels, up, down or sideways, that a large part of a picture makes at once, as when a page is scrolled.
//!
//! They are farther than a refinement reaches, a picture of small letters says little at a quarter of the resolution, and between one
//! frame and the next there is no way half of which the frame between would have gone. So they are looked for in some cells, at full
//! resolution, in each frame by itself, and every cell may then take them.

use super::field::{CELL, Motion, RANGE};
use super::planes::{Interpolated, activity_of, cell_of};

/// Cells that are looked at.
const SAMPLES: usize = 48;
/// Of those, cells after which a search that has found nothing gives up.
const FIRST: usize = 16;
/// A jump must leave less than this share, as 1/n, of a cell's differences.
const LEFT: u32 = 4;
/// Share of the cells, as 1/n, that must agree on a jump.
const AGREE: usize = 4;
/// Mean absolute difference of a sample, from which on a cell is looked at.
const MOVED: u32 = 4;
/// Jumps of a frame that are kept.
const KEPT: usize = 2;
/// Longest jump, in pixels.
const REACH: i32 = RANGE / 4;
const STEPS: usize = 2 * REACH as usize + 1;

/// A displacement in pixels.
type Jump = [i32; 2];

/// Jumps of a block's frames.
#[derive(Debug, Default)]
pub(super) struct Jumps {
    /// Motion that they make.
    likely: Vec<Motion>,
    /// Votes for displacements along each axis.
    votes: Vec<u16>,
}

impl Jumps {
    /// Motion that cells are likely to have.
    pub(super) fn likely(&self) -> &[Motion] {
        &self.likely
    }

    /// Looks for the jumps of `frames`, luma planes of `width` samples a row, from the reference. T = 2.
    pub(super) fn search(&mut self, frames: &[&[u8]], reference: &Interpolated, width: usize) {
        self.likely.clear();
        let [first, last] = frames[..] else { return };
        let ends = self.of_frame(last, reference, width);
        let starts = self.of_frame(first, reference, width);
        let jumps = |found: [Option<Jump>; KEPT]| found.into_iter().flatten();
        for end in jumps(ends) {
            jumps(starts).chain([end, [0; 2]]).for_each(|start| self.add(start, end));
        }
        for start in jumps(starts) {
            [start, [0; 2]].into_iter().for_each(|end| self.add(start, end));
        }
    }

    /// Motion by `start` in the first frame and by `end` in the last.
    fn add(&mut self, start: Jump, end: Jump) {
        // in quarter pixels, and in eighths away from the way's half
        let motion = Motion { vector: end.map(|d| 4 * d), bend: [0, 1].map(|i| 8 * start[i] - 4 * end[i]) };
        if motion.bend.iter().all(|d| d.abs() <= RANGE) && !self.likely.contains(&motion) {
            self.likely.push(motion);
        }
    }

    /// The jumps that most cells agree on.
    fn of_frame(&mut self, frame: &[u8], reference: &Interpolated, width: usize) -> [Option<Jump>; KEPT] {
        let (cells_x, cells) = (width / CELL, frame.len() / (CELL * CELL));
        self.votes.clear();
        self.votes.resize(2 * STEPS, 0);
        let (mut looked, mut found) = (0, 0u16);
        // a stride that is prime to both sides spreads the cells over the picture
        let stride = (0..).map(|n| cells * 5 / 8 + n).find(|s| gcd(*s, cells) == 1).unwrap_or(1);
        for n in 0..cells {
            if looked >= SAMPLES || (looked >= FIRST && found == 0) {
                break;
            }
            let cell = n * stride % cells;
            let at = (cell / cells_x * CELL, cell % cells_x * CELL);
            let (place, source) = (reference.place(at.0, at.1), cell_of(frame, width, at.0, at.1));
            let still = reference.sad(&source, place, (0, 0), u32::MAX);
            if still <= MOVED * (CELL * CELL) as u32 || activity_of(&source) <= 2 * MOVED * (CELL * CELL) as u32 {
                continue;
            }
            looked += 1;
            let mut best = (still / LEFT, None);
            for (axis, d) in (0..2).flat_map(|axis| (-REACH..=REACH).map(move |d| (axis, d))) {
                let to = if axis == 0 { (8 * d, 0) } else { (0, 8 * d) };
                let sad = reference.sad(&source, place, to, best.0);
                if sad < best.0 {
                    best = (sad, Some(axis * STEPS + (d + REACH) as usize));
                }
            }
            if let Some(place) = best.1 {
                self.votes[place] += 1;
                found = found.max(self.votes[place]);
            }
        }
        let mut kept = [None; KEPT];
        for kept in &mut kept {
            let (place, votes) = self.votes.iter().copied().enumerate().max_by_key(|(_, votes)| *votes).unwrap_or((0, 0));
            if votes >= 3 && usize::from(votes) * AGREE >= looked {
                let d = (place % STEPS) as i32 - REACH;
                *kept = Some(if place < STEPS { [d, 0] } else { [0, d] });
                self.votes[place] = 0;
            }
        }
        kept
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
