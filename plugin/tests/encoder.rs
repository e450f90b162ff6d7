// SPDX-License-Identifier: MIT OR Apache-2.0
//! The encoder towards its neighbours: properties, events, queries, messages.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::*;
use gst::prelude::*;

const RATE: (i32, i32) = (30000, 1001);

fn small() -> gst::Caps {
    raw_caps("I420", 64, 48, RATE)
}

fn push(h: &mut gst_check::Harness, caps: &gst::Caps, frames: std::ops::Range<u64>) {
    for i in frames {
        let mut buffer = picture(caps, i);
        stamp(&mut buffer, i, RATE);
        h.push(buffer).unwrap();
    }
}

fn at(n: u64) -> gst::ClockTime {
    gst::ClockTime::from_nseconds(n * 1_001_000_000_000 / 30000)
}

#[test]
fn every_property_is_described_and_live_ones_are_as_promised() {
    init();
    let live = ["target-psnr", "target-mse", "bitrate", "base-bitrate", "tokens", "min-tokens", "max-tokens"];
    let named = ["model", "execution-provider", "device-id", "threads", "rate-control", "search", "key-int-max", "stats"];
    let named = named.iter().chain(&["layers", "layer-ratio", "drift-free"]);
    let playing = gst::PARAM_FLAG_MUTABLE_PLAYING;
    let enc = gst::ElementFactory::make("elastictokenc").build().unwrap();
    for name in live.iter().chain(named) {
        let p = enc.find_property(name).unwrap_or_else(|| panic!("no property {name}"));
        assert!(!p.nick().is_empty() && p.blurb().is_some_and(|b| b.len() > 10), "{name}");
        assert_eq!(p.flags().contains(playing), live.contains(name), "{name}");
    }
    let dec = gst::ElementFactory::make("elastictokdec").build().unwrap();
    for name in ["model", "execution-provider", "device-id", "threads", "max-layers", "stats"] {
        let p = dec.find_property(name).unwrap_or_else(|| panic!("no property {name}"));
        assert!(!p.nick().is_empty() && p.blurb().is_some_and(|b| b.len() > 10), "{name}");
        assert_eq!(p.flags().contains(playing), name == "max-layers", "{name}");
    }
    enc.set_property_from_str("rate-control", "bitrate");
    enc.set_property_from_str("search", "binary");
    enc.set_property_from_str("execution-provider", "cpu");
    assert_eq!(enc.property::<String>("model"), "builtin");
    assert_eq!(enc.property::<gst::Structure>("stats").n_fields(), 0);
}

#[test]
fn frames_that_share_a_buffer_are_not_reported_as_dropped() {
    let caps = small();
    let mut h = encoder(&caps, "packetized", "");
    let bus = gst::Bus::new();
    h.element().unwrap().set_bus(Some(&bus));
    push(&mut h, &caps, 0..7);
    h.push_event(gst::event::Eos::new());
    assert_eq!(drain(&mut h).len(), 4);
    let messages: Vec<_> = bus.iter().map(|m| m.type_()).collect();
    assert!(!messages.contains(&gst::MessageType::Qos), "{messages:?}");
}

#[test]
fn latency_is_what_a_block_waits() {
    let caps = small();
    let mut h = encoder(&caps, "packetized", "");
    push(&mut h, &caps, 0..1);
    assert_eq!(h.query_latency(), Some(gst::ClockTime::from_nseconds(33_366_667)));
}

/// Key blocks, and how many frames each has by its duration.
fn keys(packets: &[gst::Buffer]) -> Vec<(gst::ClockTime, u64)> {
    let keys = packets.iter().filter(|p| !p.flags().contains(gst::BufferFlags::DELTA_UNIT));
    keys.map(|p| (p.pts().unwrap(), (p.duration().unwrap().nseconds() + 1_000_000) / at(1).nseconds())).collect()
}

