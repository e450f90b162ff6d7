// SPDX-License-Identifier: MIT OR Apache-2.0
//! The encoder and decoder elements, one behaviour a test.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::*;
use gst::prelude::*;

const RATE: (i32, i32) = (30000, 1001);

fn small() -> gst::Caps {
    raw_caps("I420", 96, 64, RATE)
}

#[test]
fn frames_come_out_as_they_went_in() {
    for out in ["packetized", "byte-stream"] {
        for (format, w, h) in [("I420", 96, 64), ("NV12", 96, 64), ("I420", 97, 51), ("I420", 16, 16)] {
            let caps = raw_caps(format, w, h, RATE);
            let (stream, packets) = encode(&caps, out, "target-psnr=40", 9, RATE);
            assert_eq!(packets.len(), 5, "{out} {format} {w}x{h}");
            let s = stream.structure(0).unwrap();
            assert_eq!((s.get::<i32>("width").unwrap(), s.get::<i32>("height").unwrap()), (w, h));
            assert_eq!(s.get::<gst::Fraction>("pixel-aspect-ratio").unwrap(), gst::Fraction::new(4, 3));
            assert_eq!(s.has_field("codec_data"), out == "packetized");
            let mut d = decoder(&stream);
            for p in packets {
                d.push(p).unwrap();
            }
            d.push_event(gst::event::Eos::new());
            let frames = drain(&mut d);
            assert_eq!(frames.len(), 9);
            let decoded = d.sinkpad().unwrap().current_caps().unwrap();
            let info = gst_video::VideoInfo::from_caps(&decoded).unwrap();
            assert_eq!((info.width(), info.height(), info.fps()), (w as u32, h as u32, gst::Fraction::new(RATE.0, RATE.1)));
            assert_eq!(info.colorimetry().to_string(), "bt709");
            for (i, frame) in frames.iter().enumerate() {
                let mut source = picture(&caps, i as u64);
                stamp(&mut source, i as u64, RATE);
                assert_eq!((frame.pts(), frame.duration()), (source.pts(), source.duration()), "frame {i}");
                if format == "I420" {
                    let psnr = luma_psnr(&caps, frame, &source);
                    assert!(psnr > 33.0, "frame {i} of {w}x{h}: {psnr}");
                }
            }
        }
    }
}

#[test]
fn packets_say_what_they_are() {
    let caps = small();
    let (_, packets) = encode(&caps, "packetized", "key-int-max=4", 11, RATE);
    let delta: Vec<_> = packets.iter().map(|p| p.flags().contains(gst::BufferFlags::DELTA_UNIT)).collect();
    assert_eq!(delta, [false, true, false, true, false, true]);
    let at = |n: u64| gst::ClockTime::from_nseconds(n * 1_001_000_000_000 / 30000);
    for (i, p) in packets.iter().enumerate() {
        let first = 2 * i as u64;
        assert_eq!(p.pts(), Some(at(first)));
        assert_eq!(p.duration(), Some(at((first + 2).min(11)) - at(first)), "the last block has one frame");
    }
}

#[test]
fn irregular_and_missing_times_survive() {
    let caps = raw_caps("I420", 32, 32, (0, 1));
    let times = [0u64, 40_000_001, 41_000_000, 500_000_000, 500_000_777, 3_600_000_000_000, 3_600_100_000_000];
    let mut h = encoder(&caps, "packetized", "");
    for (i, t) in times.iter().enumerate() {
        let mut b = picture(&caps, i as u64);
        b.get_mut().unwrap().set_pts(gst::ClockTime::from_nseconds(*t));
        h.push(b).unwrap();
    }
    h.push_event(gst::event::Eos::new());
    let packets = drain(&mut h);
    let stream = h.sinkpad().unwrap().current_caps().unwrap();
    let out: Vec<_> = decode(&stream, packets).iter().map(|b| b.pts().unwrap().nseconds()).collect();
    assert_eq!(out, times);
}

