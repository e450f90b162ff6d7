// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a frame is too different from the one before to be coded in the same block.
//!
//! A key block predicts neither of its frames, so two different ones would be two pictures to code. Apart, the second is predicted from the
//! first. Where they look much the same, one transform for both is cheaper. And a scene should begin with its own block, which can
//! then be a key block.

use crate::frame::Geometry;

/// Side of the squares that are compared, in luma samples.
const SQUARE: usize = 16;
/// Mean absolute difference from which on a square has changed.
const CHANGED: u32 = 20;
/// Share of changed squares from which on two frames are too different for a key block ..
const KEY: f32 = 0.1;
/// .. and from which on the second is another scene, if the share has grown by this much. Fast motion keeps it high.
const CUT: f32 = 0.5;
const CUT_GROWTH: f32 = 0.35;

/// Watches the frames of blocks.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    /// Share of changed squares in the last block.
    before: f32,
}

impl Splitter {
    /// Whether `frame` should begin another block. `before`: the frame before it, of a block that must be a key block or need not.
    /// Both are aligned frames, luma first.
    pub fn splits(&mut self, geometry: &Geometry, before: &[u8], frame: &[u8], key: bool) -> bool {
        let share = changed(geometry, before, frame);
        let last = std::mem::replace(&mut self.before, share);
        if key { share > KEY } else { share > CUT && share - last > CUT_GROWTH }
    }
}

/// The share of squares of luma that have changed.
fn changed(geometry: &Geometry, a: &[u8], b: &[u8]) -> f32 {
    let pitch = geometry.aligned_width;
    let (mut changed, mut squares) = (0, 0);
    let bands = a.chunks_exact(SQUARE * pitch).zip(b.chunks_exact(SQUARE * pitch));
    for (a, b) in bands.take(geometry.aligned_height / SQUARE) {
        for x in (0..pitch).step_by(SQUARE) {
            let rows = a[x..].chunks(pitch).zip(b[x..].chunks(pitch));
            let sum: u32 = rows.map(|(a, b)| row_difference(&a[..SQUARE], &b[..SQUARE])).sum();
            changed += u32::from(sum >= CHANGED * (SQUARE * SQUARE) as u32);
            squares += 1;
        }
    }
    changed as f32 / squares.max(1) as f32
}

fn row_difference(a: &[u8], b: &[u8]) -> u32 {
    a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::PixelFormat;

    fn geometry() -> Geometry {
        Geometry::new(64, 48, PixelFormat::I420, [16, 16], [16, 16]).expect("size")
    }

    /// Stripes, moved by `rows`.
    fn page(rows: usize) -> Vec<u8> {
        (0..geometry().frame_bytes()).map(|i| if ((i / 64 + rows) / 4).is_multiple_of(2) { 200 } else { 40 }).collect()
    }

    #[test]
    fn a_key_block_has_frames_that_look_the_same() {
        let splits = |a: &[u8], b: &[u8]| Splitter::default().splits(&geometry(), a, b, true);
        let noisy: Vec<u8> = page(0).iter().enumerate().map(|(i, v)| v + (i * 7 % 9) as u8).collect();
        assert!(splits(&page(0), &page(4)));
        assert!(!splits(&page(0), &noisy));
        let with = |columns: std::ops::Range<usize>| {
            let mut page = page(0);
            page[..16 * 64].iter_mut().enumerate().filter(|(i, _)| columns.contains(&(i % 64))).for_each(|(_, v)| *v = 255 - *v);
            page
        };
        assert!(!splits(&page(0), &with(0..16)), "one square of twelve");
        assert!(splits(&page(0), &with(0..32)), "two");
        let mut chroma = page(0);
        chroma[64 * 48..].fill(0);
        assert!(!splits(&page(0), &chroma));
    }

    #[test]
    fn a_scene_begins_a_block_and_fast_motion_does_not() {
        let (g, mut splitter) = (geometry(), Splitter::default());
        assert!(!splitter.splits(&g, &page(0), &page(0), false));
        assert!(splitter.splits(&g, &page(0), &page(4), false), "a cut");
        assert!(!splitter.splits(&g, &page(4), &page(8), false), "as much change as before");
        assert!(!splitter.splits(&g, &page(8), &page(8), false));
        assert!(splitter.splits(&g, &page(8), &page(4), false), "a cut again");
    }
}
