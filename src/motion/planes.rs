// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reference at half-pixel resolution, and sums of absolute differences at quarter- and eighth-pixel positions.
//!
//! Half-pixel samples come from an eight-tap filter close to the decoder graph's. Between them the search interpolates
//! linearly, which is cheaper than the graph's taps and close enough to rank candidates.

use super::field::CELL;
#[cfg(target_arch = "x86_64")]
use super::pixels::Avx2;
use super::pixels::{Cell, Common, LANE, Machine};

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
    /// The planes, one after the other.
    samples: Vec<u8>,
    /// What lies between whole samples, by eighths of a pixel down and right.
    phases: [[Phase; 8]; 8],
    #[cfg(target_arch = "x86_64")]
    pub(super) avx2: Option<Avx2>,
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

/// Where a cell is: its first sample in a reference plane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place(usize);

/// The cells of a block's frames: all that is compared with one place in the reference lies together.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// \[cells, frames\].
    cells: Vec<Cell>,
    frames: usize,
    across: usize,
}

impl Sources {
    /// Takes `frames` of `width` samples a row, multiples of [`CELL`] in size.
    pub(super) fn load(&mut self, frames: &[&[u8]], width: usize) {
        (self.frames, self.across) = (frames.len(), width / CELL);
        let samples = frames.first().map_or(0, |frame| frame.len());
        self.cells.resize(samples / (CELL * CELL) * frames.len(), [0; CELL * CELL]);
        for (i, frame) in frames.iter().enumerate() {
            for (row, of_cells) in frame.chunks_exact(width).enumerate().map(|(y, row)| (row, (y / CELL, y % CELL))) {
                let (first, r) = (of_cells.0 * self.across, of_cells.1);
                let cells = self.cells[first * self.frames..].iter_mut().skip(i).step_by(self.frames);
                for (part, cell) in row.chunks_exact(CELL).zip(cells) {
                    cell[r * CELL..(r + 1) * CELL].copy_from_slice(part);
                }
            }
        }
    }

    /// Frames of a block.
    pub(super) fn frames(&self) -> usize {
        self.frames
    }

    /// A cell in each frame.
    #[inline]
    pub(super) fn of(&self, y: usize, x: usize) -> &[Cell] {
        &self.cells[(y * self.across + x) * self.frames..][..self.frames]
    }
}

/// How samples at an eighth-pixel position are made of others.
#[derive(Debug, Clone, Copy)]
enum Mix {
    /// The first alone.
    One,
    /// The mean of the first two: quarters.
    Mean,
    /// A quarter of the way from the first to the second.
    Quarter,
    /// A quarter of the way down, and across: of samples to the left and right, then those below.
    Quarters,
    /// The means across, and a quarter of the way down.
    MeansAcross,
    /// A quarter of the way across, and the means down.
    MeansDown,
}

/// A position between whole samples: how it is made, and where its samples are, from the whole sample on.
#[derive(Debug, Clone, Copy)]
struct Phase {
    mix: Mix,
    at: [u32; 4],
}

