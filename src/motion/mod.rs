// SPDX-License-Identifier: MIT OR Apache-2.0
//! Block motion search: the encoder's half of motion as tokens.
//!
//! A cell of 16x16 luma samples has one displacement D in quarter pixels, between the last decoded frame and the last frame
//! of the block; frame i of T is predicted at D*(i+1)/T. Candidates from neighbours and from the previous block are refined
//! by shrinking diamonds, always against SAD + lambda * bits, because at low rates vectors cost as much as residuals.

mod planes;

use planes::Interpolated;

/// Luma samples on a side of a cell.
pub const CELL: usize = 16;
/// Largest |D| in quarter pixels.
pub const RANGE: i32 = 255;

/// A displacement in quarter pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Vector {
    y: i32,
    x: i32,
}

/// What a search found.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct MotionStats {
    /// Mean absolute prediction error per luma sample, inter cells.
    pub error: f32,
    /// Share of cells that are better not predicted from the reference, 0..=1.
    pub intra: f32,
    /// Estimated bits of the field.
    pub bits: f32,
}

/// Estimated bits of a difference to the predicted vector: one component.
fn component_bits(d: i32) -> f32 {
    match d.unsigned_abs() {
        0 => 0.35,
        m => 2.2 + 1.7 * (32 - m.leading_zeros()) as f32,
    }
}

fn vector_bits(v: Vector, predicted: Vector) -> f32 {
    component_bits(v.y - predicted.y) + component_bits(v.x - predicted.x)
}

fn median(a: i32, b: i32, c: i32) -> i32 {
    a.min(b).max(a.max(b).min(c))
}

/// Finds the motion of blocks. Buffers are allocated once.
#[derive(Debug)]
pub struct MotionSearch {
    width: usize,
    cells_x: usize,
    cells_y: usize,
    block_length: usize,
    reference: Interpolated,
    field: Vec<Vector>,
    previous: Vec<Vector>,
    cost: Vec<f32>,
}

struct Cell<'a> {
    frames: &'a [&'a [u8]],
    reference: &'a Interpolated,
    width: usize,
    y: usize,
    x: usize,
    predicted: Vector,
    lambda: f32,
}

impl Cell<'_> {
    /// Cost of `v`, or anything not less than `limit` once it is clear that it is not better.
    fn cost(&self, v: Vector, limit: f32) -> f32 {
        if v.y.abs() > RANGE || v.x.abs() > RANGE {
            return f32::INFINITY;
        }
        let mut cost = self.lambda * vector_bits(v, self.predicted);
        let t = self.frames.len() as i32;
        for (i, frame) in self.frames.iter().enumerate().rev() {
            if cost >= limit {
                return cost;
            }
            // to the nearest quarter; the decoder interpolates finer
            let part = |d: i32| (2 * d * (i as i32 + 1) + t).div_euclid(2 * t);
            cost += self.reference.sad(frame, self.width, self.y, self.x, part(v.y), part(v.x)) as f32;
        }
        cost
    }

    fn refine(&self, best: &mut (f32, Vector), steps: &[i32]) {
        for &step in steps {
            for _ in 0..8 {
                let centre = best.1;
                for (dy, dx) in [(-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)] {
                    let v = Vector { y: centre.y + dy * step, x: centre.x + dx * step };
                    let cost = self.cost(v, best.0);
                    if cost < best.0 {
                        *best = (cost, v);
                    }
                }
                if best.1 == centre {
                    break;
                }
            }
        }
    }
}

impl MotionSearch {
    /// A search over pictures of `width` x `height` aligned luma samples (multiples of 16), T = `block_length`.
    pub fn new(width: usize, height: usize, block_length: usize) -> Self {
        let (cells_x, cells_y) = (width / CELL, height / CELL);
        let n = cells_x * cells_y;
        Self {
            width,
            cells_x,
            cells_y,
            block_length,
            reference: Interpolated::new(width, height),
            field: vec![Vector::default(); n],
            previous: vec![Vector::default(); n],
            cost: vec![0.0; n],
        }
    }

    /// Forgets the previous block's field: a key block follows.
    pub fn reset(&mut self) {
        self.previous.fill(Vector::default());
    }

