// SPDX-License-Identifier: MIT OR Apache-2.0
//! The parser by itself: streams are made here, without a model.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::{Arc, Mutex};

use common::*;
use elastictok::bitstream::{BlockHeader, FrameTime, SequenceHeader, StreamWriter, Timeline};
use elastictok::frame::PixelFormat;
use gst::prelude::*;

const MS: u64 = 1_000_000;

fn ms(ms: u64) -> gst::ClockTime {
    gst::ClockTime::from_mseconds(ms)
}

fn header(width: u32) -> SequenceHeader {
    SequenceHeader {
        fingerprint: [1; 8],
        width,
        height: 64,
        framerate: (50, 1),
        pixel_aspect_ratio: (1, 1),
        colorimetry: [1, 1, 1, 1],
        chroma_site: 0,
        layers: 4,
        layer_ratio: 8,
        pixel_format: PixelFormat::I420,
        block_length: 2,
    }
}

/// A stream of blocks without layers, each of two frames of 20 ms.
#[derive(Clone, Copy)]
struct Spec {
    width: u32,
    /// Time stamp of the first frame in ms.
    first: u64,
    blocks: u32,
    /// Blocks from one key block to the next.
    interval: u32,
    /// Epoch of the first key block.
    epoch: u8,
}

const PLAIN: Spec = Spec { width: 64, first: 0, blocks: 8, interval: 4, epoch: 0 };

impl Spec {
    fn packets(self) -> Vec<Vec<u8>> {
        let header = header(self.width);
        let mut timeline = Timeline::new(header.framerate, header.block_length).unwrap();
        let block = |n: u32| {
            let position = n % self.interval;
            let at = |i: u64| FrameTime { pts: Some((self.first + 20 * (2 * u64::from(n) + i)) * MS), duration: Some(20 * MS) };
            let timing = timeline.encode(position, &[at(0), at(1)]).unwrap();
            let epoch = self.epoch.wrapping_add((n / self.interval) as u8);
            let block = BlockHeader {
                key: position == 0,
                epoch,
                position,
                left_out: 0,
                frames: 2,
                quantiser: 32,
                base_quantiser: None,
                timing,
            };
            let mut data = bytes::BytesMut::new();
            block.write(2, &mut data).unwrap();
            data.to_vec()
        };
        (0..self.blocks).map(block).collect()
    }

    /// One byte string for each block, with the sequence header before key blocks.
    fn units(self) -> Vec<Vec<u8>> {
        let mut writer = StreamWriter::new(&header(self.width)).unwrap();
        let unit = |block: Vec<u8>| {
            let mut out = bytes::BytesMut::new();
            writer.write(&block, &mut out).unwrap();
            out.to_vec()
        };
        self.packets().into_iter().map(unit).collect()
    }

    fn bytes(self) -> Vec<u8> {
        self.units().concat()
    }

    fn caps(self) -> gst::Caps {
        init();
        let mut caps = stream_caps("packetized");
        caps.make_mut().set("codec_data", gst::Buffer::from_slice(header(self.width).to_bytes()));
        caps
    }
}

/// A file that goes with the test.
struct File(std::path::PathBuf);

