// SPDX-License-Identifier: MIT OR Apache-2.0
//! Large motion: a search at a quarter of the resolution, for squares of 2x2 cells, that seeds the cells' own search.

use super::field::{CELL, RANGE, Vector};
use super::pixels::{Lane, Sum};

/// Full-resolution samples per low-resolution sample, on each side.
const SCALE: usize = 4;
/// Low-resolution samples on a side of a square.
const SIDE: usize = 2 * CELL / SCALE;
/// Longest vector, in low-resolution samples.
const REACH: i32 = RANGE / 4 / SCALE as i32;
const PAD: usize = REACH as usize + SIDE;
/// Quarter pixels in a low-resolution sample.
const UNIT: i32 = 4 * SCALE as i32;
/// Sum of absolute differences of a square below which a far search finds nothing better: one and a half grey levels.
const GOOD: u32 = (SIDE * SIDE) as u32 * 3 / 2;

/// Quarter-resolution pictures and the squares' vectors.
#[derive(Debug)]
pub(super) struct Coarse {
    width: usize,
    height: usize,
    pitch: usize,
    reference: Vec<u8>,
    picture: Vec<u8>,
    sums: Vec<u16>,
    /// Sums of the squares that begin at each sample of the reference.
    square_sums: Vec<u16>,
    squares_x: usize,
    squares_y: usize,
    vectors: Vec<[i32; 2]>,
    previous: Vec<[i32; 2]>,
}

impl Coarse {
    pub(super) fn new(width: usize, height: usize) -> Self {
        let (w, h) = (width / SCALE, height / SCALE);
        let (squares_x, squares_y) = (w.div_ceil(SIDE), h.div_ceil(SIDE));
        // the last square may reach beyond the edge
        let pitch = squares_x * SIDE + 2 * PAD;
        let size = pitch * (squares_y * SIDE + 2 * PAD);
        Self {
            width,
            height,
            pitch,
            reference: vec![0; size],
            picture: vec![0; size],
            sums: vec![0; width],
            square_sums: vec![0; size],
            squares_x,
            squares_y,
            vectors: vec![[0; 2]; squares_x * squares_y],
            previous: vec![[0; 2]; squares_x * squares_y],
        }
    }

    pub(super) fn reset(&mut self) {
        self.previous.fill([0; 2]);
    }

    /// Vector of the square that a cell is in, in quarter pixels.
    pub(super) fn at(&self, cell_y: usize, cell_x: usize) -> Vector {
        self.vectors[cell_y / 2 * self.squares_x + cell_x / 2].map(|d| d * UNIT)
    }

    /// Finds the motion from `reference` to `picture`, full-resolution planes.
    pub(super) fn search(&mut self, picture: &[u8], reference: &[u8]) {
        let (w, h, pitch) = (self.width, self.height, self.pitch);
        reduce(picture, (w, h), &mut self.picture, pitch, &mut self.sums);
        reduce(reference, (w, h), &mut self.reference, pitch, &mut self.sums);
        sum_squares(&self.reference, pitch, &mut self.square_sums);
        std::mem::swap(&mut self.vectors, &mut self.previous);
        for y in 0..self.squares_y {
            for x in 0..self.squares_x {
                self.vectors[y * self.squares_x + x] = self.square(y, x);
            }
        }
    }

    fn square(&self, y: usize, x: usize) -> [i32; 2] {
        let i = y * self.squares_x + x;
        let at = (y * SIDE + PAD) * self.pitch + x * SIDE + PAD;
        let sad = |v: [i32; 2]| {
            let to = at as isize + v[0] as isize * self.pitch as isize + v[1] as isize;
            square_sad(&self.picture[at..], &self.reference[to as usize..], self.pitch)
        };
        let mut best = (sad([0; 2]), [0; 2]);
        let consider = |best: &mut (u32, [i32; 2]), v: [i32; 2]| {
            if v != best.1 && v[0].abs() <= REACH && v[1].abs() <= REACH {
                let sum = sad(v);
                if sum < best.0 {
                    *best = (sum, v);
                }
            }
        };
        if best.0 <= GOOD {
            return best.1;
        }
        if x > 0 {
            consider(&mut best, self.vectors[i - 1]);
        }
        if y > 0 {
            consider(&mut best, self.vectors[i - self.squares_x]);
            if x + 1 < self.squares_x {
                consider(&mut best, self.vectors[i - self.squares_x + 1]);
            }
        }
        consider(&mut best, self.previous[i]);
        for _ in 0..4 {
            let centre = best.1;
            for d in [[-1, 0], [1, 0], [0, -1], [0, 1]] {
                consider(&mut best, [centre[0] + d[0], centre[1] + d[1]]);
            }
            if best.1 == centre || best.0 <= GOOD {
                break;
            }
        }
        if best.0 > 2 * GOOD {
            // squares cannot differ less than their sums do
            let own = square_sum(&self.picture[at..], self.pitch);
            for dy in -REACH..=REACH {
                let first = at as isize + dy as isize * self.pitch as isize - REACH as isize;
                let sums = &self.square_sums[first as usize..][..2 * REACH as usize + 1];
                for (dx, sum) in (-REACH..=REACH).zip(sums) {
                    if u32::from(own.abs_diff(*sum)) < best.0 {
                        consider(&mut best, [dy, dx]);
                    }
                }
            }
        }
        best.1
    }
}

