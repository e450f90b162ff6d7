// SPDX-License-Identifier: MIT OR Apache-2.0
//! What unit tests of the elements share.

use std::sync::{Once, mpsc};
use std::time::Duration;

use gst::prelude::*;

const PATIENCE: Duration = Duration::from_secs(120);

/// A pipeline whose elements `enc` and `dec` have coded two blocks of two frames, and are not stopped yet.
pub fn two_blocks() -> gst::Pipeline {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        gst::init().expect("GStreamer");
        crate::plugin_register_static().expect("the plugin");
    });
    let pipeline = gst::parse::launch(
        "videotestsrc num-buffers=4 ! video/x-raw,width=64,height=48 ! elastictokenc name=enc execution-provider=cpu threads=1 \
         ! elastictokdec name=dec execution-provider=cpu threads=1 ! fakesink",
    )
    .and_then(|pipeline| pipeline.downcast::<gst::Pipeline>().map_err(|_| gst::glib::Error::new(gst::ParseError::Syntax, "")))
    .expect("a pipeline");
    pipeline.set_state(gst::State::Playing).expect("playing");
    let end = [gst::MessageType::Eos, gst::MessageType::Error];
    let message = pipeline.bus().and_then(|bus| bus.timed_pop_filtered(PATIENCE.try_into().ok(), &end)).expect("an end");
    assert_eq!(message.type_(), gst::MessageType::Eos, "{message:?}");
    pipeline
}

/// What another thread reads of `element`'s statistics while the caller holds locks.
pub fn stats_meanwhile(element: &gst::Element) -> gst::Structure {
    let (answer, answered) = mpsc::channel();
    let element = element.clone();
    std::thread::spawn(move || answer.send(element.property::<gst::Structure>("stats")));
    answered.recv_timeout(PATIENCE).expect("reading stats waits for a lock that is held while a block is coded")
}
