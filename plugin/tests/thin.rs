// SPDX-License-Identifier: MIT OR Apache-2.0
//! `elastictokthin`: what passes, and what stays as it was.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::*;
use gst::prelude::*;

const RATE: (i32, i32) = (30, 1);

/// Three seconds, a key block every 20 frames.
fn stream() -> (gst::Caps, Vec<gst::Buffer>) {
    encode(&raw_caps("I420", 96, 64, RATE), "packetized", "target-psnr=44 key-int-max=20", 90, RATE)
}

fn thinner(caps: &gst::Caps, limit: (&str, u32)) -> gst_check::Harness {
    let mut h = gst_check::Harness::new("elastictokthin");
    h.element().unwrap().set_property(limit.0, limit.1);
    h.set_src_caps(caps.clone());
    h
}

fn thin(caps: &gst::Caps, packets: &[gst::Buffer], limit: (&str, u32)) -> Vec<gst::Buffer> {
    let mut h = thinner(caps, limit);
    packets.iter().for_each(|p| assert!(h.push(p.copy()).is_ok()));
    drain(&mut h)
}

/// Mean of three seconds in kbit/s.
fn kbits(packets: &[gst::Buffer]) -> f64 {
    packets.iter().map(|p| p.size()).sum::<usize>() as f64 * 8.0 / 3000.0
}

#[test]
fn a_bitrate_above_the_streams_passes_all_and_one_below_is_held() {
    let (caps, packets) = stream();
    let (whole, first) = (kbits(&packets), kbits(&thin(&caps, &packets, ("max-layers", 1))));
    assert!(first < whole * 0.6, "{first} and {whole}");
    let all = thin(&caps, &packets, ("bitrate", (whole * 1.6).ceil() as u32));
    assert!(all.iter().zip(&packets).all(|(a, b)| a.size() == b.size()), "{} of {whole}", kbits(&all));
    let between = (whole + first) / 2.0;
    let some = kbits(&thin(&caps, &packets, ("bitrate", between as u32)));
    assert!((first * 0.99..between * 4.0 / 3.0).contains(&some), "{some} for {between}, {first} and {whole}");
    assert_eq!(kbits(&thin(&caps, &packets, ("bitrate", 1))), first, "the first layer always passes");
}

#[test]
fn time_stamps_or_else_durations_tell_the_time() {
    let (caps, packets) = stream();
    let limit = ("bitrate", (kbits(&packets) * 1.6).ceil() as u32);
    let sizes = |packets: Vec<gst::Buffer>| packets.iter().map(|p| p.size()).collect::<Vec<_>>();
    let changed = |change: &dyn Fn(u64, &mut gst::BufferRef)| {
        let mut packets: Vec<_> = packets.iter().map(|p| p.copy()).collect();
        packets.iter_mut().zip(0..).for_each(|(p, i)| change(i, p.get_mut().unwrap()));
        sizes(thin(&caps, &packets, limit))
    };
    let strip = |p: &mut gst::BufferRef| {
        p.set_pts(None);
        p.set_duration(None);
    };
    let whole = sizes(packets.clone());
    assert_eq!(changed(&|_, p| p.set_duration(None)), whole);
    assert_eq!(changed(&|_, p| p.set_pts(None)), whole);
    assert_eq!(changed(&|_, p| strip(p)), whole, "blocks of the usual duration");
    assert_eq!(
        changed(&|_, p| p.set_duration(gst::ClockTime::from_nseconds(1))),
        whole,
        "a nominal rate that is not the real one"
    );
    // time stamps that start again, as of joined files
    assert_eq!(changed(&|i, p| p.set_pts(gst::ClockTime::from_nseconds(i % 10 * 66_666_667))), whole);
    // three seconds' worth in less than half a second: of these, 1.6 * (0.45 + 1) may pass
    let fast = changed(&|i, p| p.set_pts(gst::ClockTime::from_mseconds(i * 10)));
    assert!(fast.iter().sum::<usize>() < whole.iter().sum::<usize>() * 8 / 10);
}