#[test]
fn a_forced_key_unit_begins_with_its_frame() {
    let caps = small();
    let mut h = encoder(&caps, "packetized", "key-int-max=0");
    for i in 0..8u64 {
        if i == 5 {
            h.push_event(gst_video::DownstreamForceKeyUnitEvent::builder().all_headers(true).build());
        }
        let mut b = picture(&caps, i);
        stamp(&mut b, i, RATE);
        h.push(b).unwrap();
    }
    h.push_event(gst::event::Eos::new());
    let keys: Vec<_> =
        drain(&mut h).iter().filter(|p| !p.flags().contains(gst::BufferFlags::DELTA_UNIT)).filter_map(|p| p.pts()).collect();
    assert_eq!(keys, [gst::ClockTime::ZERO, gst::ClockTime::from_nseconds(5 * 1_001_000_000_000 / 30000)]);
}

#[test]
fn live_properties_act_at_the_next_block() {
    let caps = raw_caps("I420", 160, 96, RATE);
    let mut h = encoder(&caps, "packetized", "rate-control=tokens name=enc");
    let element = h.element().unwrap();
    let size = |h: &mut gst_check::Harness, n: u64| {
        for i in n..n + 2 {
            let mut b = picture(&caps, i);
            stamp(&mut b, i, RATE);
            h.push(b).unwrap();
        }
        h.pull().unwrap().size()
    };
    size(&mut h, 0);
    let all = size(&mut h, 50);
    element.set_property("tokens", 1u32);
    let one = size(&mut h, 100);
    element.set_property("tokens", 0u32);
    let again = size(&mut h, 150);
    assert!(one * 2 < all && one * 2 < again, "{all} {one} {again}");
    let stats = element.property::<gst::Structure>("stats");
    assert_eq!(stats.get::<u64>("blocks").unwrap(), 4);
    assert_eq!(stats.get::<&str>("provider").unwrap(), "cpu");
}

#[test]
fn stats_tell_how_many_layers_there_are_and_their_rates() {
    let caps = raw_caps("I420", 96, 64, RATE);
    for (psnr, left_out) in [(28, true), (52, false)] {
        let mut enc = encoder(&caps, "packetized", &format!("target-psnr={psnr}"));
        for i in 0..8 {
            let mut b = picture(&caps, i);
            stamp(&mut b, i, RATE);
            enc.push(b).unwrap();
        }
        let packets = drain(&mut enc);
        let mut dec = decoder(&enc.sinkpad().unwrap().current_caps().unwrap());
        for packet in &packets {
            dec.push(packet.clone()).unwrap();
        }
        let [enc, dec] = [enc, dec].map(|h| h.element().unwrap().property::<gst::Structure>("stats"));
        let rates = |s: &gst::Structure| -> Vec<u64> {
            s.get::<gst::Array>("layer-bitrates").unwrap().iter().map(|rate| rate.get().unwrap()).collect()
        };
        let (layers, absent) = (enc.get::<u32>("block-layers").unwrap(), enc.get::<u32>("left-out-layers").unwrap());
        assert_eq!((layers + absent, absent > 0), (4, left_out), "{psnr} dB: {enc}");
        assert_eq!((dec.get("block-layers"), dec.get("left-out-layers")), (Ok(layers), Ok(absent)));
        assert_eq!(rates(&enc).iter().filter(|&&rate| rate > 0).count() as u32, layers, "{enc}");
        assert!(rates(&enc).iter().zip(rates(&dec)).all(|(a, b)| a.abs_diff(b) < a / 100 + 2), "{enc} {dec}");
    }
}

#[test]
fn nothing_in_nothing_out_and_flush_drops_what_waits() {
    let caps = small();
    let (_, packets) = {
        let mut h = encoder(&caps, "packetized", "");
        h.push_event(gst::event::Eos::new());
        ((), drain(&mut h))
    };
    assert!(packets.is_empty());
    let mut h = encoder(&caps, "packetized", "");
    h.push(picture(&caps, 0)).unwrap();
    h.push_event(gst::event::FlushStart::new());
    h.push_event(gst::event::FlushStop::new(true));
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    h.push_event(gst::event::Segment::new(&segment));
    for i in 0..2 {
        let mut b = picture(&caps, i);
        stamp(&mut b, i, RATE);
        h.push(b).unwrap();
    }
    let packet = h.pull().unwrap();
    assert!(!packet.flags().contains(gst::BufferFlags::DELTA_UNIT));
    assert!(h.try_pull().is_none());
}

