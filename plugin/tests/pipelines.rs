// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whole pipelines, as a user would write them.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::Pipeline;
use gst::prelude::*;

impl Pipeline {
    /// Runs to the end; fails on an error or after a minute.
    fn finish(&self) {
        let message = self
            .0
            .bus()
            .unwrap()
            .timed_pop_filtered(gst::ClockTime::from_seconds(60), &[gst::MessageType::Eos, gst::MessageType::Error]);
        match message.expect("the pipeline ends within a minute").view() {
            gst::MessageView::Eos(_) => {}
            other => panic!("{other:?}"),
        }
    }

    fn run(&self) {
        self.0.set_state(gst::State::Playing).unwrap();
        self.finish();
    }
}

/// Counts buffers at an element's sink pad.
fn count(pipeline: &Pipeline, element: &str) -> std::sync::Arc<std::sync::Mutex<Vec<Option<gst::ClockTime>>>> {
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let clone = seen.clone();
    let pad = pipeline.0.by_name(element).unwrap().static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        clone.lock().unwrap().push(info.buffer().and_then(|b| b.pts()));
        gst::PadProbeReturn::Ok
    });
    seen
}

fn temporary(name: &str) -> String {
    std::env::temp_dir().join(format!("elastictok-{}-{name}", std::process::id())).display().to_string()
}

fn record(name: &str, frames: u32) -> String {
    let path = temporary(name);
    Pipeline::new(&format!(
        "videotestsrc pattern=ball num-buffers={frames} ! video/x-raw,width=128,height=96,framerate=30/1 ! elastictokenc key-int-max=10 ! filesink location={path}"
    ))
    .run();
    path
}