impl Phase {
    /// `y`, `x` eighths of a pixel down and right. `size`: of a plane.
    fn new((y, x): (usize, usize), pitch: usize, size: usize) -> Self {
        let place = |s: Sample| (s.0 * size + s.1 * pitch + s.2) as u32;
        if (y | x) & 1 == 0 {
            let [a, b] = QUARTERS[y >> 1][x >> 1].map(place);
            return Self { mix: if a == b { Mix::One } else { Mix::Mean }, at: [a, b, a, b] };
        }
        // the half-pixel samples around it, the nearest first
        let ends = |e: usize| if e & 3 == 3 { [(e >> 2) + 1, e >> 2] } else { [e >> 2, (e >> 2) + 1] };
        let (down, across) = (ends(y), ends(x));
        let corner = |i: usize, j: usize| place(half(down[i], across[j]));
        let corners = [corner(0, 0), corner(0, 1), corner(1, 0), corner(1, 1)];
        let mix = match (y & 1, x & 1) {
            (1, 1) => Mix::Quarters,
            (1, _) if x & 3 == 2 => Mix::MeansAcross,
            (_, 1) if y & 3 == 2 => Mix::MeansDown,
            _ => Mix::Quarter,
        };
        let [a, b, c, d] = corners;
        let at = if y & 3 != 0 && x & 3 == 0 { [a, c, b, d] } else { corners };
        Self { mix, at }
    }
}

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
        Self {
            width,
            height,
            pitch,
            samples: vec![0; 4 * size],
            phases: std::array::from_fn(|y| std::array::from_fn(|x| Phase::new((y, x), pitch, size))),
            #[cfg(target_arch = "x86_64")]
            avx2: Avx2::detect(),
        }
    }

    /// Takes a new reference, `width` * `height` samples.
    pub(super) fn load(&mut self, reference: &[u8]) {
        #[cfg(target_arch = "x86_64")]
        if self.avx2.is_some() {
            #[allow(unsafe_code, reason = "a call of a function for processors with AVX2")]
            // SAFETY: the processor has AVX2.
            return unsafe { self.load_avx2(reference) };
        }
        self.load_anywhere(reference);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn load_avx2(&mut self, reference: &[u8]) {
        self.load_anywhere(reference);
    }

    /// Inlined, so that it is compiled for every kind of processor.
    #[inline(always)]
    fn load_anywhere(&mut self, reference: &[u8]) {
        let (w, h, p) = (self.width, self.height, self.pitch);
        let size = self.samples.len() / 4;
        let (full, rest) = self.samples.split_at_mut(size);
        let (right, rest) = rest.split_at_mut(size);
        let (down, both) = rest.split_at_mut(size);
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

    /// The place of the cell whose first sample is at (y, x).
    pub(super) fn place(&self, y: usize, x: usize) -> Place {
        Place((y + PAD) * self.pitch + x + PAD)
    }

    /// What is `moved` eighths of a pixel from a cell, at the nearest quarters.
    #[inline(always)]
    pub(super) fn quarters(&self, at: Place, (ey, ex): (i32, i32)) -> Mean<'_> {
        let (at, phase) = self.position(at, (ey & !1, ex & !1));
        let of = |n: usize| Rows::new(&self.samples[at + phase.at[n] as usize..], self.pitch);
        Mean([of(0), of(1)])
    }

    /// The whole sample up and left of what is (ey, ex) eighths of a pixel from a cell, and what lies between.
    #[inline(always)]
    fn position(&self, at: Place, (ey, ex): (i32, i32)) -> (usize, &Phase) {
        let from = (ey >> 3) as isize * self.pitch as isize + (ex >> 3) as isize;
        (at.0.wrapping_add_signed(from), &self.phases[(ey & 7) as usize][(ex & 7) as usize])
    }

    /// Sum of absolute differences of a cell to the reference moved by (ey, ex) eighths of a pixel; or
    /// any number of at least `limit`, once the sum reaches that.
    #[inline]
    pub(super) fn sad(&self, cell: &Cell, at: Place, moved: (i32, i32), limit: u32) -> u32 {
        #[cfg(target_arch = "x86_64")]
        if let Some(avx2) = self.avx2 {
            #[allow(unsafe_code, reason = "a call of a function for processors with AVX2")]
            // SAFETY: the processor has AVX2.
            return unsafe { self.sad_avx2(avx2, cell, at, moved, limit) };
        }
        self.sad_with(Common, cell, at, moved, limit)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn sad_avx2(&self, avx2: Avx2, cell: &Cell, at: Place, moved: (i32, i32), limit: u32) -> u32 {
        self.sad_with(avx2, cell, at, moved, limit)
    }

    #[inline(always)]
    fn sad_with<M: Machine>(&self, m: M, cell: &Cell, at: Place, moved: (i32, i32), limit: u32) -> u32 {
        let (at, phase) = self.position(at, moved);
        let of = |n: usize| Rows::new(&self.samples[at + phase.at[n] as usize..], self.pitch);
        match phase.mix {
            Mix::One => compare(m, cell, limit, of(0)),
            Mix::Mean => compare(m, cell, limit, Mean([of(0), of(1)])),
            Mix::Quarter => compare(m, cell, limit, Quarter([of(0), of(1)])),
            Mix::Quarters => compare(m, cell, limit, Quarters([of(0), of(1), of(2), of(3)])),
            Mix::MeansAcross => compare(m, cell, limit, MeansAcross([of(0), of(1), of(2), of(3)])),
            Mix::MeansDown => compare(m, cell, limit, MeansDown([of(0), of(1), of(2), of(3)])),
        }
    }
}

/// What a cell is compared with. These are not closures, since those are not sure to be inlined.
pub(super) trait Prediction {
    /// Row `r`, below [`CELL`], and as many after it as `m` takes at a time.
    fn row<M: Machine>(&self, m: M, r: usize) -> M::Lane;
}

/// [`Mix::Mean`].
pub(super) struct Mean<'a>([Rows<'a>; 2]);

impl Prediction for Mean<'_> {
    #[inline(always)]
    fn row<M: Machine>(&self, m: M, r: usize) -> M::Lane {
        m.mean(self.0[0].row(m, r), self.0[1].row(m, r))
    }
}

/// [`Mix::Quarter`].
struct Quarter<'a>([Rows<'a>; 2]);

impl Prediction for Quarter<'_> {
    #[inline(always)]
    fn row<M: Machine>(&self, m: M, r: usize) -> M::Lane {
        quarter(m, self.0[0].row(m, r), self.0[1].row(m, r))
    }
}

/// [`Mix::Quarters`].
struct Quarters<'a>([Rows<'a>; 4]);

impl Prediction for Quarters<'_> {
    #[inline(always)]
    fn row<M: Machine>(&self, m: M, r: usize) -> M::Lane {
        let [a, b, c, d] = &self.0;
        quarter(m, quarter(m, a.row(m, r), b.row(m, r)), quarter(m, c.row(m, r), d.row(m, r)))
    }
}

