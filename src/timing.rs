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

use crate::bitstream::{MAX_BLOCK_LENGTH, varint};
use crate::{Error, Result};
use grid::{Anchor, Grid, in_range, valid};

const FRAMES: usize = MAX_BLOCK_LENGTH as usize;

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
pub enum Unit {
    /// 1 ns.
    #[default]
    Nanosecond,
    /// 1 us.
    Microsecond,
    /// 1 ms: Matroska and FLV.
    Millisecond,
}

impl Unit {
    /// The unit in ns.
    pub fn nanoseconds(self) -> u64 {
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
    /// Unit of `differences`; predictions are rounded to it.
    pub unit: Unit,
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
    times: [FrameTime; FRAMES],
    frames: usize,
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

/// Turns frames' times into [`Timing`] (encoder) or back (decoder); one per stream and direction.
#[derive(Debug, Clone)]
pub struct Timeline {
    framerate: (u32, u32),
    block_length: u8,
    anchor: Option<Anchor>,
    /// Decoder: packet time less own time, from the last packet that had one.
    shift: i128,
    /// Encoder: what the last blocks needed, to be the next key block's defaults.
    hint: (Unit, Durations),
}

impl Timeline {
    /// A timeline for `framerate` (frames per second as a fraction, 0/1 = variable) and T frames in a block (1..=16).
    pub fn new(framerate: (u32, u32), block_length: u8) -> Result<Self> {
        if framerate.1 == 0 {
            return Err(Error::Settings("framerate with denominator 0; use 0/1 for a variable rate".into()));
        }
        if !(1..=MAX_BLOCK_LENGTH).contains(&block_length) {
            return Err(Error::Settings(format!("block length {block_length} is outside 1..={MAX_BLOCK_LENGTH}")));
        }
        let hint = (Unit::default(), Durations::default());
        Ok(Self { framerate, block_length, anchor: None, shift: 0, hint })
    }

    /// Forgets the key block: the next block is to be a key block.
    pub fn reset(&mut self) {
        self.anchor = None;
        self.shift = 0;
    }

    /// Encoder: the timing of a block with these `frames`, `position` blocks after the key block (0: it is the key block).
    pub fn encode(&mut self, position: u32, frames: &[FrameTime]) -> Result<Timing> {
        if frames.is_empty() || frames.len() > usize::from(self.block_length) {
            return Err(Error::Settings(format!("block of {} frames, expected 1..={}", frames.len(), self.block_length)));
        }
        let mut wanted = BlockTimes { frames: frames.len(), ..Default::default() };
        for (slot, time) in wanted.times.iter_mut().zip(frames) {
            *slot = FrameTime { pts: valid(time.pts), duration: valid(time.duration) };
        }
        let base = wanted.frames().iter().find_map(|time| time.pts);
        let mut timing = Timing { base: base.filter(|_| position == 0), no_pts: base.is_none(), explicit: None };
        let anchor = match (position, self.anchor) {
            (0, _) => Anchor::new(self.framerate, base.unwrap_or(0)),
            (_, Some(anchor)) => anchor,
            (_, None) => {
                return Err(Error::Settings("the first block must be a key block; start at position 0".into()));
            }
        };
        let grid = Grid { framerate: self.framerate, anchor, first: self.index(position) };

        let (unit, differences) = self.choose_unit(&grid, &wanted, position == 0);
        let mut explicit = Explicit { unit, differences, durations: anchor.durations };
        explicit.durations = self.choose_durations(&grid, &wanted, &explicit, position == 0);
        let defaults = Explicit { unit: anchor.unit, differences: None, durations: anchor.durations };
        timing.explicit = (explicit != defaults).then_some(explicit);
        if position == 0 {
            self.anchor = Some(anchor.with_defaults(timing.explicit));
        }
        Ok(timing)
    }

    /// Decoder: the times of the `frames` frames of a block, `position` blocks after the key block (0: it is the key block).
    ///
    /// `packet_pts`, the time stamp of the buffer that the block came in, takes precedence for the first frame and the others
    /// shift equally, as do those of later blocks that come without one, up to the next key block. Call it for blocks that
    /// depend on the last key block given; others only get `packet_pts` and the nominal spacing.
    pub fn decode(&mut self, position: u32, frames: u8, timing: &Timing, packet_pts: Option<u64>) -> BlockTimes {
        if position == 0 {
            let anchor = Anchor::new(self.framerate, timing.base.unwrap_or(0));
            self.anchor = Some(anchor.with_defaults(timing.explicit));
            self.shift = 0;
        }
        let no_pts = timing.no_pts || self.anchor.is_none();
        let anchor = self.anchor.unwrap_or_else(|| Anchor::new(self.framerate, 0));
        let grid = Grid { framerate: self.framerate, anchor, first: self.index(position) };
        let defaults = Explicit { unit: anchor.unit, differences: None, durations: anchor.durations };
        let mut times = grid.times(usize::from(frames).min(FRAMES), no_pts, &timing.explicit.unwrap_or(defaults));

        let packet_pts = valid(packet_pts);
        if no_pts {
            for (index, time) in times.times[..times.frames].iter_mut().enumerate() {
                let spacing = grid.predict(index) - grid.predict(0);
                let known = index == 0 || self.framerate.0 > 0;
                time.pts = packet_pts.filter(|_| known).and_then(|pts| in_range(i128::from(pts) + spacing));
            }
            return times;
        }
        if let (Some(packet), Some(own)) = (packet_pts, times.times[0].pts) {
            self.shift = i128::from(packet) - i128::from(own);
        }
        for time in &mut times.times[..times.frames] {
            time.pts = time.pts.and_then(|pts| in_range(i128::from(pts) + self.shift));
        }
        times.times[0].pts = packet_pts.or(times.times[0].pts);
        times
    }

    /// Index of the block's first frame since the key block, where every block before it is taken as full.
    fn index(&self, position: u32) -> u64 {
        u64::from(position) * u64::from(self.block_length)
    }

    fn choose_unit(&mut self, grid: &Grid, wanted: &BlockTimes, key: bool) -> (Unit, Option<[i64; FRAMES]>) {
        let default = grid.anchor.unit;
        let frames = wanted.frames();
        if frames.iter().all(|time| time.pts.is_none()) {
            return (default, None);
        }
        let predicted = |unit| {
            let fits = |(index, time): (usize, &FrameTime)| time.pts == grid.rounded(index, unit);
            frames.iter().enumerate().all(fits)
        };
        if key && self.hint.0 != default && predicted(self.hint.0) {
            return (self.hint.0, None);
        }
        if predicted(default) {
            return (default, None);
        }
        let mut best = (usize::MAX, default, None);
        for unit in [Unit::Millisecond, Unit::Microsecond, Unit::Nanosecond] {
            if frames.iter().any(|time| time.pts.is_some_and(|pts| pts % unit.nanoseconds() != 0)) {
                continue;
            }
            let differences = (!predicted(unit)).then(|| grid.differences(frames, unit));
            let bytes = differences.map_or(0, |differences| varint_bytes(&differences[..frames.len()]));
            if bytes < best.0 {
                best = (bytes, unit, differences);
            }
        }
        self.hint.0 = best.1;
        (best.1, best.2)
    }

    fn choose_durations(&mut self, grid: &Grid, wanted: &BlockTimes, pts: &Explicit, key: bool) -> Durations {
        let default = grid.anchor.durations;
        let no_pts = wanted.frames().iter().all(|time| time.pts.is_none());
        let fits = |durations| {
            let made = grid.times(wanted.frames, no_pts, &Explicit { durations, ..*pts });
            made.frames().iter().zip(wanted.frames()).all(|(made, wanted)| made.duration == wanted.duration)
        };
        if key && fits(self.hint.1) {
            return self.hint.1;
        }
        if fits(default) {
            return default;
        }
        if let Some(rule) = [Durations::Grid, Durations::Nominal, Durations::Absent].into_iter().find(|rule| fits(*rule)) {
            self.hint.1 = rule;
            return rule;
        }
        let coded = |time: &FrameTime| time.duration.unwrap_or(u64::MAX);
        let last = wanted.frames().last().map_or(u64::MAX, coded);
        let next = Durations::Next(last.wrapping_sub(grid.nominal()).cast_signed());
        if fits(next) {
            return next;
        }
        let mut differences = [0; FRAMES];
        let mut before = grid.nominal();
        for (difference, time) in differences.iter_mut().zip(wanted.frames()) {
            *difference = coded(time).wrapping_sub(before).cast_signed();
            before = coded(time);
        }
        Durations::Each(differences)
    }
}

fn varint_bytes(differences: &[i64]) -> usize {
    differences.iter().map(|&difference| varint::len(varint::zigzag(difference))).sum()
}
