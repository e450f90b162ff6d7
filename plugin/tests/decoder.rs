// SPDX-License-Identifier: MIT OR Apache-2.0
//! The decoder towards its neighbours: flushes, refusals, segments, requests.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use gst::prelude::*;

const RATE: (i32, i32) = (30, 1);

fn at(frame: u64) -> gst::ClockTime {
    gst::ClockTime::from_nseconds(frame * 1_000_000_000 / 30)
}

/// Packets of `frames` frames, two each.
fn stream(frames: u64, key_int_max: u32) -> (gst::Caps, Vec<gst::Buffer>) {
    encode(&raw_caps("I420", 64, 48, RATE), "packetized", &format!("key-int-max={key_int_max}"), frames, RATE)
}

/// The messages of a kind that a harness's element posted.
struct Posted(gst::Bus);

impl Posted {
    fn of(h: &gst_check::Harness) -> Self {
        let bus = gst::Bus::new();
        h.element().unwrap().set_bus(Some(&bus));
        Self(bus)
    }

    fn errors(&self) -> Vec<String> {
        std::iter::from_fn(|| self.0.pop_filtered(&[gst::MessageType::Error])).map(|m| format!("{:?}", m.view())).collect()
    }

    fn troubles(&self) -> Vec<String> {
        let kinds = [gst::MessageType::Error, gst::MessageType::Warning];
        std::iter::from_fn(|| self.0.pop_filtered(&kinds)).map(|m| format!("{:?}", m.view())).collect()
    }
}

