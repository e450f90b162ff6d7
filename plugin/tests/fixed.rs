// SPDX-License-Identifier: MIT OR Apache-2.0
//! Elements with small fsq and vae bundles: RGB in and out, stills, the token tap.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "../examples/token_tap.rs"]
mod token_tap;

use std::path::{Path, PathBuf};

use common::*;
use gst::prelude::*;

const RATE: (i32, i32) = (25, 1);

fn model(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bundles").join(name).display().to_string()
}

fn temporary(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("elastictok-{}-{name}", std::process::id()))
}

fn rgb() -> gst::Caps {
    raw_caps("RGB", 70, 45, RATE)
}

fn encoder_of(name: &str, caps: &gst::Caps, settings: &str) -> gst_check::Harness {
    encoder(caps, "packetized", &format!("model={} {settings}", model(name)))
}

fn push(h: &mut gst_check::Harness, caps: &gst::Caps, frames: std::ops::Range<u64>) {
    for i in frames {
        let mut buffer = picture(caps, i);
        stamp(&mut buffer, i, RATE);
        h.push(buffer).unwrap();
    }
}

fn decoder_of(name: &str, stream: &gst::Caps, settings: &str) -> gst_check::Harness {
    init();
    let description = format!("elastictokdec execution-provider=cpu threads=1 model={} {settings}", model(name));
    let mut h = gst_check::Harness::with_element(&gst::parse::launch(&description).unwrap(), Some("sink"), Some("src"));
    h.set_src_caps(stream.clone());
    h
}

/// Mean squared error of the pixels of two pictures of [`rgb`]. What pads their rows is nobody's.
fn error(a: &gst::Buffer, b: &gst::Buffer) -> f64 {
    let (a, b) = (a.map_readable().unwrap(), b.map_readable().unwrap());
    assert_eq!(a.len(), b.len());
    let info = gst_video::VideoInfo::from_caps(&rgb()).unwrap();
    let (stride, width) = (info.stride()[0] as usize, 3 * info.width() as usize);
    let rows = a.chunks(stride).zip(b.chunks(stride)).map(|(a, b)| (&a[..width], &b[..width]));
    let sum: f64 = rows.flat_map(|(a, b)| a.iter().zip(b)).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
    sum / (width * info.height() as usize) as f64
}

#[test]
fn rgb_goes_in_and_comes_out_whole_and_thinned() {
    for name in ["fsq", "official", "vae"] {
        let caps = rgb();
        let mut h = encoder_of(name, &caps, "rate-control=tokens");
        push(&mut h, &caps, 0..10);
        h.push_event(gst::event::Eos::new());
        let packets = drain(&mut h);
        assert_eq!(packets.len(), 3, "{name}");
        let stream = h.sinkpad().unwrap().current_caps().unwrap();
        let mut before = f64::INFINITY;
        for layers in 1..=3 {
            let mut d = decoder_of(name, &stream, "");
            for p in &packets {
                let cut = elastictok::bitstream::thin(&p.map_readable().unwrap(), layers).unwrap().to_vec();
                let mut b = gst::Buffer::from_slice(cut);
                b.get_mut().unwrap().set_pts(p.pts());
                d.push(b).unwrap();
            }
            d.push_event(gst::event::Eos::new());
            let frames = drain(&mut d);
            assert_eq!(frames.len(), 10, "{name}");
            let info = gst_video::VideoInfo::from_caps(&d.sinkpad().unwrap().current_caps().unwrap()).unwrap();
            assert_eq!((info.format(), info.width(), info.height()), (gst_video::VideoFormat::Rgb, 70, 45));
            let mut sum = 0.0;
            for (i, frame) in frames.iter().enumerate() {
                let mut source = picture(&caps, i as u64);
                stamp(&mut source, i as u64, RATE);
                assert_eq!((frame.pts(), frame.duration()), (source.pts(), source.duration()), "frame {i}");
                sum += error(frame, &source);
            }
            assert!(sum < before, "{name}, {layers} layers: {sum} after {before}");
            before = sum;
        }
    }
}