#[test]
fn new_caps_in_the_middle_of_a_block_lose_no_frame() {
    let (one, two) = (small(), raw_caps("I420", 64, 96, RATE));
    let mut h = encoder(&one, "byte-stream", "");
    for i in 0..3 {
        let mut b = picture(&one, i);
        stamp(&mut b, i, RATE);
        h.push(b).unwrap();
    }
    h.set_src_caps(two.clone());
    for i in 3..6 {
        let mut b = picture(&two, i);
        stamp(&mut b, i, RATE);
        h.push(b).unwrap();
    }
    h.push_event(gst::event::Eos::new());
    let packets = drain(&mut h);
    let frames = decode(&stream_caps("byte-stream"), packets);
    assert_eq!(frames.len(), 6);
    assert_eq!(frames.iter().map(|f| f.size()).collect::<Vec<_>>(), [9216; 6]);
}

#[test]
fn a_format_the_model_does_not_take_is_refused() {
    init();
    let mut h = gst_check::Harness::new("elastictokenc");
    let allowed = h.srcpad().unwrap().peer_query_caps(None);
    assert!(!allowed.can_intersect(&gst::Caps::builder("video/x-raw").field("format", "RGBA").build()));
    h.set_src_caps(raw_caps("RGBA", 64, 64, RATE));
    assert_eq!(h.push(gst::Buffer::with_size(64 * 64 * 4).unwrap()), Err(gst::FlowError::NotNegotiated));
}

#[test]
fn thinned_packets_decode_with_lower_quality() {
    let caps = raw_caps("I420", 160, 96, RATE);
    let (stream, packets) = encode(&caps, "packetized", "target-psnr=42", 8, RATE);
    let mut before = 0.0;
    for layers in 1..=3 {
        let thinned = packets.iter().map(|p| {
            let data = p.map_readable().unwrap();
            let cut = elastictok::bitstream::thin(&data, layers).unwrap().to_vec();
            let mut b = gst::Buffer::from_slice(cut);
            b.get_mut().unwrap().set_pts(p.pts());
            b
        });
        let frames = decode(&stream, thinned);
        assert_eq!(frames.len(), 8);
        let psnr: f64 = frames.iter().enumerate().map(|(i, f)| luma_psnr(&caps, f, &picture(&caps, i as u64))).sum::<f64>() / 8.0;
        assert!(psnr > before, "{layers} layers: {psnr} after {before}");
        before = psnr;
    }
}

#[test]
fn bad_input_never_hangs_and_the_next_key_block_helps() {
    let caps = small();
    let (stream, packets) = encode(&caps, "packetized", "key-int-max=6", 24, RATE);
    let broken = |change: &dyn Fn(usize, &mut Vec<u8>) -> bool| {
        let packets = packets.iter().enumerate().filter_map(|(i, p)| {
            let mut data = p.map_readable().unwrap().to_vec();
            change(i, &mut data).then(|| {
                let mut b = gst::Buffer::from_slice(data);
                b.get_mut().unwrap().set_pts(p.pts());
                b
            })
        });
        let mut h = decoder(&stream);
        h.element().unwrap().set_property("max-errors", -1);
        for p in packets {
            h.push(p).unwrap();
        }
        h.push_event(gst::event::Eos::new());
        drain(&mut h)
    };
    // 12 blocks, key blocks 0, 3, 6, 9
    assert_eq!(broken(&|_, _| true).len(), 24);
    assert_eq!(broken(&|i, _| i != 1).len(), 20, "block 2 depends on the missing block 1");
    assert_eq!(broken(&|i, _| i != 3).len(), 18, "no frame until the next key block");
    let last = broken(&|i, d| {
        if i == 4 {
            d.truncate(d.len() / 3)
        };
        true
    });
    assert!((18..=24).contains(&last.len()), "{}", last.len());
    assert!(last.last().unwrap().pts() > Some(gst::ClockTime::from_mseconds(700)));
    let flipped = broken(&|i, d| {
        let at = (i * 37) % d.len();
        d[at] ^= 1 << (i % 8);
        true
    });
    assert!(flipped.len() <= 24);
    let half = broken(&|i, d| {
        if i % 2 == 1 {
            d.clear()
        }
        true
    });
    assert_eq!(half.len(), 4, "key blocks 0 and 6 are whole; all others depend on an empty buffer or are one");
    let mut seed = 1u32;
    let mut noise: Vec<Vec<u8>> = Vec::new();
    for n in 0..40 {
        noise.push(
            (0..n * 7)
                .map(|_| {
                    seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
                    (seed >> 24) as u8
                })
                .collect(),
        );
    }
    let mut h = decoder(&stream);
    h.element().unwrap().set_property("max-errors", -1);
    for n in noise {
        let _ = h.push(gst::Buffer::from_slice(n));
    }
    for p in &packets[..3] {
        h.push(p.copy()).unwrap();
    }
    assert_eq!(drain(&mut h).len(), 6);
}

