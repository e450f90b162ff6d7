// SPDX-License-Identifier: MIT OR Apache-2.0
//! The input's times: where they are discontinuous, and what the stream carries of them.

use elastictok::codec::FrameTime;
use gst::ClockTime;

/// A longer step forwards or back is not a pause but another recording.
const MOST_AHEAD: ClockTime = ClockTime::from_seconds(5);
const MOST_BACK: ClockTime = ClockTime::from_seconds(1);
/// After this many frames in order, a step back of any size is a break. Sources that always have neighbouring frames out of
/// order are tolerated.
const SETTLED: u32 = 30;

/// Finds breaks in a sequence of time stamps.
#[derive(Debug, Default)]
pub struct InputTimes {
    last: Option<ClockTime>,
    /// Frames since the last break; `None`: there was none.
    since: Option<u32>,
}

impl InputTimes {
    /// Whether this time stamp breaks the sequence.
    pub fn breaks(&mut self, pts: Option<ClockTime>) -> bool {
        let Some(pts) = pts else { return false };
        self.since = self.since.map(|n| n.saturating_add(1));
        let Some(last) = self.last.replace(pts) else { return false };
        let broken = match last.checked_sub(pts) {
            None => pts - last > MOST_AHEAD,
            Some(ClockTime::ZERO) => false,
            Some(back) => back >= MOST_BACK || self.since.is_none_or(|n| n > SETTLED),
        };
        if broken {
            self.since = Some(0);
        }
        broken
    }

    /// Forgets the last time stamp: the next one cannot be a break.
    pub fn forget(&mut self) {
        self.last = None;
    }
}

/// Whether times mean the same in both segments.
pub fn go_on(before: &gst::Segment, after: &gst::Segment) -> bool {
    before.format() == after.format()
        && before.rate() == after.rate()
        && before.applied_rate() == after.applied_rate()
        && (before.start(), before.base(), before.offset(), before.time())
            == (after.start(), after.base(), after.offset(), after.time())
}

/// Running time of a time stamp.
pub fn running_time(segment: &gst::Segment, pts: Option<ClockTime>) -> Option<ClockTime> {
    segment.downcast_ref::<ClockTime>()?.to_running_time(pts)
}

/// A frame's times as blocks carry them. As in other containers they are running times, which continue where segments join.
/// Not so with a rate other than 1, which would change the distances between frames.
pub fn of_frame(segment: &gst::Segment, pts: Option<ClockTime>, duration: Option<ClockTime>) -> FrameTime {
    let running = if segment.rate() == 1.0 { running_time(segment, pts) } else { None };
    FrameTime { pts: running.or(pts).map(|t| t.nseconds()), duration: duration.map(|t| t.nseconds()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaks(times: &[u64]) -> Vec<usize> {
        let mut input = InputTimes::default();
        let at = |ms: &u64| Some(ClockTime::from_mseconds(*ms));
        times.iter().enumerate().filter(|(_, ms)| input.breaks(at(ms))).map(|(i, _)| i).collect()
    }

    #[test]
    fn jumps_are_breaks_and_pauses_and_disorder_are_not() {
        assert_eq!(breaks(&[0, 33, 66, 100]), [0usize; 0]);
        assert_eq!(breaks(&[0, 33, 33, 3000, 3033]), [0usize; 0]);
        assert_eq!(breaks(&[0, 33, 66, 3_600_000, 3_600_033]), [3]);
        assert_eq!(breaks(&[0, 33, 66, 0, 33, 66]), [3], "a short clip that begins again");
        assert_eq!(breaks(&[5000, 5033, 0, 33, 2000, 0]), [2, 5]);
        let mixed: Vec<u64> = (0..40).flat_map(|i| [66 * i + 33, 66 * i]).collect();
        assert!(breaks(&mixed).len() <= 3, "{:?}", breaks(&mixed));
    }

    #[test]
    fn blocks_carry_running_times() {
        gst::init().expect("GStreamer");
        let mut segment = gst::FormattedSegment::<ClockTime>::new();
        segment.set_start(ClockTime::from_seconds(10));
        segment.set_base(ClockTime::from_seconds(3));
        let pts = Some(ClockTime::from_seconds(11));
        assert_eq!(of_frame(segment.upcast_ref(), pts, None).pts, Some(4_000_000_000));
        segment.set_rate(2.0);
        assert_eq!(of_frame(segment.upcast_ref(), pts, None).pts, Some(11_000_000_000));
        assert_eq!(of_frame(segment.upcast_ref(), None, pts), FrameTime { pts: None, duration: Some(11_000_000_000) });
        assert_eq!(of_frame(&gst::Segment::new(), pts, None).pts, Some(11_000_000_000), "no format, no running time");
    }
}