#[test]
fn flags_times_and_metas_stay_with_a_block_that_is_cut() {
    let (caps, packets) = stream();
    let reference = gst::Caps::new_empty_simple("timestamp/x-ntp");
    for held in [false, true] {
        let mut h = thinner(&caps, ("max-layers", 1));
        let mut packet = packets[1].copy();
        let whole = packet.size();
        {
            let b = packet.get_mut().unwrap();
            b.set_flags(
                gst::BufferFlags::DISCONT | gst::BufferFlags::DELTA_UNIT | gst::BufferFlags::MARKER | gst::BufferFlags::CORRUPTED,
            );
            b.set_dts(gst::ClockTime::from_mseconds(3));
            b.set_offset(7);
            b.set_offset_end(9);
            let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, 96, 64).fps((30, 1)).build().unwrap();
            let code = gst_video::VideoTimeCode::new(info.fps(), None, gst_video::VideoTimeCodeFlags::empty(), 1, 2, 3, 4, 0);
            gst_video::VideoTimeCodeMeta::add(b, &code.try_into().unwrap());
            gst_video::VideoCaptionMeta::add(b, gst_video::VideoCaptionType::Cea708Raw, &[1, 2, 3]);
            gst_video::VideoRegionOfInterestMeta::add(b, "face", (1, 2, 30, 40));
            gst::ReferenceTimestampMeta::add(b, &reference, gst::ClockTime::SECOND, None);
        }
        let kept = held.then(|| packet.clone());
        let told = |b: &gst::Buffer| {
            let flags = b.flags() - gst::BufferFlags::TAG_MEMORY;
            (b.pts(), b.dts(), b.duration(), b.offset(), b.offset_end(), flags, b.iter_meta::<gst::Meta>().count())
        };
        let before = told(&packet);
        h.push(packet).unwrap();
        let out = h.pull().unwrap();
        assert!(out.size() < whole);
        assert_eq!(told(&out), before);
        assert_eq!(out.meta::<gst_video::VideoTimeCodeMeta>().unwrap().tc().seconds(), 3);
        assert_eq!(out.meta::<gst_video::VideoCaptionMeta>().unwrap().data(), [1, 2, 3]);
        assert_eq!(out.meta::<gst_video::VideoRegionOfInterestMeta>().unwrap().rect(), (1, 2, 30, 40));
        assert!(out.meta::<gst::ReferenceTimestampMeta>().is_some());
        assert!(kept.is_none_or(|k| k.size() == whole), "what others hold is not cut");
    }
}

/// Key units asked for upstream since the last call.
fn asked(h: &mut gst_check::Harness) -> usize {
    std::iter::from_fn(|| h.try_pull_upstream_event()).filter(|e| gst_video::UpstreamForceKeyUnitEvent::parse(e).is_ok()).count()
}

#[test]
fn key_units_asked_for_downstream_pass_and_a_raised_limit_asks_for_one() {
    let (caps, packets) = stream();
    let mut h = thinner(&caps, ("max-layers", 1));
    h.element().unwrap().set_property("request-key-unit", true);
    packets[..3].iter().for_each(|p| assert!(h.push(p.copy()).is_ok()));
    assert_eq!(asked(&mut h), 0);
    h.push_upstream_event(gst_video::UpstreamForceKeyUnitEvent::builder().build());
    assert_eq!(asked(&mut h), 1);
    h.element().unwrap().set_property("max-layers", 0u32);
    packets[3..].iter().for_each(|p| assert!(h.push(p.copy()).is_ok()));
    assert_eq!(asked(&mut h), 1);
    let out = drain(&mut h);
    let whole: Vec<_> = out.iter().zip(&packets).map(|(a, b)| a.size() == b.size()).collect();
    assert_eq!(whole.iter().position(|w| *w), Some(10), "from the next key block on");
    assert!(whole[10..].iter().all(|w| *w));
    let stats: gst::Structure = h.element().unwrap().property("stats");
    assert_eq!(stats.get::<u64>("blocks").unwrap(), 45);
    assert_eq!(stats.get::<u64>("bytes-in").unwrap(), packets.iter().map(|p| p.size() as u64).sum::<u64>());
    assert_eq!(stats.get::<u64>("bytes-out").unwrap(), out.iter().map(|p| p.size() as u64).sum::<u64>());
}

#[test]
fn a_flush_keeps_what_groups_take_and_another_stream_does_not() {
    let (caps, packets) = stream();
    let first = kbits(&thin(&caps, &packets, ("max-layers", 1)));
    // what the first key block may take whole, and its group may not
    let limit = ("bitrate", (kbits(&packets) * 0.3 + first * 0.7) as u32);
    let mut h = thinner(&caps, limit);
    let key = |h: &mut gst_check::Harness, n: usize| {
        packets[..n].iter().for_each(|p| assert!(h.push(p.copy()).is_ok()));
        drain(h)[0].size() == packets[0].size()
    };
    assert!(key(&mut h, 25));
    h.push_event(gst::event::FlushStart::new());
    h.push_event(gst::event::FlushStop::new(true));
    h.push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
    assert!(!key(&mut h, 1), "known to be too much");
    h.push_event(gst::event::StreamStart::new("another"));
    h.set_src_caps(caps.clone());
    h.push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
    assert!(key(&mut h, 1));
}
