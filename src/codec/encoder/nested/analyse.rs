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

    /// Finds the motion of `frames` against the last of the `decoded` ones; returns whether the block should be a key block.
    /// `step`: that of the quantiser that the block is likely to get, in pixel units.
    pub fn search(&mut self, frames: &[u8], decoded: &[u8], step: f32) -> bool {
        let planes: Vec<&[u8]> = frames.chunks_exact(self.frame_bytes).map(|f| &f[..self.luma_bytes]).collect();
        let reference = &decoded[(self.block_length - 1) * self.frame_bytes..][..self.luma_bytes];
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
