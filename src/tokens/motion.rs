// SPDX-License-Identifier: MIT OR Apache-2.0
//! Motion of cells: median prediction, its coding as part of layer 0, and what a vector costs.
//!
//! Vectors are (dy, dx) in quarter pixels, each in -[`MAX_MOTION`]..=[`MAX_MOTION`]; a field is three planes dy, dx, mode (0 inter,
//! 1 intra) of cells in raster order.

use super::contexts::{MOTION, PREFIX};
use super::level::code_escape;
use crate::entropy::BitCoder;
use crate::{Error, Result};

/// Largest component of a vector, in quarter pixels.
pub const MAX_MOTION: i32 = 255;

const INTRA: usize = MOTION;
const SAME: usize = INTRA + 3;
const ZERO_DY: usize = SAME + 9;
const ZERO_DX: usize = ZERO_DY + 3;
const SIZE: usize = ZERO_DX + 3;

/// Prediction of a cell's vector from its left, top and top-right neighbours; `None`: outside the picture, or intra. With one
/// neighbour it is that one's vector, otherwise the component-wise median, where a missing neighbour counts as zero.
pub fn predict(left: Option<[i32; 2]>, top: Option<[i32; 2]>, top_right: Option<[i32; 2]>) -> [i32; 2] {
    match (left, top, top_right) {
        (Some(v), None, None) | (None, Some(v), None) | (None, None, Some(v)) => v,
        _ => {
            let [a, b, c] = [left, top, top_right].map(Option::unwrap_or_default);
            [median(a[0], b[0], c[0]), median(a[1], b[1], c[1])]
        }
    }
}

fn median(a: i32, b: i32, c: i32) -> i32 {
    a.min(b).max(a.max(b).min(c))
}

/// Approximate cost of an inter cell's vector, in 1/256 bit, given its prediction: a rate model for motion search.
#[inline]
pub fn cost(vector: [i32; 2], prediction: [i32; 2]) -> u32 {
    let (dy, dx) = ((vector[0] - prediction[0]).unsigned_abs(), (vector[1] - prediction[1]).unsigned_abs());
    if dy | dx == 0 {
        return 128;
    }
    let part = |d: u32| {
        if d == 0 { 256 } else { 640 + 400 * d.ilog2() + 200 * u32::from(d > 1 && d >> (d.ilog2() - 1) & 1 == 1) }
    };
    512 + part(dy) + part(dx)
}

/// Neighbours' vectors of cell (x, y) of a field whose cells before it in raster order are known.
pub fn neighbours(motion: &[i32], cells_x: usize, cells_y: usize, x: usize, y: usize) -> [Option<[i32; 2]>; 3] {
    let cells = cells_x * cells_y;
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
pub(super) fn code<C: BitCoder>(
    coder: &mut C,
    motion: &mut [i32],
    cells_x: usize,
    cells_y: usize,
    scratch: &mut [u8],
) -> Result<()> {
    let cells = cells_x * cells_y;
    // 0: as predicted, 1: near the prediction, 2: far from it or intra; of the row above, overwritten from the left
    scratch.fill(0);
    let mut modes_left;
    for y in 0..cells_y {
        modes_left = false;
        let mut surprise_left = 0;
        for (x, above) in scratch.iter_mut().enumerate().take(cells_x) {
            let cell = y * cells_x + x;
            let top_intra = y > 0 && motion[2 * cells + cell - cells_x] != 0;
            let intra = coder.bit(INTRA + usize::from(modes_left) + usize::from(top_intra), motion[2 * cells + cell] != 0);
            modes_left = intra;
            let around = [surprise_left, *above];
            let mut surprise = 2;
            if intra {
                (motion[cell], motion[cells + cell], motion[2 * cells + cell]) = (0, 0, 1);
            } else {
                let [left, top, top_right] = neighbours(motion, cells_x, cells_y, x, y);
                let prediction = predict(left, top, top_right);
                let wanted = [motion[cell].wrapping_sub(prediction[0]), motion[cells + cell].wrapping_sub(prediction[1])];
                let difference = code_difference(coder, wanted, around, left == top)?;
                let vector = [prediction[0] + difference[0], prediction[1] + difference[1]];
                if vector[0].abs() > MAX_MOTION || vector[1].abs() > MAX_MOTION {
                    return Err(Error::Malformed(format!(
                        "a motion vector of {vector:?} quarter pixels; wait for the next block"
                    )));
                }
                (motion[cell], motion[cells + cell], motion[2 * cells + cell]) = (vector[0], vector[1], 0);
                let size = difference[0].abs() + difference[1].abs();
                surprise = u8::from(size > 0) + u8::from(size > 4);
            }
            *above = surprise;
            surprise_left = surprise;
        }
        if C::DECODES && coder.exhausted() {
            return Err(Error::Malformed("motion ends before its cells do; wait for the next block".into()));
        }
    }
    Ok(())
}

fn code_difference<C: BitCoder>(coder: &mut C, wanted: [i32; 2], around: [u8; 2], agree: bool) -> Result<[i32; 2]> {
    let unrest = usize::from(around[0] + around[1]);
    let same = SAME + if agree { unrest.min(3) } else { 4 + unrest };
    if !coder.bit(same, wanted != [0, 0]) {
        return Ok([0, 0]);
    }
    let class = unrest.div_ceil(2).min(2);
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
    let size = 1 + code_escape(coder, SIZE + PREFIX.min(10) * kind, wanted.unsigned_abs().wrapping_sub(1))? as i32;
    Ok(if coder.bypass(u32::from(wanted < 0), 1) == 1 { -size } else { size })
}