#[test]
fn long_blocks_show_all_their_pictures() {
    let caps = rgb();
    let mut h = encoder_of("long", &caps, "rate-control=tokens tokens=1");
    push(&mut h, &caps, 0..20);
    h.push_event(gst::event::Eos::new());
    let packets = drain(&mut h);
    assert_eq!(packets.len(), 3);
    let mut d = decoder_of("long", &h.sinkpad().unwrap().current_caps().unwrap(), "");
    packets.into_iter().for_each(|p| assert!(d.push(p).is_ok()));
    d.push_event(gst::event::Eos::new());
    let pts: Vec<_> = drain(&mut d).iter().map(|f| f.pts().unwrap().mseconds()).collect();
    assert_eq!(pts, (0..20).map(|n| 40 * n).collect::<Vec<_>>());
}

#[test]
fn the_model_decides_which_pixels_are_taken() {
    init();
    let offered = |name: &str| {
        let element = gst::parse::launch(&format!("elastictokenc model={}", model(name))).unwrap();
        element.set_state(gst::State::Paused).unwrap();
        let caps = element.static_pad("sink").unwrap().query_caps(None);
        element.set_state(gst::State::Null).unwrap();
        caps
    };
    let of = |format: &str| gst::Caps::builder("video/x-raw").field("format", format).build();
    let caps = offered("fsq");
    assert!(caps.can_intersect(&of("RGB")) && !caps.can_intersect(&of("I420")), "{caps}");
}

#[test]
fn live_targets_act_at_the_next_block_and_stats_tell() {
    let caps = rgb();
    let mut h = encoder_of("fsq", &caps, "search=binary target-mse=0.05 key-int-max=8");
    let element = h.element().unwrap();
    let stats = |name: &str| element.property::<gst::Structure>("stats").get::<f64>(name).unwrap();
    push(&mut h, &caps, 0..4);
    let coarse = (stats("psnr"), h.pull().unwrap().size());
    element.set_property("target-mse", 0.0001f64);
    push(&mut h, &caps, 4..8);
    let fine = (stats("psnr"), h.pull().unwrap().size());
    assert!(fine.0 > coarse.0 && fine.1 > coarse.1, "{coarse:?} {fine:?}");
    element.set_property("target-mse", 0.0f64);
    element.set_property("target-psnr", 20.0f64);
    push(&mut h, &caps, 8..12);
    let again = h.pull().unwrap();
    assert!(again.size() < fine.1 && !again.flags().contains(gst::BufferFlags::DELTA_UNIT));
    let all = element.property::<gst::Structure>("stats");
    assert_eq!(all.get::<&str>("search").unwrap(), "binary");
    assert!((all.get::<f64>("token-bits").unwrap() - 17.93).abs() < 0.01);
    assert!(all.get::<u64>("evaluations").unwrap() >= 3 && !all.has_field("quantiser"));
    let tokens = encoder_of("fsq", &caps, "rate-control=tokens tokens=3");
    let element = tokens.element().unwrap();
    let mut h = tokens;
    push(&mut h, &caps, 0..4);
    let stats = element.property::<gst::Structure>("stats");
    assert_eq!(stats.get::<u64>("tokens").unwrap(), 3 * 15);
    assert!(!stats.has_field("psnr"), "nothing was decoded, so there is none");
}

/// Messages of an encoder that was given one frame.
fn said(settings: &str, name: &str) -> (bool, String) {
    init();
    let mut h = encoder_without_caps(name, settings);
    let bus = gst::Bus::new();
    h.element().unwrap().set_bus(Some(&bus));
    let caps = rgb();
    h.set_src_caps(caps.clone());
    let ok = h.push(picture(&caps, 0)).is_ok();
    (ok, bus.iter().map(|m| format!("{:?}", m.view())).collect())
}

fn encoder_without_caps(name: &str, settings: &str) -> gst_check::Harness {
    let description = format!("elastictokenc execution-provider=cpu threads=1 model={} {settings}", model(name));
    let mut h = gst_check::Harness::with_element(&gst::parse::launch(&description).unwrap(), Some("sink"), Some("src"));
    h.set_sink_caps(stream_caps("packetized"));
    h
}

#[test]
fn a_search_that_a_model_cannot_do_is_refused_or_announced() {
    let (ok, text) = said("search=regression", "vae");
    assert!(!ok && text.contains("search=binary"), "{text}");
    let (ok, text) = said("", "vae");
    assert!(ok && text.contains("search=binary is used"), "{text}");
    let (ok, text) = said("", "fsq");
    assert!(ok && !text.contains("is used"), "{text}");
    let (ok, text) = said("rate-control=tokens", "vae");
    assert!(ok && !text.contains("is used"), "{text}");
}

