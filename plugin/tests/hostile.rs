// SPDX-License-Identifier: MIT OR Apache-2.0
//! Streams that are made to harm: they end in a message, never in a crash or in work without bounds.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::*;
use elastictok::bitstream::{BlockHeader, BlockWriter, SequenceHeader, StreamWriter, Timing};
use elastictok::bundle::Bundle;
use elastictok::frame::PixelFormat;
use gst::prelude::*;

/// A whole stream in 32 bytes: its colorimetry is 3, 3, 3, which nobody has given a meaning.
const SHORTEST: &[u8] =
    b"\xe7\x53\x1c\xa7ETOK\x10\xb5\x7fZ=\xc1\xe3\x84Q\x10\x10\x1e\x01\x01\x01\x00\x03\x03\x03\x00\x02\x00\xa3\xde";

/// A header that the builtin model made.
fn header(width: u32, height: u32) -> SequenceHeader {
    SequenceHeader {
        fingerprint: Bundle::builtin().unwrap().fingerprint,
        width,
        height,
        framerate: (30, 1),
        pixel_aspect_ratio: (1, 1),
        colorimetry: [0, 2, 2, 2],
        pixel_format: PixelFormat::I420,
        block_length: 2,
        chroma_site: 0,
        layers: 4,
        layer_ratio: 8,
    }
}

/// A key block of nothing.
fn empty_block(quantiser: u8, timing: Timing) -> Vec<u8> {
    let mut out = bytes::BytesMut::new();
    let header =
        BlockHeader { key: true, epoch: 0, position: 0, left_out: 0, frames: 2, quantiser, base_quantiser: None, timing };
    BlockWriter::begin(&header, 2, &mut out).unwrap();
    out.to_vec()
}

fn stream(header: &SequenceHeader, block: &[u8]) -> Vec<u8> {
    let mut out = bytes::BytesMut::new();
    StreamWriter::new(header).unwrap().write(block, &mut out).unwrap();
    out.to_vec()
}

fn at_zero() -> Timing {
    Timing { base: Some(0), ..Timing::default() }
}

/// What GLib and GStreamer call a fault of the program, which many processes end for.
static CRITICALS: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());

fn watch_criticals() {
    gst::glib::log_set_default_handler(|domain, level, message| {
        if matches!(level, gst::glib::LogLevel::Critical | gst::glib::LogLevel::Error) {
            CRITICALS.lock().unwrap().push(format!("{domain:?}: {message}"));
        }
    });
}

/// Runs a pipeline on `data` to its end; the messages of its errors and warnings, and how many buffers came out.
fn run(data: &[u8], chain: &str) -> (Vec<String>, usize) {
    init();
    watch_criticals();
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("elastictok-hostile-{}-{n}.etok", std::process::id()));
    std::fs::write(&path, data).unwrap();
    let description = format!("filesrc location={} ! {chain} ! fakesink name=out sync=false", path.display());
    let pipeline: gst::Pipeline = gst::parse::launch(&description).unwrap().downcast().unwrap();
    let seen = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = seen.clone();
    pipeline.by_name("out").unwrap().static_pad("sink").unwrap().add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        gst::PadProbeReturn::Ok
    });
    let _ = pipeline.set_state(gst::State::Playing);
    let mut messages = Vec::new();
    let kinds = [gst::MessageType::Eos, gst::MessageType::Error, gst::MessageType::Warning];
    let timeout = gst::ClockTime::from_seconds(120);
    loop {
        let message = pipeline.bus().unwrap().timed_pop_filtered(timeout, &kinds).expect("the pipeline ends");
        match message.view() {
            gst::MessageView::Eos(_) => break,
            gst::MessageView::Warning(w) => messages.push(format!("{} {:?}", w.error(), w.debug())),
            gst::MessageView::Error(e) => {
                messages.push(format!("{} {:?}", e.error(), e.debug()));
                break;
            }
            _ => {}
        }
    }
    pipeline.set_state(gst::State::Null).unwrap();
    std::fs::remove_file(path).unwrap();
    let seen = seen.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(*CRITICALS.lock().unwrap(), Vec::<String>::new(), "{chain}");
    (messages, seen)
}

#[test]
fn unknown_colorimetry_crashes_nothing() {
    // A stream of a header alone has nothing to show, so most chains end with an error that says so.
    for chain in ["elastictokparse", "elastictokparse ! elastictokdec", "typefind", "decodebin3", "parsebin"] {
        run(SHORTEST, chain);
    }
    // with a block of the builtin model behind such headers there are pictures, and caps that say what is known
    let mut wild = header(32, 32);
    for colorimetry in [[0, 3, 3, 3], [0, 255, 254, 253], [1, 0, 3, 2], [2, 1, 77, 1]] {
        wild.colorimetry = colorimetry;
        let data = stream(&wild, &empty_block(30, at_zero()));
        for chain in ["elastictokparse ! elastictokdec", "decodebin3"] {
            let (messages, pictures) = run(&data, chain);
            assert_eq!((messages, pictures), (vec![], 2), "{chain} {colorimetry:?}");
        }
    }
}