/// Requests that were answered: count, headers, running time.
fn announced(h: &mut gst_check::Harness) -> Vec<(u32, bool, Option<gst::ClockTime>)> {
    let events = std::iter::from_fn(|| h.try_pull_event());
    let events = events.filter_map(|e| gst_video::DownstreamForceKeyUnitEvent::parse(e.downcast_ref_custom()?).ok());
    events.map(|e| (e.count, e.all_headers, e.running_time)).collect()
}

fn ask(h: &mut gst_check::Harness, count: u32, time: Option<gst::ClockTime>) {
    let event = gst_video::UpstreamForceKeyUnitEvent::builder().all_headers(true).count(count).running_time(time).build();
    assert!(h.push_upstream_event(event));
}

#[test]
fn a_key_unit_asked_for_from_downstream_comes_at_once_and_is_announced() {
    let caps = small();
    let mut h = encoder(&caps, "byte-stream", "key-int-max=0");
    push(&mut h, &caps, 0..3);
    let mut packets = drain(&mut h);
    assert_eq!(announced(&mut h), []);
    // A frame waits for its block to fill: it comes out before the next one is there.
    ask(&mut h, 7, None);
    packets.push(h.pull().unwrap());
    assert_eq!(keys(&packets), [(at(0), 2), (at(2), 1)]);
    assert_eq!(announced(&mut h), [(7, true, Some(at(2)))]);
    // None waits: the next one comes out alone.
    push(&mut h, &caps, 3..5);
    ask(&mut h, 8, None);
    push(&mut h, &caps, 5..6);
    packets.extend([h.pull().unwrap(), h.pull().unwrap()]);
    assert_eq!(keys(&packets)[2..], [(at(5), 1)]);
    // Nobody waits for a key unit at a time, so it has all its frames.
    ask(&mut h, 9, Some(at(8)));
    push(&mut h, &caps, 6..10);
    h.push_event(gst::event::Eos::new());
    packets.extend(drain(&mut h));
    assert_eq!(keys(&packets)[3..], [(at(8), 2)]);
    assert_eq!(announced(&mut h), [(8, true, Some(at(5))), (9, true, Some(at(8)))]);
    for p in packets {
        let key = !p.flags().contains(gst::BufferFlags::DELTA_UNIT);
        let data = p.map_readable().unwrap();
        let elastictok::bitstream::Parsed::Unit { kind, .. } = elastictok::bitstream::parse_unit(&data, 1 << 20) else {
            panic!()
        };
        assert_eq!(kind == elastictok::bitstream::UnitKind::Sequence, key, "a sequence header before key blocks only");
    }
}

#[test]
fn requests_for_key_units_are_throttled_where_that_is_asked_for() {
    let caps = small();
    let mut h = encoder(&caps, "packetized", "key-int-max=0 min-force-key-unit-interval=200000000");
    for n in 0..16 {
        ask(&mut h, n, None);
        push(&mut h, &caps, u64::from(n)..u64::from(n) + 1);
    }
    let keys = keys(&drain(&mut h));
    assert!(keys.iter().skip(1).all(|key| key.1 == 1), "they go out alone: {keys:?}");
    assert!(keys.windows(2).all(|w| w[1].0 - w[0].0 >= gst::ClockTime::from_mseconds(200)), "{keys:?}");
    assert!((2..=4).contains(&keys.len()), "{keys:?}");
}

trait CustomEvent {
    fn downcast_ref_custom(&self) -> Option<&gst::EventRef>;
}

impl CustomEvent for gst::Event {
    fn downcast_ref_custom(&self) -> Option<&gst::EventRef> {
        (self.type_() == gst::EventType::CustomDownstream).then_some(self.as_ref())
    }
}

