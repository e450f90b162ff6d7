// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes in comes out, through the bytes of block headers.

use bytes::BytesMut;
use proptest::prelude::*;

use super::grid::{SECOND, valid};
use super::*;
use crate::Error;
use crate::bitstream::BlockHeader;

const RATES: [(u32, u32); 9] =
    [(30000, 1001), (25, 1), (0, 1), (30, 1), (24000, 1001), (1, 1), (u32::MAX, 1), (1, u32::MAX), (u32::MAX, u32::MAX - 1)];

/// How a source stamps its frames.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// videotestsrc: on the grid, durations from point to point.
    Grid,
    /// Decoders: on the grid, the nominal duration for each.
    Nominal,
    /// Matroska: rounded to milliseconds, nominal durations.
    Rounded,
    /// Screen capture: whenever, up to the next frame, in milliseconds.
    Variable,
    /// Cameras: near the grid.
    Jittered,
    /// Elementary streams: no PTS at all.
    Untimed,
    /// Anything.
    Wild,
}

fn frames(source: Source, rate: (u32, u32), start: u64, count: usize, noise: &[u64]) -> Vec<FrameTime> {
    let step = u128::from(rate.1) * SECOND;
    let point = |index: usize| match rate.0 {
        0 => start.wrapping_add(index as u64 * 40_000_000),
        num => start.saturating_add(u64::try_from(index as u128 * step / u128::from(num)).unwrap_or(u64::MAX)),
    };
    let nominal = u64::try_from(step / u128::from(rate.0.max(1))).ok();
    let mut clock = start / 1_000_000;
    (0..count)
        .map(|index| {
            let noise = noise[index % noise.len()];
            let rounded = (point(index).saturating_add(500_000) / 1_000_000).saturating_mul(1_000_000);
            let (pts, duration) = match source {
                Source::Grid => (Some(point(index)), Some(point(index + 1) - point(index).min(point(index + 1)))),
                Source::Nominal => (Some(point(index)), nominal),
                Source::Rounded => (Some(rounded), nominal),
                Source::Jittered => (Some(point(index).saturating_add(noise % 5_000_000)), nominal),
                Source::Untimed => (None, nominal),
                Source::Variable => {
                    let (now, wait) = (clock, noise % 500);
                    clock += wait;
                    (now.checked_mul(1_000_000), Some(wait * 1_000_000))
                }
                Source::Wild => {
                    let some = |value: u64, bit: u32| (noise >> bit & 1 == 1).then_some(value);
                    (some(noise >> (noise % 40), 3), some(noise.rotate_left(17), 5))
                }
            };
            FrameTime { pts: valid(pts), duration: valid(duration) }
        })
        .collect()
}

/// Writes and reads the header that carries `timing`: the timing again, and the bytes it took.
fn through_bytes(position: u32, frames: u8, timing: Timing, block_length: u8) -> (Timing, usize) {
    let header =
        BlockHeader { key: position == 0, epoch: 7, position, left_out: 0, frames, quantiser: 1, base_quantiser: None, timing };
    let mut out = BytesMut::new();
    header.write(block_length, &mut out).expect("the encoder's timing is valid");
    let (parsed, len) = BlockHeader::parse(&out, block_length).expect("what was written");
    assert_eq!((&parsed, len), (&header, out.len()));
    (parsed.timing, len)
}

fn source() -> impl Strategy<Value = Source> {
    use Source::*;
    prop::sample::select(vec![Grid, Nominal, Rounded, Variable, Jittered, Untimed, Wild])
}

fn start() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0..u64::MAX, (0..1u64 << 50), (u64::MAX - (1 << 34)..u64::MAX)]
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(
        source in source(), other in source(), rate in prop::sample::select(&RATES[..]), start in start(),
        block_length in 1u8..=16, key_interval in 1u32..6, lost: u32, partial in 0usize..16,
        noise in prop::collection::vec(any::<u64>(), 1..50), shift in prop::option::of(0u64..1 << 40),
    ) {
        let mut encoder = Timeline::new(rate, block_length).expect("valid");
        let mut decoder = encoder.clone();
        let length = usize::from(block_length);
        // Another source takes over halfway, and the last block is not full.
        let mut times = frames(source, rate, start, 8 * length, &noise);
        times.extend(frames(other, rate, start, 3 * length + partial % length + 1, &noise));
        for (index, block) in times.chunks(length).enumerate() {
            let position = index as u32 % key_interval;
            let timing = encoder.encode(position, block).expect("valid");
            let count = block.len() as u8;
            let (timing, _) = through_bytes(position, count, timing, block_length);
            if position > 0 && lost >> index & 1 == 1 {
                continue;
            }
            let shifted = |time: Option<u64>| time.and_then(|time| valid(time.checked_add(shift.unwrap_or(0))));
            // Packets carry the block's own PTS, moved by something in between, or nothing at all.
            let packet = shift.and_then(|_| shifted(block[0].pts));
            let out = decoder.decode(position, count, &timing, packet);
            if packet.is_some() || shift.is_none() {
                let wanted: Vec<_> =
                    block.iter().map(|time| FrameTime { pts: shifted(time.pts), ..*time }).collect();
                prop_assert_eq!(out.frames(), &wanted[..]);
            }
        }
    }

    #[test]
    fn hostile_timing_never_panics(
        rate in (any::<u32>(), 1..=u32::MAX), block_length in 1u8..=16, frames: u8, no_pts: bool,
        base: Option<u64>, packets in prop::collection::vec((any::<u32>(), any::<Option<u64>>()), 1..5),
        differences: Option<[i64; 16]>, unit in 0usize..3, rule in 0usize..5, list: [i64; 16],
    ) {
        let unit = [TimeUnit::Nanosecond, TimeUnit::Microsecond, TimeUnit::Millisecond][unit];
        let durations =
            [Durations::Grid, Durations::Nominal, Durations::Absent, Durations::Next(list[0]), Durations::Each(list)][rule];
        let timing = Timing { base, no_pts, explicit: Some(Explicit { unit, differences, durations }) };
        let mut timeline = Timeline::new(rate, block_length).expect("valid");
        for (position, packet) in packets {
            for position in [position, u32::MAX, 0, 1] {
                let times = timeline.decode(position, frames, &timing, packet);
                prop_assert!(times.frames().iter().all(|time| time.pts != Some(u64::MAX) && time.duration != Some(u64::MAX)));
                timeline.decode(position, frames, &Timing::default(), packet);
            }
        }
    }
}

