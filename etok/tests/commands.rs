// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every command on small clips.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::Write as _;
use std::process::Stdio;

use common::{Folder, has, read, stderr, without_pictures};

#[test]
fn a_clip_goes_there_and_back() {
    let f = Folder::new("round");
    // odd in both directions
    f.good("encode test a.etok --size 97x63 --max-frames 9 --psnr 38 --quiet");
    let info = f.info("a.etok");
    assert_eq!((info["width"].as_u64(), info["height"].as_u64()), (Some(97), Some(63)));
    assert_eq!((info["frames"].as_u64(), info["blocks"]["all"].as_u64()), (Some(9), Some(5)));
    f.good("decode a.etok a.y4m --quiet");
    let raw = read(&f.file("a.y4m"));
    let head = raw.iter().position(|&b| b == b'\n').unwrap() + 1;
    assert!(raw.starts_with(b"YUV4MPEG2 W97 H63 F30:1 "));
    assert_eq!(raw.len() - head, 9 * (6 + 97 * 63 + 2 * 49 * 32));
    // the same by way of a pipe
    assert_eq!(f.run("decode a.etok -").stdout, raw);
    // and raw video in: from a file, and from a pipe
    f.good("encode a.y4m b.etok --quiet");
    let mut piped = f.command("encode - c.etok --quiet").stdin(Stdio::piped()).spawn().unwrap();
    piped.stdin.take().unwrap().write_all(&raw).unwrap();
    assert!(piped.wait().unwrap().success());
    assert_eq!(read(&f.file("b.etok")), read(&f.file("c.etok")));
    assert_eq!(f.info("b.etok")["frames"], 9);
}

#[test]
fn the_summary_tells_rate_and_quality() {
    let f = Folder::new("summary");
    let output = f.run("encode test:ball a.etok --size 96x64 --max-frames 12 --psnr 40");
    let said = stderr(&output);
    assert!(said.starts_with("a.etok: 12 frames, 0.4 s, "), "{said}");
    assert!(said.contains(" kbit/s, PSNR ") && said.contains(" layer"), "{said}");
    let bytes = said.split(", ").find_map(|s| s.strip_suffix(" bytes")).unwrap().replace(',', "");
    assert_eq!(bytes.parse(), Ok(read(&f.file("a.etok")).len()));
}

#[test]
fn rates_layers_and_key_blocks_are_as_asked() {
    let f = Folder::new("settings");
    f.clip("low.etok", 60, "--bitrate 60");
    f.clip("high.etok", 60, "--bitrate 400 --layers 1 --key-int-max 20");
    let (low, high) = (f.info("low.etok"), f.info("high.etok"));
    assert!(low["bitrate_kbps"].as_f64() < high["bitrate_kbps"].as_f64());
    assert_eq!(high["layers"].as_array().unwrap().len(), 1);
    assert_eq!((low["blocks"]["key"].as_u64(), high["blocks"]["key"].as_u64()), (Some(1), Some(3)));
    f.good("encode test s.etok --size 64x64 --fps 10 --duration 1 --tokens 100 --quiet");
    let s = f.info("s.etok");
    assert_eq!((&s["frames"], &s["framerate"][0]), (&10.into(), &10.into()));
}

#[test]
fn info_adds_up() {
    let f = Folder::new("info");
    f.clip("a.etok", 20, "--psnr 44");
    let info = f.info("a.etok");
    assert_eq!(info["bytes"].as_u64(), Some(read(&f.file("a.etok")).len() as u64));
    assert_eq!(info["model"]["name"], "builtin");
    assert_eq!(info["damage"]["problems"], 0);
    let layers = info["layers"].as_array().unwrap();
    let bits: u64 = layers.iter().map(|l| l["bits"].as_u64().unwrap()).sum();
    assert!(bits < info["bytes"].as_u64().unwrap() * 8);
    let share: f64 = layers.iter().map(|l| l["share"].as_f64().unwrap()).sum();
    assert!((share - 1.0).abs() < 1e-9);
    let kbps: f64 = layers.iter().map(|l| l["kbps"].as_f64().unwrap()).sum();
    assert!((kbps * info["duration_s"].as_f64().unwrap() * 1e3 - bits as f64).abs() < 1.0);
    let count = |info: &serde_json::Value, name: &str| info["blocks"][name].as_u64().unwrap();
    let coarse = {
        f.clip("coarse.etok", 4, "--psnr 28");
        f.info("coarse.etok")
    };
    assert_eq!((count(&info, "layers"), count(&info, "last_left_out")), (4, 0));
    assert!(count(&coarse, "last_left_out") > 0);
    assert_eq!(count(&coarse, "last_left_out") + count(&coarse, "last_layers"), 4);
    assert!(f.good("info coarse.etok").contains("left out as too coarse for this quality"));
    let tokens = &info["tokens_per_block"];
    let t = |name: &str| tokens[name].as_f64().unwrap();
    assert!(t("least") <= t("mean") && t("mean") <= t("most") && t("most") <= t("cells") * t("tokens_per_cell"));
    let text = f.good("info a.etok");
    for row in ["96x64, 30 frames/s, I420", "10 of 2 frames, 1 key block", "damage   none"] {
        assert!(text.contains(row), "{row}: {text}");
    }
}

