// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames' times, and what a block carries of them.

use crate::bitstream::limits::MAX_BLOCK_LENGTH;

pub(super) const FRAMES: usize = MAX_BLOCK_LENGTH as usize;

/// When a frame is shown and for how long, in ns; `None` where the source does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FrameTime {
    /// Presentation time stamp.
    pub pts: Option<u64>,
    /// Duration.
    pub duration: Option<u64>,
}

/// The unit of a source's time stamps: they are multiples of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TimeUnit {
    /// 1 ns.
    #[default]
    Nanosecond,
    /// 1 us.
    Microsecond,
    /// 1 ms: Matroska and FLV.
    Millisecond,
}

impl TimeUnit {
    /// The unit in ns.
    pub(super) fn nanoseconds(self) -> u64 {
        match self {
            Self::Nanosecond => 1,
            Self::Microsecond => 1_000,
            Self::Millisecond => 1_000_000,
        }
    }
}

/// How the durations of a block's frames are derived. "Nominal" is floor(10^9 * den / num), and 0 where the framerate is 0/1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durations {
    /// From one grid point to the next; none where the framerate is 0/1.
    #[default]
    Grid,
    /// Nominal for every frame; none where the framerate is 0/1.
    Nominal,
    /// No frame has a duration.
    Absent,
    /// Up to the next frame's PTS; the last one is nominal plus this difference in ns.
    Next(i64),
    /// Differences in ns: of the first to nominal, of each other to the one before.
    Each([i64; FRAMES]),
}

/// Timing of a block that is not as predicted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Explicit {
    /// TimeUnit of `differences`; predictions are rounded to it.
    pub unit: TimeUnit,
    /// Of each frame's PTS to its prediction, less that of the frame before, in units; `None`: all as predicted.
    pub differences: Option<[i64; FRAMES]>,
    /// How the durations are found.
    pub durations: Durations,
}

/// What a block carries about its frames' times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// PTS in ns that predictions start from: in key blocks without `no_pts`, and nowhere else.
    pub base: Option<u64>,
    /// No frame of the block has a PTS.
    pub no_pts: bool,
    /// Set where the frames' times are not as predicted; in a key block its unit and rule for durations become the
    /// defaults of the blocks that depend on it.
    pub explicit: Option<Explicit>,
}

/// The times of a block's frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlockTimes {
    pub(super) times: [FrameTime; FRAMES],
    pub(super) frames: usize,
}

impl BlockTimes {
    /// The times of a block's frames, of which there are 16 at most; more are left out.
    pub fn new(frames: &[FrameTime]) -> Self {
        let mut made = Self { frames: frames.len().min(FRAMES), ..Self::default() };
        for (slot, time) in made.times.iter_mut().zip(frames) {
            *slot = *time;
        }
        made
    }

    /// How long the block lasts in ns; `None` where its frames do not say.
    pub fn length(&self) -> Option<u64> {
        let frames = self.frames();
        let start = frames.first().and_then(|frame| frame.pts);
        let end = frames.last().and_then(|frame| frame.pts?.checked_add(frame.duration?));
        let length = start.zip(end).and_then(|(start, end)| end.checked_sub(start));
        length.or_else(|| frames.iter().try_fold(0u64, |sum, frame| sum.checked_add(frame.duration?)))
    }

    /// One entry per frame, in order.
    pub fn frames(&self) -> &[FrameTime] {
        &self.times[..self.frames]
    }
}
