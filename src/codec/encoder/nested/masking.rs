// SPDX-License-Identifier: MIT OR Apache-2.0
//! What errors count in each cell: more in plain ones, where lines, squares and wrong colour show that texture would mask.

use crate::motion::{CELL, activity};

/// Mean absolute deviation of a cell's samples from their mean, in levels, below which errors count more, in inverse proportion, ..
const PLAIN: f32 = 4.0;
/// .. up to so many times as much.
const MOST: f32 = 4.0;

/// Sets the weight of each cell of a luma plane, `width` samples a row.
pub(super) fn weigh(plane: &[u8], width: usize, weights: &mut [f32]) {
    let across = width / CELL;
    for (cell, weight) in weights.iter_mut().enumerate() {
        let deviation = activity(plane, width, cell / across * CELL, cell % across * CELL) as f32 / (CELL * CELL) as f32;
        *weight = (PLAIN / deviation).clamp(1.0, MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plainer_a_cell_the_more_its_errors_count() {
        // flat; a slope; black and white columns
        let row = |x: usize| [100, x as u8 / 2, 255 * (x as u8 & 1)][x / CELL];
        let plane: Vec<u8> = (0..CELL).flat_map(|_| (0..3 * CELL).map(row)).collect();
        let mut weights = [0.0; 3];
        weigh(&plane, 3 * CELL, &mut weights);
        // levels of 8, 8, 9, .. 15 are 2 off their mean
        assert_eq!(weights, [MOST, PLAIN / 2.0, 1.0]);
    }
}
