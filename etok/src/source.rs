// SPDX-License-Identifier: MIT OR Apache-2.0
//! Inputs in a pipeline, as raw video or as an ElasticTok stream.

use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use elastictok::bundle::{Bundle, Fingerprint, fingerprint_name};
use gst::glib;
use gst::prelude::*;

use crate::cli::DecodingArgs;
use crate::failure::{input, missing};
use crate::input::{Input, check_file};
use crate::media::{self, Feed, Rate};
use crate::pipeline::{self, NO_VIDEO, Pipeline};
use crate::y4m;

/// Seconds that the test picture lasts where nothing limits it.
const TEST_SECONDS: f64 = 10.0;

/// What becomes of raw video on its way.
#[derive(Debug, Clone, Default)]
pub struct Shape {
    pub size: Option<(u32, u32)>,
    pub fps: Option<(u32, u32)>,
    pub max_frames: Option<u64>,
    /// Seconds of video.
    pub duration: Option<f64>,
}

/// A source of raw video in a pipeline.
pub struct Raw {
    /// Where the stream can be ended.
    pub front: gst::Element,
    /// Its source pad gives progressive raw video, upright.
    pub last: gst::Element,
    /// Seconds that will come at the most, where something limits them.
    pub limit: Option<f64>,
}

/// Adds `input` to the pipeline as raw video.
pub fn raw(pipeline: &Pipeline, from: &Input, shape: &Shape) -> anyhow::Result<Raw> {
    let mut shape = shape.clone();
    if matches!(from, Input::Test(_)) && shape.max_frames.is_none() && shape.duration.is_none() {
        shape.duration = Some(TEST_SECONDS);
    }
    let front = pipeline::make("identity")?;
    limit(&front, &shape)?;
    let mut chain = vec![front.clone(), pipeline::make("videoconvert")?];
    // for pictures of phones, and for television; where they are not installed, most videos do not need them
    for (factory, property, value) in [("videoflip", "video-direction", "auto"), ("deinterlace", "mode", "auto")] {
        if pipeline::has(factory) {
            let element = pipeline::make(factory)?;
            element.set_property_from_str(property, value);
            chain.push(element);
        }
    }
    let mut caps = gst::Caps::builder("video/x-raw").field("format", gst::List::new(["I420", "NV12", "RGB"]));
    if let Some((width, height)) = shape.size {
        let scale = pipeline::make("videoscale")?;
        scale.set_property_from_str("method", "lanczos");
        scale.set_property("add-borders", false);
        chain.push(scale);
        caps = caps.field("width", width as i32).field("height", height as i32);
        caps = caps.field("pixel-aspect-ratio", gst::Fraction::new(1, 1));
    }
    if let Some((n, d)) = shape.fps {
        chain.push(pipeline::make("videorate")?);
        caps = caps.field("framerate", gst::Fraction::new(n as i32, d as i32));
    }
    chain.push(pipeline::make("videoconvert")?);
    let filter = pipeline::make("capsfilter")?;
    filter.set_property("caps", caps.build());
    chain.push(filter.clone());
    pipeline.chain(&chain.iter().collect::<Vec<_>>())?;
    match from {
        Input::Test(pattern) => {
            let source = pipeline::make("videotestsrc")?;
            if let Some(pattern) = pattern {
                set_pattern(&source, pattern)?;
            }
            let filter = pipeline::make("capsfilter")?;
            let (width, height) = shape.size.unwrap_or((640, 360));
            let rate = shape.fps.unwrap_or((30, 1));
            let caps = gst::Caps::builder("video/x-raw")
                .field("width", width as i32)
                .field("height", height as i32)
                .field("framerate", gst::Fraction::new(rate.0 as i32, rate.1 as i32));
            filter.set_property("caps", caps.build());
            pipeline.chain(&[&source, &filter])?;
            filter.link(&front).context("the test picture")?;
        }
        Input::Url(url) => {
            let decode = pipeline::make("uridecodebin")?;
            decode.set_property("uri", url);
            pipeline.add(&decode).context("a source")?;
            expose_video(pipeline, &decode, &front);
        }
        Input::File(path) => {
            check_file(path)?;
            match y4m_file(path)? {
                Some(source) => link(pipeline, &source, &front)?,
                None => decode(pipeline, &bytes(from)?, &front)?,
            }
        }
        Input::Stdin => {
            let mut magic = Vec::new();
            io::stdin()
                .take(y4m::MAGIC.len() as u64)
                .read_to_end(&mut magic)
                .map_err(|e| input(format!("cannot read standard input: {e}")))?;
            if magic.is_empty() {
                return Err(input("standard input is empty"));
            }
            let raw = magic == y4m::MAGIC;
            let source = BufReader::with_capacity(1 << 16, io::Cursor::new(magic).chain(io::stdin()));
            if raw {
                link(pipeline, &y4m_source(y4m::Reader::new(source)?)?, &front)?;
            } else {
                decode(pipeline, &byte_source(source), &front)?;
            }
        }
        Input::Camera(_) => decode(pipeline, &bytes(from)?, &front)?,
    }
    let seconds = shape.max_frames.zip(shape.fps).map(|(n, (num, den))| n as f64 * f64::from(den) / f64::from(num));
    let limit = [shape.duration, seconds].into_iter().flatten().reduce(f64::min);
    Ok(Raw { front, last: filter, limit })
}