impl File {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("elastictok-parser-{}-{name}.etok", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A buffer as it came out, times in ms.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Out {
    pts: u64,
    running: u64,
    stream: u64,
    width: i32,
    key: bool,
    discont: bool,
}

struct Player {
    pipeline: gst::Pipeline,
    seen: Arc<Mutex<Vec<Out>>>,
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

impl Player {
    /// `description` without its sink.
    fn new(description: &str) -> Self {
        init();
        let pipeline = gst::parse::launch(&format!("{description} ! fakesink name=out sync=false")).unwrap();
        let pipeline: gst::Pipeline = pipeline.downcast().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let pad = pipeline.by_name("out").unwrap().static_pad("sink").unwrap();
        let sink = seen.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
            let buffer = info.buffer().unwrap();
            let segment = pad.sticky_event::<gst::event::Segment>(0).unwrap();
            let segment = segment.segment().downcast_ref::<gst::ClockTime>().unwrap().clone();
            let pts = buffer.pts().unwrap();
            let flags = buffer.flags();
            sink.lock().unwrap().push(Out {
                pts: pts.mseconds(),
                running: segment.to_running_time(pts).map_or(u64::MAX, |t| t.mseconds()),
                stream: segment.to_stream_time(pts).map_or(u64::MAX, |t| t.mseconds()),
                width: pad.current_caps().unwrap().structure(0).unwrap().get("width").unwrap(),
                key: !flags.contains(gst::BufferFlags::DELTA_UNIT),
                discont: flags.contains(gst::BufferFlags::DISCONT),
            });
            gst::PadProbeReturn::Ok
        });
        Self { pipeline, seen }
    }

    fn of(file: &File, chain: &str) -> Self {
        Self::new(&format!("filesrc location={} blocksize=100 ! {chain}", file.0.display()))
    }

    fn pause(&self) {
        self.pipeline.set_state(gst::State::Paused).unwrap();
        self.pipeline.state(gst::ClockTime::from_seconds(60)).0.unwrap();
    }

    fn seek(&self, flags: gst::SeekFlags, to: u64) {
        self.pipeline.seek_simple(gst::SeekFlags::FLUSH | flags, ms(to)).unwrap();
        self.pipeline.state(gst::ClockTime::from_seconds(60)).0.unwrap();
    }

    fn duration(&self) -> Option<u64> {
        self.pipeline.query_duration::<gst::ClockTime>().map(|t| t.mseconds())
    }

    fn position(&self) -> u64 {
        self.pipeline.query_position::<gst::ClockTime>().unwrap().mseconds()
    }

    /// Plays to the end; what came out since the last call.
    fn play(&self) -> Vec<Out> {
        self.pipeline.set_state(gst::State::Playing).unwrap();
        let ends = [gst::MessageType::Eos, gst::MessageType::Error];
        let message = self.pipeline.bus().unwrap().timed_pop_filtered(gst::ClockTime::from_seconds(60), &ends);
        let message = message.expect("the pipeline ends within a minute");
        assert_eq!(message.type_(), gst::MessageType::Eos, "{message:?}");
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    fn errors(&self) -> Vec<String> {
        let bus = self.pipeline.bus().unwrap();
        std::iter::from_fn(|| bus.pop_filtered(&[gst::MessageType::Error])).map(|m| format!("{m:?}")).collect()
    }
}

fn list<T>(out: &[Out], value: impl Fn(&Out) -> T) -> Vec<T> {
    out.iter().map(value).collect()
}

const PULL: &str = "elastictokparse";
const PUSH: &str = "queue ! elastictokparse";

#[test]
fn a_late_start_is_played_at_once() {
    let file = File::new("late", &Spec { first: 20_000, epoch: 7, ..PLAIN }.bytes());
    for chain in [PULL, PUSH] {
        let player = Player::of(&file, chain);
        player.pause();
        assert_eq!(player.position(), 0, "{chain}");
        assert_eq!(player.duration(), Some(320), "{chain}");
        player.seek(gst::SeekFlags::KEY_UNIT, 200);
        assert_eq!(player.position(), 160, "{chain}");
        player.seen.lock().unwrap().clear();
        player.seek(gst::SeekFlags::ACCURATE, 200);
        let out = player.play();
        assert_eq!(list(&out, |o| o.pts), [20_160, 20_200, 20_240, 20_280], "{chain}");
        assert_eq!(list(&out, |o| o.running)[1..], [0, 40, 80], "{chain}");
        player.seek(gst::SeekFlags::empty(), 0);
        let out = player.play();
        let times: Vec<_> = (0..8).map(|n| 40 * n).collect();
        assert_eq!(list(&out, |o| o.running), times, "{chain}");
        assert_eq!(list(&out, |o| o.stream), times, "{chain}");
        assert_eq!(list(&out, |o| o.pts - 20_000), times, "{chain}");
        assert_eq!(list(&out, |o| o.key), [true, false, false, false, true, false, false, false]);
        assert_eq!(list(&out, |o| o.discont), [true, false, false, false, false, false, false, false]);
    }
}

#[test]
fn joined_files_have_their_sum_and_seeks_land_in_every_part() {
    let parts = [
        Spec { first: 500, blocks: 5, ..PLAIN },
        Spec { width: 96, first: 70, blocks: 4, interval: 2, ..PLAIN },
        Spec { first: 90_000, blocks: 3, ..PLAIN },
    ];
    let file = File::new("joined", &parts.map(Spec::bytes).concat());
    for chain in [PULL, PUSH] {
        let player = Player::of(&file, chain);
        player.pause();
        assert_eq!(player.duration(), Some(480), "{chain}");
        player.seen.lock().unwrap().clear();
        for (target, lands, width) in [(400, 360, 64), (290, 280, 96), (250, 200, 96), (170, 160, 64), (10, 0, 64)] {
            player.seek(gst::SeekFlags::KEY_UNIT, target);
            let seen = std::mem::take(&mut *player.seen.lock().unwrap());
            assert_eq!((seen[0].stream, seen[0].width), (lands, width), "{chain}, seek to {target}");
            assert_eq!(player.position(), lands, "{chain}");
        }
        for (snap, lands) in [(gst::SeekFlags::SNAP_AFTER, 280), (gst::SeekFlags::SNAP_NEAREST, 200)] {
            player.seek(gst::SeekFlags::KEY_UNIT | snap, 230);
            assert_eq!(player.position(), lands, "{chain}");
        }
        player.seen.lock().unwrap().clear();
        player.seek(gst::SeekFlags::empty(), 0);
        let out = player.play();
        assert_eq!(list(&out, |o| o.running), (0..12).map(|n| 40 * n).collect::<Vec<_>>(), "{chain}");
        assert_eq!(list(&out, |o| o.width), [[64; 5].to_vec(), [96; 4].to_vec(), [64; 3].to_vec()].concat());
    }
}

#[test]
fn a_long_file_that_is_pushed_has_an_estimated_duration() {
    // Longer than what is read ahead: 240 blocks of 64 KiB.
    let spec = Spec { first: 1_000, blocks: 240, ..PLAIN };
    let mut writer = StreamWriter::new(&header(512)).unwrap();
    let mut bytes = bytes::BytesMut::new();
    for mut block in spec.packets() {
        let payload = vec![0x5a; 64 << 10];
        let check = elastictok::bitstream::crc16(&[&[0x80, 0x80, 0x04], &payload[..]].concat());
        block.extend([0x80, 0x80, 0x04]);
        block.extend(check.to_le_bytes());
        block.extend(payload);
        writer.write(&block, &mut bytes).unwrap();
    }
    let file = File::new("long", &bytes);
    let player = Player::of(&file, "queue ! elastictokparse");
    player.pause();
    let estimate = player.duration().unwrap();
    assert!(estimate.abs_diff(240 * 40) < 200, "{estimate} ms");
    player.seen.lock().unwrap().clear();
    player.seek(gst::SeekFlags::KEY_UNIT, 9_000);
    let out = player.play();
    // What is known of the file ends before: blocks from there on are decoded, and shown from the target on.
    assert!(out[0].key && out[0].pts < 10_000 && out[0].running == u64::MAX, "{:?}", out[0]);
    let shown = out.iter().find(|o| o.running != u64::MAX).unwrap();
    assert_eq!((shown.stream, shown.running), (9_000, 0));
    assert_eq!(out.last().unwrap().stream, 239 * 40);
    assert_eq!(player.duration(), Some(240 * 40));
}

#[test]
fn a_stream_that_cannot_be_sought_in_starts_where_it_is_joined() {
    // As over TCP: the sender started long ago, and starts anew after a pause.
    let late = [Spec { first: 50_000, epoch: 9, ..PLAIN }, Spec { first: 55_000, ..PLAIN }];
    let units = [&late[0].units()[2..], &late[1].units()[..]].concat();
    let mut fed = Fed::new(&bytes_caps(), "packetized", gst::Format::Bytes);
    for unit in units {
        fed.push(&unit);
    }
    let segments = std::iter::from_fn(|| fed.harness.try_pull_event());
    let last = segments.filter(|event| event.type_() == gst::EventType::Segment).last().unwrap();
    let gst::EventView::Segment(segment) = last.view() else { unreachable!() };
    let segment = segment.segment().downcast_ref::<gst::ClockTime>().unwrap().clone();
    let running: Vec<_> = drain(&mut fed.harness).iter().map(|b| segment.to_running_time(b.pts()).unwrap().mseconds()).collect();
    let after = |first: u64, n: u64| (0..n).map(move |i| first + 40 * i);
    assert_eq!(running, after(0, 4).chain(after(55_000 - 50_160, 8)).collect::<Vec<_>>());
}

#[test]
fn sources_one_after_the_other_lose_nothing() {
    let (a, b) = (File::new("concat-a", &PLAIN.bytes()), File::new("concat-b", &Spec { first: 40, ..PLAIN }.bytes()));
    let player = Player::new(&format!(
        "filesrc location={} ! c. filesrc location={} ! c. concat name=c ! elastictokparse",
        a.0.display(),
        b.0.display()
    ));
    let out = player.play();
    assert_eq!(list(&out, |o| o.running), (0..16).map(|n| 40 * n).collect::<Vec<_>>());
}

#[test]
fn playing_backwards_is_refused() {
    let file = File::new("backwards", &PLAIN.bytes());
    for chain in [PULL, PUSH] {
        let player = Player::of(&file, chain);
        player.pause();
        let (flags, none) = (gst::SeekFlags::FLUSH, gst::SeekType::None);
        assert!(player.pipeline.seek(-1.0, flags, gst::SeekType::Set, ms(0), gst::SeekType::Set, ms(200)).is_err(), "{chain}");
        assert!(player.pipeline.seek(-1.0, flags, none, gst::ClockTime::NONE, none, gst::ClockTime::NONE).is_err(), "{chain}");
        let bytes = |b: u64| gst::format::Bytes::from_u64(b);
        assert!(
            player.pipeline.seek(-1.0, flags, gst::SeekType::Set, bytes(0), gst::SeekType::Set, bytes(50)).is_err(),
            "{chain}"
        );
        // A change of the rate alone goes on where playback is.
        player.pipeline.seek(2.0, flags, none, gst::ClockTime::NONE, none, gst::ClockTime::NONE).unwrap();
        assert_eq!(player.play().last().unwrap().pts, 280, "{chain}");
    }
}

#[test]
fn key_units_alone_come_at_trick_speed() {
    let file = File::new("trick", &Spec { first: 3_000, blocks: 10, ..PLAIN }.bytes());
    for chain in [PULL, PUSH] {
        let player = Player::of(&file, chain);
        player.pause();
        player.seen.lock().unwrap().clear();
        let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::TRICKMODE | gst::SeekFlags::TRICKMODE_KEY_UNITS;
        player.pipeline.seek(4.0, flags, gst::SeekType::Set, ms(0), gst::SeekType::None, gst::ClockTime::NONE).unwrap();
        let out = player.play();
        assert_eq!(
            list(&out, |o| (o.stream, o.key, o.discont)),
            [(0, true, true), (160, true, true), (320, true, true)],
            "{chain}"
        );
        player.seek(gst::SeekFlags::empty(), 0);
        assert_eq!(player.play().len(), 10, "{chain}");
    }
}

#[test]
fn a_seek_with_a_stop_ends_there() {
    let file = File::new("stop", &Spec { first: 3_000, ..PLAIN }.bytes());
    let player = Player::of(&file, PULL);
    player.pause();
    player.seen.lock().unwrap().clear();
    let set = gst::SeekType::Set;
    player.pipeline.seek(1.0, gst::SeekFlags::FLUSH, set, ms(40), set, ms(200)).unwrap();
    assert_eq!(list(&player.play(), |o| o.pts), [3_000, 3_040, 3_080, 3_120, 3_160]);
}

fn bytes_caps() -> gst::Caps {
    init();
    stream_caps("byte-stream")
}

/// A parser that is fed by hand, and the key requests that it sends.
struct Fed {
    harness: gst_check::Harness,
}

impl Fed {
    fn new(caps: &gst::Caps, out: &str, format: gst::Format) -> Self {
        init();
        let mut harness = gst_check::Harness::new("elastictokparse");
        harness.set_sink_caps(stream_caps(out));
        harness.play();
        harness.push_event(gst::event::StreamStart::new("test"));
        harness.push_event(gst::event::Caps::new(caps));
        let segment = if format == gst::Format::Time {
            gst::FormattedSegment::<gst::ClockTime>::new().upcast()
        } else {
            gst::FormattedSegment::<gst::format::Bytes>::new().upcast()
        };
        harness.push_event(gst::event::Segment::new(&segment));
        Self { harness }
    }

    fn push(&mut self, data: &[u8]) {
        self.harness.push(gst::Buffer::from_slice(data.to_vec())).unwrap();
    }

    fn requests(&mut self) -> usize {
        let events = std::iter::from_fn(|| self.harness.try_pull_upstream_event());
        events.filter(|event| gst_video::UpstreamForceKeyUnitEvent::parse(event).is_ok_and(|key| key.all_headers)).count()
    }
}

#[test]
fn what_is_lost_is_asked_for() {
    let units = Spec { blocks: 12, ..PLAIN }.units();
    let fed = || Fed::new(&bytes_caps(), "packetized", gst::Format::Bytes);
    // Joined in the middle of a stream: nothing can be read.
    let mut joined = fed();
    joined.push(&units[1]);
    assert_eq!(joined.requests(), 1);
    joined.push(&units[2]);
    assert_eq!(joined.requests(), 0, "not at every block");
    std::thread::sleep(std::time::Duration::from_millis(250));
    joined.push(&units[3]);
    assert_eq!(joined.requests(), 1, "again while none comes");
    joined.push(&units[4]);
    assert_eq!(drain(&mut joined.harness).len(), 1);
    // A lost key block: what depends on it is dropped.
    joined.push(&units[9]);
    assert_eq!((joined.requests(), drain(&mut joined.harness).len()), (1, 0));
    joined.push(&units[4]);
    // Junk, and a header that is damaged.
    let mut junk = fed();
    junk.push(&units[0]);
    junk.push(&[0; 300]);
    assert_eq!(junk.requests(), 1);
    junk.push(&units[4]);
    let mut damaged = units[8].clone();
    damaged[20] ^= 1;
    junk.push(&damaged);
    assert_eq!(junk.requests(), 1);
    let out = drain(&mut junk.harness);
    let discont: Vec<_> = out.iter().map(|b| b.flags().contains(gst::BufferFlags::DISCONT)).collect();
    assert_eq!(discont[..2], [true, true]);
}

#[test]
fn a_recording_begins_with_a_key_block() {
    let spec = Spec { first: 1_000, ..PLAIN };
    let (packets, units) = (spec.packets(), spec.units());
    let mut fed = Fed::new(&spec.caps(), "byte-stream", gst::Format::Time);
    fed.push(&packets[2]);
    assert_eq!((fed.requests(), drain(&mut fed.harness).len()), (1, 0));
    fed.push(&packets[4]);
    fed.push(&packets[5]);
    let out = drain(&mut fed.harness);
    assert_eq!(out.iter().map(|b| b.map_readable().unwrap().to_vec()).collect::<Vec<_>>(), units[4..6]);
}

#[test]
fn packets_without_their_key_block_pass_and_it_is_asked_for() {
    let packets = PLAIN.packets();
    let mut fed = Fed::new(&PLAIN.caps(), "packetized", gst::Format::Time);
    fed.push(&packets[2]);
    assert_eq!((fed.requests(), drain(&mut fed.harness).len()), (1, 1));
    fed.push(&packets[4]);
    fed.push(&packets[5]);
    assert_eq!((fed.requests(), drain(&mut fed.harness).len()), (0, 2));
}

#[test]
fn caps_that_a_flush_has_swallowed_are_sent_again() {
    let units = PLAIN.units();
    let mut fed = Fed::new(&bytes_caps(), "packetized", gst::Format::Bytes);
    let bus = gst::Bus::new();
    let element = fed.harness.element().unwrap();
    element.set_bus(Some(&bus));
    let src = element.static_pad("src").unwrap();
    // The flush comes just before the caps.
    src.add_probe(gst::PadProbeType::QUERY_DOWNSTREAM, |pad, info| {
        if info.query().is_some_and(|query| query.type_() == gst::QueryType::Caps) {
            pad.push_event(gst::event::FlushStart::new());
            return gst::PadProbeReturn::Remove;
        }
        gst::PadProbeReturn::Ok
    });
    assert_eq!(fed.harness.push(gst::Buffer::from_slice(units[0].clone())), Err(gst::FlowError::Flushing));
    src.push_event(gst::event::FlushStop::new(true));
    fed.push(&units[1]);
    assert_eq!(drain(&mut fed.harness).len(), 2);
    assert!(src.current_caps().unwrap().structure(0).unwrap().has_field("codec_data"));
    assert!(bus.pop_filtered(&[gst::MessageType::Error]).is_none());
}

#[test]
fn bytes_and_metas_pass_uncopied() {
    init();
    gst::meta::CustomMeta::register_simple("ElasticTokTestMeta");
    let spec = Spec { blocks: 4, ..PLAIN };
    let (packets, units) = (spec.packets(), spec.units());
    let shared = |a: &gst::Buffer, b: &gst::Buffer| {
        let (a, b) = (a.map_readable().unwrap(), b.map_readable().unwrap());
        a.as_ptr_range().contains(&b.as_ptr()) && a.ends_with(&b)
    };
    let forms = [(spec.caps(), "packetized", &packets, &packets), (bytes_caps(), "packetized", &units, &packets)];
    for (caps, out, given, expected) in forms.into_iter().chain([(bytes_caps(), "byte-stream", &units, &units)]) {
        let mut fed = Fed::new(&caps, out, gst::Format::Time);
        for (n, (data, wanted)) in given.iter().zip(expected).enumerate() {
            let mut buffer = gst::Buffer::from_slice(data.clone());
            {
                let buffer = buffer.make_mut();
                buffer.set_pts(ms(7_000 + 40 * n as u64));
                gst_video::VideoRegionOfInterestMeta::add(buffer, "face", (1, 2, 3, 4));
                let mut meta = gst::meta::CustomMeta::add(buffer, "ElasticTokTestMeta").unwrap();
                meta.mut_structure().set("n", n as u32);
            }
            fed.harness.push(buffer.clone()).unwrap();
            let passed = fed.harness.pull().unwrap();
            assert_eq!(passed.map_readable().unwrap().as_slice(), &wanted[..]);
            // The sequence header that stands before the very first block is the parser's own.
            assert!(shared(&buffer, &passed) || (out == "byte-stream" && n == 0), "{out} {n}");
            assert_eq!(passed.pts(), Some(ms(7_000 + 40 * n as u64)));
            let roi: Vec<_> = passed.iter_meta::<gst_video::VideoRegionOfInterestMeta>().map(|m| m.rect()).collect();
            assert_eq!(roi, [(1, 2, 3, 4)], "{out} {n}");
            let custom = gst::meta::CustomMeta::from_buffer(&passed, "ElasticTokTestMeta").unwrap();
            assert_eq!(custom.structure().get::<u32>("n"), Ok(n as u32));
        }
    }
}

#[test]
fn a_gap_before_the_first_header_is_no_error() {
    let mut fed = Fed::new(&bytes_caps(), "packetized", gst::Format::Time);
    let bus = gst::Bus::new();
    fed.harness.element().unwrap().set_bus(Some(&bus));
    fed.harness.push_event(gst::event::Gap::new(ms(0), ms(40)));
    fed.push(&PLAIN.bytes());
    assert_eq!(drain(&mut fed.harness).len(), 8);
    assert!(bus.pop_filtered(&[gst::MessageType::Error]).is_none());
}

#[test]
fn flushes_and_stops_at_any_moment_are_no_errors() {
    let file = File::new("storm", &Spec { blocks: 400, ..PLAIN }.bytes());
    for (n, chain) in (0..60u64).zip([PULL, PUSH].into_iter().cycle()) {
        let player = Player::of(&file, chain);
        player.pipeline.set_state(gst::State::Paused).unwrap();
        std::thread::sleep(std::time::Duration::from_micros(n * n * 3));
        for to in [0, 5_000, 1_000] {
            // Before the pipeline is set up there is nothing to seek in, which is no error either.
            let _ = player.pipeline.seek_simple(gst::SeekFlags::FLUSH | gst::SeekFlags::KEY_UNIT, ms(to));
        }
        if n % 3 < 2 {
            player.play();
            assert_eq!(player.duration(), Some(16_000), "{chain} {n}: no flush spoils the index");
        }
        player.pipeline.set_state(gst::State::Null).unwrap();
        assert_eq!(player.errors(), [""; 0], "{chain} {n}");
    }
}