#[test]
fn fractions_beyond_caps_play() {
    let mut wild = header(48, 32);
    for (framerate, pixel_aspect_ratio) in [
        ((u32::MAX, 1), (1, u32::MAX)),
        ((1, u32::MAX), (u32::MAX, 1)),
        ((0, 1), (0x7FFF_FFFF, 0x7FFF_FFFE)),
        ((0x7FFF_FFFF, 1), (1, 1)),
    ] {
        (wild.framerate, wild.pixel_aspect_ratio) = (framerate, pixel_aspect_ratio);
        let data = stream(&wild, &empty_block(30, at_zero()));
        for chain in ["elastictokparse ! elastictokdec ! videoconvert ! video/x-raw,format=RGB", "decodebin3"] {
            let (messages, pictures) = run(&data, chain);
            assert_eq!((messages, pictures), (vec![], 2), "{chain} {framerate:?} {pixel_aspect_ratio:?}");
        }
    }
}

#[test]
fn huge_pictures_are_refused_by_the_property_that_allows_them() {
    let data = stream(&header(8192, 8192), &empty_block(30, at_zero()));
    assert!(data.len() < 50);
    for chain in ["elastictokparse", "elastictokparse max-pixels=0 ! elastictokdec"] {
        let (messages, pictures) = run(&data, chain);
        assert_eq!(pictures, 0);
        assert!(messages.iter().any(|m| m.contains("max-pixels") && m.contains("8192x8192")), "{chain}: {messages:?}");
    }
    // decodebin3 may say first that the stream has nothing to show
    let (messages, pictures) = run(&data, "decodebin3");
    assert!(pictures == 0 && !messages.is_empty());
    let larger = stream(&header(80, 48), &empty_block(30, at_zero()));
    for (limit, fits) in [(80 * 48 - 1, false), (80 * 48, true), (0, true)] {
        for chain in [
            format!("elastictokparse max-pixels={limit} ! elastictokdec"),
            format!("elastictokparse ! elastictokdec max-pixels={limit}"),
        ] {
            let (messages, pictures) = run(&larger, &chain);
            assert_eq!((messages.is_empty(), pictures), (fits, if fits { 2 } else { 0 }), "{chain}: {messages:?}");
        }
    }
}

fn packetized(header: &SequenceHeader) -> gst::Caps {
    let codec_data = gst::Buffer::from_slice(header.to_bytes());
    gst::Caps::builder("video/x-elastictok").field("stream-format", "packetized").field("codec_data", codec_data).build()
}

/// Sizes of pictures for which a graph was opened in this process.
fn opened() -> &'static std::sync::Mutex<Vec<String>> {
    static OPENED: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());
    static WATCH: std::sync::Once = std::sync::Once::new();
    WATCH.call_once(|| {
        gst::log::set_threshold_for_name("elastictok", gst::DebugLevel::Info);
        gst::log::remove_default_log_function();
        gst::log::add_log_function(|_, _, _, _, _, _, message| {
            let text = message.get().map(|text| text.to_string()).unwrap_or_default();
            OPENED.lock().unwrap().extend(text.split_once(" is decoded on ").map(|(size, _)| size.to_owned()));
        });
    });
    &OPENED
}

#[test]
fn headers_alone_open_one_graph() {
    let mut h = harness("elastictokdec name=dec execution-provider=cpu");
    let opened = opened();
    let count = |size: &str| opened.lock().unwrap().iter().filter(|s| *s == size).count();
    for i in 0..200 {
        h.set_src_caps(packetized(&header(if i % 2 == 0 { 592 } else { 576 }, 336)));
    }
    let stats = h.element().unwrap().property::<gst::Structure>("stats");
    assert_eq!((stats.get("provider"), stats.get("blocks")), (Ok("none"), Ok(0u64)), "{stats}");
    // A block in between opens what it needs, and then the next header may again.
    h.push(gst::Buffer::from_slice(empty_block(30, at_zero()))).unwrap();
    assert_eq!((count("592x336"), count("576x336")), (1, 1));
    for _ in 0..2 {
        for width in [608, 624] {
            h.set_src_caps(packetized(&header(width, 336)));
        }
    }
    drop(h);
    assert_eq!((count("608x336"), count("624x336")), (1, 0));
}

#[test]
fn quantisers_beyond_the_models_are_refused() {
    for (quantiser, good) in [(87, true), (88, false), (255, false)] {
        let data = stream(&header(32, 32), &empty_block(quantiser, at_zero()));
        let (messages, pictures) = run(&data, "elastictokparse ! elastictokdec");
        assert_eq!(pictures, if good { 2 } else { 0 });
        assert!(good || messages.iter().any(|m| m.contains("quantiser")), "{messages:?}");
    }
}

#[test]
fn blocks_of_no_duration_play() {
    use elastictok::bitstream::{Durations, Explicit, TimeUnit};
    let mut header = header(32, 32);
    for (framerate, durations) in [
        ((1000, 1), Durations::Each([-1_000_000, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
        ((0x7FFF_FFFF, 1), Durations::Grid),
        ((0x7FFF_FFFF, 1), Durations::Nominal),
        ((0, 1), Durations::Each([0; 16])),
        ((30, 1), Durations::Absent),
    ] {
        header.framerate = framerate;
        let explicit = Some(Explicit { unit: TimeUnit::Nanosecond, differences: None, durations });
        let data = stream(&header, &empty_block(30, Timing { explicit, ..at_zero() })).repeat(3);
        for chain in ["elastictokparse", "elastictokparse ! elastictokdec", "decodebin3"] {
            let (messages, buffers) = run(&data, chain);
            let expected = if chain == "elastictokparse" { 3 } else { 6 };
            assert_eq!((messages, buffers), (vec![], expected), "{chain} {framerate:?}");
        }
    }
}
