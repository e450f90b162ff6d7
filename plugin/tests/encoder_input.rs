// SPDX-License-Identifier: MIT OR Apache-2.0
//! The encoder and what sources do: rates other than declared, breaks in time, late frames, metas, stops.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::*;
use gst::prelude::*;

fn ms(n: u64) -> gst::ClockTime {
    gst::ClockTime::from_mseconds(n)
}

/// A picture that is new in every frame, stamped.
fn frame(caps: &gst::Caps, n: u64, pts: impl Into<Option<gst::ClockTime>>) -> gst::Buffer {
    let mut buffer = picture(caps, n);
    {
        let buffer = buffer.get_mut().unwrap();
        let mut seed = n as u32 + 1;
        for byte in buffer.map_writable().unwrap().iter_mut() {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = byte.saturating_add((seed >> 28) as u8);
        }
        buffer.set_pts(pts);
    }
    buffer
}

fn keys(packets: &[gst::Buffer]) -> Vec<gst::ClockTime> {
    packets.iter().filter(|p| !p.flags().contains(gst::BufferFlags::DELTA_UNIT)).filter_map(|p| p.pts()).collect()
}

fn frames_in(packet: &gst::Buffer) -> u8 {
    let data = packet.map_readable().unwrap();
    elastictok::bitstream::BlockHeader::parse(&data, 2).unwrap().0.frames
}

/// Kilobits per second of ten seconds of frames that come at `real` a second.
fn measured(caps_rate: (i32, i32), real: u64, settings: &str, key_every_frame: bool) -> f64 {
    let caps = raw_caps("I420", 96, 64, caps_rate);
    let mut h = encoder(&caps, "packetized", &format!("rate-control=bitrate {settings}"));
    let mut bytes = 0;
    for n in 0..10 * real {
        if key_every_frame {
            h.push_event(gst_video::DownstreamForceKeyUnitEvent::builder().build());
        }
        h.push(frame(&caps, n, gst::ClockTime::from_nseconds(n * 1_000_000_000 / real))).unwrap();
        bytes += drain(&mut h).iter().map(|p| p.size()).sum::<usize>();
    }
    h.push_event(gst::event::Eos::new());
    bytes += drain(&mut h).iter().map(|p| p.size()).sum::<usize>();
    bytes as f64 * 8.0 / 10.0 / 1000.0
}

#[test]
fn the_bitrate_follows_the_time_stamps_and_not_the_caps() {
    for (caps, real) in [((0, 1), 60), ((0, 1), 5), ((5, 1), 30), ((30, 1), 10), ((30, 1), 30)] {
        let rate = measured(caps, real, "bitrate=100", false);
        assert!((90.0..=110.0).contains(&rate), "{rate} kbit/s of 100 with caps {caps:?} at {real} frames/s");
    }
}

#[test]
fn many_key_blocks_share_the_bitrate() {
    let rate = measured((30, 1), 30, "bitrate=600", true);
    assert!((540.0..=660.0).contains(&rate), "{rate} kbit/s of 600");
}

#[test]
fn a_bitrate_out_of_reach_is_told_once_with_the_least_there_is() {
    let caps = raw_caps("I420", 160, 96, (30, 1));
    let mut h = encoder(&caps, "packetized", "rate-control=bitrate bitrate=1 key-int-max=2");
    let bus = gst::Bus::new();
    let element = h.element().unwrap();
    element.set_bus(Some(&bus));
    let mut bytes = 0;
    for n in 0..180 {
        h.push(frame(&caps, n, ms(n * 100 / 3))).unwrap();
        bytes += drain(&mut h).iter().map(|p| p.size()).sum::<usize>();
    }
    let warnings: Vec<_> = bus.iter().filter(|m| m.type_() == gst::MessageType::Warning).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let rate = bytes as f64 * 8.0 / 6.0 / 1000.0;
    let least = element.property::<gst::Structure>("stats").get::<u32>("least-bitrate").unwrap();
    assert!((0.7..1.3).contains(&(f64::from(least) / rate)), "{least} kbit/s for {rate}");
    assert!(format!("{:?}", warnings[0].view()).contains("kbit/s at the least"));
}

