// SPDX-License-Identifier: MIT OR Apache-2.0
//! Size and quality of a clip through an encoder.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use gst::prelude::*;

use super::encoders::Encoder;
use crate::cli::ModelArgs;
use crate::failure::input;
use crate::input::Input;
use crate::picture::Picture;
use crate::pipeline::{self, Pipeline};
use crate::report::original::copy;
use crate::source::{self, Shape};

/// How often it is looked whether something went wrong, while no picture comes.
const LOOK: gst::ClockTime = gst::ClockTime::from_mseconds(200);

/// What came of a clip.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Outcome {
    pub quality: u32,
    pub bytes: u64,
    /// Luma PSNR in dB, mean over frames.
    pub psnr: f64,
    pub kbps: f64,
}

/// A clip as the encoders get it.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Clip {
    pub width: u32,
    pub height: u32,
    pub frames: u64,
    pub seconds: f64,
}

/// A sink for pictures in I420 that keeps as many as come, and the elements before it.
fn sink(most: u32) -> anyhow::Result<(Vec<gst::Element>, gst_app::AppSink)> {
    let caps = gst::Caps::builder("video/x-raw").field("format", "I420").build();
    let sink = gst_app::AppSink::builder().sync(false).max_buffers(most).caps(&caps).build();
    let queue = pipeline::make("queue")?;
    for limit in ["max-size-buffers", "max-size-bytes"] {
        queue.set_property(limit, if most == 0 { 0u32 } else { 4u32 << if limit.ends_with("bytes") { 28 } else { 0 } });
    }
    queue.set_property("max-size-time", 0u64);
    Ok((vec![queue, pipeline::make("videoconvert")?], sink))
}

/// The next picture of a sink; `None` at the end.
fn next(pipeline: &Pipeline, sink: &gst_app::AppSink) -> anyhow::Result<Option<(Picture, gst::ClockTime)>> {
    loop {
        if let Some(sample) = sink.try_pull_sample(LOOK) {
            let info = gst_video::VideoInfo::from_caps(sample.caps().context("a sample has caps")?)?;
            let buffer = sample.buffer().context("a sample has a buffer")?;
            let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info)?;
            return Ok(Some((copy(&frame)?, buffer.duration().unwrap_or_default())));
        }
        pipeline.check()?;
        if sink.is_eos() {
            return Ok(None);
        }
    }
}

/// Encodes and decodes a clip; the coded bytes are counted on their way, and pictures compared as they come.
pub fn run(
    clip: &Input,
    shape: &Shape,
    encoder: &Encoder,
    quality: u32,
    model: &ModelArgs,
    mut tick: impl FnMut(u64),
) -> anyhow::Result<(Clip, Outcome)> {
    let pipeline = Pipeline::new()?;
    let raw = source::raw(&pipeline, clip, shape)?;
    let (tee, convert, filter) = (pipeline::make("tee")?, pipeline::make("videoconvert")?, pipeline::make("capsfilter")?);
    // the same pictures for all, whatever an encoder would rather have
    filter.set_property("caps", gst::Caps::builder("video/x-raw").field("format", "I420").build());
    let [encode, decode] = encoder.elements(quality, model)?;
    // pictures wait here for as long as the encoder holds theirs back
    let (before_original, original) = sink(0)?;
    let (before_decoded, decoded) = sink(8)?;
    pipeline.chain(&[&convert, &filter, &tee])?;
    raw.last.link(&convert).context("a clip's pictures")?;
    let mut branch: Vec<&gst::Element> = before_original.iter().collect();
    branch.push(original.upcast_ref());
    pipeline.chain(&branch)?;
    tee.link(branch[0]).context("a clip's pictures")?;
    let queue = pipeline::make("queue")?;
    let mut branch = vec![&queue, &encode, &decode];
    branch.extend(&before_decoded);
    branch.push(decoded.upcast_ref());
    pipeline.chain(&branch)?;
    tee.link(&queue).context("a clip's pictures")?;

    let bytes = Arc::new(AtomicU64::new(0));
    let counter = bytes.clone();
    encode.static_pad("src").context("an encoder has a source pad")?.add_probe(
        gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST,
        move |_, info| {
            let size = match &info.data {
                Some(gst::PadProbeData::Buffer(b)) => b.size(),
                Some(gst::PadProbeData::BufferList(l)) => l.iter().map(gst::BufferRef::size).sum(),
                _ => 0,
            };
            counter.fetch_add(size as u64, Ordering::Relaxed);
            gst::PadProbeReturn::Ok
        },
    );
    pipeline.start()?;
    let (mut of, mut sum, mut length) = (Clip::default(), 0.0, gst::ClockTime::ZERO);
    while let Some((picture, _)) = next(&pipeline, &decoded)? {
        let Some((source, duration)) = next(&pipeline, &original)? else {
            return Err(unequal(encoder, of.frames, of.frames + 1));
        };
        if (source.width, source.height) != (picture.width, picture.height) {
            return Err(input(format!("{} changes its size midway; scale it: --size {}x{}", clip.name(), of.width, of.height)));
        }
        (of.width, of.height) = (source.width as u32, source.height as u32);
        sum += picture.psnr(&source);
        length += duration;
        of.frames += 1;
        tick(of.frames);
    }
    let mut left = 0;
    while next(&pipeline, &original)?.is_some() {
        left += 1;
    }
    if left > 0 {
        return Err(unequal(encoder, of.frames + left, of.frames));
    }
    if of.frames == 0 {
        return Err(input(format!("{} has no picture", clip.name())));
    }
    of.seconds = length.nseconds() as f64 * 1e-9;
    if of.seconds <= 0.0 {
        of.seconds = of.frames as f64 / 30.0;
    }
    let bytes = bytes.load(Ordering::Relaxed);
    let outcome = Outcome { quality, bytes, psnr: sum / of.frames as f64, kbps: bytes as f64 * 8e-3 / of.seconds };
    Ok((of, outcome))
}

fn unequal(encoder: &Encoder, given: u64, made: u64) -> anyhow::Error {
    anyhow::anyhow!("{}: {given} frames went in and {made} came out; leave it out with --only", encoder.name)
}
