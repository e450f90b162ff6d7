// SPDX-License-Identifier: MIT OR Apache-2.0
//! From times to the timing field and back, along a stream.

use super::grid::{Anchor, Grid, in_range, valid};
use super::times::{BlockTimes, Durations, Explicit, FRAMES, FrameTime, TimeUnit, Timing};
use crate::bitstream::limits::MAX_BLOCK_LENGTH;
use crate::bitstream::varint;
use crate::{Error, Result};

/// Turns frames' times into [`Timing`] (encoder) or back (decoder); one per stream and direction.
#[derive(Debug, Clone)]
pub struct Timeline {
    framerate: (u32, u32),
    block_length: u8,
    anchor: Option<Anchor>,
    /// Decoder: packet time less own time, from the last packet that had one.
    shift: i128,
    /// Encoder: what the last blocks needed, to be the next key block's defaults.
    hint: (TimeUnit, Durations),
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
        let hint = (TimeUnit::default(), Durations::default());
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

    fn choose_unit(&mut self, grid: &Grid, wanted: &BlockTimes, key: bool) -> (TimeUnit, Option<[i64; FRAMES]>) {
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
        for unit in [TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond] {
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
