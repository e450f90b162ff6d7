// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the debug log has: a line for each block, and what the core and ONNX Runtime say.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::{Arc, Mutex};

use common::*;
use gst::prelude::*;

const RATE: (i32, i32) = (30, 1);

type Lines = Arc<Mutex<Vec<(String, gst::DebugLevel, String)>>>;

fn of(lines: &Lines, category: &str, level: gst::DebugLevel) -> Vec<String> {
    let lines = lines.lock().unwrap();
    lines.iter().filter(|(c, l, _)| c == category && *l == level).map(|(_, _, text)| text.clone()).collect()
}

/// The number behind `name` in a line.
fn number(line: &str, name: &str) -> f64 {
    let at = line.find(&format!("{name} ")).unwrap_or_else(|| panic!("no {name} in: {line}"));
    line[at + name.len() + 1..].split([',', ' ']).next().unwrap().parse().unwrap_or_else(|e| panic!("{name}: {e} in: {line}"))
}

// One test: thresholds and ONNX Runtime's level are the process's.
#[test]
fn blocks_and_onnx_runtime_are_in_the_debug_log() {
    init();
    assert_eq!(log::max_level(), log::LevelFilter::Off, "a plugin that is linked statically leaves the program's logger alone");
    let lines = Lines::default();
    let sink = lines.clone();
    gst::log::remove_default_log_function();
    gst::log::add_log_function(move |category, level, _, _, _, _, message| {
        let text = message.get().map(|text| text.to_string()).unwrap_or_default();
        sink.lock().unwrap().push((category.name().to_owned(), level, text));
    });
    gst::log::set_threshold_for_name("elastictok", gst::DebugLevel::Trace);
    let caps = raw_caps("I420", 64, 48, RATE);
    let (stream, packets) = encode(&caps, "packetized", "key-int-max=4", 6, RATE);
    assert!(of(&lines, "elastictokenc", gst::DebugLevel::Log).iter().all(|l| !l.starts_with("block ")), "not asked for");
    let said = of(&lines, "elastictok", gst::DebugLevel::Trace);
    assert!(said.iter().any(|l| l.starts_with("ONNX Runtime: ") && l.contains(".cc")), "{said:?}");
    assert!(of(&lines, "elastictok", gst::DebugLevel::Info).iter().any(|l| l.starts_with("ONNX Runtime from ")), "the core's");
    decode(&stream, packets);

    gst::log::set_threshold_for_name("elastictokenc", gst::DebugLevel::Log);
    gst::log::set_threshold_for_name("elastictokdec", gst::DebugLevel::Log);
    lines.lock().unwrap().clear();
    let mut h = encoder(&caps, "packetized", "key-int-max=4");
    for i in 0..5 {
        let mut buffer = picture(&caps, i);
        stamp(&mut buffer, i, RATE);
        h.push(buffer).unwrap();
    }
    h.push_event(gst::event::Eos::new());
    let stats: gst::Structure = h.element().unwrap().property("stats");
    let packets = drain(&mut h);
    let stream = h.sinkpad().unwrap().current_caps().unwrap();
    let coded: Vec<_> =
        of(&lines, "elastictokenc", gst::DebugLevel::Log).into_iter().filter(|l| l.starts_with("block ")).collect();
    assert_eq!(coded.len(), 3, "{coded:?}");
    for (i, line) in coded.iter().enumerate() {
        assert_eq!(number(line, "block"), i as f64 + 1.0);
        assert_eq!(number(line, "bits"), packets[i].size() as f64 * 8.0);
        assert_eq!(number(line, "frames"), [2.0, 2.0, 1.0][i]);
        assert!(line.contains(["key true", "key false", "key true"][i]), "{line}");
        assert!(number(line, "tokens") > 0.0 && number(line, "quantiser") > 0.0, "{line}");
        assert!(line.contains(&packets[i].pts().unwrap().to_string()) && line.contains("PSNR") && line.contains("coded in"));
    }
    let tokens: f64 = coded.iter().map(|l| number(l, "tokens")).sum();
    assert_eq!(tokens, stats.get::<u64>("tokens").unwrap() as f64);

    let mut bad = packets[1].map_readable().unwrap().to_vec();
    let end = bad.len() - 1;
    bad.truncate(end);
    let whole = packets.iter().map(|p| p.size() as f64 * 8.0).collect::<Vec<_>>();
    let mut damaged = gst::Buffer::from_slice(bad);
    damaged.make_mut().set_pts(packets[1].pts());
    decode(&stream, [packets[0].clone(), damaged, packets[2].clone()]);
    let decoded: Vec<_> =
        of(&lines, "elastictokdec", gst::DebugLevel::Log).into_iter().filter(|l| l.starts_with("block ")).collect();
    assert_eq!(decoded.len(), 3, "{decoded:?}");
    for (i, line) in decoded.iter().enumerate() {
        assert_eq!(number(line, "block"), i as f64 + 1.0);
        assert_eq!(number(line, "bits"), whole[i] - if i == 1 { 8.0 } else { 0.0 });
        assert_eq!(number(line, "frames"), [2.0, 2.0, 1.0][i]);
        assert!(line.contains(["key true", "key false", "key true"][i]), "{line}");
        assert_eq!(line.contains("damage none"), i != 1, "{line}");
        assert!(line.contains("decoded in"), "{line}");
    }
    let layers: Vec<_> = decoded.iter().map(|line| number(line, "layers")).collect();
    assert!(layers[1] < layers[0] && layers[2] > 0.0, "the damaged block lacks its last layer: {layers:?}");
}
