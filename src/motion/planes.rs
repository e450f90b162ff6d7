// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reference at half-pixel resolution, and sums of absolute differences at quarter-pixel places.
//!
//! Half-pixel samples come from a six-tap filter, quarter-pixel ones are averages of two neighbours, as in H.264: cheaper than
//! the decoder graph's eight taps and close enough to rank candidates. Loops run over fixed-size arrays, so that the
//! compiler turns them into packed sums of absolute differences.

use super::CELL;

/// Samples around the picture, on every side.
const PAD: usize = 96;

/// Reference planes, each with its edge repeated: full, half to the right, half down, both.
#[derive(Debug)]
pub(super) struct Interpolated {
    width: usize,
    height: usize,
    pitch: usize,
    planes: [Vec<u8>; 4],
}

const FULL: usize = 0;
const RIGHT: usize = 1;
const DOWN: usize = 2;
const BOTH: usize = 3;

/// For each quarter-pixel phase [y][x]: two samples to average, as (plane, rows down, columns right).
const SAMPLES: [[[(usize, usize, usize); 2]; 4]; 4] = {
    const fn one(p: usize) -> [(usize, usize, usize); 2] {
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

#[inline(always)]
fn six(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8) -> u8 {
    let [a, b, c, d, e, f] = [a, b, c, d, e, f].map(i16::from);
    ((a + f - 5 * (b + e) + 20 * (c + d) + 16) >> 5).clamp(0, 255) as u8
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
            for (o, s) in out[2..p - 3].iter_mut().zip(f.windows(6)) {
                *o = six(s[0], s[1], s[2], s[3], s[4], s[5]);
            }
        }
        for (out, from) in [(down, &*full), (both, &*right)] {
            let rows = |k: usize| &from[k * p..n - (5 - k) * p];
            let (a, b, c, d, e, f) = (rows(0), rows(1), rows(2), rows(3), rows(4), rows(5));
            for (i, o) in out[2 * p..n - 3 * p].iter_mut().enumerate() {
                *o = six(a[i], b[i], c[i], d[i], e[i], f[i]);
            }
        }
    }

    /// Sum of absolute differences of the cell of `frame` at (y, x) to the reference moved by (qy, qx) quarter pixels. Far
    /// outside the picture all samples are edge, so the place is clamped there.
    #[inline]
    pub(super) fn sad(&self, frame: &[u8], width: usize, y: usize, x: usize, qy: i32, qx: i32) -> u32 {
        let place = |at: usize, q: i32, size: usize| -> (usize, usize) {
            let full = at as i32 + (q >> 2) + PAD as i32;
            let (least, most) = (8, (size + 2 * PAD - CELL - 8) as i32);
            if full < least {
                (least as usize, 0)
            } else if full > most {
                (most as usize, 0)
            } else {
                (full as usize, (q & 3) as usize)
            }
        };
        let (ry, fy) = place(y, qy, self.height);
        let (rx, fx) = place(x, qx, self.width);
        let [a, b] = SAMPLES[fy][fx];
        let start = |s: (usize, usize, usize)| &self.planes[s.0][(ry + s.1) * self.pitch + rx + s.2..];
        let source = &frame[y * width + x..];
        if a == b { sad(source, width, start(a), self.pitch) } else { sad_average(source, width, start(a), start(b), self.pitch) }
    }
}

#[inline(always)]
fn row(data: &[u8], at: usize) -> &[u8; CELL] {
    // Callers stay inside the padded plane; a slice of the wrong length is a bug, not bad input.
    data[at..at + CELL].try_into().expect("a row of CELL samples")
}

#[inline]
fn sad(source: &[u8], width: usize, reference: &[u8], pitch: usize) -> u32 {
    let mut sum = 0;
    for r in 0..CELL {
        let (s, p) = (row(source, r * width), row(reference, r * pitch));
        sum += s.iter().zip(p).map(|(a, b)| u32::from(a.abs_diff(*b))).sum::<u32>();
    }
    sum
}

#[inline]
fn sad_average(source: &[u8], width: usize, one: &[u8], two: &[u8], pitch: usize) -> u32 {
    let mut sum = 0;
    for r in 0..CELL {
        let (s, p, q) = (row(source, r * width), row(one, r * pitch), row(two, r * pitch));
        let mut mean = [0u8; CELL];
        for ((m, a), b) in mean.iter_mut().zip(p).zip(q) {
            *m = ((u16::from(*a) + u16::from(*b) + 1) >> 1) as u8;
        }
        sum += s.iter().zip(&mean).map(|(a, b)| u32::from(a.abs_diff(*b))).sum::<u32>();
    }
    sum
}

/// Sum of absolute differences of a cell to its own mean, over all frames: what a flat prediction would leave.
pub(super) fn activity(frames: &[&[u8]], width: usize, y: usize, x: usize) -> f32 {
    let rows = || frames.iter().flat_map(|f| (0..CELL).map(move |r| row(f, (y + r) * width + x)));
    let sum: u32 = rows().flatten().map(|&p| u32::from(p)).sum();
    let mean = (sum / (CELL * CELL * frames.len()) as u32) as u8;
    rows().flatten().map(|&p| u32::from(p.abs_diff(mean))).sum::<u32>() as f32
}
