// SPDX-License-Identifier: MIT OR Apache-2.0
//! The video that a stream was encoded from, picture by picture.

use anyhow::Context as _;
use elastictok::frame::PixelFormat;
use gst::prelude::*;
use gst_video::prelude::*;

use crate::input::Input;
use crate::picture::Picture;
use crate::pipeline::{self, Pipeline};
use crate::source::{self, Shape};

/// How often it is looked whether something went wrong, while no picture comes.
const LOOK: gst::ClockTime = gst::ClockTime::from_mseconds(200);

/// Pictures of a video with their times in seconds, in order.
pub struct Original {
    pipeline: Pipeline,
    front: gst::Element,
    sink: gst_app::AppSink,
}

impl Original {
    /// Opens a video as pictures of `format` and `size`; `None`: as large as it is.
    pub fn open(from: &Input, format: PixelFormat, size: Option<(u32, u32)>, shape: &Shape) -> anyhow::Result<Self> {
        let pipeline = Pipeline::new()?;
        let raw = source::raw(&pipeline, from, &Shape { size, ..shape.clone() })?;
        let format = match format {
            PixelFormat::I420 => "I420",
            PixelFormat::Rgb => "RGB",
        };
        let caps = gst::Caps::builder("video/x-raw").field("format", format).build();
        let sink = gst_app::AppSink::builder().sync(false).max_buffers(8).caps(&caps).build();
        let convert = pipeline::make("videoconvert")?;
        pipeline.chain(&[&convert, sink.upcast_ref()])?;
        raw.last.link(&convert).context("the original's pictures")?;
        pipeline.start()?;
        Ok(Self { pipeline, front: raw.front, sink })
    }

    /// The next picture; `None` at the end.
    pub fn next(&mut self) -> anyhow::Result<Option<(Option<f64>, Picture)>> {
        let sample = loop {
            if let Some(sample) = self.sink.try_pull_sample(LOOK) {
                break sample;
            }
            // an error ends the stream too
            self.pipeline.check()?;
            if self.sink.is_eos() {
                return Ok(None);
            }
        };
        let caps = sample.caps().context("a sample has caps")?;
        let info = gst_video::VideoInfo::from_caps(caps).context("caps of raw video")?;
        let buffer = sample.buffer().context("a sample has a buffer")?;
        let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info).context("a picture")?;
        let time = buffer.pts().map(|t| t.nseconds() as f64 * 1e-9);
        Ok(Some((time, copy(&frame)?)))
    }

    /// The size of its pictures before they were scaled, once the first has come.
    pub fn own_size(&self) -> Option<(u32, u32)> {
        let caps = self.front.static_pad("sink")?.current_caps()?;
        let s = caps.structure(0)?;
        Some((s.get::<i32>("width").ok()?.try_into().ok()?, s.get::<i32>("height").ok()?.try_into().ok()?))
    }
}

/// The picture without its padding.
pub fn copy(frame: &gst_video::VideoFrameRef<&gst::BufferRef>) -> anyhow::Result<Picture> {
    let format = match frame.format() {
        gst_video::VideoFormat::I420 => PixelFormat::I420,
        gst_video::VideoFormat::Rgb => PixelFormat::Rgb,
        other => anyhow::bail!("pictures in {other} cannot be compared"),
    };
    let mut picture = Picture::new(format, frame.width() as usize, frame.height() as usize);
    let target = picture.planes_mut();
    for (i, (plane, width)) in target.planes.into_iter().zip(target.strides).enumerate() {
        if width == 0 {
            continue;
        }
        let (source, stride) = (frame.plane_data(i as u32)?, frame.plane_stride()[i] as usize);
        for (to, from) in plane.chunks_exact_mut(width).zip(source.chunks(stride)) {
            to.copy_from_slice(from.get(..width).context("a picture shorter than its rows")?);
        }
    }
    Ok(picture)
}

/// Finds the original of each picture of a stream, by its time, or by its number where either has none.
pub struct Matcher {
    original: Original,
    /// The picture that was last found, and the one after it.
    now: Option<(Option<f64>, Picture)>,
    ahead: Option<(Option<f64>, Picture)>,
    /// How far the times of one picture may lie apart, in seconds.
    tolerance: f64,
}

impl Matcher {
    pub fn new(mut original: Original, framerate: (u32, u32)) -> anyhow::Result<Self> {
        let ahead = original.next()?;
        let half = if framerate.0 == 0 { 0.005 } else { 0.5 * f64::from(framerate.1) / f64::from(framerate.0) };
        Ok(Self { original, now: None, ahead, tolerance: half })
    }

    pub fn own_size(&self) -> Option<(u32, u32)> {
        self.original.own_size()
    }

    fn step(&mut self) -> anyhow::Result<()> {
        self.now = std::mem::replace(&mut self.ahead, self.original.next()?);
        Ok(())
    }

    /// The original of the picture shown at `time`; `None` where there is none.
    pub fn find(&mut self, time: Option<f64>) -> anyhow::Result<Option<&Picture>> {
        let timed = self.ahead.as_ref().or(self.now.as_ref()).and_then(|a| a.0).zip(time);
        let Some((_, time)) = timed else {
            if self.ahead.is_none() {
                return Ok(None);
            }
            self.step()?;
            return Ok(self.now.as_ref().map(|n| &n.1));
        };
        while self.ahead.as_ref().and_then(|a| a.0).is_some_and(|t| t <= time + self.tolerance * 0.999) {
            self.step()?;
        }
        let near = |n: &&(Option<f64>, Picture)| n.0.is_some_and(|t| (t - time).abs() <= self.tolerance);
        Ok(self.now.as_ref().filter(near).map(|n| &n.1))
    }
}
