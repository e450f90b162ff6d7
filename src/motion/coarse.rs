// SPDX-License-Identifier: MIT OR Apache-2.0
//! Large motion: a search at a quarter of the resolution, for squares of 2x2 cells, that seeds the cells' own search.

use super::field::{CELL, RANGE, Vector};
use super::pixels::{LANE, Lane, Sum};

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
    column_sums: Vec<u16>,
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
            column_sums: vec![0; size],
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
        sum_squares(&self.reference, pitch, &mut self.column_sums, &mut self.square_sums);
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
        let own = square_of(&self.picture[at..], self.pitch);
        let sad = |v: [i32; 2]| {
            let to = at as isize + v[0] as isize * self.pitch as isize + v[1] as isize;
            square_sad(&own, &self.reference[to as usize..], self.pitch)
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
            let own = own.iter().map(|s| u16::from(*s)).sum::<u16>();
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

/// Rows of a square, one after the other.
type Square = [u8; SIDE * SIDE];

fn square_of(samples: &[u8], pitch: usize) -> Square {
    let mut square = [0; SIDE * SIDE];
    square.chunks_exact_mut(SIDE).zip(samples.chunks(pitch)).for_each(|(to, row)| to.copy_from_slice(&row[..SIDE]));
    square
}

#[inline(always)]
fn square_sad(own: &Square, other: &[u8], pitch: usize) -> u32 {
    let row = |r: usize| -> [u8; SIDE] { other[r * pitch..][..SIDE].try_into().expect("a row of a square") };
    let (rows, _) = own.as_chunks::<LANE>();
    let pairs = rows.iter().zip((0..SIDE).step_by(LANE / SIDE));
    pairs.fold(Sum::zero(), |sum, (own, r)| sum.add(Lane::new(own), Lane::of_halves(&row(r), &row(r + 1)))).total()
}

/// Sums of the squares that begin at each sample, of all that lie in the picture, but for the last `SIDE` of them. `columns`: working memory of
/// the same size.
fn sum_squares(picture: &[u8], pitch: usize, columns: &mut [u16], sums: &mut [u16]) {
    let n = sums.len() - SIDE * pitch;
    columns.fill(0);
    for r in 0..SIDE {
        columns[..n].iter_mut().zip(&picture[r * pitch..]).for_each(|(sum, s)| *sum += u16::from(*s));
    }
    let width = n - SIDE;
    sums[..width].fill(0);
    for x in 0..SIDE {
        sums[..width].iter_mut().zip(&columns[x..]).for_each(|(sum, column)| *sum += column);
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
        sum_squares(&picture, pitch, &mut vec![0; picture.len()], &mut sums);
        for at in (0..30 - SIDE).flat_map(|y| (0..pitch - SIDE).map(move |x| y * pitch + x)) {
            let rows = picture[at..].chunks(pitch).take(SIDE);
            let sum: u32 = rows.map(|row| row[..SIDE].iter().map(|s| u32::from(*s)).sum::<u32>()).sum();
            let square = square_of(&picture[at..], pitch);
            assert_eq!((u32::from(sums[at]), square.iter().map(|s| u32::from(*s)).sum()), (sum, sum));
        }
    }
}