#[test]
fn a_limit_of_key_blocks_is_kept_exactly() {
    let caps = raw_caps("I420", 48, 32, (25, 1));
    for limit in [1, 2, 5, 7] {
        let mut h = encoder(&caps, "packetized", &format!("key-int-max={limit}"));
        for n in 0..21 {
            h.push(frame(&caps, n, ms(40 * n))).unwrap();
        }
        h.push_event(gst::event::Eos::new());
        let packets = drain(&mut h);
        assert_eq!(keys(&packets), (0..21).step_by(limit).map(|n| ms(40 * n)).collect::<Vec<_>>(), "limit {limit}");
        assert_eq!(packets.iter().map(|p| u32::from(frames_in(p))).sum::<u32>(), 21);
    }
}

#[test]
fn times_that_begin_anew_are_key_blocks_and_no_block_reaches_across() {
    let caps = raw_caps("I420", 48, 32, (25, 1));
    let mut h = encoder(&caps, "packetized", "key-int-max=0");
    let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
    for n in 0..5 {
        h.push(frame(&caps, n, ms(40 * n))).unwrap();
    }
    // As concat sends it: time stamps from 0, running time goes on.
    segment.set_base(ms(200));
    h.push_event(gst::event::Segment::new(&segment));
    for n in 0..5 {
        h.push(frame(&caps, n, ms(40 * n))).unwrap();
    }
    // The same segment again changes nothing.
    h.push_event(gst::event::Segment::new(&segment));
    for n in 5..8 {
        h.push(frame(&caps, n, ms(40 * n))).unwrap();
    }
    // A source that starts again and says nothing.
    for n in 0..3 {
        h.push(frame(&caps, n, ms(40 * n))).unwrap();
    }
    h.push(frame(&caps, 3, gst::ClockTime::from_seconds(3600))).unwrap();
    h.push_event(gst::event::Eos::new());
    let packets = drain(&mut h);
    assert_eq!(keys(&packets), [ms(0), ms(0), ms(0), gst::ClockTime::from_seconds(3600)]);
    assert_eq!(packets.iter().map(frames_in).collect::<Vec<_>>(), [2, 2, 1, 2, 2, 1, 2, 1, 2, 1, 1]);
    // Key blocks carry running times.
    let bases: Vec<_> = packets
        .iter()
        .filter_map(|p| elastictok::bitstream::BlockHeader::parse(&p.map_readable().unwrap(), 2).unwrap().0.timing.base)
        .map(gst::ClockTime::from_nseconds)
        .collect();
    assert_eq!(bases, [ms(0), ms(200), ms(200), gst::ClockTime::from_seconds(3600) + ms(200)]);
    let stream = h.sinkpad().unwrap().current_caps().unwrap();
    assert_eq!(decode(&stream, packets).len(), 17);
}

#[test]
fn a_recording_starts_at_the_running_time_of_its_first_frame() {
    let caps = raw_caps("I420", 48, 32, (25, 1));
    let mut h = encoder(&caps, "packetized", "");
    let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
    segment.set_start(ms(750));
    segment.set_time(ms(0));
    h.push_event(gst::event::Segment::new(&segment));
    for n in 0..4 {
        h.push(frame(&caps, n, ms(750 + 40 * n))).unwrap();
    }
    let packets = drain(&mut h);
    assert_eq!(packets[0].pts(), Some(ms(750)), "buffers keep the segment's times");
    let (header, _) = elastictok::bitstream::BlockHeader::parse(&packets[0].map_readable().unwrap(), 2).unwrap();
    assert_eq!(header.timing.base, Some(0));
    let stream = h.sinkpad().unwrap().current_caps().unwrap();
    let times: Vec<_> = decode(&stream, packets).iter().map(|b| b.pts().unwrap().mseconds()).collect();
    assert_eq!(times, [750, 790, 830, 870]);
}