#[test]
fn regular_video_carries_nothing() {
    for rate in [(30000, 1001), (25, 1), (24000, 1001), (60, 1), (15, 2)] {
        for first in [0u64, 1, 1000, 123_456] {
            let grid = |index: u64| (u128::from(index) * u128::from(rate.1) * SECOND / u128::from(rate.0)) as u64;
            let mut encoder = Timeline::new(rate, 2).expect("valid");
            for position in 0..500 {
                let frame = first + u64::from(position) * 2;
                let time = |index| FrameTime { pts: Some(grid(index)), duration: Some(grid(index + 1) - grid(index)) };
                let timing = encoder.encode(position, &[time(frame), time(frame + 1)]).expect("valid");
                assert_eq!(timing.explicit, None, "{rate:?} frame {frame}");
            }
        }
    }
}

#[test]
fn common_sources_cost_little() {
    // (source, rate, most bytes of a header beyond the 5 of a regular block, on average, in per cent)
    for (source, rate, most) in [
        (Source::Nominal, (30000, 1001), 0),
        (Source::Nominal, (25, 1), 0),
        (Source::Rounded, (30, 1), 0),
        (Source::Rounded, (25, 1), 0),
        (Source::Untimed, (30, 1), 0),
        (Source::Jittered, (30, 1), 1000),
        (Source::Variable, (0, 1), 1200),
    ] {
        let mut encoder = Timeline::new(rate, 2).expect("valid");
        let noise: Vec<u64> = (0..97u64).map(|index| index.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20).collect();
        let times = frames(source, rate, 0, 400, &noise);
        let mut bytes = 0;
        for (index, block) in times.chunks(2).enumerate() {
            let position = index as u32 % 100;
            let timing = encoder.encode(position, block).expect("valid");
            // The first key block cannot know yet which of two fitting rules will go on to fit.
            if position > 0 && index > 100 {
                let len = through_bytes(position, 2, timing, 2).1;
                bytes += len - 5;
            }
        }
        let percent = bytes * 100 / 99;
        assert!(percent <= most, "{source:?} {rate:?}: {percent}");
    }
}

#[test]
fn packet_time_takes_precedence_and_shifts_the_rest() {
    let mut encoder = Timeline::new((30000, 1001), 2).expect("valid");
    let mut decoder = encoder.clone();
    let time = |pts| FrameTime { pts: Some(pts), duration: Some(33_366_666) };
    let pts = |times: &BlockTimes| times.frames().iter().map(|time| time.pts).collect::<Vec<_>>();
    let key = encoder.encode(0, &[time(0), time(33_366_666)]).expect("valid");
    let next = encoder.encode(1, &[time(66_733_333), time(100_100_000)]).expect("valid");
    assert_eq!(pts(&decoder.decode(0, 2, &key, None)), [Some(0), Some(33_366_666)]);
    // A demuxer that rounds to milliseconds.
    assert_eq!(pts(&decoder.decode(1, 2, &next, Some(67_000_000))), [Some(67_000_000), Some(100_366_667)]);
    // The shift stays where a packet has no time, until the next key block.
    assert_eq!(pts(&decoder.decode(1, 2, &next, None)), [Some(67_000_000), Some(100_366_667)]);
    assert_eq!(pts(&decoder.decode(0, 2, &key, None)), [Some(0), Some(33_366_666)]);
    // A time that shifts the second frame out of range leaves it without.
    assert_eq!(pts(&decoder.decode(0, 2, &key, Some(u64::MAX - 1))), [Some(u64::MAX - 1), None]);
    // "None" as GStreamer writes it.
    assert_eq!(pts(&decoder.decode(0, 2, &key, Some(u64::MAX))), [Some(0), Some(33_366_666)]);
    // Without a time of its own, a block gets the packet's and the nominal spacing.
    let untimed = Timing { no_pts: true, ..Default::default() };
    assert_eq!(pts(&decoder.decode(0, 2, &untimed, Some(5))), [Some(5), Some(33_366_671)]);
    assert_eq!(pts(&decoder.decode(0, 2, &untimed, None)), [None, None]);
    decoder.reset();
    assert_eq!(pts(&decoder.decode(3, 1, &next, Some(9))), [Some(9)], "no key block");
}

#[test]
fn wrong_use_is_refused() {
    assert!(matches!(Timeline::new((30, 0), 2), Err(Error::Settings(_))));
    assert!(matches!(Timeline::new((30, 1), 0), Err(Error::Settings(_))));
    assert!(matches!(Timeline::new((30, 1), 17), Err(Error::Settings(_))));
    let mut timeline = Timeline::new((30, 1), 2).expect("valid");
    assert!(matches!(timeline.encode(1, &[FrameTime::default()]), Err(Error::Settings(_))));
    assert!(matches!(timeline.encode(0, &[]), Err(Error::Settings(_))));
    assert!(matches!(timeline.encode(0, &[FrameTime::default(); 3]), Err(Error::Settings(_))));
}