#[test]
fn a_file_plays_through_decodebin3() {
    let path = record("decodebin3.etok", 45);
    let p = Pipeline::new(&format!("filesrc location={path} ! decodebin3 ! fakesink name=out sync=false"));
    let seen = count(&p, "out");
    p.run();
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 45);
    assert_eq!(seen[44], Some(gst::ClockTime::from_nseconds(44 * 1_000_000_000 / 30)));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_byte_stream_decodes_after_the_parser_only() {
    let path = record("forms.etok", 21);
    let source = format!("filesrc location={path} blocksize=100");
    for parser in ["elastictokparse", "elastictokparse ! video/x-elastictok,stream-format=byte-stream ! elastictokparse"] {
        let p = Pipeline::new(&format!("{source} ! {parser} ! elastictokdec ! fakesink name=out sync=false"));
        let seen = count(&p, "out");
        p.run();
        assert_eq!(seen.lock().unwrap().len(), 21, "{parser}");
    }
    for typefind in [false, true] {
        let p = Pipeline::new(&format!("{source} typefind={typefind} ! elastictokdec ! fakesink"));
        let _ = p.0.set_state(gst::State::Playing);
        let error = p.0.bus().unwrap().timed_pop_filtered(gst::ClockTime::from_seconds(60), &[gst::MessageType::Error]).unwrap();
        assert!(format!("{:?}", error.view()).contains("put elastictokparse before"), "typefind={typefind}: {error:?}");
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn every_autoplugger_finds_parser_and_decoder() {
    // Of a stream that ends while uridecodebin3 or playbin3 is still being set up, GStreamer 1.22 was seen to lose the end: no thread of
    // any element was left at work, and no EOS came (of nine frames of H.264 too, once in 300 runs). So it lasts long enough.
    let frames = 90;
    let path = record("autoplug.etok", frames);
    for plugger in ["decodebin", "decodebin3"] {
        let p = Pipeline::new(&format!("filesrc location={path} ! {plugger} ! fakesink name=out sync=false"));
        let seen = count(&p, "out");
        p.run();
        assert_eq!(seen.lock().unwrap().len(), frames as usize, "{plugger}");
    }
    for plugger in ["uridecodebin", "uridecodebin3"] {
        let p = Pipeline::new(&format!("{plugger} uri=file://{path} ! fakesink name=out sync=false"));
        let seen = count(&p, "out");
        p.run();
        assert_eq!(seen.lock().unwrap().len(), frames as usize, "{plugger}");
    }
    for plugger in ["playbin", "playbin3"] {
        let p = Pipeline::new(&format!("{plugger} uri=file://{path}"));
        let sink = gst::ElementFactory::make("fakesink").property("sync", false).build().unwrap();
        p.0.set_property("video-sink", &sink);
        let shown = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = shown.clone();
        sink.static_pad("sink").unwrap().add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            gst::PadProbeReturn::Ok
        });
        p.run();
        assert_eq!(shown.load(std::sync::atomic::Ordering::Relaxed), frames as usize, "{plugger}");
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn packets_pass_gdp_and_rtp() {
    for wire in ["gdppay ! gdpdepay", "rtpgstpay ! rtpgstdepay"] {
        let p = Pipeline::new(&format!(
            "videotestsrc pattern=ball num-buffers=12 ! video/x-raw,width=96,height=96,framerate=25/1 ! elastictokenc ! \
             video/x-elastictok,stream-format=packetized ! {wire} ! elastictokdec ! fakesink name=out sync=false"
        ));
        let seen = count(&p, "out");
        p.run();
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 12, "{wire}");
        assert_eq!(seen[11], Some(gst::ClockTime::from_mseconds(440)), "{wire}");
    }
}

#[test]
fn seeking_lands_on_a_key_block() {
    let path = record("seek.etok", 90);
    let p = Pipeline::new(&format!("filesrc location={path} ! elastictokparse ! elastictokdec ! fakesink name=out sync=false"));
    let seen = count(&p, "out");
    p.0.set_state(gst::State::Paused).unwrap();
    let (result, _, _) = p.0.state(gst::ClockTime::from_seconds(30));
    result.unwrap();
    seen.lock().unwrap().clear();
    p.0.seek_simple(gst::SeekFlags::FLUSH | gst::SeekFlags::KEY_UNIT, gst::ClockTime::from_seconds(2)).unwrap();
    p.run();
    let seen = seen.lock().unwrap();
    let first = seen.iter().flatten().next().unwrap().mseconds();
    assert!((1000..=2000).contains(&first), "first frame at {first} ms");
    assert_eq!(seen.last().unwrap().unwrap(), gst::ClockTime::from_nseconds(89 * 1_000_000_000 / 30));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_format_that_downstream_does_not_take_is_refused_with_advice() {
    let p = Pipeline::new(
        "videotestsrc num-buffers=4 ! video/x-raw,width=64,height=48 ! elastictokenc ! elastictokdec ! video/x-raw,format=RGB ! fakesink",
    );
    let _ = p.0.set_state(gst::State::Playing);
    let error = p.0.bus().unwrap().timed_pop_filtered(gst::ClockTime::from_seconds(60), &[gst::MessageType::Error]).unwrap();
    assert!(format!("{:?}", error.view()).contains("put videoconvert after"), "{error:?}");
}

#[test]
fn a_missing_model_is_an_error_before_data_flows() {
    let p = Pipeline::new("videotestsrc num-buffers=2 ! elastictokenc model=/nonexistent ! fakesink");
    assert!(p.0.set_state(gst::State::Playing).is_err());
    let message = p.0.bus().unwrap().timed_pop_filtered(gst::ClockTime::from_seconds(5), &[gst::MessageType::Error]).unwrap();
    assert!(format!("{:?}", message.view()).contains("bundle.json"));
}

#[test]
fn a_recording_is_thinned_to_a_bitrate() {
    let (path, thin) = (temporary("thick.etok"), temporary("thin.etok"));
    Pipeline::new(&format!(
        "videotestsrc pattern=smpte num-buffers=90 ! video/x-raw,width=128,height=96,framerate=30/1 ! videobox left=-8 ! elastictokenc target-psnr=48 key-int-max=15 ! filesink location={path}"
    ))
    .run();
    Pipeline::new(&format!(
        "filesrc location={path} ! elastictokparse ! elastictokthin name=thin bitrate=100 ! elastictokparse ! video/x-elastictok,stream-format=byte-stream ! filesink location={thin}"
    ))
    .run();
    let size = |p: &str| std::fs::metadata(p).unwrap().len();
    // the first second of three, of which nothing is known when it begins, and two seconds at 100 kbit/s
    assert!(size(&path) > 80_000 && size(&thin) < size(&path) / 3 + 25_000, "{} and {} bytes", size(&path), size(&thin));
    let p = Pipeline::new(&format!("filesrc location={thin} ! decodebin3 ! fakesink name=out sync=false"));
    let seen = count(&p, "out");
    p.run();
    assert_eq!(seen.lock().unwrap().len(), 90);
    for p in [path, thin] {
        std::fs::remove_file(p).unwrap();
    }
}

#[test]
fn files_joined_end_to_end_play_one_after_the_other() {
    let path = record("joined.etok", 20);
    let twice = [std::fs::read(&path).unwrap(), std::fs::read(&path).unwrap()].concat();
    std::fs::write(&path, twice).unwrap();
    let p = Pipeline::new(&format!("filesrc location={path} ! elastictokparse ! elastictokdec ! fakesink name=out sync=false"));
    let seen = count(&p, "out");
    p.run();
    let seen = seen.lock().unwrap();
    let expected = |n: u64| gst::ClockTime::from_nseconds(n * 1_000_000_000 / 30);
    assert_eq!(seen.len(), 40);
    for (n, pts) in (0..).zip(seen.iter()) {
        let off = pts.unwrap().nseconds().abs_diff(expected(n).nseconds());
        assert!(off <= 2, "frame {n} at {pts:?}");
    }
    std::fs::remove_file(path).unwrap();
}

/// Elements of the command in the README that has `part` in it, without those at its ends.
fn readme_chain(part: &str) -> String {
    let readme = include_str!("../../README.md").replace("\\\n", " ");
    let line = readme.lines().find(|l| l.contains("gst-launch-1.0") && l.contains(part)).unwrap();
    let elements: Vec<_> = line.split(" ! ").map(str::trim).collect();
    elements[1..elements.len() - 1].join(" ! ")
}

/// RTP packets as the README's sender makes them, each with its time.
fn rtp_packets(frames: u32) -> (gst::Caps, Vec<gst::Buffer>) {
    let p = Pipeline::new(&format!(
        "videotestsrc pattern=snow num-buffers={frames} ! video/x-raw,width=64,height=48,framerate=30/1 ! {} ! appsink name=out sync=false",
        readme_chain("udpsink")
    ));
    let sink = p.0.by_name("out").unwrap().downcast::<gst_app::AppSink>().unwrap();
    p.0.set_state(gst::State::Playing).unwrap();
    let samples: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok()).collect();
    let caps = samples[0].caps_owned().unwrap();
    (caps, samples.iter().map(|s| s.buffer_owned().unwrap()).collect())
}

#[test]
fn packets_that_arrive_out_of_order_lose_no_picture() {
    let (caps, packets) = rtp_packets(60);
    // The jitter buffer gives up packets that are more than ten too late before it has measured their rate.
    assert!((60..240).contains(&packets.len()), "blocks of some packets: {}", packets.len());
    // one in five is 60 ms late
    let mut now = gst::ClockTime::ZERO;
    let arrive = |(i, packet): (usize, &gst::Buffer)| {
        now = packet.pts().unwrap_or(now);
        (now + gst::ClockTime::from_mseconds(if i % 5 == 2 { 60 } else { 0 }), packet.copy())
    };
    let mut arriving: Vec<_> = packets.iter().enumerate().map(arrive).collect();
    arriving.sort_by_key(|(at, _)| *at);
    let receive = |chain: &str| {
        let p = Pipeline::new(&format!("appsrc name=in is-live=true format=time ! {chain} ! fakesink name=out sync=false"));
        let seen = count(&p, "out");
        let source = p.0.by_name("in").unwrap().downcast::<gst_app::AppSrc>().unwrap();
        source.set_caps(Some(&caps));
        p.0.set_state(gst::State::Playing).unwrap();
        for (at, packet) in &arriving {
            let mut packet = packet.copy();
            let b = packet.get_mut().unwrap();
            b.set_pts(*at);
            b.set_dts(*at);
            source.push_buffer(packet).unwrap();
        }
        source.end_of_stream().unwrap();
        p.finish();
        seen.lock().unwrap().len()
    };
    let chain = readme_chain("udpsrc");
    assert_eq!(receive(&chain), 60);
    let without = chain.split(" ! ").filter(|e| !e.starts_with("rtpjitterbuffer")).collect::<Vec<_>>().join(" ! ");
    assert_ne!(without, chain);
    assert!(receive(&without) < 30, "the test would notice");
}
