// SPDX-License-Identifier: MIT OR Apache-2.0
//! Live sources: a block whose next frame is late is coded with the frames that it has.
//!
//! The encoder promises its latency, the time from a block's first frame to its last one. A source that is slower than its
//! caps say, such as a webcam in the dark, would break the promise, and the sink would drop frames as too late. So while the
//! pipeline plays, each block that waits has a deadline on the pipeline's clock. Where the last frame took longer to come
//! than there is time left, the block is coded at once.

/// How far past the promised latency a frame may be, as a share of a frame, and its limit: time stamps and schedulers
/// jitter, and sinks allow for some processing.
const GRACE_SHARE: u64 = 4;
const MOST_GRACE: gst::ClockTime = gst::ClockTime::from_mseconds(10);

/// The pipeline's time, as far as it is known.
#[derive(Default)]
pub struct Deadline {
    /// Latency of the elements before the encoder, if they are live.
    pub upstream: Option<gst::ClockTime>,
    /// Upstream's latency must be queried.
    pub stale: bool,
    /// From a block's first frame to its last one, by the caps.
    pub wait: gst::ClockTime,
    /// One frame, by the caps.
    pub frame: gst::ClockTime,
    /// How long the last block took to code.
    pub coding: gst::ClockTime,
    /// Running time at which the last frame was dealt with.
    pub done: Option<gst::ClockTime>,
    /// Running time of the last frame.
    pub last: Option<gst::ClockTime>,
    /// How long the source took for the last frame, by the clock and by its time stamp.
    pub pace: Option<gst::ClockTime>,
    pub step: Option<gst::ClockTime>,
    /// By how many seconds downstream says that it is late; negative: there is time left.
    pub late_downstream: Option<f64>,
    /// Running time of the last frame of the block before.
    pub block_before: Option<gst::ClockTime>,
    /// The block that waits.
    pub block: Option<Due>,
    pub timer: Option<gst::SingleShotClockId>,
}

/// When a block has to be coded, in running time.
#[derive(Clone, Copy)]
pub struct Due {
    pub block: u64,
    /// When a source that keeps to its caps has sent all frames. It counts from the first frame's arrival: where the encoder
    /// itself is slow, frames arrive late, and partial blocks would only make it slower.
    pub regular: gst::ClockTime,
    /// Until when waiting keeps the promised latency: later, if upstream uses less latency than it announces.
    pub latest: gst::ClockTime,
}

impl Deadline {
    /// For a block whose first frame has the running time `first` and arrived at `now`.
    pub fn due(&self, block: u64, first: Option<gst::ClockTime>, now: gst::ClockTime) -> Option<Due> {
        let grace = (self.frame / GRACE_SHARE).min(MOST_GRACE);
        let regular = now.checked_add(self.wait)?.checked_add(grace)?;
        let promised =
            first.and_then(|first| first.checked_add(self.upstream?)?.checked_add(self.wait)?.checked_sub(self.coding));
        Some(Due { block, regular, latest: promised.map_or(regular, |promised| promised.max(regular)) })
    }

    /// Whether the next frame, if it takes as long as the last one, comes too late for a regular source. The last one must have
    /// been slow by the clock, unlike frames that waited for a slow encoder, and by its time stamp, unlike a burst's. Upstream's
    /// spare time is not spent on it: decoders and sinks can use that better.
    pub fn is_hopeless(&self, due: &Due, now: gst::ClockTime) -> bool {
        let slow = self.pace.zip(self.step).map(|(pace, step)| pace.min(step));
        slow.is_some_and(|slow| now.checked_add(slow).is_none_or(|then| then > due.regular))
    }
}
