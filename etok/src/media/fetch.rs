// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes at a URL, by way of GStreamer's sources, which know the protocols.

use anyhow::Context as _;
use gst::prelude::*;

use crate::failure::{input, missing};

/// How often a fetch asks whether it should go on.
const TICK: gst::ClockTime = gst::ClockTime::from_mseconds(50);

/// Gets one resource after the other. HTTP connections are kept.
pub struct Fetcher {
    pipeline: gst::Pipeline,
    source: gst::Element,
    sink: gst_app::AppSink,
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

impl Fetcher {
    /// A fetcher for URLs of the same protocol as `url`.
    pub fn new(url: &str) -> anyhow::Result<Self> {
        let source = gst::Element::make_from_uri(gst::URIType::Src, url, None).map_err(|e| {
            let scheme = url.split_once(':').map_or("", |s| s.0);
            missing(format!("cannot open {url}: {e}; for {scheme} a source may be in gstreamer1.0-plugins-good or -bad"))
        })?;
        if source.find_property("keep-alive").is_some() {
            source.set_property("keep-alive", true);
        }
        let sink = gst_app::AppSink::builder().sync(false).max_buffers(16).build();
        let pipeline = gst::Pipeline::new();
        pipeline.add_many([&source, sink.upcast_ref()]).context("elements of a pipeline")?;
        source.link(&sink).context("a source of bytes")?;
        Ok(Self { pipeline, source, sink })
    }

    /// The first `most` bytes at `url`, or all where there are fewer. `go_on` is asked now and then with the bytes that came
    /// so far; where it says no, those are the result.
    pub fn get(&mut self, url: &str, most: u64, mut go_on: impl FnMut(u64) -> bool) -> anyhow::Result<Vec<u8>> {
        let got = self.try_get(url, most, &mut go_on);
        // The source keeps its connections in READY.
        let _ = self.pipeline.set_state(gst::State::Ready);
        got
    }

    fn try_get(&mut self, url: &str, most: u64, go_on: &mut impl FnMut(u64) -> bool) -> anyhow::Result<Vec<u8>> {
        let bus = self.pipeline.bus().context("a pipeline has a bus")?;
        bus.set_flushing(true);
        bus.set_flushing(false);
        let fails = |why: &str| input(format!("cannot get {url}: {why}"));
        self.pipeline.set_state(gst::State::Ready).map_err(|_| fails("its source does not start"))?;
        let handler = self.source.dynamic_cast_ref::<gst::URIHandler>().context("a source of URLs")?;
        handler.set_uri(url).map_err(|e| fails(e.message()))?;
        // A source that is not started yet begins with the range that it is told: HTTP's Range.
        let range = (gst::format::Bytes::ZERO, gst::format::Bytes::from_u64(most));
        let seek = gst::event::Seek::new(1.0, gst::SeekFlags::FLUSH, gst::SeekType::Set, range.0, gst::SeekType::Set, range.1);
        self.source.send_event(seek);
        let started = self.pipeline.set_state(gst::State::Playing);
        let mut data = Vec::new();
        while (data.len() as u64) < most {
            if let Some(why) = error(&bus) {
                return Err(fails(&why));
            }
            if started.is_err() {
                return Err(fails("its source does not start"));
            }
            if let Some(sample) = self.sink.try_pull_sample(TICK) {
                let map = sample.buffer().and_then(|b| b.map_readable().ok()).context("a buffer of bytes")?;
                let left = usize::try_from(most - data.len() as u64).unwrap_or(usize::MAX);
                // A server without Range sends more than was asked for.
                data.extend_from_slice(&map[..map.len().min(left)]);
            } else if self.sink.is_eos() {
                // An error may have been the reason.
                return error(&bus).map_or(Ok(data), |why| Err(fails(&why)));
            }
            if !go_on(data.len() as u64) {
                break;
            }
        }
        Ok(data)
    }
}

/// The text of an error that stands on the bus.
fn error(bus: &gst::Bus) -> Option<String> {
    let message = bus.pop_filtered(&[gst::MessageType::Error])?;
    match message.view() {
        gst::MessageView::Error(e) => Some(crate::pipeline::error_text(&e.error(), e.debug().as_deref())),
        _ => None,
    }
}
