// SPDX-License-Identifier: MIT OR Apache-2.0
//! The deadline of the block that waits, on the pipeline's clock.

use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::prelude::*;

use super::deadline::Due;
use super::state::{CAT, ElasticTokEnc};
use crate::common::lock;

impl ElasticTokEnc {
    /// What a block waits by the caps: `frame` for each of its frames but the first.
    pub(super) fn set_wait(&self, frames: u64, frame: gst::ClockTime) {
        let mut deadline = lock(&self.deadline);
        (deadline.wait, deadline.frame, deadline.stale) = (frame * frames, frame, true);
    }

    /// Upstream's latency may have changed.
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

    /// A frame of running time `running` arrived at `now`.
    pub(super) fn note_arrival(&self, running: Option<gst::ClockTime>, now: Option<gst::ClockTime>) {
        let mut deadline = lock(&self.deadline);
        deadline.pace = now.zip(deadline.done).and_then(|(now, done)| now.checked_sub(done));
        deadline.step = running.zip(deadline.last).and_then(|(running, last)| running.checked_sub(last));
        deadline.last = running;
    }

    /// Whether block `block`, which got a frame of running time `running` at `now` and waits for more, is better coded at once.
    /// Else it has a deadline from now on.
    pub(super) fn is_hopeless(&self, block: u64, running: Option<gst::ClockTime>, now: Option<gst::ClockTime>) -> bool {
        let Some(now) = now else { return false };
        let due = {
            let mut deadline = lock(&self.deadline);
            let due = deadline.block.filter(|due| due.block == block).or_else(|| deadline.due(block, running, now));
            let Some(due) = due else { return false };
            if deadline.is_hopeless(&due, now) {
                return true;
            }
            if deadline.timer.is_some() {
                return false;
            }
            deadline.block = Some(due);
            due
        };
        self.start_timer(due);
        false
    }

    fn start_timer(&self, Due { block, latest, .. }: Due) {
        let obj = self.obj();
        let Some((clock, base)) = obj.clock().zip(obj.base_time()) else { return };
        let timer = clock.new_single_shot_id(base + latest);
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

    /// There is no block to wait for any more.
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

    /// A frame has been handled.
    pub(super) fn note_done(&self) {
        let now = self.live_time();
        lock(&self.deadline).done = now;
    }

    /// Notes how long a block took to code.
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
            // The streaming thread returns it.
            state.failed = Some(e);
        }
    }
}