    fn at(&self, y: usize, x: usize) -> Vector {
        self.field[y * self.cells_x + x]
    }

    /// Left, top and top-right neighbour as the decoder's predictor sees them.
    fn neighbours(&self, y: usize, x: usize) -> [Vector; 3] {
        let left = if x > 0 { self.at(y, x - 1) } else { Vector::default() };
        let top = if y > 0 { self.at(y - 1, x) } else { left };
        let corner = if y > 0 && x + 1 < self.cells_x { self.at(y - 1, x + 1) } else { top };
        [left, top, corner]
    }

    /// Searches one block. `frames`: the T aligned luma planes; `reference`: the last decoded luma plane; `lambda`: SAD per
    /// bit; `motion`: out, planes dy, dx, mode [3, cells_y, cells_x].
    pub fn search(&mut self, frames: &[&[u8]], reference: &[u8], lambda: f32, motion: &mut [i32]) -> MotionStats {
        debug_assert_eq!(frames.len(), self.block_length);
        self.reference.load(reference);
        self.field.fill(Vector::default());
        let samples = (CELL * CELL * frames.len()) as f32;
        for pass in 0..2 {
            for y in 0..self.cells_y {
                for x in 0..self.cells_x {
                    self.search_cell(frames, lambda, (y, x), pass, samples);
                }
            }
        }
        self.finish(frames, lambda, motion, samples)
    }

    fn search_cell(&mut self, frames: &[&[u8]], lambda: f32, (y, x): (usize, usize), pass: usize, samples: f32) {
        let near = self.neighbours(y, x);
        let predicted = Vector { y: median(near[0].y, near[1].y, near[2].y), x: median(near[0].x, near[1].x, near[2].x) };
        let cell = Cell { frames, reference: &self.reference, width: self.width, y: y * CELL, x: x * CELL, predicted, lambda };
        let i = y * self.cells_x + x;
        let zero = Vector::default();
        let mut best = (cell.cost(zero, f32::INFINITY), zero);
        let consider = |best: &mut (f32, Vector), v: Vector| {
            if v != best.1 {
                let cost = cell.cost(v, best.0);
                if cost < best.0 {
                    *best = (cost, v);
                }
            }
        };
        consider(&mut best, predicted);
        // Below half a grey level nothing is to be won.
        let good = 0.5 * samples;
        if pass == 0 {
            if best.0 > good {
                for v in near {
                    consider(&mut best, v);
                }
                consider(&mut best, self.previous[i]);
                if x + 1 < self.cells_x {
                    consider(&mut best, self.previous[i + 1]);
                }
                if y + 1 < self.cells_y {
                    consider(&mut best, self.previous[i + self.cells_x]);
                }
                if best.0 > 10.0 * samples {
                    // Nothing near fits: look around on a coarse grid.
                    for gy in (-96..=96).step_by(32) {
                        for gx in (-192..=192).step_by(32) {
                            consider(&mut best, Vector { y: gy, x: gx });
                        }
                    }
                }
                cell.refine(&mut best, &[16, 8, 4]);
                cell.refine(&mut best, &[2, 1]);
            }
        } else {
            consider(&mut best, self.field[i]);
            if best.0 > good {
                for v in near {
                    consider(&mut best, v);
                }
                if x + 1 < self.cells_x {
                    consider(&mut best, self.at(y, x + 1));
                }
                if y + 1 < self.cells_y {
                    consider(&mut best, self.at(y + 1, x));
                }
                if best.1 != self.field[i] {
                    cell.refine(&mut best, &[1]);
                }
            }
        }
        self.field[i] = best.1;
        self.cost[i] = best.0;
    }

