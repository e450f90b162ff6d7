// SPDX-License-Identifier: MIT OR Apache-2.0
//! Motion of cells: median prediction, coding as part of layer 0, and the cost of a vector.
//!
//! A field is [`PLANES`] planes of cells in raster order: the vector dy, dx in quarter pixels, the mode (0 inter, [`INTRA`],
//! [`BLENDED`]), and the bend by, bx in eighths of a pixel. Vectors and bends are within +-[`MAX_MOTION`].

use super::contexts::{MOTION, MOTION_CONTEXTS};
use super::layer::code_escape;
use crate::entropy::BitCoder;
use crate::{Error, Result};

/// Largest component of a vector in quarter pixels, and of a bend in eighths.
pub const MAX_MOTION: i32 = 255;
/// Planes of a field.
pub const PLANES: usize = 5;
/// Mode of a cell that nothing predicts.
pub const INTRA: i32 = 1;
/// Mode of an inter cell whose prediction fades into what the motion of the cells around it predicts.
pub const BLENDED: i32 = 2;

const INTRA_FLAG: usize = MOTION;
const VECTOR: usize = INTRA_FLAG + 3;
const BENT: usize = VECTOR + SET;
const BEND: usize = BENT + 1;
const BLENDS: usize = BEND + SET;
const BLENDED_FLAG: usize = BLENDS + 1;

/// Contexts of a vector or a bend, from the first of the set on.
const OTHER: usize = 0;
const WHICH: usize = OTHER + 1;
const SAME: usize = WHICH + 2;
const ZERO_DY: usize = SAME + 4 * ERROR_CLASSES;
const ZERO_DX: usize = ZERO_DY + 3;
const SIZE: usize = ZERO_DX + 3;
const SET: usize = SIZE + 6 * SIZES;
/// Classes of how well the neighbours' vectors were predicted.
const ERROR_CLASSES: usize = 6;
/// Contexts of a component's prefix, and its most ones: sizes go up to 2 * [`MAX_MOTION`].
const SIZES: usize = 10;
const _: () = assert!(BLENDED_FLAG + 3 == MOTION + MOTION_CONTEXTS && 2 * MAX_MOTION < 1 << SIZES);

/// Vectors, or bends, of a cell's left, top and top-right neighbours; `None`: outside the picture, or intra.
pub type Near = [Option<[i32; 2]>; 3];

/// Prediction of a cell's vector: with one neighbour that one's vector, otherwise the component-wise median, where a missing
/// neighbour counts as zero.
pub fn predict(near: Near) -> [i32; 2] {
    match near {
        [Some(v), None, None] | [None, Some(v), None] | [None, None, Some(v)] => v,
        [a, b, c] => {
            let [a, b, c] = [a.unwrap_or_default(), b.unwrap_or_default(), c.unwrap_or_default()];
            [median(a[0], b[0], c[0]), median(a[1], b[1], c[1])]
        }
    }
}

fn median(a: i32, b: i32, c: i32) -> i32 {
    a.min(b).max(a.max(b).min(c))
}

/// Distinct vectors of the neighbours other than the prediction, and their number.
fn others(near: Near, prediction: [i32; 2]) -> ([[i32; 2]; 3], usize) {
    let (mut list, mut n) = ([[0; 2]; 3], 0);
    for v in near.into_iter().flatten() {
        if v != prediction && !list[..n].contains(&v) {
            list[n] = v;
            n += 1;
        }
    }
    (list, n)
}

/// Approximate cost of an inter cell's vector, in 1/256 bit, given its neighbours: a rate model for motion search.
#[inline]
pub fn cost(vector: [i32; 2], near: Near) -> u32 {
    VectorCost::new(near).of(vector)
}

/// A vector or bend as one number, for comparing.
#[inline]
fn key(vector: [i32; 2]) -> u32 {
    u32::from(vector[0] as u16) << 16 | u32::from(vector[1] as u16)
}

/// The key of no vector.
const NO_KEY: u32 = 1 << 31;
const _: () = assert!(MAX_MOTION < 1 << 15);