/// Has the element's source pad flush just as something of `kind` comes in, once.
fn flush_when(
    h: &gst_check::Harness,
    kind: gst::PadProbeType,
    wanted: impl Fn(&gst::PadProbeInfo<'_>) -> bool + Send + Sync + 'static,
) {
    let element = h.element().unwrap();
    let src = element.static_pad("src").unwrap();
    let done = AtomicBool::new(false);
    element.static_pad("sink").unwrap().add_probe(kind, move |_, info| {
        if wanted(info) && !done.swap(true, Ordering::Relaxed) {
            src.push_event(gst::event::FlushStart::new());
        }
        gst::PadProbeReturn::Ok
    });
}

/// A flush is over, and the stream goes on.
fn stop_flushing(h: &mut gst_check::Harness) {
    h.element().unwrap().static_pad("src").unwrap().push_event(gst::event::FlushStop::new(false));
    h.push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
}

#[test]
fn a_flush_while_caps_arrive_is_no_error() {
    let (caps, packets) = stream(4, 0);
    let mut h = harness("elastictokdec execution-provider=cpu threads=1");
    let posted = Posted::of(&h);
    flush_when(&h, gst::PadProbeType::EVENT_DOWNSTREAM, |info| info.event().is_some_and(|e| e.type_() == gst::EventType::Caps));
    h.set_src_caps(caps);
    stop_flushing(&mut h);
    for packet in packets {
        h.push(packet).unwrap();
    }
    assert_eq!(drain(&mut h).len(), 4);
    assert!(h.sinkpad().unwrap().current_caps().is_some());
    assert_eq!(posted.troubles(), [""; 0]);
}

#[test]
fn a_flush_while_a_picture_is_due_is_no_error() {
    let (caps, packets) = stream(4, 2);
    let mut h = decoder(&caps);
    let posted = Posted::of(&h);
    flush_when(&h, gst::PadProbeType::BUFFER, |_| true);
    assert_eq!(h.push(packets[0].clone()), Err(gst::FlowError::Flushing));
    stop_flushing(&mut h);
    for packet in packets {
        h.push(packet).unwrap();
    }
    assert_eq!(drain(&mut h).len(), 4);
    assert_eq!(posted.troubles(), [""; 0]);
}

#[test]
fn flushes_and_stops_while_a_file_starts_are_no_errors() {
    let path = std::env::temp_dir().join(format!("elastictok-{}-start.etok", std::process::id()));
    let (_, packets) = encode(&raw_caps("I420", 96, 64, RATE), "byte-stream", "key-int-max=10", 60, RATE);
    std::fs::write(&path, packets.iter().flat_map(|p| p.map_readable().unwrap().to_vec()).collect::<Vec<_>>()).unwrap();
    let description = format!("filesrc location={} ! elastictokparse ! elastictokdec ! fakesink name=out", path.display());
    for i in 0..24 {
        let p = gst::parse::launch(&description).unwrap().downcast::<gst::Pipeline>().unwrap();
        let errors = Arc::new(Mutex::new(Vec::new()));
        let seen = errors.clone();
        p.bus().unwrap().set_sync_handler(move |_, message| {
            if let gst::MessageView::Error(e) = message.view() {
                seen.lock().unwrap().push(format!("{e:?}"));
            }
            gst::BusSyncReply::Drop
        });
        p.set_state(gst::State::Paused).unwrap();
        std::thread::sleep(Duration::from_millis(4 * i));
        let seek = i % 2 == 0;
        if seek && p.seek_simple(gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE, at(30)).is_ok() {
            let (result, _, _) = p.state(gst::ClockTime::from_seconds(60));
            result.unwrap();
            let sample: gst::Sample = p.by_name("out").unwrap().property("last-sample");
            // Where the seek came before the file was known, it is refused.
            assert!([Some(at(30)), Some(at(0))].contains(&sample.buffer().unwrap().pts()), "a picture after try {i}");
        }
        p.set_state(gst::State::Null).unwrap();
        assert_eq!(*errors.lock().unwrap(), [""; 0], "try {i}, seek: {seek}");
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn what_is_no_packets_is_refused_with_advice() {
    let (_, packets) = stream(4, 0);
    for caps in [stream_caps("byte-stream"), gst::Caps::new_empty_simple("video/x-elastictok")] {
        let mut h = harness("elastictokdec");
        let posted = Posted::of(&h);
        h.set_src_caps(caps.clone());
        assert_eq!(h.push(packets[0].clone()), Err(gst::FlowError::NotNegotiated), "{caps}");
        let errors = posted.errors();
        assert!(!errors.is_empty() && errors.iter().all(|e| e.contains("put elastictokparse before")), "{caps}: {errors:?}");
    }
}

#[test]
fn every_picture_is_a_frame_of_its_own() {
    let (caps, packets) = stream(9, 0);
    let mut h = decoder(&caps);
    let element = h.element().unwrap();
    let pads = ["sink", "src"].map(|name| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let list = seen.clone();
        element.static_pad(name).unwrap().add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let buffer = info.buffer().unwrap();
            list.lock().unwrap().push((buffer.pts(), buffer.duration(), buffer.is_writable()));
            gst::PadProbeReturn::Ok
        });
        seen
    });
    for packet in packets {
        h.push(packet).unwrap();
    }
    assert_eq!(pads[0].lock().unwrap().len(), 5, "only packets pass the sink pad");
    let shown = pads[1].lock().unwrap();
    // Writable: downstream may draw into the picture without a copy.
    let expected: Vec<_> = (0..9).map(|n| (Some(at(n)), Some(at(n + 1) - at(n)), true)).collect();
    assert_eq!(*shown, expected);
}

#[test]
fn every_picture_has_its_own_metas() {
    let (caps, mut packets) = stream(6, 0);
    let caption = |buffer: &mut gst::BufferRef, n: u8| {
        gst_video::VideoCaptionMeta::add(buffer, gst_video::VideoCaptionType::Cea608Raw, &[n, n]);
    };
    // As the encoder sends them, from a sender that knows no metas of later frames, and without any.
    caption(packets[0].make_mut(), 10);
    let mut carrier = gst::Buffer::new();
    caption(carrier.make_mut(), 11);
    let block = packets[0].make_mut();
    gst::meta::CustomMeta::add(block, "ElasticTokFrameMeta").unwrap().mut_structure().set("1", carrier);
    caption(packets[1].make_mut(), 12);
    let mut h = decoder(&caps);
    for packet in packets {
        h.push(packet).unwrap();
    }
    let captions: Vec<Vec<u8>> = drain(&mut h)
        .iter()
        .map(|b| b.iter_meta::<gst_video::VideoCaptionMeta>().flat_map(|m| m.data().to_vec()).collect())
        .collect();
    assert_eq!(captions, [&[10, 10][..], &[11, 11], &[12, 12], &[], &[], &[]]);
}