#[test]
fn thinning_keeps_layers_and_reaches_a_bitrate() {
    let f = Folder::new("thin");
    f.clip("a.etok", 40, "--psnr 46");
    f.good("thin a.etok one.etok --layers 1 --quiet");
    let (whole, one) = (f.info("a.etok"), f.info("one.etok"));
    assert!(whole["layers"].as_array().unwrap().len() > 1, "nothing to thin");
    assert_eq!(one["layers"].as_array().unwrap().len(), 1);
    assert_eq!(one["frames"], whole["frames"]);
    assert_eq!(f.run("thin a.etok - --layers 1 --quiet").stdout, read(&f.file("one.etok")));
    f.good("thin a.etok same.etok --bitrate 1000000 --quiet");
    assert_eq!(read(&f.file("same.etok")), read(&f.file("a.etok")));
    // the first second passes, so it takes some seconds to see
    f.clip("long.etok", 240, "--psnr 46 --key-int-max 30");
    f.good("thin long.etok first.etok --layers 1 --quiet");
    let (whole, first) = (f.info("long.etok"), f.info("first.etok"));
    let rate = |info: &serde_json::Value| info["bitrate_kbps"].as_f64().unwrap();
    assert!(rate(&first) * 1.5 < rate(&whole), "hardly anything to thin");
    let said = stderr(&f.run(&format!("thin long.etok low.etok --bitrate {}", (rate(&first) * 1.1) as u32)));
    assert!(said.starts_with("low.etok: ") && !said.contains("cannot be reached"), "{said}");
    let low = f.info("low.etok");
    assert!(rate(&first) <= rate(&low) && rate(&low) < (rate(&first) + rate(&whole)) / 2.0, "{} of {}", rate(&low), rate(&whole));
    let said = stderr(&f.run("thin long.etok least.etok --bitrate 1"));
    assert!(said.contains("cannot be reached by cutting"), "{said}");
    assert_eq!(f.info("least.etok")["bytes"].as_u64(), first["bytes"].as_u64());
    // fewer layers, other pictures
    let decode = |args: &str| f.run(&format!("decode a.etok - --quiet {args}")).stdout;
    assert_ne!(decode("--layers 1"), decode(""));
    assert_eq!(decode("--layers 1"), f.run("decode one.etok - --quiet").stdout);
}

#[test]
fn pictures_come_one_by_one() {
    let f = Folder::new("png");
    f.clip("a.etok", 5, "");
    f.good("decode a.etok first.png --quiet");
    f.good("decode a.etok all-%03d.png --quiet");
    let png = read(&f.file("first.png"));
    assert!(png.starts_with(b"\x89PNG\r\n"));
    assert_eq!(png.windows(4).filter(|w| w == b"IEND").count(), 1);
    let all: Vec<_> = (0..6).map(|i| f.file(&format!("all-00{i}.png"))).filter(|p| p.exists()).collect();
    assert_eq!(all.len(), 5);
    assert_eq!(read(&all[0]), png);
    // and a picture can be encoded
    f.good("encode first.png p.etok --quiet");
    assert_eq!(f.info("p.etok")["frames"], 1);
    assert!(f.good("info p.etok").contains("variable frame rate, I420"));
}

#[test]
fn h264_has_even_sizes_and_plays() {
    if !has("x264enc") {
        return f_missing();
    }
    let f = Folder::new("h264");
    f.good("encode test a.etok --size 97x63 --max-frames 6 --quiet");
    for name in ["a.mkv", "a.mp4"] {
        let said = stderr(&f.run(&format!("decode a.etok {name}")));
        assert!(said.contains("H.264 by x264enc"), "{said}");
        f.good(&format!("encode {name} again.etok --quiet --force"));
        let info = f.info("again.etok");
        assert_eq!((&info["width"], &info["height"], &info["frames"]), (&98.into(), &64.into(), &6.into()), "{name}");
    }
}