/// [`cost`] of several vectors of a cell.
#[derive(Debug, Clone, Copy)]
pub struct VectorCost {
    near: [u32; 3],
    prediction: [i32; 2],
}

impl VectorCost {
    /// Of a cell with these neighbours.
    #[inline]
    pub fn new(near: Near) -> Self {
        // map() of arrays is not inlined
        let of = |v: Option<[i32; 2]>| v.map_or(NO_KEY, key);
        Self { near: [of(near[0]), of(near[1]), of(near[2])], prediction: predict(near) }
    }

    /// The neighbours' prediction.
    pub fn prediction(&self) -> [i32; 2] {
        self.prediction
    }

    /// Of one vector.
    #[inline]
    pub fn of(&self, vector: [i32; 2]) -> u32 {
        let ([a, b, c], key) = (self.near, key(vector));
        difference_cost(vector, self.prediction, (a == key) | (b == key) | (c == key))
    }
}

/// [`cost`] of a cell's vector for several vectors of one of its neighbours.
#[derive(Debug, Clone, Copy, Default)]
pub struct NeighbourCost {
    vector: [i32; 2],
    /// The median of a component with those of the two other neighbours is the nearest number of a range.
    least: [i32; 2],
    most: [i32; 2],
    /// One of the two others has the vector.
    known: bool,
}

impl NeighbourCost {
    /// Of a cell with `vector`, whose other neighbours are `others`.
    #[inline]
    pub fn new(vector: [i32; 2], others: [Option<[i32; 2]>; 2]) -> Self {
        let known = others.contains(&Some(vector));
        if others == [None, None] {
            return Self { vector, least: [i32::MIN; 2], most: [i32::MAX; 2], known };
        }
        let [a, b] = [others[0].unwrap_or_default(), others[1].unwrap_or_default()];
        let ends = |of: fn(i32, i32) -> i32| [of(a[0], b[0]), of(a[1], b[1])];
        Self { vector, least: ends(i32::min), most: ends(i32::max), known }
    }

    /// With the vector `changing` of the neighbour.
    #[inline]
    pub fn with(&self, changing: [i32; 2]) -> u32 {
        let nearest = |i: usize| changing[i].max(self.least[i]).min(self.most[i]);
        let same = (changing[0] == self.vector[0]) & (changing[1] == self.vector[1]);
        difference_cost(self.vector, [nearest(0), nearest(1)], self.known | same)
    }
}

/// [`cost`] of a vector that a neighbour has, or has not.
#[inline]
fn difference_cost(vector: [i32; 2], prediction: [i32; 2], known: bool) -> u32 {
    let (dy, dx) = ((vector[0] - prediction[0]).unsigned_abs(), (vector[1] - prediction[1]).unsigned_abs());
    let part = |d: u32| u32::from(DIFFERENCE_COSTS[d.min(DIFFERENCES as u32 - 1) as usize]);
    let far = 700 + part(dy) + part(dx);
    let unlike = if known { 750 } else { far };
    if dy | dx == 0 { 30 } else { unlike }
}

/// Differences of components: those of vectors of at most [`MAX_MOTION`].
const DIFFERENCES: usize = 2 * MAX_MOTION as usize + 1;
/// Approximate cost of a component's difference, in 1/256 bit.
const DIFFERENCE_COSTS: [u16; DIFFERENCES] = {
    let mut costs = [400; DIFFERENCES];
    let mut d = 1;
    while d < DIFFERENCES {
        costs[d] = 700 + 440 * d.ilog2() as u16;
        d += 1;
    }
    costs
};

/// Left, top and top-right neighbours of cell (x, y) in two planes, of which the cells before it in raster order are known.
fn neighbours(pair: [&[i32]; 2], mode: &[i32], cells_x: usize, x: usize, y: usize) -> Near {
    let at = |x: usize, y: usize| {
        let cell = y * cells_x + x;
        (mode[cell] != INTRA).then(|| pair.map(|plane| plane[cell]))
    };
    [
        if x > 0 { at(x - 1, y) } else { None },
        if y > 0 { at(x, y - 1) } else { None },
        if y > 0 && x + 1 < cells_x { at(x + 1, y - 1) } else { None },
    ]
}

