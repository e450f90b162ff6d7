// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blocks that are ready too late, in a live pipeline: the core is told, and may leave out upper layers.

use elastictok::codec::Load;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::prelude::*;

use super::state::{CAT, ElasticTokEnc};
use crate::common::lock;

/// Longest time from one block to the next that counts: what is longer is a pause.
const LONGEST: gst::ClockTime = gst::ClockTime::SECOND;

fn seconds(time: gst::ClockTime) -> f64 {
    time.nseconds() as f64 * 1e-9
}

impl ElasticTokEnc {
    /// Notes how late a frame is by the QoS events from downstream.
    pub(super) fn note_qos(&self, frame: &gst_video::VideoCodecFrame<'_>) {
        // The largest value where there was no event.
        let left = self.obj().max_encode_time(frame);
        lock(&self.deadline).late_downstream = (left != i64::MAX).then(|| left as f64 * -1e-9);
    }

    /// Tells the core how a block fared that took from `begun` until now to code, and for which the encoder was at work `factor` times as
    /// long in all. It may be ready as late as the next one is complete, since later it would hold that up, and no later than sinks
    /// show it.
    pub(super) fn note_load(&self, begun: Option<gst::ClockTime>, factor: f64) {
        let (Some(begun), Some(now)) = (begun, self.live_time()) else { return };
        let (load, last) = {
            let mut deadline = lock(&self.deadline);
            let Some((last, upstream)) = deadline.last.zip(deadline.upstream) else { return };
            let since = deadline.block_before.replace(last).and_then(|before| last.checked_sub(before));
            let span = since.filter(|since| (gst::ClockTime::from_nseconds(1)..=LONGEST).contains(since));
            let span = span.unwrap_or(deadline.wait + deadline.frame);
            let late = seconds(now) - seconds(last + upstream + span);
            let late = deadline.late_downstream.map_or(late, |downstream| late.max(downstream));
            (Load { late, coding: factor * seconds(now.saturating_sub(begun)), span: seconds(span) }, last)
        };
        // Layers that were left out before it was disabled come back.
        let load = if self.obj().is_qos_enabled() { load } else { Load { late: -1.0, coding: 0.0, ..load } };
        self.tell_load(load, last);
    }

    /// Passes `load` of the block that ended at running time `at` to the core, and says on the bus what changes.
    fn tell_load(&self, load: Load, at: gst::ClockTime) {
        let stats = {
            let mut guard = lock(&self.state);
            let Some(state) = guard.as_mut() else { return };
            if !state.encoder.note_load(load) {
                return;
            }
            self.publish(Some(state));
            state.encoder.stats().clone()
        };
        let Load { late, coding, span } = load;
        gst::info!(
            CAT,
            imp = self,
            "{} upper layers are left out from now on: the last block was ready {late:.3} s after its time, and took {coding:.3} s of {span:.3} s",
            stats.shed_layers
        );
        let layers = stats.layer_bytes.len().max(1) as u32;
        let quality = 1_000_000 / layers * layers.saturating_sub(stats.shed_layers).max(1);
        let message = gst::message::Qos::builder(true)
            .src(&*self.obj())
            .running_time(at)
            .values((late * 1e9) as i64, coding / span, quality as i32)
            .stats(gst::format::Buffers::from_u64(stats.frames), gst::format::Buffers::ZERO)
            .build();
        // There may be no bus.
        let _ = self.obj().post_message(message);
    }
}