#[inline(always)]
fn square_sad(a: &[u8], b: &[u8], pitch: usize) -> u32 {
    let row = |s: &[u8], r: usize| -> [u8; SIDE] { s[r * pitch..][..SIDE].try_into().expect("a row of a square") };
    let pair = |s: &[u8], r: usize| Lane::of_halves(&row(s, r), &row(s, r + 1));
    (0..SIDE).step_by(2).fold(Sum::zero(), |sum, r| sum.add(pair(a, r), pair(b, r))).total()
}

fn square_sum(samples: &[u8], pitch: usize) -> u16 {
    samples.chunks(pitch).take(SIDE).flat_map(|row| &row[..SIDE]).map(|s| u16::from(*s)).sum()
}

/// Sums of the squares that begin at each sample, of all that lie in the picture.
fn sum_squares(picture: &[u8], pitch: usize, sums: &mut [u16]) {
    let n = sums.len() - SIDE * pitch;
    for (i, sum) in sums[..n].iter_mut().enumerate() {
        // of a column
        *sum = (0..SIDE).map(|r| u16::from(picture[i + r * pitch])).sum();
    }
    for i in 0..n - SIDE {
        sums[i] = sums[i..i + SIDE].iter().sum();
    }
}

/// Means of 4x4 samples, edges repeated into the padding.
fn reduce(plane: &[u8], (w, h): (usize, usize), out: &mut [u8], pitch: usize, sums: &mut [u16]) {
    let rows = out.len() / pitch;
    let n = w / SCALE;
    for (y, from) in plane.chunks_exact(SCALE * w).take(h / SCALE).enumerate() {
        let (a, rest) = from.split_at(w);
        let (b, rest) = rest.split_at(w);
        let (c, d) = rest.split_at(w);
        for (i, s) in sums.iter_mut().enumerate() {
            *s = u16::from(a[i]) + u16::from(b[i]) + u16::from(c[i]) + u16::from(d[i]);
        }
        let row = &mut out[(y + PAD) * pitch..][..pitch];
        for (o, s) in row[PAD..].iter_mut().zip(sums.chunks_exact(SCALE)) {
            *o = ((s[0] + s[1] + s[2] + s[3] + 8) >> 4) as u8;
        }
        let (first, last) = (row[PAD], row[PAD + n - 1]);
        row[..PAD].fill(first);
        row[PAD + n..].fill(last);
    }
    for y in 0..PAD {
        out.copy_within(PAD * pitch..(PAD + 1) * pitch, y * pitch);
    }
    let bottom = PAD + h / SCALE;
    for y in bottom..rows {
        out.copy_within((bottom - 1) * pitch..bottom * pitch, y * pitch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_squares() {
        let pitch = 40;
        let picture: Vec<u8> = (0..pitch * 30).map(|i: usize| (i.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
        let mut sums = vec![0; picture.len()];
        sum_squares(&picture, pitch, &mut sums);
        for at in (0..30 - SIDE).flat_map(|y| (0..pitch - SIDE).map(move |x| y * pitch + x)) {
            let rows = picture[at..].chunks(pitch).take(SIDE);
            let sum: u32 = rows.map(|row| row[..SIDE].iter().map(|s| u32::from(*s)).sum::<u32>()).sum();
            assert_eq!((u32::from(sums[at]), u32::from(square_sum(&picture[at..], pitch))), (sum, sum));
        }
    }
}