fn link(pipeline: &Pipeline, source: &gst::Element, front: &gst::Element) -> anyhow::Result<()> {
    pipeline.add(source).context("a source")?;
    source.link(front).context("a source of pictures")
}

/// Has GStreamer find out what `source` gives.
fn decode(pipeline: &Pipeline, source: &gst::Element, front: &gst::Element) -> anyhow::Result<()> {
    let decode = pipeline::make("decodebin")?;
    pipeline.chain(&[source, &decode])?;
    expose_video(pipeline, &decode, front);
    Ok(())
}

/// A file's pictures, where it is YUV4MPEG2.
fn y4m_file(path: &Path) -> anyhow::Result<Option<gst::Element>> {
    let failed = |e: io::Error| input(format!("cannot read {}: {e}", path.display()));
    let mut source = BufReader::with_capacity(1 << 20, std::fs::File::open(path).map_err(failed)?);
    if !source.fill_buf().map_err(failed)?.starts_with(y4m::MAGIC) {
        return Ok(None);
    }
    y4m_source(y4m::Reader::new(source)?).map(Some)
}

/// Pictures of YUV4MPEG2.
fn y4m_source<R: BufRead + Send + 'static>(mut reader: y4m::Reader<R>) -> anyhow::Result<gst::Element> {
    let caps = reader.info().to_caps().context("caps of raw video")?;
    Ok(pushed(gst_app::AppSrc::builder().caps(&caps).format(gst::Format::Time).build(), move || reader.next()))
}

/// Bytes as they come.
fn byte_source<R: BufRead + Send + 'static>(mut source: R) -> gst::Element {
    pushed(gst_app::AppSrc::builder().format(gst::Format::Bytes).build(), move || {
        let data = source.fill_buf().map_err(|e| input(format!("cannot read standard input: {e}")))?.to_vec();
        source.consume(data.len());
        Ok((!data.is_empty()).then(|| gst::Buffer::from_slice(data)))
    })
}

/// Has `source` push what `next` gives, to the end or to the first error.
fn pushed(
    source: gst_app::AppSrc,
    mut next: impl FnMut() -> anyhow::Result<Option<gst::Buffer>> + Send + 'static,
) -> gst::Element {
    let give = move |source: &gst_app::AppSrc, _: u32| match next() {
        Ok(Some(buffer)) => {
            // what does not take it any more says so by itself
            let _ = source.push_buffer(buffer);
        }
        Ok(None) => {
            let _ = source.end_of_stream();
        }
        Err(e) => {
            gst::element_error!(source, gst::StreamError::Decode, ("{e:#}"));
            let _ = source.end_of_stream();
        }
    };
    source.set_callbacks(gst_app::AppSrcCallbacks::builder().need_data(give).build());
    source.upcast()
}

fn set_pattern(source: &gst::Element, pattern: &str) -> anyhow::Result<()> {
    let class = source.find_property("pattern").and_then(|p| glib::EnumClass::with_type(p.value_type()));
    let known = class.as_ref().is_some_and(|c| c.value_by_nick(pattern).is_some());
    if !known {
        return Err(crate::failure::usage(format!(
            "the test picture has no pattern '{pattern}'; gst-inspect-1.0 videotestsrc lists them (smpte, ball, snow, ..)"
        )));
    }
    source.set_property_from_str("pattern", pattern);
    Ok(())
}

/// An element that gives the input's bytes, or a camera's pictures.
fn bytes(from: &Input) -> anyhow::Result<gst::Element> {
    match from {
        Input::File(path) => {
            check_file(path)?;
            let source = pipeline::make("filesrc")?;
            source.set_property("location", path);
            Ok(source)
        }
        Input::Stdin => {
            let source = pipeline::make("fdsrc")?;
            source.set_property("fd", 0);
            Ok(source)
        }
        Input::Url(url) => gst::Element::make_from_uri(gst::URIType::Src, url, None).map_err(|e| {
            let scheme = url.split_once(':').map_or("", |s| s.0);
            missing(format!("cannot open {url}: {e}; for {scheme} a source may be in gstreamer1.0-plugins-good or -bad"))
        }),
        Input::Camera(device) => camera(device.as_deref()),
        Input::Test(_) => pipeline::make("videotestsrc"),
    }
}

/// A camera: by device path, or the first that GStreamer finds.
fn camera(device: Option<&str>) -> anyhow::Result<gst::Element> {
    if let Some(device) = device {
        if !Path::new(device).exists() {
            return Err(input(format!("there is no camera {device}; ls /dev/video* lists those of this machine")));
        }
        let source = pipeline::make("v4l2src")?;
        source.set_property("device", device);
        return Ok(source);
    }
    let monitor = gst::DeviceMonitor::new();
    monitor.add_filter(Some("Video/Source"), None);
    let started = monitor.start();
    let found = monitor.devices().into_iter().find_map(|d| d.create_element(None).ok());
    if started.is_ok() {
        monitor.stop();
    }
    found.ok_or_else(|| input("no camera was found; plug one in, name its device (camera:/dev/video0), or use the input 'test'"))
}

