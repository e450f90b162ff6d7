// SPDX-License-Identifier: MIT OR Apache-2.0
//! The motion of a block, and whether it is a scene cut.

use crate::Result;
use crate::frame::Geometry;
use crate::motion::MotionSearch;
use crate::tokens::motion::PLANES;

/// Share of cells without a usable prediction from which on a block may be a scene cut, and so a key block, ..
const SCENE_CUT: f32 = 0.55;
/// .. if the share has grown by this much. Fast motion keeps the share high, but predicting the rest still saves bits.
const SCENE_CHANGE: f32 = 0.35;
/// Above this share of such cells, predicting the rest saves nothing.
const NOTHING_LEFT: f32 = 0.9;
/// Lagrangian multiplier of the motion search: SAD per bit, in quantiser steps (pixel units).
const MOTION_LAMBDA: f32 = 0.4;

/// What is known of a block before it is transformed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Analysis {
    pub key: bool,
    /// Blocks since the key block; 0 for a key block.
    pub position: u32,
    /// Quantiser that rate control proposes.
    pub proposed: u8,
}

/// Searches motion and watches for scene cuts.
pub(super) struct Analyser {
    search: MotionSearch,
    /// Planes dy, dx, mode, by, bx of the current block, \[5, cells\].
    motion: Vec<i32>,
    /// Mean of the loops' references, luma.
    reference: MeanPlane,
    /// Share of intra cells in the last block; 1 in a key block.
    intra_share: f32,
    frame_bytes: usize,
    luma_bytes: usize,
    block_length: usize,
}

impl Analyser {
    pub fn new(geometry: &Geometry, block_length: usize, threads: usize) -> Result<Self> {
        Ok(Self {
            search: MotionSearch::new(geometry.aligned_width, geometry.aligned_height, block_length, threads)?,
            motion: vec![0; PLANES * geometry.cells()],
            reference: MeanPlane::new(geometry.aligned_width * geometry.aligned_height),
            intra_share: 1.0,
            frame_bytes: geometry.frame_bytes(),
            luma_bytes: geometry.aligned_width * geometry.aligned_height,
            block_length,
        })
    }

    /// Motion planes of the current block.
    pub fn motion(&self) -> &[i32] {
        &self.motion
    }

    /// Finds the motion of `frames` against the last frames of the `decoded` blocks, those of all loops; returns whether the block
    /// should be a key block. `step`: that of the quantiser that the block is likely to get, in pixel units.
    pub fn search(&mut self, frames: &[u8], decoded: &[&[u8]], step: f32) -> bool {
        let planes: Vec<&[u8]> = frames.chunks_exact(self.frame_bytes).map(|f| &f[..self.luma_bytes]).collect();
        let first = (self.block_length - 1) * self.frame_bytes;
        let last: Vec<&[u8]> = decoded.iter().map(|d| &d[first..first + self.luma_bytes]).collect();
        let reference = if let [only] = last[..] { only } else { self.reference.of(&last) };
        let found = self.search.search(&planes, reference, MOTION_LAMBDA * step, &mut self.motion);
        let before = std::mem::replace(&mut self.intra_share, found.intra);
        found.intra > NOTHING_LEFT || (found.intra > SCENE_CUT && found.intra - before > SCENE_CHANGE)
    }

    /// Begins a group with a key block: all cells are intra.
    pub fn begin_group(&mut self) {
        let cells = self.motion.len() / PLANES;
        self.motion.fill(0);
        self.motion[2 * cells..3 * cells].fill(1);
        self.search.reset();
        self.intra_share = 1.0;
    }
}

/// The mean of planes, of which the last counts as much as all others: what motion is searched on for several loops at once.
struct MeanPlane {
    sums: Vec<u16>,
    mean: Vec<u8>,
}

impl MeanPlane {
    fn new(samples: usize) -> Self {
        Self { sums: vec![0; samples], mean: vec![0; samples] }
    }

    /// The mean of two or more planes.
    fn of(&mut self, planes: &[&[u8]]) -> &[u8] {
        let Some((last, others)) = planes.split_last() else { return &self.mean };
        // at most four others: the sums fit, and so does the division by a constant of 2^-16
        let (n, half) = (others.len() as u16, others.len() as u16);
        for (sum, &s) in self.sums.iter_mut().zip(*last) {
            *sum = u16::from(s) * n + half;
        }
        for other in others {
            for (sum, &s) in self.sums.iter_mut().zip(*other) {
                *sum += u16::from(s);
            }
        }
        let inverse = (1u32 << 16).div_ceil(2 * u32::from(n.max(1)));
        for (out, &sum) in self.mean.iter_mut().zip(&self.sums) {
            *out = ((u32::from(sum) * inverse) >> 16) as u8;
        }
        &self.mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_plane_counts_as_much_as_the_others() {
        let mut mean = MeanPlane::new(3);
        assert_eq!(mean.of(&[&[0, 10, 255], &[255, 13, 255]]), [128, 12, 255]);
        assert_eq!(mean.of(&[&[0, 10, 255], &[0, 10, 255], &[0, 40, 255], &[90, 60, 255]]), [45, 40, 255]);
        assert_eq!(mean.of(&[&[255; 3], &[255; 3], &[255; 3], &[255; 3], &[255; 3]]), [255; 3]);
    }
}