#[test]
fn a_new_segment_or_a_gap_ends_the_block() {
    let caps = small();
    for event in [
        gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()),
        gst::event::Gap::builder(at(3)).duration(at(20)).build(),
    ] {
        let mut h = encoder(&caps, "packetized", "");
        push(&mut h, &caps, 0..3);
        assert_eq!(h.buffers_in_queue(), 1);
        h.push_event(event);
        assert_eq!(h.buffers_in_queue(), 2);
        push(&mut h, &caps, 3..5);
        let times: Vec<_> = drain(&mut h).iter().map(|p| (p.pts().unwrap(), p.duration().unwrap())).collect();
        assert_eq!(times, [(at(0), at(2)), (at(2), at(3) - at(2)), (at(3), at(5) - at(3))]);
    }
}

#[test]
fn durations_cover_the_block_even_with_gaps_in_it() {
    let caps = raw_caps("I420", 32, 32, (0, 1));
    let mut h = encoder(&caps, "packetized", "");
    for (pts, duration) in [(0, Some(10)), (500, Some(20)), (600, None), (610, None)] {
        let mut b = picture(&caps, 0);
        let m = b.get_mut().unwrap();
        m.set_pts(gst::ClockTime::from_mseconds(pts));
        m.set_duration(duration.map(gst::ClockTime::from_mseconds));
        h.push(b).unwrap();
    }
    let packets = drain(&mut h);
    assert_eq!(packets[0].duration(), Some(gst::ClockTime::from_mseconds(520)));
    assert_eq!(packets[1].duration(), None);
}

#[test]
fn a_picture_that_changes_at_once_begins_a_block() {
    let caps = small();
    let mut h = encoder(&caps, "packetized", "");
    for (n, shown) in [0, 30, 30].into_iter().enumerate() {
        let mut b = picture(&caps, shown);
        stamp(&mut b, n as u64, RATE);
        h.push(b).unwrap();
    }
    let times: Vec<_> = drain(&mut h).iter().map(|p| (p.pts().unwrap(), p.duration().unwrap())).collect();
    assert_eq!(times, [(at(0), at(1)), (at(1), at(3) - at(1))]);
}

#[test]
fn tags_name_the_codec_and_follow_the_bitrate() {
    let caps = small();
    let mut h = encoder(&caps, "packetized", "rate-control=bitrate bitrate=300");
    push(&mut h, &caps, 0..2);
    h.element().unwrap().set_property("bitrate", 500u32);
    push(&mut h, &caps, 2..4);
    let mut rates = Vec::new();
    while let Some(event) = h.try_pull_event() {
        if let gst::EventView::Tag(tag) = event.view() {
            assert_eq!(tag.tag().get::<gst::tags::VideoCodec>().unwrap().get(), "ElasticTok");
            rates.extend(tag.tag().get::<gst::tags::NominalBitrate>().map(|t| t.get()));
            assert_eq!(tag.tag().get::<gst::tags::MaximumBitrate>().map(|t| t.get()), rates.last().copied());
        }
    }
    assert_eq!(rates, [300_000, 500_000]);
}

/// What the element says on the bus when it is given these caps.
fn said(caps: gst::Caps) -> (Result<gst::FlowSuccess, gst::FlowError>, String) {
    init();
    let mut h = gst_check::Harness::new("elastictokenc");
    let bus = gst::Bus::new();
    h.element().unwrap().set_bus(Some(&bus));
    h.set_src_caps(caps);
    let result = h.push(gst::Buffer::with_size(64 * 64 * 4).unwrap());
    let text = bus.iter().map(|m| format!("{:?}", m.view())).collect();
    (result, text)
}

#[test]
fn what_it_cannot_take_it_refuses_with_advice() {
    for (caps, advice) in [
        (raw_caps("RGBA", 64, 64, RATE), "videoconvert"),
        (raw_caps("I420", 8, 8, RATE), "videoscale"),
        (
            {
                let mut c = raw_caps("I420", 64, 64, RATE);
                c.make_mut().set("interlace-mode", "interleaved");
                c
            },
            "deinterlace",
        ),
    ] {
        let (result, text) = said(caps);
        assert_eq!(result, Err(gst::FlowError::NotNegotiated), "{advice}");
        assert!(text.contains(advice), "{advice}: {text}");
    }
}

