// SPDX-License-Identifier: MIT OR Apache-2.0
//! Key units that downstream waits for.
//!
//! The base class marks the next frame when an event asks for a key unit. From a live source that frame may be an interval away while
//! another one waits for its block to fill. So requests without a time are answered here: the frame that waits goes out as a key block
//! at once, and where none waits, the next one goes out alone. Requests for a time are left to the base class, and their key blocks have
//! all their frames: nobody waits for them.

use std::sync::atomic::Ordering;

use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::prelude::*;

use super::state::{CAT, ElasticTokEnc};
use crate::common::lock;

/// What a request wants to be told of its key unit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub all_headers: bool,
    pub count: u32,
}

impl ElasticTokEnc {
    /// Takes a request for a key unit as soon as possible; `false`: the event is for the base class.
    pub(super) fn take_key_request(&self, event: &gst::Event) -> bool {
        let Ok(request) = gst_video::UpstreamForceKeyUnitEvent::parse(event) else { return false };
        if request.running_time.is_some() {
            return false;
        }
        let obj = self.obj();
        let begun = lock(&self.snapshot).as_ref().is_some_and(|s| s.stats.blocks > 0);
        if !begun || obj.min_force_key_unit_interval().is_none_or(|interval| !interval.is_zero()) {
            // The base class knows when it is time, and the frame that it marks goes out alone.
            self.hurry.store(true, Ordering::Relaxed);
            return false;
        }
        lock(&self.asked).push(Asked { all_headers: request.all_headers, count: request.count });
        // This may be a thread of RTCP, which is not for work.
        obj.call_async(|obj| {
            let this = obj.imp();
            // A frame comes with the base class's stream lock.
            let _first = obj.oldest_frame();
            if let Err(e) = this.answer_key_requests()
                && let Some(state) = lock(&this.state).as_mut()
            {
                // The streaming thread returns it.
                state.failed = Some(e);
            }
        });
        true
    }

    /// Makes the frame that waits a key block, or the next one. Called with the stream lock where a frame waits.
    pub(super) fn answer_key_requests(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        let asked = std::mem::take(&mut *lock(&self.asked));
        if asked.is_empty() {
            return Ok(gst::FlowSuccess::Ok);
        }
        let waits = {
            let mut guard = lock(&self.state);
            let Some(state) = guard.as_mut() else { return Ok(gst::FlowSuccess::Ok) };
            state.encoder.hurry_key();
            state.asked.extend(asked);
            !state.waiting.is_empty()
        };
        gst::debug!(CAT, imp = self, "a key unit is asked for; a frame waits: {waits}");
        self.drain()
    }

    /// Tells downstream of the key unit that comes next, which begins at `pts`: once for each of `asked`, as the base class does.
    pub(super) fn announce_key(&self, asked: &[Asked], pts: Option<gst::ClockTime>) {
        let obj = self.obj();
        let segment = obj.output_segment().downcast::<gst::ClockTime>().ok();
        for Asked { all_headers, count } in asked {
            let event = gst_video::DownstreamForceKeyUnitEvent::builder()
                .timestamp(pts)
                .stream_time(segment.as_ref().and_then(|s| s.to_stream_time(pts)))
                .running_time(segment.as_ref().and_then(|s| s.to_running_time(pts)))
                .all_headers(*all_headers)
                .count(*count)
                .build();
            obj.src_pad().push_event(event);
        }
    }
}
