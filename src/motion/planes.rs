// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reference at half-pixel resolution, and sums of absolute differences at quarter- and eighth-pixel positions.
//!
//! Half-pixel samples come from an eight-tap filter close to the decoder graph's. Between them the search interpolates
//! linearly, which is cheaper than the graph's taps and close enough to rank candidates.

use super::field::CELL;
use super::pixels::{LANE, Lane, Sum};

const _: () = assert!(CELL == LANE);

/// Samples around the picture, on every side: the longest vector, and the filter's reach.
const PAD: usize = 72;
const _: () = assert!(PAD as i32 >= (super::field::RANGE + 3) / 4 + 8);

/// Reference planes, each with its edge repeated: full, half to the right, half down, both.
#[derive(Debug)]
pub(super) struct Interpolated {
    width: usize,
    height: usize,
    pitch: usize,
    planes: [Vec<u8>; 4],
}

/// Samples of `planes`, in their place relative to the whole sample: (plane, rows down, columns right).
type Sample = (usize, usize, usize);

const FULL: usize = 0;
const RIGHT: usize = 1;
const DOWN: usize = 2;
const BOTH: usize = 3;

/// For each quarter-pixel phase [y][x]: two samples to average.
const QUARTERS: [[[Sample; 2]; 4]; 4] = {
    const fn one(p: usize) -> [Sample; 2] {
        [(p, 0, 0), (p, 0, 0)]
    }
    [
        [one(FULL), [(FULL, 0, 0), (RIGHT, 0, 0)], one(RIGHT), [(RIGHT, 0, 0), (FULL, 0, 1)]],
        [
            [(FULL, 0, 0), (DOWN, 0, 0)],
            [(RIGHT, 0, 0), (DOWN, 0, 0)],
            [(RIGHT, 0, 0), (BOTH, 0, 0)],
            [(RIGHT, 0, 0), (DOWN, 0, 1)],
        ],
        [one(DOWN), [(DOWN, 0, 0), (BOTH, 0, 0)], one(BOTH), [(BOTH, 0, 0), (DOWN, 0, 1)]],
        [
            [(DOWN, 0, 0), (FULL, 1, 0)],
            [(DOWN, 0, 0), (RIGHT, 1, 0)],
            [(BOTH, 0, 0), (RIGHT, 1, 0)],
            [(RIGHT, 1, 0), (DOWN, 0, 1)],
        ],
    ]
};

/// The half-pixel plane that lies `y`, `x` half samples (0..=2) down and right.
const fn half(y: usize, x: usize) -> Sample {
    (2 * (y & 1) + (x & 1), y >> 1, x >> 1)
}

#[inline(always)]
fn eight(s: [u8; 8]) -> u8 {
    let [a, b, c, d, e, f, g, h] = s.map(i16::from);
    ((40 * (d + e) - 11 * (c + f) + 4 * (b + g) - (a + h) + 32) >> 6).clamp(0, 255) as u8
}

impl Interpolated {
    pub(super) fn new(width: usize, height: usize) -> Self {
        let pitch = width + 2 * PAD;
        let size = pitch * (height + 2 * PAD);
        Self { width, height, pitch, planes: [vec![0; size], vec![0; size], vec![0; size], vec![0; size]] }
    }