#[test]
fn settings_that_contradict_each_other_change_nothing() {
    let caps = small();
    let mut h = encoder(&caps, "packetized", "");
    let bus = gst::Bus::new();
    let element = h.element().unwrap();
    element.set_bus(Some(&bus));
    push(&mut h, &caps, 0..2);
    element.set_property("max-tokens", 3u32);
    element.set_property("min-tokens", 9u32);
    push(&mut h, &caps, 2..4);
    assert_eq!(drain(&mut h).len(), 2);
    let warnings: Vec<_> = bus.iter().filter(|m| m.type_() == gst::MessageType::Warning).collect();
    assert_eq!(warnings.len(), 1);
    assert!(format!("{:?}", warnings[0].view()).contains("min-tokens"));
}

#[test]
fn a_lower_bitrate_takes_hold_while_playing() {
    let caps = raw_caps("I420", 160, 96, RATE);
    let mut h = encoder(&caps, "packetized", "rate-control=bitrate bitrate=600");
    let element = h.element().unwrap();
    let bytes = |h: &mut gst_check::Harness, frames: std::ops::Range<u64>| {
        push(h, &caps, frames);
        drain(h).iter().map(|p| p.size()).sum::<usize>()
    };
    bytes(&mut h, 0..60);
    let before = bytes(&mut h, 60..120);
    element.set_property("bitrate", 100u32);
    bytes(&mut h, 120..150);
    let after = bytes(&mut h, 150..210);
    assert!(after * 3 < before, "{before} then {after} bytes in two seconds");
}

#[test]
fn a_lower_base_bitrate_takes_hold_of_the_first_layer_alone() {
    let caps = raw_caps("I420", 160, 96, RATE);
    let mut h = encoder(&caps, "packetized", "target-psnr=42 base-bitrate=100");
    let element = h.element().unwrap();
    let bytes = |h: &mut gst_check::Harness, frames: std::ops::Range<u64>| {
        let seconds = (frames.end - frames.start) as f64 * 1001.0 / 30000.0;
        let layers = || element.property::<gst::Structure>("stats").get::<gst::Array>("layer-bytes").unwrap();
        let kbits = || layers().iter().map(|v| v.get::<u64>().unwrap() as f64 * 0.008 / seconds).collect::<Vec<_>>();
        let before = kbits();
        push(h, &caps, frames);
        drain(h);
        let made: Vec<f64> = kbits().iter().zip(&before).map(|(after, before)| after - before).collect();
        (made[0], made.iter().sum::<f64>())
    };
    push(&mut h, &caps, 0..60);
    let (first, whole) = bytes(&mut h, 60..120);
    element.set_property("base-bitrate", 30u32);
    bytes(&mut h, 120..150);
    let (lower, then) = bytes(&mut h, 150..210);
    assert!((70.0..125.0).contains(&first) && (20.0..40.0).contains(&lower), "{first}, then {lower} kbit/s");
    assert!(then > 0.7 * whole && then < 1.5 * whole, "{whole}, then {then} kbit/s");
}

#[test]
fn the_element_starts_again_after_it_was_stopped() {
    init();
    let pipeline = gst::parse::launch(
        "videotestsrc num-buffers=5 ! video/x-raw,width=48,height=48 ! elastictokenc execution-provider=cpu ! fakesink name=out",
    )
    .unwrap()
    .downcast::<gst::Pipeline>()
    .unwrap();
    for _ in 0..2 {
        pipeline.set_state(gst::State::Playing).unwrap();
        let wait = gst::ClockTime::from_seconds(30);
        let end = pipeline.bus().unwrap().timed_pop_filtered(wait, &[gst::MessageType::Eos, gst::MessageType::Error]).unwrap();
        assert_eq!(end.type_(), gst::MessageType::Eos);
        pipeline.set_state(gst::State::Null).unwrap();
    }
}
