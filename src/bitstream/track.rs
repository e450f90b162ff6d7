// SPDX-License-Identifier: MIT OR Apache-2.0
//! Follows a stream from block to block: which header is in force, which blocks can be used, and when each is played.
//!
//! **Playback time** counts from the first frame, whatever its time stamp. Where streams were joined (`cat a.etok b.etok`),
//! the time stamps of each start again; in playback it follows the end of the one before.

use super::block_header::BlockHeader;
use super::header::SequenceHeader;
use super::timing::{BlockTimes, Timeline};
use crate::Result;

/// Epochs are counted modulo 256: after this one comes 0.
const LAST_EPOCH: u8 = u8::MAX;

/// A block's place in playback, in ns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Playback {
    /// When the first frame is shown; `None` where it has no time stamp.
    pub start: Option<u64>,
    /// When the last frame ends, as far as can be told.
    pub end: Option<u64>,
}

/// How time stamps map to playback time, through any number of joins.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Joins {
    /// Playback time less time stamp, of the stream being read; `None` before the first time stamp.
    shift: Option<i128>,
    /// Start and end of the last block in playback; `None` after a jump to an unknown place.
    last: Option<(u64, u64)>,
    /// From the last frame but one to the last: used where a duration is not known.
    interval: u64,
}

impl Joins {
    /// Places a block. A stream can only begin with a key block; `restart`: the epoch shows that this one begins a stream.
    fn place(&mut self, key: bool, restart: bool, times: &BlockTimes) -> Playback {
        let frames = times.frames();
        let Some(stamp) = frames.first().and_then(|frame| frame.pts) else { return Playback::default() };
        let own = i128::from(stamp);
        let shift = match (self.shift, self.last) {
            (None, _) => -own,
            (Some(shift), Some((start, end))) if key => {
                let (placed, start, end) = (own + shift, i128::from(start), i128::from(end));
                // Less than a block away from its predecessor's end, it continues: an encoder that took new caps.
                let elsewhere = restart && (placed - end).abs() > end - start;
                if placed <= start || elsewhere { end - own } else { shift }
            }
            (Some(shift), _) => shift,
        };
        self.shift = Some(shift);
        let last = frames.iter().rev().find_map(|frame| frame.pts.map(|pts| (pts, frame.duration)));
        let (last, duration) = last.unwrap_or((stamp, None));
        let before = frames.iter().rev().filter_map(|frame| frame.pts).nth(1);
        if let Some(interval) = before.and_then(|before| last.checked_sub(before)) {
            self.interval = interval;
        }
        let end = in_range(i128::from(last) + i128::from(duration.unwrap_or(self.interval)) + shift);
        let start = in_range(own + shift);
        if let Some(start) = start {
            self.last = Some((start, end.unwrap_or(start).max(start)));
        }
        Playback { start, end }
    }
}

fn in_range(time: i128) -> Option<u64> {
    u64::try_from(time.max(0)).ok().filter(|&time| time != u64::MAX)
}

/// The state of a stream at one position.
#[derive(Debug, Clone, Default)]
pub struct Tracker {
    sequence: Option<(SequenceHeader, Timeline)>,
    /// Of the last key block under the header in force.
    epoch: Option<u8>,
    /// Of the last key block of all.
    before: Option<u8>,
    /// The epoch of the block accepted last shows that it begins a stream.
    restart: bool,
    closes_gaps: bool,
    joins: Joins,
}

impl Tracker {
    /// A tracker at the start of a stream. `closes_gaps`: a stream that begins later than the one before ended follows it
    /// without the gap, as in a file. A live sender that restarts may really have paused.
    pub fn new(closes_gaps: bool) -> Self {
        Self { closes_gaps, ..Self::default() }
    }

    /// Sets what [`new`](Self::new) calls `closes_gaps`.
    pub fn close_gaps(&mut self, yes: bool) {
        self.closes_gaps = yes;
    }

    /// The sequence header in force.
    pub fn header(&self) -> Option<&SequenceHeader> {
        self.sequence.as_ref().map(|(header, _)| header)
    }

    /// Takes a sequence header; returns whether it differs from the one in force.
    pub fn set_header(&mut self, header: SequenceHeader) -> Result<bool> {
        if self.header() == Some(&header) {
            return Ok(false);
        }
        let timeline = Timeline::new(header.framerate, header.block_length)?;
        self.sequence = Some((header, timeline));
        self.epoch = None;
        Ok(true)
    }

    /// After a header that was refused: there are no blocks until the next one.
    pub fn forget_header(&mut self) {
        self.sequence = None;
        self.epoch = None;
    }