#[test]
fn a_late_frame_does_not_hold_up_the_one_before_it() {
    let caps = raw_caps("I420", 48, 32, (30, 1));
    let mut h = encoder(&caps, "packetized", "key-int-max=0");
    h.play();
    // The first block waits for its deadline, one frame and some grace after its time.
    h.push(frame(&caps, 0, ms(0))).unwrap();
    assert!(h.try_pull().is_none());
    h.crank_single_clock_wait().unwrap();
    let packet = h.pull().unwrap();
    assert_eq!((frames_in(&packet), packet.pts()), (1, Some(ms(0))));
    let clock = h.testclock().unwrap();
    assert!((ms(34)..ms(50)).contains(&clock.time()), "{:?}", clock.time());
    // From then on the source is known to be slow, and nothing waits.
    for n in 1..5 {
        h.set_time(ms(100 * n)).unwrap();
        h.push(frame(&caps, n, ms(100 * n))).unwrap();
        let packet = h.try_pull().expect("a block at once");
        assert_eq!((frames_in(&packet), packet.pts()), (1, Some(ms(100 * n))));
    }
    // And when it is fast again, blocks are whole again.
    for n in 1..7 {
        h.set_time(ms(400 + 33 * n)).unwrap();
        h.push(frame(&caps, n, ms(400 + 33 * n))).unwrap();
    }
    let frames: Vec<_> = drain(&mut h).iter().map(frames_in).collect();
    assert_eq!(frames, [2, 2, 2]);
}

#[test]
fn upstreams_spare_time_is_for_bursts_and_not_for_slow_sources() {
    let caps = raw_caps("I420", 48, 32, (30, 1));
    let mut h = encoder(&caps, "packetized", "key-int-max=0");
    h.set_upstream_latency(ms(100));
    h.play();
    // Two frames every 67 ms: whole blocks all the same, as upstream's latency of 100 ms covers it.
    h.push(frame(&caps, 0, ms(0))).unwrap();
    for n in 1..5 {
        h.set_time(ms(67 * n)).unwrap();
        h.push(frame(&caps, 2 * n - 1, ms(67 * n - 34))).unwrap();
        h.push(frame(&caps, 2 * n, ms(67 * n))).unwrap();
    }
    assert_eq!(drain(&mut h).iter().map(frames_in).collect::<Vec<_>>(), [2; 4]);
    // Ten frames a second would be covered as well, but need not wait.
    for n in 0..4 {
        h.set_time(ms(368 + 100 * n)).unwrap();
        h.push(frame(&caps, n, ms(368 + 100 * n))).unwrap();
    }
    assert_eq!(drain(&mut h).iter().map(frames_in).collect::<Vec<_>>(), [2, 1, 1, 1]);
}

#[test]
fn where_time_stands_still_blocks_wait() {
    let caps = raw_caps("I420", 48, 32, (30, 1));
    let mut h = encoder(&caps, "packetized", "");
    h.play();
    h.element().unwrap().set_state(gst::State::Paused).unwrap();
    h.push(frame(&caps, 0, ms(0))).unwrap();
    let clock = h.testclock().unwrap();
    assert_eq!(clock.peek_id_count(), 0, "no deadline");
    h.set_time(ms(1000)).unwrap();
    h.push(frame(&caps, 1, ms(1000))).unwrap();
    assert_eq!(drain(&mut h).iter().map(frames_in).collect::<Vec<_>>(), [2]);
}

#[test]
fn every_frame_keeps_its_metas() {
    let caps = raw_caps("I420", 48, 32, (30, 1));
    let mut h = encoder(&caps, "packetized", "");
    for n in 0..5u64 {
        let mut buffer = frame(&caps, n, ms(33 * n));
        gst_video::VideoCaptionMeta::add(buffer.get_mut().unwrap(), gst_video::VideoCaptionType::Cea608Raw, &[n as u8, 7]);
        h.push(buffer).unwrap();
    }
    h.push_event(gst::event::Eos::new());
    let captions = |b: &gst::BufferRef| b.iter_meta::<gst_video::VideoCaptionMeta>().map(|m| m.data()[0]).collect::<Vec<_>>();
    let mut seen = Vec::new();
    for packet in drain(&mut h) {
        seen.push(captions(&packet));
        if let Ok(meta) = gst::meta::CustomMeta::from_buffer(&packet, "ElasticTokFrameMeta") {
            seen.push(captions(&meta.structure().get::<gst::Buffer>("1").unwrap()));
        }
    }
    assert_eq!(seen, [[0], [1], [2], [3], [4]]);
}