    /// Takes a new reference, `width` * `height` samples.
    pub(super) fn load(&mut self, reference: &[u8]) {
        let (w, h, p) = (self.width, self.height, self.pitch);
        let [full, right, down, both] = &mut self.planes;
        for (y, row) in full.chunks_exact_mut(p).enumerate() {
            let from = &reference[y.saturating_sub(PAD).min(h - 1) * w..][..w];
            row[..PAD].fill(from[0]);
            row[PAD..PAD + w].copy_from_slice(from);
            row[PAD + w..].fill(from[w - 1]);
        }
        let n = full.len();
        for (out, f) in right.chunks_exact_mut(p).zip(full.chunks_exact(p)) {
            let at = |k: usize| &f[k..p - 7 + k];
            let (a, b, c, d, e, f, g, h) = (at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7));
            for (i, o) in out[3..p - 4].iter_mut().enumerate() {
                *o = eight([a[i], b[i], c[i], d[i], e[i], f[i], g[i], h[i]]);
            }
        }
        for (out, from) in [(down, &*full), (both, &*right)] {
            for (y, out) in out[3 * p..n - 4 * p].chunks_exact_mut(p).enumerate() {
                let at = |k: usize| &from[(y + k) * p..][..p];
                let (a, b, c, d, e, f, g, h) = (at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7));
                for (i, o) in out.iter_mut().enumerate() {
                    *o = eight([a[i], b[i], c[i], d[i], e[i], f[i], g[i], h[i]]);
                }
            }
        }
    }

    /// The samples that are (ey, ex) eighths of a pixel from a cell at (y, x), at the nearest quarters.
    pub(super) fn fetch(&self, (y, x): (usize, usize), (ey, ex): (i32, i32), out: &mut [u8; CELL * CELL]) {
        let place = |at: usize, e: i32| ((at + PAD) as i32 + (e >> 3)) as usize;
        let at = place(y, ey) * self.pitch + place(x, ex);
        let [a, b] = QUARTERS[(ey & 7) as usize >> 1][(ex & 7) as usize >> 1];
        let of = |s: Sample| &self.planes[s.0][at + s.1 * self.pitch + s.2..][..(CELL - 1) * self.pitch + CELL];
        let (one, two) = (of(a).chunks(self.pitch), of(b).chunks(self.pitch));
        for ((out, one), two) in out.chunks_exact_mut(CELL).zip(one).zip(two) {
            for ((o, a), b) in out.iter_mut().zip(one).zip(two) {
                *o = (u16::from(*a) + u16::from(*b)).div_ceil(2) as u8;
            }
        }
    }

    /// Sum of absolute differences of the cell of `frame` at (y, x) to the reference moved by (ey, ex) eighths of a pixel; or
    /// any number of at least `limit`, once the sum reaches that.
    pub(super) fn sad(&self, frame: &[u8], (y, x): (usize, usize), (ey, ex): (i32, i32), limit: u32) -> u32 {
        let place = |at: usize, e: i32| ((at + PAD) as i32 + (e >> 3)) as usize;
        let at = place(y, ey) * self.pitch + place(x, ex);
        let (fy, fx) = ((ey & 7) as usize, (ex & 7) as usize);
        let start = |s: Sample| &self.planes[s.0][at + s.1 * self.pitch + s.2..];
        let source = Rows::new(&frame[y * self.width + x..], self.width);
        let of = |s: Sample| Rows::new(start(s), self.pitch);
        if (fy | fx) & 1 == 0 {
            let [a, b] = QUARTERS[fy >> 1][fx >> 1];
            let (one, two) = (of(a), of(b));
            if a == b { compare(source, limit, |r| one.row(r)) } else { compare(source, limit, |r| one.row(r).mean(two.row(r))) }
        } else {
            let (hy, hx) = (fy >> 2, fx >> 2);
            let corners = [half(hy, hx), half(hy, hx + 1), half(hy + 1, hx), half(hy + 1, hx + 1)].map(of);
            let kernel = match (fy & 3, fx & 3) {
                (0, 1) => eighth::<0, 1>,
                (0, 3) => eighth::<0, 3>,
                (1, 0) => eighth::<1, 0>,
                (1, 1) => eighth::<1, 1>,
                (1, 2) => eighth::<1, 2>,
                (1, 3) => eighth::<1, 3>,
                (2, 1) => eighth::<2, 1>,
                (2, 3) => eighth::<2, 3>,
                (3, 0) => eighth::<3, 0>,
                (3, 1) => eighth::<3, 1>,
                (3, 2) => eighth::<3, 2>,
                _ => eighth::<3, 3>,
            };
            kernel(source, limit, corners)
        }
    }
}

/// [`compare`] at `Y`, `X` quarters of the way between four half-pixel samples.
fn eighth<const Y: usize, const X: usize>(source: Rows<'_>, limit: u32, [a, b, c, d]: [Rows<'_>; 4]) -> u32 {
    compare(source, limit, |r| {
        let across = |left: Rows<'_>, right: Rows<'_>| if X == 0 { left.row(r) } else { between::<X>(left.row(r), right.row(r)) };
        if Y == 0 { across(a, b) } else { between::<Y>(across(a, b), across(c, d)) }
    })
}

/// Rows of [`CELL`] samples.
#[derive(Clone, Copy)]
struct Rows<'a> {
    data: &'a [u8],
    pitch: usize,
}

impl<'a> Rows<'a> {
    /// The cell at the start of `data`. Callers stay inside the padded plane: too little data is a bug, not bad input.
    #[inline(always)]
    fn new(data: &'a [u8], pitch: usize) -> Self {
        Self { data: &data[..(CELL - 1) * pitch + CELL], pitch }
    }

    /// Row `r`, below [`CELL`].
    #[inline(always)]
    #[allow(unsafe_code, reason = "four checks a row take as long as the work")]
    fn row(&self, r: usize) -> Lane {
        assert!(r < CELL); // the compiler sees that it is
        // SAFETY: new() has checked that rows up to the last are inside `data`.
        let row = unsafe { self.data.get_unchecked(r * self.pitch..r * self.pitch + CELL) };
        Lane::new(row.try_into().expect("a row of CELL samples"))
    }
}

/// Adds up the rows' differences; stops halfway if `limit` is reached.
#[inline(always)]
fn compare(source: Rows<'_>, limit: u32, prediction: impl Fn(usize) -> Lane) -> u32 {
    let mut sum = Sum::zero();
    for r in 0..CELL / 2 {
        sum = sum.add(source.row(r), prediction(r));
    }
    if sum.total() >= limit {
        return sum.total();
    }
    for r in CELL / 2..CELL {
        sum = sum.add(source.row(r), prediction(r));
    }
    sum.total()
}

/// `QUARTERS` of the way from a to b: 1 to 3.
#[inline(always)]
fn between<const QUARTERS: usize>(a: Lane, b: Lane) -> Lane {
    match QUARTERS {
        1 => a.mean(a.mean(b)),
        2 => a.mean(b),
        _ => b.mean(a.mean(b)),
    }
}

/// Sum of absolute differences of a cell to its own mean, in one frame: the error of a flat prediction.
pub(super) fn activity(frame: &[u8], width: usize, y: usize, x: usize) -> u32 {
    let rows = Rows::new(&frame[y * width + x..], width);
    let flat = |level: u8| compare(rows, u32::MAX, |_| Lane::new(&[level; CELL]));
    flat(((flat(0) + 128) / (CELL * CELL) as u32) as u8)
}
