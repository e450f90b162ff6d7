// SPDX-License-Identifier: MIT OR Apache-2.0
//! Motion of cells: median prediction, coding as part of layer 0, and the cost of a vector.
//!
//! Vectors are (dy, dx) in quarter pixels, each in -[`MAX_MOTION`]..=[`MAX_MOTION`]; a field is three planes dy, dx, mode (0 inter,
//! 1 intra) of cells in raster order.

use super::contexts::{MOTION, MOTION_CONTEXTS};
use super::layer::code_escape;
use crate::entropy::BitCoder;
use crate::{Error, Result};

/// Largest component of a vector, in quarter pixels.
pub const MAX_MOTION: i32 = 255;

const INTRA: usize = MOTION;
const OTHER: usize = INTRA + 3;
const WHICH: usize = OTHER + 1;
const SAME: usize = WHICH + 2;
const ZERO_DY: usize = SAME + 4 * ERROR_CLASSES;
const ZERO_DX: usize = ZERO_DY + 3;
const SIZE: usize = ZERO_DX + 3;
/// Classes of how well the neighbours' vectors were predicted.
const ERROR_CLASSES: usize = 6;
/// Contexts of a component's prefix, and its most ones: sizes go up to 2 * [`MAX_MOTION`].
const SIZES: usize = 10;
const _: () = assert!(SIZE + 6 * SIZES <= MOTION + MOTION_CONTEXTS && 2 * MAX_MOTION < 1 << SIZES);

/// Vectors of a cell's left, top and top-right neighbours; `None`: outside the picture, or intra.
pub type Near = [Option<[i32; 2]>; 3];

/// Prediction of a cell's vector: with one neighbour that one's vector, otherwise the component-wise median, where a missing
/// neighbour counts as zero.
pub fn predict(near: Near) -> [i32; 2] {
    match near {
        [Some(v), None, None] | [None, Some(v), None] | [None, None, Some(v)] => v,
        _ => {
            let [a, b, c] = near.map(Option::unwrap_or_default);
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
    let prediction = predict(near);
    let (dy, dx) = ((vector[0] - prediction[0]).unsigned_abs(), (vector[1] - prediction[1]).unsigned_abs());
    if dy | dx == 0 {
        return 30;
    }
    if near.contains(&Some(vector)) {
        return 750;
    }
    let part = |d: u32| if d == 0 { 400 } else { 700 + 440 * d.ilog2() };
    700 + part(dy) + part(dx)
}

/// Neighbours of cell (x, y) of a field whose cells before it in raster order are known.
fn neighbours(motion: &[i32], cells_x: usize, cells: usize, x: usize, y: usize) -> Near {
    let at = |x: usize, y: usize| {
        let cell = y * cells_x + x;
        (motion[2 * cells + cell] == 0).then(|| [motion[cell], motion[cells + cell]])
    };
    [
        if x > 0 { at(x - 1, y) } else { None },
        if y > 0 { at(x, y - 1) } else { None },
        if y > 0 && x + 1 < cells_x { at(x + 1, y - 1) } else { None },
    ]
}

/// Codes the motion of a block: an encoder reads `motion`, a decoder fills it. `scratch` needs `cells_x` + 1 entries.
pub(super) fn code_motion<C: BitCoder>(
    coder: &mut C,
    motion: &mut [i32],
    cells_x: usize,
    cells_y: usize,
    scratch: &mut [u8],
) -> Result<()> {
    let cells = cells_x * cells_y;
    // of the row above, overwritten from the left: 0: as predicted, 1: near the prediction, 2: far from it or intra
    scratch.fill(0);
    for y in 0..cells_y {
        let (mut left_intra, mut left_class) = (false, 0);
        for x in 0..cells_x {
            let cell = y * cells_x + x;
            let top_intra = y > 0 && motion[2 * cells + cell - cells_x] != 0;
            let intra = coder.bit(INTRA + usize::from(left_intra) + usize::from(top_intra), motion[2 * cells + cell] != 0);
            left_intra = intra;
            let error = usize::from(2 * left_class + 2 * scratch[x] + scratch[x + 1]).div_ceil(2);
            let mut class = 2;
            if intra {
                (motion[cell], motion[cells + cell], motion[2 * cells + cell]) = (0, 0, 1);
            } else {
                let near = neighbours(motion, cells_x, cells, x, y);
                let prediction = predict(near);
                let vector = code_vector(coder, [motion[cell], motion[cells + cell]], near, error)?;
                if vector[0].abs() > MAX_MOTION || vector[1].abs() > MAX_MOTION {
                    return Err(Error::Malformed(format!(
                        "a motion vector of {vector:?} quarter pixels; wait for the next block"
                    )));
                }
                (motion[cell], motion[cells + cell], motion[2 * cells + cell]) = (vector[0], vector[1], 0);
                let size = (vector[0] - prediction[0]).abs() + (vector[1] - prediction[1]).abs();
                class = u8::from(size > 0) + u8::from(size > 4);
            }
            scratch[x] = class;
            left_class = class;
        }
        if C::DECODES && coder.exhausted() {
            return Err(Error::Malformed("motion ends before its cells do; wait for the next block".into()));
        }
    }
    Ok(())
}

fn code_vector<C: BitCoder>(coder: &mut C, vector: [i32; 2], near: Near, error: usize) -> Result<[i32; 2]> {
    let prediction = predict(near);
    let agreement = 2 * usize::from(prediction == [0, 0]) + usize::from(near[0] == near[1]);
    if !coder.bit(SAME + agreement * ERROR_CLASSES + error.min(ERROR_CLASSES - 1), vector != prediction) {
        return Ok(prediction);
    }
    let (list, n) = others(near, prediction);
    let chosen = list[..n].iter().position(|v| *v == vector);
    if n > 0 && coder.bit(OTHER, chosen.is_some()) {
        let chosen = chosen.unwrap_or(0);
        let first = n == 1 || !coder.bit(WHICH, chosen > 0);
        let at = if first { 0 } else { 1 + usize::from(n > 2 && coder.bit(WHICH + 1, chosen > 1)) };
        return Ok(list[at]);
    }
    let wanted = [vector[0].wrapping_sub(prediction[0]), vector[1].wrapping_sub(prediction[1])];
    let difference = code_difference(coder, wanted, error.div_ceil(2).min(2))?;
    Ok([prediction[0] + difference[0], prediction[1] + difference[1]])
}

/// A difference that is not zero.
fn code_difference<C: BitCoder>(coder: &mut C, wanted: [i32; 2], class: usize) -> Result<[i32; 2]> {
    let dy_moves = coder.bit(ZERO_DY + class, wanted[0] != 0);
    let mut out = [0; 2];
    if dy_moves {
        out[0] = code_component(coder, 2 * class, wanted[0])?;
    }
    if !dy_moves || coder.bit(ZERO_DX + class, wanted[1] != 0) {
        out[1] = code_component(coder, 2 * class + 1, wanted[1])?;
    }
    Ok(out)
}

fn code_component<C: BitCoder>(coder: &mut C, kind: usize, wanted: i32) -> Result<i32> {
    let size = 1 + code_escape(coder, SIZE + SIZES * kind, SIZES, wanted.unsigned_abs().wrapping_sub(1))? as i32;
    Ok(if coder.bypass(u32::from(wanted < 0), 1) == 1 { -size } else { size })
}