#[test]
fn after_an_error_in_a_block_the_next_frames_are_coded() {
    let caps = raw_caps("I420", 48, 32, (25, 1));
    let mut h = encoder(&caps, "packetized", "key-int-max=0");
    let bus = gst::Bus::new();
    h.element().unwrap().set_bus(Some(&bus));
    for n in 0..3 {
        h.push(frame(&caps, n, ms(40 * n))).unwrap();
    }
    assert_eq!(h.push(gst::Buffer::with_size(100).unwrap()), Err(gst::FlowError::Error));
    assert_eq!(errors(&bus).len(), 1);
    for n in 4..9 {
        h.push(frame(&caps, n, ms(40 * n))).unwrap();
    }
    h.push_event(gst::event::Eos::new());
    let packets = drain(&mut h);
    assert_eq!(packets.iter().map(frames_in).collect::<Vec<_>>(), [2, 2, 2, 1]);
    assert_eq!(keys(&packets), [ms(0), ms(160)]);
    assert_eq!(errors(&bus).len(), 0);
}

#[test]
fn a_change_of_framerate_loses_no_frame_and_begins_with_a_key_block() {
    let caps = raw_caps("I420", 48, 32, (30, 1));
    let mut h = encoder(&caps, "packetized", "");
    let mut at = 0;
    for rate in [(30, 1), (10, 1), (0, 1)] {
        let caps = raw_caps("I420", 48, 32, rate);
        h.set_src_caps(caps.clone());
        for n in 0..3 {
            h.push(frame(&caps, n, ms(at))).unwrap();
            at += 33;
        }
    }
    h.push_event(gst::event::Eos::new());
    let packets = drain(&mut h);
    assert_eq!(packets.iter().map(frames_in).collect::<Vec<_>>(), [2, 1, 2, 1, 2, 1]);
    assert_eq!(keys(&packets), [ms(0), ms(99), ms(198)]);
}

#[test]
fn several_keys_asked_for_in_a_block_each_come() {
    let caps = raw_caps("I420", 48, 32, (25, 1));
    let mut h = encoder(&caps, "packetized", "key-int-max=0");
    for n in 0..8 {
        if n == 2 {
            for at in [120, 160] {
                h.push_event(gst_video::DownstreamForceKeyUnitEvent::builder().running_time(ms(at)).build());
            }
        }
        h.push(frame(&caps, n, ms(40 * n))).unwrap();
    }
    let packets = drain(&mut h);
    assert_eq!(keys(&packets), [ms(0), ms(120), ms(160)]);
    assert_eq!(packets.iter().map(|p| u32::from(frames_in(p))).sum::<u32>(), 8);
}

fn errors(bus: &gst::Bus) -> Vec<String> {
    bus.iter().filter(|m| m.type_() == gst::MessageType::Error).map(|m| format!("{:?}", m.view())).collect()
}

#[test]
fn stopping_or_flushing_while_it_starts_is_no_error() {
    init();
    for delay in (0..10).map(|n| std::time::Duration::from_millis(n * 30)) {
        for live in [false, true] {
            let pipeline = gst::parse::launch(&format!(
                "videotestsrc is-live={live} ! video/x-raw,framerate=30/1 ! videoscale ! elastictokenc execution-provider=cpu threads=1 ! fakesink"
            ))
            .unwrap()
            .downcast::<gst::Pipeline>()
            .unwrap();
            pipeline.set_state(gst::State::Playing).unwrap();
            std::thread::sleep(delay);
            if !live {
                let _ = pipeline.seek_simple(gst::SeekFlags::FLUSH, ms(0));
                std::thread::sleep(delay / 4);
            }
            pipeline.set_state(gst::State::Null).unwrap();
            assert_eq!(errors(&pipeline.bus().unwrap()), [""; 0], "after {delay:?}, live {live}");
        }
    }
}

