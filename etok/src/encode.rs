// SPDX-License-Identifier: MIT OR Apache-2.0
//! `etok encode`: anything that GStreamer decodes, to an ElasticTok stream.

use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::Context as _;
use gst::prelude::*;

use crate::cli::EncodeArgs;
use crate::failure::{Exit, input};
use crate::output::{Destination, Writer};
use crate::pipeline::{self, End, Pipeline};
use crate::progress::Progress;
use crate::source::{self, Shape};
use crate::text;

/// What has come out so far.
#[derive(Debug, Clone, Default)]
struct Figures {
    frames: u64,
    blocks: u64,
    bytes: u64,
    /// Seconds of video.
    seconds: f64,
    /// Mean over frames of their blocks' PSNR, as far as it is known.
    psnr: Option<f64>,
    layers: usize,
}

impl Figures {
    /// Takes in a block that came out, of `bytes` bytes with what the byte stream adds.
    fn add(&mut self, stats: &gst::StructureRef, bytes: u64, duration: Option<gst::ClockTime>) {
        self.frames = stats.get::<u64>("frames").unwrap_or(0);
        self.add_quality(stats);
        self.blocks += 1;
        self.bytes += bytes;
        self.seconds += duration.map_or(0.0, |d| d.nseconds() as f64 * 1e-9);
        let layers = stats.get::<gst::Array>("layer-bytes");
        self.layers = layers.map_or(0, |l| l.iter().filter(|v| v.get::<u64>().is_ok_and(|b| b > 0)).count());
    }

    /// Takes in the quality of the blocks that have been decoded.
    fn add_quality(&mut self, stats: &gst::StructureRef) {
        self.psnr = stats.get("mean-psnr").ok();
    }