#[test]
fn a_stream_of_another_model_and_contradicting_caps_are_errors() {
    let caps = small();
    let (stream, packets) = encode(&caps, "packetized", "", 4, RATE);
    let header = stream.structure(0).unwrap().get::<gst::Buffer>("codec_data").unwrap();
    let mut parsed = elastictok::bitstream::SequenceHeader::parse(&header.map_readable().unwrap()).unwrap();
    parsed.fingerprint[0] ^= 1;
    let foreign = {
        let mut c = stream.clone();
        c.make_mut().set("codec_data", gst::Buffer::from_slice(parsed.to_bytes()));
        c
    };
    let contradicting = {
        let mut c = stream.clone();
        c.make_mut().set("width", 1920i32);
        c
    };
    for (caps, what) in [(foreign, "model"), (contradicting, "width")] {
        init();
        let mut h = gst_check::Harness::new("elastictokdec");
        let bus = gst::Bus::new();
        h.element().unwrap().set_bus(Some(&bus));
        h.set_src_caps(caps);
        assert!(h.push(packets[0].copy()).is_err());
        let message =
            bus.timed_pop_filtered(gst::ClockTime::from_seconds(1), &[gst::MessageType::Error]).expect("an error on the bus");
        let gst::MessageView::Error(e) = message.view() else { panic!() };
        assert!(format!("{:?}", e).contains(what), "{e:?}");
    }
}

#[test]
fn thinning_cuts_blocks_and_shares_their_memory() {
    let caps = raw_caps("I420", 96, 64, (30, 1));
    let (coded, packets) = encode(&caps, "packetized", "target-psnr=46", 12, (30, 1));
    let mut h = gst_check::Harness::new("elastictokthin");
    h.set_src_caps(coded.clone());
    h.element().unwrap().set_property("max-layers", 2u32);
    for (i, packet) in packets.iter().enumerate() {
        if i == 4 {
            h.element().unwrap().set_property("max-layers", 1u32);
        }
        h.push(packet.clone()).unwrap();
    }
    assert_eq!(h.sinkpad().unwrap().current_caps().unwrap(), coded);
    let thin = drain(&mut h);
    assert_eq!(thin.len(), packets.len());
    for (i, (a, b)) in packets.iter().zip(&thin).enumerate() {
        let (a, b) = ((a, a.map_readable().unwrap()), (b, b.map_readable().unwrap()));
        assert!(a.1.starts_with(&b.1) && b.1.len() < a.1.len(), "block {i} is cut");
        assert_eq!(a.1.as_ptr(), b.1.as_ptr(), "and not copied");
        let told = |b: &gst::Buffer| (b.pts(), b.duration(), b.flags() - gst::BufferFlags::TAG_MEMORY);
        assert_eq!(told(a.0), told(b.0));
        assert_eq!(&b.1[..], elastictok::bitstream::thin(&a.1, if i < 4 { 2 } else { 1 }).unwrap());
    }
    let stats: gst::Structure = h.element().unwrap().property("stats");
    assert_eq!((stats.get::<u64>("blocks"), stats.get::<u32>("layers")), (Ok(6), Ok(1)));
    assert_eq!(decode(&coded, thin).len(), 12);
}
