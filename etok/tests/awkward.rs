// SPDX-License-Identifier: MIT OR Apache-2.0
//! Inputs, outputs and endings that nobody hopes for.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Folder, read, stderr, without_pictures};
use gst::prelude::*;

#[test]
fn inputs_that_cannot_be_encoded() {
    let f = Folder::new("inputs");
    std::fs::write(f.file("empty"), "").unwrap();
    std::fs::write(f.file("junk"), (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>())
        .unwrap();
    std::fs::write(f.file("cut.y4m"), b"YUV4MPEG2 W64 H64 F30:1\nFRAME\nshort").unwrap();
    gst::init().unwrap();
    let sound = format!("audiotestsrc num-buffers=20 ! wavenc ! filesink location={}", f.file("sound.wav").display());
    let pipeline = gst::parse::launch(&sound).unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let bus = pipeline.bus().unwrap();
    bus.timed_pop_filtered(gst::ClockTime::from_seconds(30), &[gst::MessageType::Eos]).unwrap();
    pipeline.set_state(gst::State::Null).unwrap();

    let said = |input: &str, code| f.bad(&format!("encode {input} x.etok"), code, "x.etok");
    assert!(said("nothing.mp4", 3).contains("nothing.mp4"));
    assert!(said("empty", 3).contains("empty"));
    assert!(said(".", 3).contains("folder"));
    said("junk", 3);
    assert!(said("cut.y4m", 3).contains("cut short"));
    assert!(said("sound.wav", 3).contains("no video"));
    assert!(said("-", 3).contains("standard input is empty"));
    assert!(said("camera:/dev/nothing", 3).contains("no camera"));
    assert!(said("test:nothing", 2).contains("pattern"));
    said("file:///nothing.mp4", 3);
    assert!(f.bad("encode test x.etok --model nowhere", 4, "x.etok").contains("bundle"));
    let options = [
        "--layer-ratio 0.5",
        "--layer-ratio 5",
        "--layer-ratio NaN",
        "--layers 0",
        "--psnr 99",
        "--bitrate 0",
        "--base-bitrate 0",
    ];
    for option in options {
        assert!(
            f.bad(&format!("encode test x.etok {option}"), 2, "x.etok").contains(option.split(' ').next().unwrap()),
            "{option}"
        );
    }
}

#[test]
fn streams_that_are_none() {
    let f = Folder::new("streams");
    std::fs::write(f.file("empty"), "").unwrap();
    std::fs::write(f.file("junk"), vec![0xE7; 5000]).unwrap();
    std::fs::write(f.file("raw.y4m"), b"YUV4MPEG2 W64 H64 F30:1\n").unwrap();
    for file in ["empty", "junk", "raw.y4m", "nothing"] {
        for command in
            ["info FILE", "thin FILE x --layers 1", "decode FILE x.y4m", "report FILE -o x", "play FILE --sink fakesink"]
        {
            let said = f.bad(&command.replace("FILE", file), 3, "x");
            assert!(said.contains(file), "{said}");
        }
    }
    assert!(f.bad("info raw.y4m", 3, "").contains("etok encode raw.y4m"), "the remedy");
}

#[test]
fn streams_of_other_models_name_the_remedy() {
    let f = Folder::new("models");
    let bundle = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/bundles/fsq");
    f.good(&format!("encode test a.etok --model {bundle} --size 64x64 --max-frames 8 --quiet"));
    for command in ["decode a.etok x.y4m", "play a.etok --sink fakesink", "report a.etok -o x.html"] {
        let said = f.bad(command, 4, "x");
        assert!(said.contains("--model"), "{said}");
        f.good(&format!("{command} --model {bundle} --quiet"));
    }
    assert!(f.good("info a.etok").contains("--model"));
    assert_eq!(f.info("a.etok")["tokens_per_block"], serde_json::Value::Null);
    assert!(f.good(&format!("info a.etok --model {bundle}")).contains("test-fsq"));
    f.good("thin a.etok t.etok --layers 1 --quiet");
}

#[test]
fn damaged_streams_are_saved_as_far_as_they_go() {
    let f = Folder::new("damaged");
    f.clip("a.etok", 40, "--key-int-max 10 --psnr 42");
    let whole = read(&f.file("a.etok"));
    std::fs::write(f.file("cut.etok"), &whole[..whole.len() - 20]).unwrap();
    let mut broken = whole.clone();
    let middle = broken.len() / 2;
    broken[middle..middle + 30].fill(0x55);
    std::fs::write(f.file("broken.etok"), broken).unwrap();
    // joined midway
    std::fs::write(f.file("tail.etok"), &whole[whole.len() / 3..]).unwrap();
    for file in ["cut.etok", "broken.etok", "tail.etok"] {
        let info = f.run(&format!("info {file} --json"));
        assert_eq!(info.status.code(), Some(6), "{file}");
        let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
        assert!(info["damage"]["problems"].as_u64() > Some(0), "{file}");
        assert!(info["blocks"]["decodable"].as_u64() > Some(4), "{file}");
        for command in ["report FILE -o x.html -f", "thin FILE t.etok --layers 1 -f", "decode FILE x.y4m -f"] {
            let output = f.run(&command.replace("FILE", file));
            assert!(matches!(output.status.code(), Some(0 | 6)), "{command} {file}: {}", stderr(&output));
        }
        assert!(read(&f.file("x.y4m")).len() > 8 * 96 * 64, "{file}");
    }
    assert_eq!(f.run("decode broken.etok x.y4m -f").status.code(), Some(6));
    assert_eq!(f.run("decode a.etok x.y4m -f").status.code(), Some(0));
}

#[test]
fn outputs_that_cannot_be_written() {
    let f = Folder::new("outputs");
    f.clip("a.etok", 4, "");
    std::fs::write(f.file("old"), "old").unwrap();
    for command in ["encode test old --max-frames 2", "thin a.etok old --layers 1", "report a.etok -o old"] {
        assert!(f.bad(command, 5, "").contains("--force"), "{command}");
    }
    assert_eq!(read(&f.file("old")), b"old");
    f.bad("decode a.etok nowhere/x.y4m", 5, "");
    assert!(f.bad("encode test nowhere/x.etok --max-frames 2", 5, "").contains("mkdir"));
    // no one may write here
    f.bad("encode test /proc/x.etok --max-frames 4 --size 64x64", 5, "");
    f.bad("decode a.etok /proc/x.mkv", 5, "");
    f.bad("decode a.etok x.avi", 2, "x.avi");
    f.bad("decode a.etok x%s.png", 2, "");
    let own = read(&f.file("a.etok"));
    assert!(f.bad("thin a.etok a.etok --layers 1 --force", 5, "").contains("input"));

    assert_eq!(read(&f.file("a.etok")), own);
    f.good("decode a.etok n-%d.png --quiet");
    f.bad("decode a.etok n-%d.png", 5, "");
}

#[test]
fn a_reader_that_goes_away_is_no_news() {
    let f = Folder::new("pipe");
    f.clip("a.etok", 4, "");
    for args in ["encode test - --size 64x64 --duration 60", "decode a.etok -", "info a.etok", "thin a.etok - --layers 1", "man"]
    {
        // It is gone before the program starts, so that no output fits into the pipe before.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = f.command(args).stdout(writer).output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(141), "{args}: {said}");
        assert_eq!(said, "", "{args}");
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_file_that_plays() {
    let f = Folder::new("interrupt");
    let interrupt = |args: &str, file: &str, bytes: u64| {
        let mut child = f.command(args).stderr(Stdio::piped()).spawn().unwrap();
        let started = Instant::now();
        while std::fs::metadata(f.file(file)).map_or(0, |m| m.len()) < bytes {
            assert!(started.elapsed() < Duration::from_secs(60), "{args}: nothing is written");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
        assert!(said.starts_with(file), "it says what was written: {said}");
    };
    interrupt("encode test:snow a.etok --size 64x64 --duration 100000", "a.etok", 100_000);
    let info = f.info("a.etok");
    assert_eq!(info["damage"]["problems"], 0);
    assert!(info["frames"].as_u64() > Some(2));
    f.good("play a.etok --sink fakevideosink --quiet --layers 1");
}

#[test]
fn very_short_clips_have_reports_too() {
    let f = Folder::new("short");
    f.clip("one.etok", 1, "");
    f.clip("a.etok", 2, "");
    f.good("decode one.etok one.png --quiet");
    f.good("encode one.png still.etok --quiet");
    for (file, original) in [("one.etok", ""), ("a.etok", ""), ("still.etok", "one.png")] {
        f.good(&format!("report {file} {original} -o x.html -f --quiet"));
        let page = String::from_utf8(read(&f.file("x.html"))).unwrap();
        assert!(!without_pictures(&page).contains("NaN") && page.contains("Tokens over the picture"), "{file}");
        assert!(!page.contains("<svg"), "{file}: one block has no course of time to plot");
    }
}
