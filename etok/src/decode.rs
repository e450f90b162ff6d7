// SPDX-License-Identifier: MIT OR Apache-2.0
//! `etok decode`: a stream to raw video, H.264 or pictures.

use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use gst::prelude::*;

use crate::cli::DecodeArgs;
use crate::failure::{Exit, input, usage};
use crate::media::Rate;
use crate::output::{Destination, Writer};
use crate::pipeline::{self, End, Pipeline};
use crate::progress::Progress;
use crate::report::original::copy;
use crate::source;
use crate::text;
use crate::y4m;

/// What to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Y4m,
    Matroska,
    Mp4,
    /// The first picture.
    Picture,
    /// Every picture, in a file of its own.
    Pictures,
}

impl Form {
    fn of(path: &Path) -> anyhow::Result<Self> {
        let name = path.to_string_lossy();
        let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        match ending.as_str() {
            _ if name == "-" => Ok(Self::Y4m),
            "y4m" => Ok(Self::Y4m),
            "mkv" => Ok(Self::Matroska),
            "mp4" => Ok(Self::Mp4),
            "png" if !name.contains('%') => Ok(Self::Picture),
            "png" if numbered(&name, 0).is_some() => Ok(Self::Pictures),
            "png" => Err(usage(format!("'{name}' is not a pattern for numbered files; write %05d, once, where the number goes"))),
            _ => Err(usage(format!("cannot tell from '{name}' what to write; end it in .y4m, .mkv, .mp4 or .png"))),
        }
    }

    fn is_h264(self) -> bool {
        matches!(self, Self::Matroska | Self::Mp4)
    }
}

/// The name of picture `n`, by a pattern with one `%d` or `%05d` in it; `None`: it is no such pattern.
fn numbered(pattern: &str, n: u64) -> Option<String> {
    let (before, after) = pattern.split_once('%')?;
    let (width, after) = after.split_once('d')?;
    let plain = !after.contains('%') && width.chars().all(|c| c.is_ascii_digit()) && width.len() <= 2;
    let width: usize = if width.is_empty() { 0 } else { width.parse().ok()? };
    plain.then(|| format!("{before}{n:0width$}{after}"))
}

/// Where decoded pictures go, in order of their coming.
enum Sink {
    /// Raw video; the header was written.
    Raw(Writer, bool),
    /// The first picture only.
    First(Writer, bool),
    /// A file for each buffer.
    Each { pattern: String, force: bool, next: u64 },
}

impl Sink {
    /// Takes a sample; `false`: it was the last that is wanted.
    fn take(&mut self, sample: &gst::Sample) -> anyhow::Result<bool> {
        let buffer = sample.buffer().context("a sample has a buffer")?;
        match self {
            Self::Raw(writer, begun) => {
                let info = gst_video::VideoInfo::from_caps(sample.caps().context("a sample has caps")?)?;
                if !std::mem::replace(begun, true) {
                    writer.write(y4m::header(&info).as_bytes())?;
                }
                let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info)?;
                writer.write(&y4m::frame(&copy(&frame)?))?;
                Ok(true)
            }
            Self::First(writer, done) => {
                if !std::mem::replace(done, true) {
                    writer.write(&buffer.map_readable()?)?;
                }
                Ok(false)
            }
            Self::Each { pattern, force, next } => {
                let name = numbered(pattern, *next).context("a checked pattern")?;
                *next += 1;
                let mut writer = Destination::new(Path::new(&name), *force, [])?.writer();
                writer.write(&buffer.map_readable()?)?;
                writer.finish()?;
                Ok(true)
            }
        }
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Raw(writer, _) | Self::First(writer, _) => writer.finish(),
            Self::Each { .. } => Ok(()),
        }
    }
}