    /// Takes a block; returns whether the key block that it depends on is known. A key block is always accepted.
    pub fn accept(&mut self, block: &BlockHeader) -> bool {
        if !block.key {
            self.restart = false;
            return self.epoch == Some(block.epoch);
        }
        self.restart = block.epoch == 0 && self.before.is_some_and(|epoch| epoch != LAST_EPOCH);
        self.epoch = Some(block.epoch);
        self.before = self.epoch;
        true
    }

    /// The times of an accepted block's frames, `packet_pts` being the time stamp of the packet it came in, if it has one.
    ///
    /// `None` where no header is in force.
    pub fn times(&mut self, block: &BlockHeader, packet_pts: Option<u64>) -> Option<BlockTimes> {
        let (_, timeline) = self.sequence.as_mut()?;
        Some(timeline.decode(block.position, block.frames, &block.timing, packet_pts))
    }

    /// Where an accepted block is played.
    pub fn place(&mut self, block: &BlockHeader, times: &BlockTimes) -> Playback {
        self.joins.place(block.key, self.restart && self.closes_gaps, times)
    }

    /// How time stamps map to playback time here.
    pub(crate) fn joins(&self) -> Joins {
        self.joins
    }

    /// Continues at an unknown position, where only a key block can be accepted.
    pub fn jump(&mut self) {
        self.epoch = None;
        self.before = None;
        self.joins.last = None;
        if let Some((_, timeline)) = &mut self.sequence {
            timeline.reset();
        }
    }

    /// Continues at `key` or among the blocks that depend on it; `header` and `joins` are those in force there.
    pub(crate) fn resume(&mut self, header: &SequenceHeader, key: &BlockHeader, joins: Joins) -> Result<()> {
        self.set_header(header.clone())?;
        self.jump();
        self.joins = Joins { last: None, ..joins };
        self.epoch = Some(key.epoch);
        self.before = self.epoch;
        self.times(key, None);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::bitstream::FrameTime;

    const MS: u64 = 1_000_000;

    /// Places blocks of two frames of 10 ms, given as key, restart and time stamp in ms; answers with starts in ms.
    fn starts(joins: &mut Joins, blocks: &[(bool, bool, u64)]) -> Vec<u64> {
        let place = |&(key, restart, at): &(bool, bool, u64)| {
            let frame = |i: u64| FrameTime { pts: Some((at + 10 * i) * MS), duration: Some(10 * MS) };
            joins.place(key, restart, &BlockTimes::new(&[frame(0), frame(1)])).start.unwrap() / MS
        };
        blocks.iter().map(place).collect()
    }

    #[test]
    fn playback_begins_with_the_first_frame() {
        let mut joins = Joins::default();
        assert_eq!(starts(&mut joins, &[(true, false, 20_000), (false, false, 20_020), (true, false, 20_040)]), [0, 20, 40]);
        assert_eq!(joins.last, Some((40 * MS, 60 * MS)));
    }

    #[test]
    fn a_stream_follows_the_one_before() {
        let first = (true, false, 100);
        let mut joins = Joins::default();
        assert_eq!(starts(&mut joins, &[first, (false, false, 120), first, (false, false, 120)]), [0, 20, 40, 60]);
        // Later than the end of the one before: only the epoch tells. A short step is no join, and a gap without one stays.
        assert_eq!(starts(&mut joins, &[(true, true, 9_000), (true, true, 9_030), (true, false, 9_500)]), [80, 110, 580]);
        // Without a key block time does not go back to a join.
        assert_eq!(starts(&mut joins, &[(false, false, 9_400)]), [480]);
    }

    #[test]
    fn without_durations_the_interval_between_frames_stands_in() {
        let mut joins = Joins::default();
        let frame = |at: u64| FrameTime { pts: Some(at), duration: None };
        let place = joins.place(true, false, &BlockTimes::new(&[frame(5), frame(12)]));
        assert_eq!(place, Playback { start: Some(0), end: Some(14) });
        assert_eq!(joins.place(true, false, &BlockTimes::new(&[frame(5)])).start, Some(14));
    }

    #[test]
    fn extreme_times_neither_wrap_nor_panic() {
        let mut joins = Joins::default();
        let frame = |at: u64| FrameTime { pts: Some(at), duration: Some(u64::MAX - 1) };
        for at in [0, u64::MAX - 1, 0, u64::MAX / 2, 3, u64::MAX - 1, 0] {
            joins.place(true, false, &BlockTimes::new(&[frame(at)]));
        }
        let frame = FrameTime::default();
        assert_eq!(joins.place(true, true, &BlockTimes::new(&[frame])), Playback::default());
        assert_eq!(joins.place(true, true, &BlockTimes::new(&[])), Playback::default());
    }
}
