// SPDX-License-Identifier: MIT OR Apache-2.0
//! The real rate of frames, by their time stamps. Bitrates are measured against it, whatever the stream's framerate says.

use crate::bitstream::FrameTime;

/// Assumed duration of a frame of a variable rate until something is known, in seconds.
const UNKNOWN: f64 = 1.0 / 30.0;
/// Largest factor between the first interval and the declared one, and between each later one and the mean, for it to be used
/// unchanged.
const FIRST_REACH: f64 = 16.0;
const REACH: f64 = 4.0;
/// Share of a new interval in the mean.
const SHARE: f64 = 0.25;
/// Longest duration that a pause may give a block, in seconds.
const LONGEST_PAUSE: f64 = 1.0;

/// When a block begins and ends, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct BlockSpan {
    /// From the start of the block before to the start of this one; 0 for the first.
    pub elapsed: f64,
    /// How long the block is expected to last.
    pub seconds: f64,
}

/// Follows the time stamps of a stream.
#[derive(Debug)]
pub(super) struct Pace {
    /// Mean time from a frame to the next.
    interval: f64,
    /// `interval` was measured.
    measured: bool,
    /// Time stamp of the last frame.
    last: Option<u64>,
    /// Start of the last block and how long it was expected to last.
    block: Option<(Option<u64>, f64)>,
}

/// Seconds from `a` to `b`, where both are known and `b` is the later one.
fn between(a: Option<u64>, b: Option<u64>) -> Option<f64> {
    Some(b?.checked_sub(a?).filter(|&d| d > 0)? as f64 / 1e9)
}

impl Pace {
    /// A stream of a declared framerate; (0, 1) = variable.
    pub fn new((numerator, denominator): (u32, u32)) -> Self {
        let interval = if numerator == 0 { UNKNOWN } else { f64::from(denominator) / f64::from(numerator) };
        Self { interval, measured: false, last: None, block: None }
    }

    fn see(&mut self, interval: f64) {
        if self.measured {
            let interval = interval.clamp(self.interval / REACH, self.interval * REACH);
            self.interval += SHARE * (interval - self.interval);
        } else {
            self.interval = interval.clamp(self.interval / FIRST_REACH, self.interval * FIRST_REACH);
            self.measured = true;
        }
    }

    /// The span of the next block, which has one frame or more.
    pub fn next(&mut self, frames: &[FrameTime]) -> BlockSpan {
        let first = frames.first().and_then(|f| f.pts);
        let elapsed = self.block.map_or(0.0, |(begin, expected)| between(begin, first).unwrap_or(expected));
        if let Some(duration) = frames.first().and_then(|f| f.duration).filter(|&d| d > 0 && !self.measured) {
            // Better than what the whole stream is declared to be, until there are two time stamps.
            self.interval = duration as f64 / 1e9;
        }
        let mut spread = 0.0;
        for (index, frame) in frames.iter().enumerate() {
            let interval = between(self.last, frame.pts);
            if let Some(interval) = interval {
                self.see(interval);
            }
            if index > 0 {
                spread += interval.unwrap_or(self.interval);
            }
            self.last = frame.pts.or(self.last);
        }
        let longest = (frames.len() as f64 * self.interval).max(LONGEST_PAUSE);
        let seconds = (spread + self.interval).min(longest);
        self.block = Some((first, seconds));
        BlockSpan { elapsed, seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> FrameTime {
        FrameTime { pts: Some(ms * 1_000_000), duration: None }
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6
    }

    #[test]
    fn time_stamps_decide_and_not_the_framerate() {
        for (framerate, step) in [((30, 1), 100), ((5, 1), 33), ((0, 1), 17), ((0, 1), 200), ((25, 1), 40)] {
            let mut pace = Pace::new(framerate);
            for block in 0..20 {
                let span = pace.next(&[at(2 * block * step), at((2 * block + 1) * step)]);
                assert!(close(span.seconds, 2.0 * step as f64 / 1e3), "{framerate:?} {step}: {span:?}");
                assert!(close(span.elapsed, if block == 0 { 0.0 } else { 2.0 * step as f64 / 1e3 }));
            }
        }
    }

    #[test]
    fn without_time_stamps_durations_count_and_then_the_framerate() {
        let none = FrameTime::default();
        let mut pace = Pace::new((25, 1));
        assert!(close(pace.next(&[none, none]).seconds, 0.08));
        let span = pace.next(&[none]);
        assert!(close(span.elapsed, 0.08) && close(span.seconds, 0.04), "{span:?}");
        let lasting = FrameTime { pts: None, duration: Some(100_000_000) };
        assert!(close(Pace::new((25, 1)).next(&[lasting, lasting]).seconds, 0.2));
    }

    #[test]
    fn pauses_and_jumps_do_not_make_the_next_block_long() {
        let mut pace = Pace::new((0, 1));
        for block in 0..10 {
            pace.next(&[at(66 * block), at(66 * block + 33)]);
        }
        let span = pace.next(&[at(60_000), at(60_033)]);
        assert!(span.elapsed > 59.0 && span.seconds < 0.11, "{span:?}");
        let within = pace.next(&[at(60_066), at(90_000)]);
        assert!(within.seconds <= 1.0, "{within:?}");
        let back = pace.next(&[at(0), at(33)]);
        assert!(close(back.elapsed, within.seconds) && back.seconds < 0.2, "{back:?}");
    }
}