#[test]
fn key_unit_trick_mode_shows_a_picture_per_key_block() {
    let (caps, packets) = stream(24, 6);
    let mut h = decoder(&caps);
    let posted = Posted::of(&h);
    let segment = |flags| {
        let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
        segment.set_flags(flags);
        gst::event::Segment::new(&segment)
    };
    h.push_event(segment(gst::SegmentFlags::TRICKMODE | gst::SegmentFlags::TRICKMODE_KEY_UNITS));
    for packet in &packets {
        h.push(packet.clone()).unwrap();
    }
    let times: Vec<_> = drain(&mut h).iter().map(|b| b.pts().unwrap()).collect();
    assert_eq!(times, [at(0), at(6), at(12), at(18)]);
    // Back to normal in the middle: what lacks its context is dropped in silence, and a key block is asked for.
    h.push_event(segment(gst::SegmentFlags::empty()));
    for packet in &packets[5..] {
        h.push(packet.clone()).unwrap();
    }
    let times: Vec<_> = drain(&mut h).iter().map(|b| b.pts().unwrap()).collect();
    assert_eq!(times, (12..24).map(at).collect::<Vec<_>>());
    assert!(key_requests(&mut h) > 0);
    assert_eq!(posted.troubles(), [""; 0]);
}

#[test]
fn late_pictures_are_decoded_but_not_shown() {
    let (caps, packets) = stream(12, 0);
    let all = decode(&caps, packets.clone());
    for qos in [true, false] {
        let mut h = decoder(&caps);
        h.element().unwrap().set_property("qos", qos);
        h.push(packets[0].clone()).unwrap();
        drain(&mut h);
        let event = gst::event::Qos::builder(gst::QOSType::Underflow, 1.0, 0).timestamp(at(7)).build();
        h.element().unwrap().static_pad("src").unwrap().send_event(event);
        for packet in &packets[1..] {
            h.push(packet.clone()).unwrap();
        }
        let shown = drain(&mut h);
        let expected = if qos { &all[7..] } else { &all[2..] };
        let content = |b: &gst::Buffer| (b.pts(), b.map_readable().unwrap().to_vec());
        assert!(shown.iter().map(content).eq(expected.iter().map(content)), "qos={qos}: {}", shown.len());
    }
}

#[test]
fn playing_backwards_is_refused() {
    let (caps, packets) = stream(4, 0);
    let mut h = decoder(&caps);
    let posted = Posted::of(&h);
    h.push(packets[0].clone()).unwrap();
    let src = h.element().unwrap().static_pad("src").unwrap();
    let seek = |rate| {
        let none = gst::ClockTime::NONE;
        gst::event::Seek::new(rate, gst::SeekFlags::FLUSH, gst::SeekType::Set, gst::ClockTime::ZERO, gst::SeekType::None, none)
    };
    while h.try_pull_upstream_event().is_some() {}
    src.send_event(seek(2.0));
    assert_eq!(h.try_pull_upstream_event().unwrap().type_(), gst::EventType::Seek);
    assert!(!src.send_event(seek(-1.0)));
    assert!(h.try_pull_upstream_event().is_none());
    assert_eq!(posted.errors(), [""; 0]);
    let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
    segment.set_rate(-1.0);
    segment.set_stop(at(4));
    h.push_event(gst::event::Segment::new(&segment));
    assert!(posted.errors()[0].contains("cannot play backwards"));
}

fn key_requests(h: &mut gst_check::Harness) -> usize {
    let events = std::iter::from_fn(|| h.try_pull_upstream_event());
    events.filter(|e| gst_video::UpstreamForceKeyUnitEvent::parse(e).is_ok()).count()
}

