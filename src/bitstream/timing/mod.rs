// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time stamps: what a block carries so that every frame comes out with the times it went in with.
//!
//! Frames of a regular source lie on a grid that the key block's time and the framerate fix, and need no bytes at all. A
//! block elsewhere carries [`Explicit`] timing. A block depends on its key block only, so lost blocks change nothing.
//!
//! Times are nanoseconds, 0..=2^64 - 2; 2^64 - 1 is "none", as in GStreamer. Differences are taken modulo 2^64, so any time
//! can be reached from any prediction and no stream can make the arithmetic overflow.

mod grid;
#[cfg(test)]
mod tests;
mod timeline;
mod times;

pub use timeline::Timeline;
pub use times::{BlockTimes, Durations, Explicit, FrameTime, TimeUnit, Timing};