    fn kbps(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.bytes as f64 * 8e-3 / self.seconds)
    }

    /// "412 kbit/s, PSNR 36.1 dB", as far as known.
    fn rate_and_quality(&self) -> String {
        let rate = self.kbps().map(text::bitrate);
        let quality = self.psnr.map(|p| format!("PSNR {p:.1} dB"));
        [rate, quality].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// What the streaming thread and the main one share.
struct Shared {
    writer: Writer,
    figures: Figures,
    failed: Option<anyhow::Error>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(|e| e.into_inner())
}

/// The encoder with what the user set.
fn encoder(args: &EncodeArgs) -> anyhow::Result<gst::Element> {
    let encoder = pipeline::make("elastictokenc")?;
    pipeline::set_model(&encoder, &args.model);
    if let Some(bitrate) = args.bitrate {
        encoder.set_property_from_str("rate-control", "bitrate");
        encoder.set_property("bitrate", bitrate);
    } else if let Some(tokens) = args.tokens {
        encoder.set_property_from_str("rate-control", "tokens");
        encoder.set_property("tokens", tokens);
    } else if let Some(psnr) = args.psnr {
        encoder.set_property("target-psnr", psnr);
    }
    encoder.set_property("layers", args.layers.unwrap_or(0));
    if let Some(ratio) = args.layer_ratio {
        encoder.set_property("layer-ratio", ratio);
    }
    if let Some(bitrate) = args.base_bitrate {
        encoder.set_property("base-bitrate", bitrate);
    }
    encoder.set_property("drift-free", !args.single_loop);
    encoder.set_property("key-int-max", args.key_int_max);
    Ok(encoder)
}

/// A sink that writes what comes to `shared`, with the figures of `encoder`.
fn sink(encoder: &gst::Element, shared: &Arc<Mutex<Shared>>) -> gst_app::AppSink {
    let encoder = encoder.downgrade();
    let stats = move || encoder.upgrade().map(|e| e.property::<gst::Structure>("stats"));
    let (at_end, of_all) = (stats.clone(), shared.clone());
    let end = move |_: &gst_app::AppSink| {
        if let Some(stats) = at_end() {
            lock(&of_all).figures.add_quality(&stats);
        }
    };
    let shared = shared.clone();
    let take = move |sink: &gst_app::AppSink| {
        let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
        let buffer = sample.buffer().ok_or(gst::FlowError::Error)?;
        let data = buffer.map_readable().map_err(|_| gst::FlowError::Error)?;
        // before the lock: the encoder has one of its own
        let stats = stats();
        let mut shared = lock(&shared);
        if let Err(e) = shared.writer.write(&data) {
            shared.failed = Some(e);
            return Err(gst::FlowError::Error);
        }
        if let Some(stats) = stats {
            shared.figures.add(&stats, data.len() as u64, buffer.duration());
        }
        Ok(gst::FlowSuccess::Ok)
    };
    let sink = gst_app::AppSink::builder().sync(false).max_buffers(4).build();
    sink.set_callbacks(gst_app::AppSinkCallbacks::builder().new_sample(take).eos(end).build());
    sink
}

pub fn run(args: &EncodeArgs) -> anyhow::Result<Exit> {
    let place = Destination::new(&args.output, args.common.force, args.input.path())?;
    pipeline::init()?;
    pipeline::check_model(&args.model)?;
    let pipeline = Pipeline::new()?;
    let shape = Shape { size: args.size, fps: args.fps, max_frames: args.limits.max_frames, duration: args.limits.duration };
    let raw = source::raw(&pipeline, &args.input, &shape)?;
    let encoder = encoder(args)?;
    let shared = Arc::new(Mutex::new(Shared { writer: place.writer(), figures: Figures::default(), failed: None }));
    let queue = pipeline::make("queue")?;
    queue.set_property("max-size-buffers", 8u32);
    queue.set_property("max-size-bytes", 0u32);
    queue.set_property("max-size-time", 0u64);
    if args.input.is_live() {
        // a camera does not wait: what is too much is dropped here, the oldest first
        queue.set_property_from_str("leaky", "downstream");
    }
    pipeline.chain(&[&queue, &encoder, sink(&encoder, &shared).upcast_ref()])?;
    raw.last.link(&queue).context("the encoder does not take the video")?;

    let progress = Progress::new(args.common.quiet, raw.limit);
    let total = |pipeline: &gst::Pipeline| {
        let own = pipeline.query_duration::<gst::ClockTime>().map(|d| d.nseconds() as f64 * 1e-9);
        [own, raw.limit].into_iter().flatten().reduce(f64::min)
    };
    let mut asked_at = 0.0;
    let ended = pipeline.run(
        Some(&raw.front),
        |pipeline| {
            // not at once: demuxers guess at the beginning
            if progress.total().is_none() && progress.elapsed() > asked_at + 0.5 {
                asked_at = progress.elapsed();
                progress.set_total(total(pipeline));
            }
            let figures = lock(&shared).figures.clone();
            if figures.frames > 0 {
                let pace = progress.pace(figures.frames, figures.seconds);
                let pace = pace.map_or(String::new(), |p| format!(", {} frames/s", text::significant(p)));
                let text = format!("{}{pace}, {}", text::count(figures.frames, "frame"), figures.rate_and_quality());
                progress.show(figures.seconds, &text);
            }
        },
        |warning| {
            if !args.common.quiet {
                progress.say(&format!("etok: {warning}"));
            }
            Ok(())
        },
    );
    progress.clear();
    drop(pipeline);
    let mut shared = lock(&shared);
    // why the sink refused, not that it did
    if let Some(e) = shared.failed.take() {
        return Err(e);
    }
    let finished = shared.writer.finish();
    let ended = ended?;
    finished?;
    let figures = &shared.figures;
    if figures.blocks == 0 {
        return match ended {
            End::Interrupted => Ok(Exit::Interrupted),
            End::Finished => Err(input(format!("{} has no picture that could be encoded", args.input.name()))),
        };
    }
    if !args.common.quiet {
        let known = [
            Some(text::count(figures.frames, "frame")),
            Some(text::duration(figures.seconds)),
            Some(format!("{} bytes", text::grouped(figures.bytes))),
            Some(figures.rate_and_quality()).filter(|r| !r.is_empty()),
            Some(text::count(figures.layers as u64, "layer")),
            progress.pace(figures.frames, figures.seconds).map(|p| format!("{} frames/s", text::significant(p))),
        ];
        eprintln!("{}: {}", place.name(), known.into_iter().flatten().collect::<Vec<_>>().join(", "));
    }
    Ok(match ended {
        End::Finished => Exit::Done,
        End::Interrupted => Exit::Interrupted,
    })
}