/// Without x264enc the error names what to install.
fn f_missing() {
    let f = Folder::new("h264-missing");
    f.clip("a.etok", 2, "");
    assert!(f.bad("decode a.etok a.mp4", 4, "a.mp4").contains("gstreamer1.0-plugins-ugly"));
}

#[test]
fn playing_shows_every_picture() {
    let f = Folder::new("play");
    f.clip("a.etok", 6, "");
    f.good("play a.etok --sink fakesink --quiet");
    f.good("play a.etok --sink fakesink --layers 1");
    f.bad("play a.etok --sink nosuchsink", 4, "");
    f.bad("play test --sink fakesink", 2, "");
    if !std::path::Path::new("/dev/dri").exists() && !std::path::Path::new("/dev/fb0").exists() {
        assert!(f.bad("play a.etok", 4, "").contains("display"));
    }
}

#[test]
fn reports_stand_alone() {
    let f = Folder::new("report");
    f.good("encode test:snow a.y4m.etok --size 97x63 --max-frames 12 --psnr 30 --quiet");
    f.good("decode a.y4m.etok a.y4m --quiet");
    f.good("encode a.y4m a.etok --psnr 40 --quiet");
    let said = stderr(&f.run("report a.etok a.y4m -o with.html"));
    assert!(!said.contains("has no picture"), "{said}");
    f.good("report a.etok -o without.html --quiet --moments 1");
    let with = String::from_utf8(read(&f.file("with.html"))).unwrap();
    let without = String::from_utf8(read(&f.file("without.html"))).unwrap();
    for page in [&with, &without] {
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("<script"), "it stands alone");
        let text = without_pictures(page);
        assert!(!text.contains("NaN") && !text.contains("inf"), "no figure is broken");
        assert!(page.contains("Tokens follow the content") && page.contains("Tokens over the picture"));
    }
    assert!(with.contains("<h2>Quality") && !without.contains("<h2>Quality"));
    let layers = f.info("a.etok")["layers"].as_array().unwrap().len();
    let pictures = |page: &str| page.matches("<img").count();
    // a grey one and its cells, for the stream and for each moment; all layers; the original
    assert_eq!(pictures(&without), 2 + (layers + 2));
    assert_eq!(pictures(&with), 2 + 3 * (1 + layers + 2));
    // PSNR is measured against the right pictures: near the target
    let psnr: f64 = with.split("luma PSNR</dt><dd>").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((37.0..44.0).contains(&psnr), "{psnr}");
}

#[test]
fn comparing_runs_what_is_installed() {
    let f = Folder::new("compare");
    f.good("encode test a.etok --size 96x64 --max-frames 12 --quiet");
    f.good("decode a.etok a.y4m --quiet");
    let json = f.good("compare a.y4m --only x264 --json --quiet -o c.html");
    let all: serde_json::Value = serde_json::from_str(&json).unwrap();
    let curves = all["clips"][0]["curves"].as_array().unwrap();
    assert_eq!(curves[0]["encoder"], "ElasticTok");
    assert_eq!(all["clips"][0]["frames"], 12);
    assert_eq!(curves.len() + all["not_installed"].as_array().unwrap().len(), 3);
    for curve in curves {
        let points = curve["points"].as_array().unwrap();
        let column = |name: &str| -> Vec<f64> { points.iter().map(|p| p[name].as_f64().unwrap()).collect() };
        let rises = |v: Vec<f64>| v.windows(2).all(|w| w[0] <= w[1]);
        assert!(rises(column("bytes")) && rises(column("psnr")), "{curve}");
    }
    // the size is that of a file of the same settings
    let command = curves[0]["points"][0].clone();
    f.good("encode a.y4m q.etok --psnr 28 --quiet");
    assert_eq!(command["bytes"].as_u64(), Some(read(&f.file("q.etok")).len() as u64));
    let page = String::from_utf8(read(&f.file("c.html"))).unwrap();
    assert!(page.contains("What was run") && page.contains("<svg") && !page.contains("NaN"));
    f.bad("compare a.y4m --only nothing", 2, "");
    f.bad("compare -", 2, "");
    f.bad("compare a.y4m -o c.html", 5, "");
}

#[test]
fn manual_and_completions_are_made() {
    let f = Folder::new("manual");
    assert!(f.good("man").contains(".TH etok 1"));
    f.good("man pages");
    assert!(f.file("pages/etok.1").exists() && f.file("pages/etok-encode.1").exists());
    assert!(f.good("completions bash").contains("_etok"));
    for command in ["", "encode", "play", "decode", "thin", "info", "report", "compare"] {
        assert!(f.good(&format!("{command} --help")).contains("Examples:"), "{command}");
    }
}