#[test]
fn a_key_unit_is_asked_for_again_until_it_comes() {
    let (caps, packets) = stream(16, 10);
    // Key blocks 0 and 5. Blocks are lost, broken, or came before the decoder joined.
    let broken = gst::Buffer::from_slice([0xff; 9]);
    let ways: [(&str, Vec<&gst::Buffer>, Vec<&gst::Buffer>); 3] = [
        ("lost", vec![&packets[0]], vec![&packets[2], &packets[3], &packets[4]]),
        ("broken", vec![&packets[0]], vec![&broken, &packets[2], &packets[3]]),
        ("joined", vec![], vec![&packets[1], &packets[2], &packets[3]]),
    ];
    for (way, before, without) in ways {
        let mut h = decoder(&caps);
        h.element().unwrap().set_property("max-errors", -1);
        for packet in before {
            h.push(packet.clone()).unwrap();
        }
        assert_eq!(key_requests(&mut h), 0, "{way}");
        for packet in without {
            h.push(packet.clone()).unwrap();
            assert_eq!(key_requests(&mut h), 1, "{way}: each time that a quarter of a second has passed");
            std::thread::sleep(Duration::from_millis(250));
        }
        drain(&mut h);
        for packet in &packets[5..] {
            h.push(packet.clone()).unwrap();
        }
        assert_eq!(key_requests(&mut h), 0, "{way}: it is there");
        assert_eq!(drain(&mut h).len(), 6, "{way}");
        h.push(packets[2].clone()).unwrap();
        assert_eq!(key_requests(&mut h), 1, "{way}: a new loss is asked for at once");
    }
}

#[test]
fn the_base_class_may_drop_what_comes_before_a_key_block() {
    let (caps, packets) = stream(16, 10);
    let mut h = decoder(&caps);
    h.element().unwrap().set_property("automatic-request-sync-points", true);
    for packet in &packets[2..] {
        h.push(packet.clone()).unwrap();
    }
    assert!(key_requests(&mut h) > 0);
    let times: Vec<_> = drain(&mut h).iter().map(|b| b.pts().unwrap()).collect();
    assert_eq!(times, (10..16).map(at).collect::<Vec<_>>());
}

#[test]
fn caps_change_between_key_blocks() {
    let (one, first) = stream(5, 0);
    let (two, second) = encode(&raw_caps("I420", 80, 32, RATE), "packetized", "", 4, RATE);
    let mut h = decoder(&one);
    for (caps, packets) in [(&one, &first), (&two, &second), (&one, &first)] {
        h.set_src_caps(caps.clone());
        for packet in packets {
            h.push(packet.clone()).unwrap();
        }
    }
    let sizes: Vec<_> = drain(&mut h).iter().map(|b| b.size()).collect();
    assert_eq!(sizes, [[4608; 5].as_slice(), &[3840; 4], &[4608; 5]].concat());
}

#[test]
fn gaps_pass_in_order_and_nothing_is_an_error() {
    let (caps, packets) = stream(4, 0);
    let mut h = decoder(&caps);
    let posted = Posted::of(&h);
    h.push_event(gst::event::Gap::builder(at(0)).duration(at(1)).build());
    h.push(packets[0].clone()).unwrap();
    h.push(gst::Buffer::new()).unwrap();
    h.push_event(gst::event::Gap::builder(at(2)).build());
    h.push(packets[1].clone()).unwrap();
    assert_eq!(drain(&mut h).len(), 4);
    let gaps = std::iter::from_fn(|| h.try_pull_event()).filter(|e| e.type_() == gst::EventType::Gap).count();
    assert_eq!(gaps, 2);
    assert_eq!(posted.troubles(), [""; 0]);
}

#[test]
fn an_end_without_a_picture_is_an_error_only_if_something_came() {
    let (caps, packets) = stream(6, 0);
    for came in [false, true] {
        let mut h = decoder(&caps);
        let posted = Posted::of(&h);
        if came {
            h.push(packets[1].clone()).unwrap();
        }
        h.push_event(gst::event::Eos::new());
        assert_eq!(posted.errors().len(), usize::from(came));
    }
}
