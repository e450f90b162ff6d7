// SPDX-License-Identifier: MIT OR Apache-2.0
//! Block motion search, for the encoder.
//!
//! A cell of 16x16 luma samples has one displacement D in quarter pixels, between the last decoded frame and the last frame
//! of the block; frame i of T is predicted at D*(i+1)/T. In blocks of two frames the first may leave that line by a *bend*, in
//! eighths of a pixel: hand-held cameras shake. Every choice is by SAD + lambda * bits, because at low rates vectors cost as
//! much as residuals, and bits are counted as the token coder will code them:
//!
//! 1. `coarse.rs`: a search at a quarter of the resolution finds large motion.
//! 2. Each cell, in coding order, takes the best of its neighbours' vectors, its own of the block before, the coarse one and those of
//!    jumps (`jumps.rs`: pages that scroll), and refines it in shrinking steps, of which those that make the last frame worse are not looked
//!    at further.
//! 3. Sweeps over the whole field let each cell take the vector of any neighbour. The cost of the cells predicted from it
//!    counts too.
//! 4. If a sample of cells gains enough from bends, each cell looks for its own and then moves its last frame again. One more
//!    sweep follows. The straight field stays if it costs less.
//!
//! 5. Cells whose prediction gains from fading into what their neighbours' motion predicts are marked (`blend.rs`).
//!
//! Steps 2 to 5 are done for two halves of the picture (`band.rs`), in parallel where there are two threads.

mod band;
mod blend;
mod coarse;
mod field;
mod jumps;
mod pixels;
mod planes;
#[cfg(test)]
mod tests;

use crate::Result;
use crate::pair::Pair;
use crate::tokens::motion::INTRA;
use band::{Band, Scene};
use coarse::Coarse;
pub use field::CELL;
use field::Motion;
use jumps::Jumps;
pub use planes::activity;
use planes::{Interpolated, Sources};

/// The result of a search.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct MotionStats {
    /// Mean absolute prediction error per luma sample, inter cells.
    pub error: f32,
    /// Share of cells that are better not predicted from the reference, 0..=1.
    pub intra: f32,
    /// Estimated bits of the field.
    pub bits: f32,
}

/// Sweeps of step 3.
const SWEEPS: usize = 2;

/// Share of the SAD that bends must save in a sample of cells, as 1/n, so that they are searched for at all.
const BEND_GAIN: u64 = 100;

/// Does `work` on both bands, and tells each what is next to it in the other.
fn pass(bands: &mut [Band; 2], pair: &Pair, work: impl Fn(&mut Band) + Sync) {
    let [upper, lower] = bands;
    pair.run(|| work(upper), || work(lower));
    if !lower.rows.is_empty() {
        upper.copy_row(lower, lower.rows.start);
        lower.copy_row(upper, upper.rows.end - 1);
    }
}

fn bends_pay([upper, lower]: &[Band; 2], pair: &Pair, scene: Scene<'_>) -> bool {
    let [mut first, mut second] = [(0, 0); 2];
    pair.run(|| first = upper.bend_gain(scene), || second = lower.bend_gain(scene));
    (first.0 + second.0) * BEND_GAIN > first.1 + second.1
}

fn total_cost(bands: &[Band; 2], scene: Scene<'_>) -> u64 {
    bands.iter().map(|band| band.total_cost(scene.lambda)).sum()
}

/// Finds the motion of blocks. Buffers are allocated once.
#[derive(Debug)]
pub struct MotionSearch {
    width: usize,
    cells_x: usize,
    block_length: usize,
    reference: Interpolated,
    sources: Sources,
    coarse: Coarse,
    jumps: Jumps,
    bands: [Band; 2],
    previous: Vec<Motion>,
    /// Blended cells of each band.
    blended: [Vec<usize>; 2],
    pair: Pair,
}