    fn finish(&mut self, frames: &[&[u8]], lambda: f32, motion: &mut [i32], samples: f32) -> MotionStats {
        let n = self.field.len();
        let (dy, rest) = motion.split_at_mut(n);
        let (dx, mode) = rest.split_at_mut(n);
        let (mut error, mut intra, mut bits) = (0.0, 0usize, 0.0);
        for y in 0..self.cells_y {
            for x in 0..self.cells_x {
                let i = y * self.cells_x + x;
                let near = self.neighbours(y, x);
                let predicted = Vector { y: median(near[0].y, near[1].y, near[2].y), x: median(near[0].x, near[1].x, near[2].x) };
                let spent = vector_bits(self.field[i], predicted);
                let sad = self.cost[i] - lambda * spent;
                // Only where prediction is poor can a flat one be better.
                if self.cost[i] > 4.0 * samples
                    && 1.15 * planes::activity(frames, self.width, y * CELL, x * CELL) + 12.0 * lambda < sad
                {
                    (dy[i], dx[i], mode[i]) = (0, 0, 1);
                    intra += 1;
                    self.field[i] = Vector::default();
                } else {
                    (dy[i], dx[i], mode[i]) = (self.field[i].y, self.field[i].x, 0);
                    error += sad.max(0.0) / samples;
                }
                bits += spent;
            }
        }
        self.previous.copy_from_slice(&self.field);
        MotionStats { error: error / (n - intra).max(1) as f32, intra: intra as f32 / n as f32, bits }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const W: usize = 160;
    const H: usize = 96;

    /// A smooth random texture, sampled anywhere.
    fn texture(y: f32, x: f32) -> u8 {
        let wave = |fy: f32, fx: f32, p: f32| (y * fy + x * fx + p).sin();
        (128.0
            + 30.0 * wave(0.21, 0.13, 0.0)
            + 25.0 * wave(-0.11, 0.31, 1.0)
            + 20.0 * wave(0.37, -0.23, 2.0)
            + 15.0 * wave(0.05, 0.07, 3.0)) as u8
    }

    fn picture(dy: f32, dx: f32) -> Vec<u8> {
        (0..H * W).map(|i| texture((i / W) as f32 + dy, (i % W) as f32 + dx)).collect()
    }

    fn search(frames: &[&[u8]], reference: &[u8]) -> (Vec<i32>, MotionStats) {
        let mut motion = vec![0; 3 * (W / CELL) * (H / CELL)];
        let stats = MotionSearch::new(W, H, frames.len()).search(frames, reference, 4.0, &mut motion);
        (motion, stats)
    }

    #[test]
    fn a_pan_is_found_to_the_quarter_pixel() {
        for (dy, dx) in [(0, 16), (8, -24), (3, 5), (-7, 2), (40, -80), (0, 1)] {
            let (qy, qx) = (dy as f32 / 4.0, dx as f32 / 4.0);
            let reference = picture(0.0, 0.0);
            let (first, last) = (picture(qy / 2.0, qx / 2.0), picture(qy, qx));
            let (motion, stats) = search(&[&first, &last], &reference);
            let n = motion.len() / 3;
            let right = (0..n).filter(|&i| (motion[i] - dy).abs() <= 1 && (motion[n + i] - dx).abs() <= 1).count();
            assert!(right * 10 >= n * 7, "{dy},{dx}: {right} of {n}, {:?}", &motion[..2 * n]);
            assert!(stats.intra < 0.2);
        }
    }

    #[test]
    fn a_static_scene_does_not_move() {
        let reference = picture(0.0, 0.0);
        let noisy: Vec<u8> =
            reference.iter().enumerate().map(|(i, &p)| p.wrapping_add(((i * 2654435761) >> 7 & 1) as u8)).collect();
        let (motion, stats) = search(&[&noisy, &noisy], &reference);
        assert!(motion.iter().all(|&m| m == 0), "{motion:?}");
        assert!(stats.error <= 1.0);
    }

    #[test]
    fn a_new_scene_is_intra() {
        let reference: Vec<u8> = (0..H * W).map(|i| ((i * 2654435761) >> 13) as u8).collect();
        let flat = vec![200u8; H * W];
        let (motion, stats) = search(&[&flat, &flat], &reference);
        assert!(stats.intra > 0.9, "{stats:?}");
        assert!(motion[motion.len() / 3 * 2..].iter().filter(|&&m| m == 1).count() > 50);
    }

    #[test]
    fn one_cell_and_any_block_length() {
        for t in 1..=4 {
            let plane = vec![7u8; 256];
            let frames = vec![plane.as_slice(); t];
            let mut motion = vec![9; 3];
            MotionSearch::new(16, 16, t).search(&frames, &plane, 4.0, &mut motion);
            assert_eq!(motion, [0, 0, 0]);
        }
    }
}