/// Runs a pipeline to its end; what went wrong, if anything did.
fn run(description: &str) -> Result<(), String> {
    init();
    let pipeline = gst::parse::launch(description).unwrap().downcast::<gst::Pipeline>().unwrap();
    let _ = pipeline.set_state(gst::State::Playing);
    let wait = gst::ClockTime::from_seconds(60);
    let end = pipeline.bus().unwrap().timed_pop_filtered(wait, &[gst::MessageType::Eos, gst::MessageType::Error]);
    pipeline.set_state(gst::State::Null).unwrap();
    match end.expect("the pipeline ends within a minute").view() {
        gst::MessageView::Eos(_) => Ok(()),
        gst::MessageView::Error(e) => Err(format!("{} {}", e.error(), e.debug().unwrap_or_default())),
        _ => unreachable!(),
    }
}

#[test]
fn a_still_is_one_block_and_one_picture() {
    let (png, etok, out) = (temporary("still.png"), temporary("still.etok"), temporary("still-%d.rgb"));
    run(&format!("videotestsrc num-buffers=1 ! video/x-raw,width=96,height=64 ! pngenc ! filesink location={}", png.display()))
        .unwrap();
    for name in ["fsq", "vae"] {
        let model = model(name);
        run(&format!(
            "filesrc location={} ! pngdec ! videoconvert ! elastictokenc model={model} rate-control=tokens ! filesink location={}",
            png.display(),
            etok.display()
        ))
        .unwrap();
        let mut blocks = 0;
        let mut reader = elastictok::bitstream::StreamReader::default();
        reader.push(&std::fs::read(&etok).unwrap());
        reader.end();
        while let Some(unit) = reader.next_unit() {
            blocks += usize::from(unit.kind == elastictok::bitstream::UnitKind::Block);
        }
        assert_eq!(blocks, 1, "{name}");
        run(&format!(
            "filesrc location={} ! elastictokparse ! elastictokdec model={model} ! multifilesink location={}",
            etok.display(),
            out.display()
        ))
        .unwrap();
        let frame = |n: u32| PathBuf::from(out.display().to_string().replace("%d", &n.to_string()));
        assert_eq!(std::fs::metadata(frame(0)).unwrap().len(), 96 * 64 * 3);
        assert!(!frame(1).exists(), "{name}: one picture");
        std::fs::remove_file(frame(0)).unwrap();
    }
    std::fs::remove_file(png).unwrap();
    std::fs::remove_file(etok).unwrap();
}

#[test]
fn the_wrong_model_says_which_property_to_set() {
    for decoder in ["elastictokdec".to_owned(), format!("elastictokdec model={}", model("vae"))] {
        let result = run(&format!(
            "videotestsrc num-buffers=8 ! video/x-raw,width=64,height=48 ! elastictokenc model={} ! {decoder} ! fakesink",
            model("fsq")
        ));
        let message = result.unwrap_err();
        let bundle = elastictok::bundle::Bundle::resolve(&model("fsq")).unwrap();
        let wanted = elastictok::bundle::fingerprint_name(&bundle.fingerprint);
        assert!(message.contains("model property") && message.contains(&wanted), "{message}");
    }
}

#[test]
fn tokens_become_arrays_and_the_same_stream_again() {
    let cases = [("fsq", "target-mse=0.01"), ("vae", "target-mse=0.002 search=binary"), ("builtin", "target-psnr=46")];
    for (name, settings) in cases {
        let (etok, npz, again) = (temporary("tap.etok"), temporary("tap.npz"), temporary("again.etok"));
        let nested = name == "builtin";
        let model = if nested { name.to_owned() } else { model(name) };
        let source = "videotestsrc pattern=ball num-buffers=42 ! video/x-raw,width=100,height=60,framerate=30/1 ! videoconvert";
        let encoder = format!("elastictokenc model={model} key-int-max=16 {settings}");
        run(&format!("{source} ! {encoder} ! filesink location={}", etok.display())).unwrap();
        token_tap::read(&format!("{source} ! {encoder}"), &model, &npz).unwrap();
        token_tap::write(&npz, &model, &again).unwrap();
        let file = std::fs::read(&etok).unwrap();
        assert_eq!(std::fs::read(&again).unwrap(), file, "{name}: from the encoder");
        token_tap::read(&format!("filesrc location={} ! elastictokparse", etok.display()), &model, &npz).unwrap();
        token_tap::write(&npz, &model, &again).unwrap();
        assert_eq!(std::fs::read(&again).unwrap(), file, "{name}: from the file");
        let mut arrays = npyz::npz::NpzArchive::open(&npz).unwrap();
        let blocks = if nested { 21 } else { 11 };
        assert_eq!(arrays.by_name("counts").unwrap().unwrap().shape(), [blocks, 4, 7]);
        if nested {
            assert_eq!(arrays.by_name("indices").unwrap().unwrap().shape()[..4], [blocks, 4, 4, 7]);
            assert_eq!(arrays.by_name("motion").unwrap().unwrap().shape(), [blocks, 5, 4, 7]);
        }
        let pts: Vec<i64> = arrays.by_name("pts").unwrap().unwrap().into_vec().unwrap();
        assert_eq!(pts[1], 33_333_333);
        if !nested {
            assert_eq!((pts[42], pts[43]), (-1, -1), "the last block has two frames");
        }
        let other = if name == "vae" { "builtin".to_owned() } else { self::model("vae") };
        assert!(token_tap::write(&npz, &other, &again).is_err());
        for path in [etok, npz, again] {
            std::fs::remove_file(path).unwrap();
        }
    }
}