/// Elements that make `form` of raw video, in order.
fn encoders(form: Form, quality: u32) -> anyhow::Result<Vec<gst::Element>> {
    let mut chain = vec![pipeline::make("videoconvert")?];
    match form {
        Form::Y4m => {}
        Form::Matroska | Form::Mp4 => {
            let (scale, filter) = (pipeline::make("videoscale")?, pipeline::make("capsfilter")?);
            make_even(&scale, &filter)?;
            let encoder = pipeline::make("x264enc")?;
            encoder.set_property_from_str("pass", "qual");
            encoder.set_property("quantizer", quality);
            let mux = pipeline::make(if form == Form::Mp4 { "mp4mux" } else { "matroskamux" })?;
            chain.extend([scale, filter, encoder, pipeline::make("h264parse")?, mux]);
        }
        Form::Picture | Form::Pictures => {
            let encoder = pipeline::make("pngenc")?;
            encoder.set_property("snapshot", form == Form::Picture);
            chain.push(encoder);
        }
    }
    Ok(chain)
}

/// Has `scale` make even sizes of odd ones, by way of the caps of `filter`: H.264 in 4:2:0 has no others.
fn make_even(scale: &gst::Element, filter: &gst::Element) -> anyhow::Result<()> {
    let any = gst::Caps::builder("video/x-raw").field("format", "I420").build();
    filter.set_property("caps", &any);
    let filter = filter.downgrade();
    let pad = scale.static_pad("sink").context("videoscale has a sink pad")?;
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let Some(gst::PadProbeData::Event(event)) = &info.data
            && let gst::EventView::Caps(caps) = event.view()
            && let Some(s) = caps.caps().structure(0)
            && let (Ok(w), Ok(h), Some(filter)) = (s.get::<i32>("width"), s.get::<i32>("height"), filter.upgrade())
        {
            let mut even = any.clone();
            even.make_mut().set("width", w + w % 2);
            even.make_mut().set("height", h + h % 2);
            filter.set_property("caps", even);
        }
        gst::PadProbeReturn::Ok
    });
    Ok(())
}

/// A sink that gives what comes to `sink`; the first error stays in the other half.
fn app_sink(sink: &Arc<Mutex<(Sink, Option<anyhow::Error>)>>, form: Form) -> gst::Element {
    let shared = sink.clone();
    let take = move |sink: &gst_app::AppSink| {
        let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
        let mut shared = shared.lock().unwrap_or_else(|e| e.into_inner());
        match shared.0.take(&sample) {
            Ok(true) => Ok(gst::FlowSuccess::Ok),
            Ok(false) => Err(gst::FlowError::Eos),
            Err(e) => {
                shared.1 = Some(e);
                Err(gst::FlowError::Error)
            }
        }
    };
    let sink = gst_app::AppSink::builder().sync(false).max_buffers(4).build();
    if form == Form::Y4m {
        sink.set_caps(Some(&gst::Caps::builder("video/x-raw").field("format", "I420").build()));
    }
    sink.set_callbacks(gst_app::AppSinkCallbacks::builder().new_sample(take).build());
    sink.upcast()
}