#[test]
fn graphs_are_loaded_before_data_flows_where_the_size_is_known() {
    init();
    let pipeline = gst::parse::launch(
        "videotestsrc is-live=true ! video/x-raw,width=64,height=48 ! elastictokenc name=enc execution-provider=cpu \
         target-mse=1 ! fakesink",
    )
    .unwrap();
    // What is wrong with the settings shows at once: the encoder was made, although a live source gives no data yet.
    assert!(pipeline.set_state(gst::State::Paused).is_err());
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn encodebin_takes_the_format() {
    init();
    let pipeline = gst::parse::launch(
        "videotestsrc num-buffers=12 ! video/x-raw,width=64,height=48 ! \
         encodebin profile=video/x-elastictok,stream-format=byte-stream ! appsink name=out sync=false",
    );
    let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
    let out = pipeline.by_name("out").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let wait = gst::ClockTime::from_seconds(60);
    let packets: Vec<_> = std::iter::from_fn(|| out.try_pull_sample(wait)).map(|s| s.buffer_owned().unwrap()).collect();
    assert_eq!(errors(&pipeline.bus().unwrap()), [""; 0]);
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(decode(&stream_caps("byte-stream"), packets).len(), 12);
    // Found by its format and for nothing else.
    let rank = |name| gst::ElementFactory::find(name).unwrap().rank();
    assert!(rank("elastictokenc") < rank("elastictokdec"));
}

#[test]
fn a_live_source_that_stutters_loses_nothing_and_stops_at_any_time() {
    init();
    for round in 0..6u64 {
        let pipeline = gst::parse::launch(
            "appsrc name=in is-live=true format=time do-timestamp=true ! elastictokenc execution-provider=cpu threads=1 ! \
             video/x-elastictok,stream-format=packetized ! appsink name=out sync=false",
        );
        let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
        let caps = raw_caps("I420", 32, 32, (100, 1));
        let input = pipeline.by_name("in").unwrap().downcast::<gst_app::AppSrc>().unwrap();
        input.set_caps(Some(&caps));
        let out = pipeline.by_name("out").unwrap().downcast::<gst_app::AppSink>().unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        // Sleeps around the deadline, so that it and the next frame meet.
        for n in 0..40 {
            if round % 2 == 1 && n == 20 {
                assert!(
                    pipeline.send_event(gst::event::FlushStart::new()) && pipeline.send_event(gst::event::FlushStop::new(false))
                );
            }
            let _ = input.push_buffer(frame(&caps, n, None));
            std::thread::sleep(std::time::Duration::from_millis((n * 7 + round) % 19));
        }
        if round % 2 == 1 {
            pipeline.set_state(gst::State::Null).unwrap();
            assert_eq!(errors(&pipeline.bus().unwrap()), [""; 0]);
            continue;
        }
        input.end_of_stream().unwrap();
        let wait = gst::ClockTime::from_seconds(60);
        let packets: Vec<_> = std::iter::from_fn(|| out.try_pull_sample(wait)).map(|s| s.buffer_owned().unwrap()).collect();
        assert_eq!(errors(&pipeline.bus().unwrap()), [""; 0]);
        pipeline.set_state(gst::State::Null).unwrap();
        assert_eq!(packets.iter().map(|p| u32::from(frames_in(p))).sum::<u32>(), 40);
        assert!(packets.is_sorted_by_key(|p| p.pts()), "in order");
        let (first, rest) = packets.split_first().unwrap();
        let positions =
            rest.iter().map(|p| elastictok::bitstream::BlockHeader::parse(&p.map_readable().unwrap(), 2).unwrap().0.position);
        assert_eq!(keys(&packets), [first.pts().unwrap()]);
        assert!(positions.eq(1..packets.len() as u32), "coded in the order in which they came");
    }
}