/// The official code's binary search through the elements, twice over: after four blocks it starts anew.
#[test]
#[ignore = "needs the official fixtures; tests/run.sh runs it where they are"]
fn an_official_checkpoint_streams_number_for_number() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = std::env::var_os("ELASTICTOK_FIXTURES")
        .map_or(here.join("../../shared/fixtures/official"), PathBuf::from)
        .join("binary_search");
    let bundles = std::env::var_os("ELASTICTOK_FIXTURE_BUNDLES").expect("ELASTICTOK_FIXTURE_BUNDLES is set");
    let bundle = PathBuf::from(bundles).join("binary_search");
    let mut data = npyz::npz::NpzArchive::open(folder.join("data.npz")).unwrap();
    let frames: Vec<u8> = data.by_name("frames").unwrap().unwrap().into_vec().unwrap();
    let kept: Vec<i32> = data.by_name("run0_kept").unwrap().unwrap().into_vec().unwrap();
    let recon: Vec<u8> = data.by_name("run0_recon_u8").unwrap().unwrap().into_vec().unwrap();
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let threshold = config.split("\"threshold\": ").nth(1).unwrap().split(',').next().unwrap();
    let caps = raw_caps("RGB", 32, 32, RATE);
    let mut h = encoder(&caps, "packetized", &format!("model={} search=binary target-mse={threshold}", bundle.display()));
    let bytes = 32 * 32 * 3;
    for (i, frame) in frames.chunks_exact(bytes).chain(frames.chunks_exact(bytes)).enumerate() {
        let mut buffer = gst::Buffer::from_slice(frame.to_vec());
        stamp(&mut buffer, i as u64, RATE);
        h.push(buffer).unwrap();
    }
    let packets = drain(&mut h);
    let stream = h.sinkpad().unwrap().current_caps().unwrap();
    let header = stream.structure(0).unwrap().get::<gst::Buffer>("codec_data").unwrap();
    let header = elastictok::bitstream::SequenceHeader::parse(&header.map_readable().unwrap()).unwrap();
    let loaded = elastictok::bundle::Bundle::load(&bundle).unwrap();
    let mut reader = elastictok::codec::TokenReader::new(&loaded, &header).unwrap();
    let counts: Vec<i32> = packets.iter().map(|p| reader.read(&p.map_readable().unwrap(), None).unwrap().counts[0]).collect();
    assert_eq!(counts, [&kept[..], &kept[..]].concat());
    let description = format!("elastictokdec execution-provider=cpu threads=1 model={}", bundle.display());
    let mut d = gst_check::Harness::with_element(&gst::parse::launch(&description).unwrap(), Some("sink"), Some("src"));
    d.set_src_caps(stream);
    packets.into_iter().for_each(|p| assert!(d.push(p).is_ok()));
    d.push_event(gst::event::Eos::new());
    let made = drain(&mut d);
    assert_eq!(made.len(), 32);
    for (i, frame) in made.iter().enumerate() {
        let wanted = &recon[i % 16 * bytes..][..bytes];
        let frame = frame.map_readable().unwrap();
        assert!(frame.iter().zip(wanted).all(|(a, b)| a.abs_diff(*b) <= 1), "frame {i}");
    }
}
