// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads ahead where a source pushes a file, over HTTP or through a queue, before the first block is sent.
//!
//! A file that ends within what is read gets an index like one that is pulled, with a duration and exact seeks. The duration
//! of a longer one is estimated. It does not seek in the source, since servers that cannot seek say that they can.

use std::sync::{Arc, Mutex, Weak};

use elastictok::bitstream::Index;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;

use super::ahead::{Ahead, BUDGET};
use super::state::{CAT, ElasticTokParse};
use crate::common::lock;

impl ElasticTokParse {
    /// Starts to read ahead at the start of a file, if upstream has one.
    pub(super) fn read_ahead(&self, offset: u64) {
        let sink = self.obj().sink_pad().clone();
        let idle = {
            let state = lock(&self.state);
            offset == 0 && !state.begun && state.origin.is_none() && state.ahead.is_none() && !state.packets_in
        };
        let mut query = gst::query::Seeking::new(gst::Format::Bytes);
        if !idle || sink.mode() != gst::PadMode::Push || !sink.peer_query(&mut query) || !query.result().0 {
            return;
        }
        let Some(size) = sink.peer_query_duration::<gst::format::Bytes>().map(|b| *b).filter(|&size| size > 0) else { return };
        let ahead = Arc::new(Mutex::new(Ahead { size, bytes: Vec::new(), since: None, done: false }));
        let (weak, element) = (Arc::downgrade(&ahead), self.obj().downgrade());
        lock(&self.state).ahead = Some(ahead);
        let data = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
        let events = gst::PadProbeType::EVENT_DOWNSTREAM | gst::PadProbeType::EVENT_FLUSH;
        sink.add_probe(data | events, move |pad, info| match (Weak::upgrade(&weak), element.upgrade()) {
            (Some(ahead), Some(element)) => element.imp().keep(&ahead, pad, info),
            _ => gst::PadProbeReturn::Remove,
        });
    }

    /// Keeps data back until there is enough of it.
    fn keep(&self, ahead: &Mutex<Ahead>, pad: &gst::Pad, info: &mut gst::PadProbeInfo<'_>) -> gst::PadProbeReturn {
        let mut kept = lock(ahead);
        if kept.done {
            return gst::PadProbeReturn::Ok;
        }
        match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => kept.add(buffer),
            Some(gst::PadProbeData::BufferList(list)) => list.iter().for_each(|buffer| kept.add(buffer)),
            Some(gst::PadProbeData::Event(event)) => {
                match event.view() {
                    gst::EventView::FlushStop(_) => (kept.bytes, kept.since) = (Vec::new(), None),
                    gst::EventView::Segment(segment)
                        if kept.bytes.is_empty() && segment.segment().time() == gst::format::Bytes::ZERO.into() => {}
                    gst::EventView::Segment(_)
                    | gst::EventView::Eos(_)
                    | gst::EventView::StreamStart(_)
                    | gst::EventView::Caps(_) => {
                        drop(kept);
                        if let Some(buffer) = self.deliver(ahead) {
                            // The result goes to the sender of the next buffer, since an event cannot return it.
                            let _ = pad.chain(buffer);
                        }
                    }
                    _ => {}
                }
                return gst::PadProbeReturn::Ok;
            }
            _ => return gst::PadProbeReturn::Ok,
        }
        let enough = kept.is_enough();
        drop(kept);
        if !enough {
            return gst::PadProbeReturn::Handled;
        }
        match (self.deliver(ahead), &mut info.data) {
            (Some(all), Some(gst::PadProbeData::Buffer(last))) => {
                *last = all;
                gst::PadProbeReturn::Ok
            }
            (all, _) => {
                // A list cannot become a buffer.
                info.flow_res = all.map_or(Ok(gst::FlowSuccess::Ok), |all| pad.chain(all));
                gst::PadProbeReturn::Handled
            }
        }
    }

    /// Ends reading ahead: makes the index and returns the data that was kept back, to be sent on.
    fn deliver(&self, ahead: &Mutex<Ahead>) -> Option<gst::Buffer> {
        let (bytes, size) = {
            let mut kept = lock(ahead);
            kept.done = true;
            (std::mem::take(&mut kept.bytes), kept.size)
        };
        lock(&self.state).ahead = None;
        if bytes.is_empty() {
            return None;
        }
        let read = |at: u64, length: usize| {
            let at = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
            // An incomplete window would be taken for the end of the file.
            let whole = at + length <= bytes.len();
            Ok::<_, std::convert::Infallible>(if whole { &bytes[at..at + length] } else { &[] })
        };
        let Ok(index) = Index::scan(size, BUDGET, read);
        gst::debug!(CAT, imp = self, "read {} of {size} bytes ahead", bytes.len());
        self.use_index(index, size);
        Some(gst::Buffer::from_slice(bytes))
    }
}