impl MotionSearch {
    /// A search over pictures of `width` x `height` aligned luma samples (multiples of 16), T = `block_length`, on one or two
    /// of `threads` threads; the motion found is the same.
    pub fn new(width: usize, height: usize, block_length: usize, threads: usize) -> Result<Self> {
        let (cells_x, cells_y) = (width / CELL, height / CELL);
        let half = cells_y.div_ceil(2);
        Ok(Self {
            width,
            cells_x,
            block_length,
            reference: Interpolated::new(width, height),
            sources: Sources::default(),
            coarse: Coarse::new(width, height),
            jumps: Jumps::default(),
            bands: [0..half, half..cells_y].map(|rows| Band::new(rows, cells_y, cells_x)),
            previous: vec![Motion::default(); cells_x * cells_y],
            blended: Default::default(),
            pair: Pair::new(threads, "elastictok-motion")?,
        })
    }

    /// Forgets the previous block's field: a key block follows.
    pub fn reset(&mut self) {
        self.previous.fill(Motion::default());
        self.coarse.reset();
    }

    /// Searches one block. `frames`: the T aligned luma planes; `reference`: the last decoded luma plane; `lambda`: SAD per
    /// bit; `motion`: out, planes dy, dx, mode, by, bx [5, cells_y, cells_x].
    pub fn search(&mut self, frames: &[&[u8]], reference: &[u8], lambda: f32, motion: &mut [i32]) -> MotionStats {
        debug_assert_eq!(frames.len(), self.block_length);
        let Some(last) = frames.last() else { return MotionStats::default() };
        let (interpolated, coarse, jumps, width) = (&mut self.reference, &mut self.coarse, &mut self.jumps, self.width);
        let sources = &mut self.sources;
        let in_full = || {
            sources.load(frames, width);
            interpolated.load(reference);
            jumps.search(frames, interpolated, width);
        };
        self.pair.run(in_full, || coarse.search(last, reference));
        let scene = Scene {
            sources: &self.sources,
            reference: &self.reference,
            coarse: &self.coarse,
            jumps: self.jumps.likely(),
            previous: &self.previous,
            lambda: (lambda.clamp(0.0, 1e4) * 256.0) as u32,
        };
        let (bands, pair) = (&mut self.bands, &self.pair);
        pass(bands, pair, |band| band.search(scene));
        let bent = bands.iter().any(Band::has_bends);
        bands.iter_mut().for_each(|band| band.field.bent = bent);
        for _ in 0..SWEEPS {
            pass(bands, pair, |band| band.sweep(scene));
        }
        if self.block_length == 2 && bends_pay(bands, pair, scene) {
            let straight = total_cost(bands, scene);
            bands.iter_mut().for_each(Band::save);
            pass(bands, pair, |band| band.bend(scene));
            pass(bands, pair, |band| band.sweep(scene));
            if total_cost(bands, scene) >= straight {
                bands.iter_mut().for_each(Band::restore);
            }
        }
        let stats = self.finish(motion);
        self.blend(lambda, motion);
        stats
    }

    fn finish(&mut self, motion: &mut [i32]) -> MotionStats {
        let n = self.previous.len();
        let (dy, rest) = motion.split_at_mut(n);
        let (dx, rest) = rest.split_at_mut(n);
        let (mode, rest) = rest.split_at_mut(n);
        let (by, bx) = rest.split_at_mut(n);
        let (mut error, mut intra, mut bits) = (0u64, 0usize, 0u64);
        for band in &self.bands {
            for (y, x) in band.rows.clone().flat_map(|y| (0..self.cells_x).map(move |x| (y, x))) {
                let i = y * self.cells_x + x;
                let motion = band.field.get(y, x);
                bits += u64::from(band.field.bits(y, x));
                match motion {
                    Some(_) => error += u64::from(band.sad(y, x)),
                    None => intra += 1,
                }
                self.previous[i] = motion.unwrap_or_default();
                let Motion { vector, bend } = self.previous[i];
                [dy[i], dx[i], by[i], bx[i]] = [vector[0], vector[1], bend[0], bend[1]];
                mode[i] = if motion.is_none() { INTRA } else { 0 };
            }
        }
        let samples = (n - intra).max(1) * CELL * CELL * self.block_length;
        MotionStats { error: error as f32 / samples as f32, intra: intra as f32 / n as f32, bits: bits as f32 / 256.0 }
    }
}
