// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stops and flushes do not wait for a graph. The decoder graph of the bundle `endless` runs until it is ended, so these tests
//! would hang otherwise.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::*;
use gst::prelude::*;

const MOST: Duration = Duration::from_secs(120);

/// An element between two pads, in no pipeline: nothing but itself ends its runs.
struct Rig {
    element: gst::Element,
    source: gst::Pad,
    bus: gst::Bus,
    /// Buffers that came out.
    out: mpsc::Receiver<gst::Buffer>,
    caps: mpsc::Receiver<gst::Caps>,
    _sink: gst::Pad,
}

fn rig(description: &str) -> Rig {
    init();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bundles/endless");
    let description = format!("{description} model={} execution-provider=cpu threads=1", model.display());
    let element = gst::parse::launch(&description).unwrap();
    let bus = gst::Bus::new();
    element.set_bus(Some(&bus));
    let ((buffers, out), (formats, caps)) = (mpsc::channel(), mpsc::channel());
    let source = gst::Pad::new(gst::PadDirection::Src);
    let accepted: gst::Caps = "video/x-raw; video/x-elastictok, stream-format=packetized".parse().unwrap();
    let template = gst::PadTemplate::new("sink", gst::PadDirection::Sink, gst::PadPresence::Always, &accepted).unwrap();
    let sink = gst::Pad::builder_from_template(&template)
        .chain_function(move |_, _, buffer| {
            let _ = buffers.send(buffer);
            Ok(gst::FlowSuccess::Ok)
        })
        .event_function(move |_, _, event| {
            if let gst::EventView::Caps(c) = event.view() {
                let _ = formats.send(c.caps_owned());
            }
            true
        })
        .build();
    source.link(&element.static_pad("sink").unwrap()).unwrap();
    element.static_pad("src").unwrap().link(&sink).unwrap();
    sink.set_active(true).unwrap();
    source.set_active(true).unwrap();
    Rig { element, source, bus, out, caps, _sink: sink }
}

impl Rig {
    fn start(&self, caps: &gst::Caps) {
        self.element.set_state(gst::State::Playing).unwrap();
        self.source.push_event(gst::event::StreamStart::new("test"));
        self.source.push_event(gst::event::Caps::new(caps));
        self.segment();
    }

    fn segment(&self) {
        self.source.push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
    }

    /// Pushes `buffers` in another thread up to the first that fails: how the last push ends, or a following EOS.
    fn push(&self, buffers: Vec<gst::Buffer>, eos: bool) -> mpsc::Receiver<Result<gst::FlowSuccess, gst::FlowError>> {
        let (end, ended) = mpsc::channel();
        let source = self.source.clone();
        thread::spawn(move || {
            let mut flow = buffers.into_iter().try_fold(gst::FlowSuccess::Ok, |_, b| source.push(b));
            if eos && !source.push_event(gst::event::Eos::new()) {
                flow = Err(gst::FlowError::Eos);
            }
            let _ = end.send(flow);
        });
        ended
    }

    /// Stops the element while a run is in flight.
    fn stop(
        self,
        run: &mpsc::Receiver<Result<gst::FlowSuccess, gst::FlowError>>,
        flow: Result<gst::FlowSuccess, gst::FlowError>,
    ) {
        assert!(run.recv_timeout(Duration::from_millis(300)).is_err(), "the run has no end of its own");
        let (end, ended) = mpsc::channel();
        let element = self.element.clone();
        thread::spawn(move || end.send(element.set_state(gst::State::Null)));
        ended.recv_timeout(MOST).expect("the stop waits for the run").unwrap();
        assert_eq!(run.recv_timeout(MOST).unwrap(), flow);
        self.no_error();
    }

    /// Flushes the element while a run is in flight.
    fn flush(&self, run: &mpsc::Receiver<Result<gst::FlowSuccess, gst::FlowError>>) {
        assert!(run.recv_timeout(Duration::from_millis(300)).is_err(), "the run has no end of its own");
        let (end, ended) = mpsc::channel();
        let source = self.source.clone();
        thread::spawn(move || {
            source.push_event(gst::event::FlushStart::new());
            end.send(source.push_event(gst::event::FlushStop::new(true)))
        });
        assert!(ended.recv_timeout(MOST).expect("the flush waits for the run"));
        assert_eq!(run.recv_timeout(MOST).unwrap(), Err(gst::FlowError::Flushing));
        self.no_error();
    }

    fn no_error(&self) {
        let message = self.bus.pop_filtered(&[gst::MessageType::Error, gst::MessageType::Warning]);
        assert!(message.is_none(), "{message:?}");
    }
}

fn rgb() -> gst::Caps {
    raw_caps("RGB", 70, 45, (25, 1))
}

fn frames(n: u64) -> Vec<gst::Buffer> {
    let frame = |i| {
        let mut buffer = picture(&rgb(), i);
        stamp(&mut buffer, i, (25, 1));
        buffer
    };
    (0..n).map(frame).collect()
}

/// Two blocks, of which the first is a key block, and their caps.
fn stream() -> (gst::Caps, Vec<gst::Buffer>) {
    let rig = rig("elastictokenc rate-control=tokens");
    rig.start(&rgb());
    assert_eq!(rig.push(frames(8), false).recv_timeout(MOST).unwrap(), Ok(gst::FlowSuccess::Ok));
    let packets: Vec<_> = rig.out.try_iter().collect();
    rig.element.set_state(gst::State::Null).unwrap();
    assert_eq!(packets.len(), 2);
    let caps = rig.caps.try_iter().last().unwrap();
    (caps, packets)
}

#[test]
fn an_encoder_stops_in_a_search() {
    for search in ["binary", "full"] {
        let rig = rig(&format!("elastictokenc search={search}"));
        rig.start(&rgb());
        let run = rig.push(frames(4), false);
        rig.stop(&run, Err(gst::FlowError::Flushing));
    }
}

#[test]
fn an_encoder_stops_while_it_drains() {
    let rig = rig("elastictokenc search=binary");
    rig.start(&rgb());
    let run = rig.push(frames(2), true);
    rig.stop(&run, Err(gst::FlowError::Eos));
}

#[test]
fn an_encoder_flushes_in_a_search_and_continues() {
    let rig = rig("elastictokenc search=binary");
    rig.start(&rgb());
    for _ in 0..2 {
        let run = rig.push(frames(4), false);
        rig.flush(&run);
        rig.segment();
    }
    // It runs again, or this would end.
    let run = rig.push(frames(4), false);
    rig.stop(&run, Err(gst::FlowError::Flushing));
}

#[test]
fn a_decoder_stops_in_a_run() {
    let (caps, packets) = stream();
    let rig = rig("elastictokdec");
    rig.start(&caps);
    let run = rig.push(packets, false);
    rig.stop(&run, Err(gst::FlowError::Flushing));
}

#[test]
fn a_decoder_flushes_in_a_run_and_starts_again() {
    let (caps, packets) = stream();
    let rig = rig("elastictokdec");
    for _ in 0..2 {
        rig.start(&caps);
        for _ in 0..2 {
            let run = rig.push(packets.clone(), false);
            rig.flush(&run);
            rig.segment();
        }
        rig.element.set_state(gst::State::Ready).unwrap();
    }
    rig.start(&caps);
    let run = rig.push(packets, false);
    rig.stop(&run, Err(gst::FlowError::Flushing));
}