/// [`Mix::MeansAcross`].
struct MeansAcross<'a>([Rows<'a>; 4]);

impl Prediction for MeansAcross<'_> {
    #[inline(always)]
    fn row<M: Machine>(&self, m: M, r: usize) -> M::Lane {
        let [a, b, c, d] = &self.0;
        quarter(m, m.mean(a.row(m, r), b.row(m, r)), m.mean(c.row(m, r), d.row(m, r)))
    }
}

/// [`Mix::MeansDown`].
struct MeansDown<'a>([Rows<'a>; 4]);

impl Prediction for MeansDown<'_> {
    #[inline(always)]
    fn row<M: Machine>(&self, m: M, r: usize) -> M::Lane {
        let [a, b, c, d] = &self.0;
        m.mean(quarter(m, a.row(m, r), b.row(m, r)), quarter(m, c.row(m, r), d.row(m, r)))
    }
}

/// Rows of [`CELL`] samples.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    data: &'a [u8],
    pitch: usize,
}

impl<'a> Rows<'a> {
    /// The cell at the start of `data`. Callers stay inside the padded plane: too little data is a bug, not bad input.
    #[inline(always)]
    fn new(data: &'a [u8], pitch: usize) -> Self {
        Self { data: &data[..(CELL - 1) * pitch + CELL], pitch }
    }

    #[inline(always)]
    #[allow(unsafe_code, reason = "four checks a row take as long as the work")]
    fn one(&self, r: usize) -> &[u8; CELL] {
        assert!(r < CELL); // the compiler sees that it is
        // SAFETY: new() has checked that rows up to the last are inside `data`.
        let row = unsafe { self.data.get_unchecked(r * self.pitch..r * self.pitch + CELL) };
        row.try_into().expect("a row of CELL samples")
    }
}

impl Prediction for Rows<'_> {
    #[inline(always)]
    fn row<M: Machine>(&self, m: M, r: usize) -> M::Lane {
        m.load(self.one(r), || self.one(r + 1))
    }
}

/// One level.
struct Flat(u8);

impl Prediction for Flat {
    #[inline(always)]
    fn row<M: Machine>(&self, m: M, _: usize) -> M::Lane {
        let row = [self.0; LANE];
        m.load(&row, || &row)
    }
}

/// Adds up the rows' differences; stops halfway if `limit` is reached.
#[inline(always)]
fn compare<M: Machine>(m: M, cell: &Cell, limit: u32, prediction: impl Prediction) -> u32 {
    let mut sum = m.zero();
    for r in (0..CELL / 2).step_by(M::ROWS) {
        sum = m.add(sum, m.of_cell(cell, r), prediction.row(m, r));
    }
    if m.total(sum) >= limit {
        return m.total(sum);
    }
    for r in (CELL / 2..CELL).step_by(M::ROWS) {
        sum = m.add(sum, m.of_cell(cell, r), prediction.row(m, r));
    }
    m.total(sum)
}

/// A quarter of the way from a to b.
#[inline(always)]
fn quarter<M: Machine>(m: M, a: M::Lane, b: M::Lane) -> M::Lane {
    m.mean(a, m.mean(a, b))
}

/// Sum of absolute differences of a cell to its own mean, in one frame: the error of a flat prediction.
pub fn activity(frame: &[u8], width: usize, y: usize, x: usize) -> u32 {
    activity_of(&cell_of(frame, width, y, x))
}

/// The same of a cell by itself.
pub(super) fn activity_of(cell: &Cell) -> u32 {
    let flat = |level: u8| compare(Common, cell, u32::MAX, Flat(level));
    flat(((flat(0) + 128) / (CELL * CELL) as u32) as u8)
}

/// The cell of `frame` whose first sample is at (y, x).
pub(super) fn cell_of(frame: &[u8], width: usize, y: usize, x: usize) -> Cell {
    let rows = Rows::new(&frame[y * width + x..], width);
    let mut cell = [0; CELL * CELL];
    cell.chunks_exact_mut(CELL).enumerate().for_each(|(r, to)| to.copy_from_slice(rows.one(r)));
    cell
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn avx2_gives_the_same_sums() {
        let (w, h) = (48, 32);
        let mut state = 5u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let [reference, frame] = [(); 2].map(|()| (0..w * h).map(|_| random()).collect::<Vec<_>>());
        let mut planes = Interpolated::new(w, h);
        if planes.avx2.is_none() {
            eprintln!("skipped: this processor has no AVX2");
        }
        planes.load(&reference);
        let (at, cell) = (planes.place(16, 16), cell_of(&frame, w, 16, 16));
        for moved in (-20..20).flat_map(|y| (-20..20).map(move |x| (y, x))) {
            for limit in [u32::MAX, 9000, 100] {
                let plain = planes.sad_with(Common, &cell, at, moved, limit);
                assert_eq!(planes.sad(&cell, at, moved, limit), plain, "{moved:?}, {limit}");
            }
        }
    }
}