/// Ends the stream at the limits of `shape`.
fn limit(front: &gst::Element, shape: &Shape) -> anyhow::Result<()> {
    let (max_frames, duration) = (shape.max_frames, shape.duration.map(|s| (s * 1e9) as u64));
    if max_frames.is_none() && duration.is_none() {
        return Ok(());
    }
    let (frames, first) = (AtomicU64::new(0), Mutex::new(None));
    front.static_pad("src").context("identity has a source pad")?.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let Some(buffer) = info.buffer() else { return gst::PadProbeReturn::Ok };
        let n = frames.fetch_add(1, Ordering::Relaxed);
        let passed = buffer.pts().and_then(|now| {
            let mut first = first.lock().unwrap_or_else(|e| e.into_inner());
            now.checked_sub(*first.get_or_insert(now))
        });
        let over = max_frames.is_some_and(|m| n >= m) || duration.zip(passed).is_some_and(|(d, t)| t.nseconds() >= d);
        if !over {
            return gst::PadProbeReturn::Ok;
        }
        pad.push_event(gst::event::Eos::new());
        info.flow_res = Err(gst::FlowError::Eos);
        gst::PadProbeReturn::Handled
    });
    Ok(())
}

/// Links the first video that `decode` finds to `front`, leaves all else be, and says on the bus where there is none.
fn expose_video(pipeline: &Pipeline, decode: &gst::Element, front: &gst::Element) {
    // Sound is not decoded in vain.
    decode.connect("autoplug-continue", false, |values| {
        let caps = values.get(2).and_then(|v| v.get::<gst::Caps>().ok());
        let sound = caps.and_then(|c| c.structure(0).map(|s| s.name().starts_with("audio/"))).unwrap_or(false);
        Some((!sound).to_value())
    });
    let found = std::sync::Arc::new(Mutex::new((false, Vec::<String>::new())));
    let (seen, sink) = (found.clone(), front.downgrade());
    decode.connect_pad_added(move |_, pad| {
        let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
        let name = caps.structure(0).map_or(String::new(), |s| s.name().to_string());
        let mut seen = seen.lock().unwrap_or_else(|e| e.into_inner());
        let Some(sink) = sink.upgrade().and_then(|e| e.static_pad("sink")) else { return };
        if !seen.0 && name == "video/x-raw" && pad.link(&sink).is_ok() {
            seen.0 = true;
        } else {
            seen.1.push(name);
        }
    });
    let pipeline = pipeline.downgrade();
    decode.connect_no_more_pads(move |decode| {
        let seen = found.lock().unwrap_or_else(|e| e.into_inner());
        if let (false, Some(_)) = (seen.0, pipeline.upgrade()) {
            let s = gst::Structure::builder(NO_VIDEO).field("found", seen.1.join(", ")).build();
            let _ = decode.post_message(gst::message::Application::builder(s).src(decode).build());
        }
    });
}

/// The error where a stream's model is not at hand.
pub fn other_model(name: &str, fingerprint: &Fingerprint) -> anyhow::Error {
    missing(format!("{name} was made with another model, {}; name its bundle with --model", fingerprint_name(fingerprint)))
}

/// Adds an ElasticTok stream to the pipeline: source, parser, decoder. The decoder is returned, linked to nothing yet, and what
/// fetches the stream, where it is stored as media segments; of these come as many layers as fit `rate`.
pub fn decoded(
    pipeline: &Pipeline,
    from: &Input,
    args: &DecodingArgs,
    rate: Rate,
) -> anyhow::Result<(gst::Element, Option<Feed>)> {
    if matches!(from, Input::Camera(_) | Input::Test(_)) {
        return Err(crate::failure::usage(format!("{} is not an ElasticTok stream; name an .etok file or a URL", from.name())));
    }
    let bundle = pipeline::check_model(&args.model)?;
    let index = media::url(from)?;
    if let (Input::File(path), None) = (from, &index)
        && let Some(header) = crate::stream::header(path)?
        && bundle.fingerprint != header.fingerprint
        && Bundle::by_fingerprint(&header.fingerprint)?.is_none()
    {
        return Err(other_model(&from.name(), &header.fingerprint));
    }
    let layers = args.layers.unwrap_or(0);
    let feed = index.map(|url| media::feed(url, rate, layers as usize)).transpose()?;
    let source = feed.as_ref().map_or_else(|| bytes(from), |feed| Ok(feed.source.clone()))?;
    let (parse, decoder) = (pipeline::make("elastictokparse")?, pipeline::make("elastictokdec")?);
    decoder.set_property("max-layers", layers);
    pipeline::set_model(&decoder, &args.model);
    pipeline.chain(&[&source, &parse, &decoder])?;
    Ok((decoder, feed))
}
