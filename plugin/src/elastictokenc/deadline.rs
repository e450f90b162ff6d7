// SPDX-License-Identifier: MIT OR Apache-2.0
//! Live sources: a block whose next frame does not come in time goes out with the frames that it has.
//!
//! The encoder promises its latency, the time from a block's first frame to its last one. A source that is slower than its caps say,
//! such as a webcam in the dark, would break the promise, and the sink would drop frames as too late. So while the pipeline
//! plays, each block that waits has a deadline on the pipeline's clock. Where the last frame already took longer to come than
//! the deadline leaves, there is no point in waiting, and the block is coded at once.

use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::prelude::*;

use super::imp::{CAT, ElasticTokEnc};
use crate::common::lock;

/// How far past the promised latency a frame may be, as a share of a frame and at the most: time stamps and schedulers jitter, and
/// sinks allow for some processing.
const GRACE_SHARE: u64 = 4;
const MOST_GRACE: gst::ClockTime = gst::ClockTime::from_mseconds(10);

/// What is known of the pipeline's time.
#[derive(Default)]
pub struct Deadline {
    /// Latency of what comes before the encoder, if that is live.
    upstream: Option<gst::ClockTime>,
    /// Upstream's latency is to be asked for.
    stale: bool,
    /// From a block's first frame to its last one, by the caps.
    wait: gst::ClockTime,
    /// One frame, by the caps.
    frame: gst::ClockTime,
    /// How long the last block took to code.
    coding: gst::ClockTime,
    /// Running time at which the last frame was dealt with.
    done: Option<gst::ClockTime>,
    /// The block that waits, and its deadline in running time.
    block: Option<(u64, gst::ClockTime)>,
    timer: Option<gst::SingleShotClockId>,
}

impl Deadline {
    /// The running time at which a block has to be coded whose first frame has `first` and arrived at `now`: in time for what was
    /// promised, but not before a frame that keeps to the caps can be there. Where the encoder is the slow one, frames arrive
    /// late, and short blocks would only make it slower.
    fn of_block(&self, first: Option<gst::ClockTime>, now: gst::ClockTime) -> Option<gst::ClockTime> {
        let promised =
            first.and_then(|first| first.checked_add(self.upstream?)?.checked_add(self.wait)?.checked_sub(self.coding));
        let grace = (self.frame / GRACE_SHARE).min(MOST_GRACE);
        let regular = now.checked_add(self.wait)?.checked_add(grace)?;
        Some(promised.map_or(regular, |promised| promised.max(regular)))
    }
}

impl ElasticTokEnc {
    /// What a block waits by the caps: `frame` for each of its frames but the first.
    pub(super) fn set_wait(&self, frames: u64, frame: gst::ClockTime) {
        let mut deadline = lock(&self.deadline);
        (deadline.wait, deadline.frame, deadline.stale) = (frame * frames, frame, true);
    }

    /// Upstream's latency may be another one now.
    pub(super) fn ask_latency_again(&self) {
        lock(&self.deadline).stale = true;
    }

    /// The running time, where it counts: in a live pipeline that plays.
    pub(super) fn live_time(&self) -> Option<gst::ClockTime> {
        let obj = self.obj();
        if obj.current_state() != gst::State::Playing {
            return None;
        }
        if std::mem::take(&mut lock(&self.deadline).stale) {
            let mut query = gst::query::Latency::new();
            let live = obj.sink_pad().peer_query(&mut query).then(|| query.result()).filter(|(live, ..)| *live);
            lock(&self.deadline).upstream = live.map(|(_, least, _)| least);
            gst::debug!(CAT, imp = self, "upstream's latency where it is live: {live:?}");
        }
        lock(&self.deadline).upstream?;
        obj.current_running_time()
    }

    /// Whether block `block`, which got a frame of running time `running` at `arrived` and waits for more, is better coded at once. Else
    /// it has a deadline from now on.
    pub(super) fn is_pointless_to_wait(
        &self,
        block: u64,
        running: Option<gst::ClockTime>,
        arrived: Option<gst::ClockTime>,
    ) -> bool {
        let Some(arrived) = arrived else { return false };
        let due = {
            let mut deadline = lock(&self.deadline);
            let due = match deadline.block {
                Some((waiting, due)) if waiting == block => Some(due),
                _ => deadline.of_block(running, arrived),
            };
            let Some(due) = due else { return false };
            // A source's pace is what it takes between two frames that are coded in time.
            let pace = deadline.done.and_then(|done| arrived.checked_sub(done));
            if pace.is_some_and(|pace| arrived + pace > due) {
                return true;
            }
            if deadline.timer.is_some() {
                return false;
            }
            deadline.block = Some((block, due));
            due
        };
        self.start_timer(block, due);
        false
    }

    fn start_timer(&self, block: u64, due: gst::ClockTime) {
        let obj = self.obj();
        let Some((clock, base)) = obj.clock().zip(obj.base_time()) else { return };
        let timer = clock.new_single_shot_id(base + due);
        let weak = obj.downgrade();
        // The clock's own thread is not for work.
        let started = timer.wait_async(move |_, _, _| {
            if let Some(obj) = weak.upgrade() {
                obj.call_async(move |obj| obj.imp().end_block(block));
            }
        });
        match started {
            Ok(_) => lock(&self.deadline).timer = Some(timer),
            Err(e) => gst::debug!(CAT, imp = self, "no deadline for block {block}: {e:?}"),
        }
    }

    /// There is nothing to wait for any more.
    pub(super) fn stop_timer(&self) {
        let timer = {
            let mut deadline = lock(&self.deadline);
            deadline.block = None;
            deadline.timer.take()
        };
        if let Some(timer) = timer {
            timer.unschedule();
        }
    }

    /// A frame has been dealt with.
    pub(super) fn note_done(&self) {
        let now = self.live_time();
        lock(&self.deadline).done = now;
    }

    /// A block took so long to code.
    pub(super) fn note_coding(&self, time: std::time::Duration) {
        lock(&self.deadline).coding = gst::ClockTime::try_from(time).unwrap_or_default();
    }

    /// Codes `block` if it still waits.
    fn end_block(&self, block: u64) {
        let obj = self.obj();
        // A frame comes with the base class's stream lock, and so nothing else is coded or sent meanwhile.
        let Some(_first) = obj.oldest_frame() else { return };
        if !lock(&self.state).as_ref().is_some_and(|s| s.block == block && !s.waiting.is_empty()) {
            return;
        }
        gst::debug!(CAT, imp = self, "the next frame is late: block {block} goes out without it");
        if let Err(e) = self.drain()
            && let Some(state) = lock(&self.state).as_mut()
        {
            // For the streaming thread to return.
            state.failed = Some(e);
        }
    }
}