/// How well a row's vectors were predicted: 0 as predicted, 1 near the prediction, 2 far from it or intra. Holds the row above,
/// overwritten from the left.
struct Errors<'a> {
    above: &'a mut [u8],
    left: u8,
}

impl Errors<'_> {
    /// Class of what is around cell `x`.
    fn around(&self, x: usize) -> usize {
        usize::from(2 * self.left + 2 * self.above[x] + self.above[x + 1]).div_ceil(2)
    }

    fn set(&mut self, x: usize, class: u8) {
        (self.above[x], self.left) = (class, class);
    }
}

/// Codes one of the two pairs of planes of a cell that is not intra.
fn code_pair<C: BitCoder>(
    coder: &mut C,
    set: usize,
    pair: [&mut [i32]; 2],
    cell: usize,
    near: Near,
    errors: &mut Errors<'_>,
    x: usize,
) -> Result<()> {
    let prediction = predict(near);
    let vector = code_vector(coder, set, [pair[0][cell], pair[1][cell]], near, errors.around(x))?;
    if vector[0].abs() > MAX_MOTION || vector[1].abs() > MAX_MOTION {
        return Err(Error::Malformed(format!("a motion vector of {vector:?}; wait for the next block")));
    }
    (pair[0][cell], pair[1][cell]) = (vector[0], vector[1]);
    let size = (vector[0] - prediction[0]).abs() + (vector[1] - prediction[1]).abs();
    errors.set(x, u8::from(size > 0) + u8::from(size > 4));
    Ok(())
}

/// Codes the motion of a block: an encoder reads `motion`, a decoder fills it. `scratch` needs 2 * (`cells_x` + 1) entries.
pub(super) fn code_motion<C: BitCoder>(
    coder: &mut C,
    motion: &mut [i32],
    cells_x: usize,
    cells_y: usize,
    scratch: &mut [u8],
) -> Result<()> {
    let cells = cells_x * cells_y;
    let (dy, rest) = motion.split_at_mut(cells);
    let (dx, rest) = rest.split_at_mut(cells);
    let (mode, bends) = rest.split_at_mut(cells);
    let (by, bx) = bends.split_at_mut(cells);
    let bent = coder.bit(BENT, by.iter().chain(bx.iter()).any(|&b| b != 0));
    scratch.fill(0);
    let (above, above_bends) = scratch.split_at_mut(cells_x + 1);
    let mut errors = Errors { above, left: 0 };
    let mut bend_errors = Errors { above: above_bends, left: 0 };
    for y in 0..cells_y {
        let mut left_intra = false;
        (errors.left, bend_errors.left) = (0, 0);
        for x in 0..cells_x {
            let cell = y * cells_x + x;
            let top_intra = y > 0 && mode[cell - cells_x] == INTRA;
            let intra = coder.bit(INTRA_FLAG + usize::from(left_intra) + usize::from(top_intra), mode[cell] == INTRA);
            left_intra = intra;
            if intra {
                mode[cell] = INTRA;
            } else if C::DECODES {
                mode[cell] = 0;
            }
            if intra {
                (dy[cell], dx[cell], by[cell], bx[cell]) = (0, 0, 0, 0);
                errors.set(x, 2);
                bend_errors.set(x, 2);
                continue;
            }
            let near = neighbours([dy, dx], mode, cells_x, x, y);
            code_pair(coder, VECTOR, [dy, dx], cell, near, &mut errors, x)?;
            if bent {
                let near = neighbours([by, bx], mode, cells_x, x, y);
                code_pair(coder, BEND, [by, bx], cell, near, &mut bend_errors, x)?;
            }
        }
        if C::DECODES && coder.exhausted() {
            return Err(Error::Malformed("motion ends before its cells do; wait for the next block".into()));
        }
    }
    code_blending(coder, motion, cells_x);
    Ok(())
}

