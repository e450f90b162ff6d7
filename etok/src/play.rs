// SPDX-License-Identifier: MIT OR Apache-2.0
//! `etok play`: a stream on the screen.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use anyhow::Context as _;
use gst::prelude::*;

use crate::cli::PlayArgs;
use crate::failure::{Exit, missing};
use crate::pipeline::{self, End, Pipeline};
use crate::progress::Progress;
use crate::source;
use crate::text;

/// Whether anything can show pictures here. GStreamer tries what it has, and some of that falls over without one.
fn has_display() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    let device = |path| std::path::Path::new(path).exists();
    !cfg!(target_os = "linux") || set("DISPLAY") || set("WAYLAND_DISPLAY") || device("/dev/dri") || device("/dev/fb0")
}

fn no_display() -> anyhow::Error {
    missing("there is no display to show pictures on; decode to a file instead (etok decode), or name a sink (--sink)")
}

pub fn run(args: &PlayArgs) -> anyhow::Result<Exit> {
    let automatic = args.sink == "autovideosink";
    if automatic && !has_display() {
        return Err(no_display());
    }
    let started = Instant::now();
    let pipeline = Pipeline::new()?;
    let (decoder, feed) = source::decoded(&pipeline, &args.input, &args.decoding, args.bitrate)?;
    let (queue, convert) = (pipeline::make("queue")?, pipeline::make("videoconvert")?);
    queue.set_property("max-size-buffers", 4u32);
    let sink = pipeline::make(&args.sink)?;
    pipeline.chain(&[&queue, &convert, &sink])?;
    decoder.link(&queue).context("the sink does not take the video")?;
    let first = Arc::new(OnceLock::new());
    if let (Some(pad), true) = (sink.static_pad("sink"), feed.is_some()) {
        let first = first.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            let _ = first.set(started.elapsed().as_secs_f64());
            gst::PadProbeReturn::Remove
        });
    }
    let progress = Progress::new(args.quiet, None);
    let ended = pipeline.run(
        None,
        |pipeline| {
            if let Some(feed) = &feed {
                feed.tick(pipeline);
            }
            let seconds = |t: Option<gst::ClockTime>| t.map(|t| t.nseconds() as f64 * 1e-9);
            progress.set_total(seconds(pipeline.query_duration()));
            let Some(at) = seconds(pipeline.query_position()) else { return };
            progress.show(at, &text::duration(at));
        },
        |warning| {
            // it goes on with a sink that shows nothing
            if automatic && warning.starts_with("Failed to find") {
                return Err(no_display());
            }
            if !args.quiet {
                progress.say(&format!("etok: {warning}"));
            }
            Ok(())
        },
    );
    progress.clear();
    if let Some(feed) = feed.filter(|_| !args.quiet && ended.is_ok()) {
        let first = first.get().map_or(String::new(), |seconds| format!("first picture after {seconds:.2} s; "));
        eprintln!("{}: {first}{}", args.input.name(), feed.summary());
    }
    Ok(match ended? {
        End::Finished => Exit::Done,
        End::Interrupted => Exit::Interrupted,
    })
}