pub fn run(args: &DecodeArgs) -> anyhow::Result<Exit> {
    let form = Form::of(&args.output)?;
    let place = match form {
        Form::Pictures => {
            let first = numbered(&args.output.to_string_lossy(), 0).unwrap_or_default();
            Destination::new(Path::new(&first), args.common.force, args.input.path())?
        }
        _ => Destination::new(&args.output, args.common.force, args.input.path())?,
    };
    let pipeline = Pipeline::new()?;
    let (decoder, _feed) = source::decoded(&pipeline, &args.input, &args.decoding, Rate::All)?;
    let mut chain = encoders(form, args.h264_quality)?;
    let sink = match form {
        Form::Pictures => Sink::Each { pattern: args.output.to_string_lossy().into_owned(), force: args.common.force, next: 0 },
        Form::Picture => Sink::First(place.writer(), false),
        Form::Y4m | Form::Matroska | Form::Mp4 => Sink::Raw(place.writer(), false),
    };
    let shared = Arc::new(Mutex::new((sink, None)));
    chain.push(if form.is_h264() {
        // muxers go back to complete their headers
        let sink = pipeline::make("filesink")?;
        sink.set_property("location", &args.output);
        sink
    } else {
        app_sink(&shared, form)
    });
    pipeline.chain(&chain.iter().collect::<Vec<_>>())?;
    decoder.link(&chain[0]).context("decoded video")?;

    let progress = Progress::new(args.common.quiet, None);
    let decoded = |name: &str| decoder.property::<gst::Structure>("stats").get::<u64>(name).unwrap_or(0);
    let ended = pipeline.run(
        Some(&chain[0]),
        |pipeline| {
            let seconds = |t: Option<gst::ClockTime>| t.map(|t| t.nseconds() as f64 * 1e-9);
            progress.set_total(seconds(pipeline.query_duration()));
            let frames = decoded("frames");
            let at = seconds(pipeline.query_position()).unwrap_or_default();
            let pace = progress.pace(frames, at).map_or(String::new(), |p| format!(", {} frames/s", text::significant(p)));
            progress.show(at, &format!("{}{pace}", text::count(frames, "frame")));
        },
        |warning| {
            if !args.common.quiet {
                progress.say(&format!("etok: {warning}"));
            }
            Ok(())
        },
    );
    progress.clear();
    let (frames, blocks, broken) = (decoded("frames"), decoded("blocks"), decoded("damaged") + decoded("refused"));
    drop(pipeline);
    let mut shared = shared.lock().unwrap_or_else(|e| e.into_inner());
    // why the sink refused, not that it did
    if let Some(e) = shared.1.take() {
        return Err(e);
    }
    shared.0.finish()?;
    if frames == 0 && form.is_h264() && std::fs::metadata(&args.output).is_ok_and(|m| m.is_file() && m.len() == 0) {
        let _ = std::fs::remove_file(&args.output);
    }
    let ended = ended?;
    if blocks == 0 && ended == End::Finished {
        return Err(input(format!("{} has no block that can be decoded", args.input.name())));
    }
    if !args.common.quiet {
        let what = match form {
            Form::Y4m => "raw video".into(),
            Form::Matroska | Form::Mp4 => format!("H.264 by x264enc at constant quality {}", args.h264_quality),
            Form::Picture => "the first picture".into(),
            Form::Pictures => "PNG pictures".into(),
        };
        let frames = if form == Form::Picture { 1 } else { frames };
        let name = if form == Form::Pictures { args.output.display().to_string() } else { place.name() };
        eprintln!("{name}: {}, {what}", text::count(frames, "frame"));
        if broken > 0 {
            eprintln!("etok: {} damaged; etok info says more", text::count(broken, "block"));
        }
    }
    Ok(match ended {
        End::Interrupted => Exit::Interrupted,
        End::Finished if broken > 0 => Exit::Damaged,
        End::Finished => Exit::Done,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_says_what_to_write() {
        let form = |name: &str| Form::of(Path::new(name)).ok();
        assert_eq!(form("-"), Some(Form::Y4m));
        assert_eq!(form("a.MP4"), Some(Form::Mp4));
        assert_eq!(form("a.png"), Some(Form::Picture));
        assert_eq!(form("a-%04d.png"), Some(Form::Pictures));
        for bad in ["a", "a.avi", "a%s.png", "a%d%d.png", "a%", "100%.png"] {
            assert_eq!(form(bad), None, "{bad}");
        }
    }

    #[test]
    fn pictures_are_numbered_by_pattern() {
        assert_eq!(numbered("f-%05d.png", 12).as_deref(), Some("f-00012.png"));
        assert_eq!(numbered("%d.png", 7).as_deref(), Some("7.png"));
        assert_eq!(numbered("%999d.png", 7), None);
        assert_eq!(numbered("%-5d.png", 7), None);
    }
}