/// Whether the cell may be [`BLENDED`]: it is inter, and so is one beside it that moves differently.
pub fn may_blend(motion: &[i32], cells_x: usize, cell: usize) -> bool {
    let cells = motion.len() / PLANES;
    let of = |cell: usize| [0, 1, 3, 4].map(|plane| motion[plane * cells + cell]);
    let inter = |cell: usize| motion[2 * cells + cell] != INTRA;
    let differs = |beside: usize| inter(beside) && of(beside) != of(cell);
    let (x, last) = (cell % cells_x, cells - cells_x);
    inter(cell)
        && ((cell >= cells_x && differs(cell - cells_x))
            || (cell < last && differs(cell + cells_x))
            || (x > 0 && differs(cell - 1))
            || (x + 1 < cells_x && differs(cell + 1)))
}

/// Codes which cells are blended, when the motion of all is known.
fn code_blending<C: BitCoder>(coder: &mut C, motion: &mut [i32], cells_x: usize) {
    let cells = motion.len() / PLANES;
    let blended = |motion: &[i32], cell: usize| motion[2 * cells + cell] == BLENDED;
    if !coder.bit(BLENDS, (0..cells).any(|cell| blended(motion, cell))) {
        return;
    }
    for cell in 0..cells {
        if may_blend(motion, cells_x, cell) {
            let left = cell % cells_x > 0 && blended(motion, cell - 1);
            let top = cell >= cells_x && blended(motion, cell - cells_x);
            if coder.bit(BLENDED_FLAG + usize::from(left) + usize::from(top), blended(motion, cell)) {
                motion[2 * cells + cell] = BLENDED;
            }
        }
    }
}

fn code_vector<C: BitCoder>(coder: &mut C, set: usize, vector: [i32; 2], near: Near, error: usize) -> Result<[i32; 2]> {
    let prediction = predict(near);
    let agreement = 2 * usize::from(prediction == [0, 0]) + usize::from(near[0] == near[1]);
    if !coder.bit(set + SAME + agreement * ERROR_CLASSES + error.min(ERROR_CLASSES - 1), vector != prediction) {
        return Ok(prediction);
    }
    let (list, n) = others(near, prediction);
    let chosen = list[..n].iter().position(|v| *v == vector);
    if n > 0 && coder.bit(set + OTHER, chosen.is_some()) {
        let chosen = chosen.unwrap_or(0);
        let first = n == 1 || !coder.bit(set + WHICH, chosen > 0);
        let at = if first { 0 } else { 1 + usize::from(n > 2 && coder.bit(set + WHICH + 1, chosen > 1)) };
        return Ok(list[at]);
    }
    let wanted = [vector[0].wrapping_sub(prediction[0]), vector[1].wrapping_sub(prediction[1])];
    let difference = code_difference(coder, set, wanted, error.div_ceil(2).min(2))?;
    Ok([prediction[0] + difference[0], prediction[1] + difference[1]])
}

/// A difference that is not zero.
fn code_difference<C: BitCoder>(coder: &mut C, set: usize, wanted: [i32; 2], class: usize) -> Result<[i32; 2]> {
    let dy_moves = coder.bit(set + ZERO_DY + class, wanted[0] != 0);
    let mut out = [0; 2];
    if dy_moves {
        out[0] = code_component(coder, set, 2 * class, wanted[0])?;
    }
    if !dy_moves || coder.bit(set + ZERO_DX + class, wanted[1] != 0) {
        out[1] = code_component(coder, set, 2 * class + 1, wanted[1])?;
    }
    Ok(out)
}

fn code_component<C: BitCoder>(coder: &mut C, set: usize, kind: usize, wanted: i32) -> Result<i32> {
    let size = 1 + code_escape(coder, set + SIZE + SIZES * kind, SIZES, wanted.unsigned_abs().wrapping_sub(1))? as i32;
    Ok(if coder.bypass(u32::from(wanted < 0), 1) == 1 { -size } else { size })
}
