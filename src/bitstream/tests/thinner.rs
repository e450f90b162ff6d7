// SPDX-License-Identifier: MIT OR Apache-2.0
//! Thinning to a bitrate, on streams of blocks of known sizes.

use bytes::BytesMut;
use proptest::prelude::*;

use crate::bitstream::{BlockHeader, BlockWriter, Thinner, Timing, thin};

/// Seconds between blocks.
const EVERY: f64 = 0.1;

/// A block whose layers take about this many bytes each.
fn block(position: u32, layers: &[usize]) -> BytesMut {
    let key = position == 0;
    let timing = Timing { base: key.then_some(0), ..Timing::default() };
    let header = BlockHeader { key, epoch: 0, position, left_out: 0, frames: 2, quantiser: 9, base_quantiser: None, timing };
    let mut out = BytesMut::new();
    let mut writer = BlockWriter::begin(&header, 2, &mut out).expect("valid");
    for n in layers {
        writer.segment(&vec![7; *n]);
    }
    out
}

/// `n` blocks, each `group`-th of them (0: only the first) a key block; what varies, varies by a factor of 1 +- `noise`.
fn stream(n: u32, group: u32, key: &[usize], other: &[usize], noise: f64) -> Vec<BytesMut> {
    let mut seed = 1u32;
    let one = |i: u32| {
        let position = if group == 0 { i } else { i % group };
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let factor = 1.0 + noise * (f64::from(seed >> 8) / f64::from(1 << 23) - 1.0);
        let sizes: Vec<_> = if position == 0 { key } else { other }.iter().map(|s| (*s as f64 * factor) as usize).collect();
        block(position, &sizes)
    };
    (0..n).map(one).collect()
}

/// Bytes per second of the whole stream cut to this many layers.
fn rate(stream: &[BytesMut], layers: usize) -> f64 {
    stream.iter().map(|b| thin(b, layers).expect("whole").len()).sum::<usize>() as f64 / (stream.len() as f64 * EVERY)
}

/// Bytes of each block that pass, having checked that in any `t` seconds it is no more than `t + 1` seconds at the bitrate give, but
/// for blocks of which only the first layer passes.
fn pass(thinner: &mut Thinner, stream: &[BytesMut], bytes_per_second: f64) -> Vec<usize> {
    thinner.set_limits(0, bytes_per_second * 8.0);
    let passed: Vec<_> = stream.iter().map(|b| thinner.cut(b, EVERY).expect("whole").len()).collect();
    let blocks: Vec<_> = stream.iter().zip(&passed).map(|(b, n)| (EVERY, *n, thin(b, 1).expect("whole").len())).collect();
    assert_eq!(excess(&blocks, bytes_per_second), None, "{bytes_per_second} bytes/s");
    passed
}

/// The first block with which more passes than the bitrate allows, though it has more than its first layer, of blocks given by the
/// seconds since the one before, their bytes, and those of their first layer.
fn excess(blocks: &[(f64, usize, usize)], bytes_per_second: f64) -> Option<usize> {
    let mut counts = 0;
    for (at, &(_, n, first)) in blocks.iter().enumerate() {
        let (mut seconds, mut bytes, mut over) = (0.0, 0, false);
        for &(since, n, _) in blocks[counts..=at].iter().rev() {
            bytes += n;
            over |= bytes as f64 > bytes_per_second * (seconds + 1.0) * (1.0 + 1e-9);
            seconds += since;
        }
        match over {
            true if n > first => return Some(at),
            // What does not fit of first layers does not count against those that follow.
            true => counts = at + 1,
            false => {}
        }
    }
    None
}

fn mean(passed: &[usize]) -> f64 {
    passed.iter().sum::<usize>() as f64 / (passed.len() as f64 * EVERY)
}

const KEY: [usize; 3] = [400, 800, 1600];
const OTHER: [usize; 3] = [50, 150, 300];

#[test]
fn a_bitrate_above_that_of_the_whole_stream_passes_everything() {
    // key blocks of a tenth of a second's worth up to one second's worth, groups of one block up to a hundred, and none but the first
    for (group, key) in [(1, 1), (2, 1), (5, 2), (10, 4), (30, 8), (100, 8), (0, 4)] {
        let key = OTHER.map(|n| n * key);
        let whole = stream(400, group, &key, &OTHER, 0.2);
        let passed = pass(&mut Thinner::default(), &whole, rate(&whole, 3) * 1.3);
        assert!(passed.iter().zip(&whole).all(|(n, b)| *n == b.len()), "groups of {group}");
    }
}

#[test]
fn the_highest_rung_that_fits_passes() {
    for group in [5, 20, 80] {
        let whole = stream(480, group, &KEY, &OTHER, 0.1);
        for layers in 1..=3 {
            let (fits, above) =
                (rate(&whole, layers) * 1.2, if layers < 3 { rate(&whole, layers + 1) * 0.9 } else { f64::INFINITY });
            for asked in [fits, above.min(fits * 3.0)] {
                let passed = pass(&mut Thinner::default(), &whole, asked);
                // The first group or two show what there is; then what is above by a ninth fills a queue of a second.
                let from = 2 * group.max(10) as usize + 100;
                let expected: Vec<_> = whole[from..].iter().map(|b| thin(b, layers).expect("whole").len()).collect();
                assert_eq!(passed[from..], expected, "{layers} layers for {asked}, groups of {group}");
            }
        }
    }
    let least = stream(200, 20, &KEY, &OTHER, 0.0);
    assert_eq!(mean(&pass(&mut Thinner::default(), &least, 1.0)), rate(&least, 1), "the first layer always passes");
}

#[test]
fn a_key_block_is_spread_over_its_group_and_takes_a_second_at_most() {
    // Key blocks of ten times the rest, every eight seconds.
    let whole = stream(400, 80, &[800, 1600, 3200], &[40, 80, 160], 0.1);
    let layers = |asked: f64, from: usize| {
        let passed = pass(&mut Thinner::default(), &whole, asked);
        let count = |(n, b): (&usize, &BytesMut)| (1..4).find(|&k| thin(b, k).expect("whole").len() == *n);
        let counts: Vec<_> = passed[from..].iter().zip(&whole[from..]).map(count).collect();
        assert!(counts.iter().all(|n| *n == counts[0]), "{counts:?}");
        counts[0].expect("a prefix")
    };
    assert_eq!(layers(6800.0, 0), 3, "a key block of 5600 bytes and a tenth, and 3500 bytes/s in all");
    assert_eq!(layers(4000.0, 160), 2, "enough for the mean, too little for the key block");
    assert_eq!(layers(2000.0, 160), 1);
}

#[test]
fn a_stream_joined_after_its_key_block_is_thinned_within_a_second() {
    let whole = stream(300, 100, &KEY, &OTHER, 0.1);
    let passed = pass(&mut Thinner::default(), &whole[37..], rate(&whole, 2) * 1.2);
    let two = |range: std::ops::Range<usize>| {
        passed[range.clone()].iter().zip(&whole[37..][range]).all(|(n, b)| *n == thin(b, 2).expect("whole").len())
    };
    assert!(two(10..60), "{passed:?}");
}

#[test]
fn time_stamps_decide_and_not_how_many_blocks_there_are() {
    // half the stream comes at half the pace
    let whole = stream(400, 20, &KEY, &OTHER, 0.0);
    let mut thinner = Thinner::default();
    thinner.set_limits(0, rate(&whole, 3) * 8.0 * 0.6);
    let sizes: Vec<_> = whole.iter().map(|b| thinner.cut(b, EVERY * 2.0).expect("whole").len()).collect();
    assert!(sizes.iter().zip(&whole).all(|(n, b)| *n == b.len()));
}

#[test]
fn a_busier_scene_gives_up_layers_within_a_second_and_a_calmer_one_takes_them_back() {
    let calm = stream(200, 50, &KEY, &OTHER, 0.1);
    let busy = stream(200, 50, &KEY.map(|n| n * 3), &OTHER.map(|n| n * 3), 0.1);
    let asked = rate(&calm, 3) * 1.3;
    let mut thinner = Thinner::default();
    assert_eq!(mean(&pass(&mut thinner, &calm, asked)), rate(&calm, 3));
    let passed = pass(&mut thinner, &busy[1..], asked);
    assert!(passed[10..].iter().zip(&busy[11..]).all(|(n, b)| *n < b.len()), "within a second");
    assert!(mean(&passed[10..]) <= asked && mean(&passed) >= rate(&busy, 1) * 0.99, "{} for {asked}", mean(&passed));
    let again = pass(&mut thinner, &calm[1..], asked);
    assert_eq!(again[49..], calm[50..].iter().map(|b| b.len()).collect::<Vec<_>>(), "back at the key block");
}

/// Over half an hour, the share of blocks that pass whole, and how often this changes.
fn whole_and_changes(whole: &[BytesMut], passed: &[usize]) -> (f64, usize) {
    let all: Vec<_> = whole.iter().zip(passed).map(|(b, n)| b.len() == *n).collect();
    let count = all.iter().filter(|all| **all).count();
    (count as f64 / all.len() as f64, all.windows(2).filter(|pair| pair[0] != pair[1]).count())
}

#[test]
fn a_bitrate_at_the_mean_of_a_stream_passes_most_of_it() {
    let busy = stream(40, 40, &KEY.map(|n| n * 2), &OTHER.map(|n| n * 2), 0.1);
    for noise in [0.0, 0.02, 0.1, 0.3] {
        let whole = stream(18_000, 40, &KEY, &OTHER, noise);
        for (share, least) in [(1.05, 0.97), (1.0, 0.9)] {
            let asked = rate(&whole, 3) * share;
            let mut thinner = Thinner::default();
            // Layers are missing at first.
            pass(&mut thinner, &busy, asked);
            assert!(thinner.layers() < 3);
            thinner.set_limits(0, asked * 8.0);
            let passed: Vec<_> = whole.iter().map(|b| thinner.cut(b, EVERY).expect("whole").len()).collect();
            let (count, changes) = whole_and_changes(&whole, &passed);
            assert!(count >= least && changes <= 40, "noise {noise}, {share}: {count} whole, {changes} changes");
        }
        let asked = rate(&whole, 3) * 0.95;
        let mut thinner = Thinner::default();
        thinner.set_limits(0, asked * 8.0);
        let passed: Vec<_> = whole.iter().map(|b| thinner.cut(b, EVERY).expect("whole").len()).collect();
        let (count, changes) = whole_and_changes(&whole, &passed);
        assert!(count <= 0.1 && changes <= 40, "noise {noise}, too little: {count} whole, {changes} changes");
    }
}

#[test]
fn layers_go_at_once_and_come_back_at_key_blocks() {
    let mut thinner = Thinner::default();
    let size = |thinner: &mut Thinner, position| thinner.cut(&block(position, &OTHER), EVERY).expect("whole").len();
    let whole = size(&mut thinner, 0);
    thinner.set_limits(1, 0.0);
    let first = size(&mut thinner, 1);
    assert!(first < 80 && whole > 500);
    assert!(!thinner.wants_key(), "the limit holds");
    thinner.set_limits(0, 0.0);
    assert_eq!(size(&mut thinner, 2), first, "not before the key block");
    assert!(thinner.wants_key() && !thinner.wants_key(), "asked for once");
    let again = (3..33).filter(|&n| (size(&mut thinner, n), thinner.wants_key()).1).collect::<Vec<_>>();
    assert_eq!(again, [22], "then not for two seconds");
    assert_eq!(size(&mut thinner, 0), whole);
    assert!(!thinner.wants_key());
    assert!(thinner.cut(&[1, 2, 3], EVERY).is_err());
}

#[test]
fn a_lower_bitrate_acts_on_the_next_block_and_a_higher_one_wants_a_key_block() {
    let whole = stream(400, 50, &KEY, &OTHER, 0.1);
    let mut thinner = Thinner::default();
    let (all, two) = (rate(&whole, 3) * 8.0 * 1.3, rate(&whole, 2) * 8.0 * 1.2);
    let mut layers = |range: std::ops::Range<usize>, bitrate: f64| {
        thinner.set_limits(0, bitrate);
        let mut wanted = 0;
        for b in &whole[range] {
            thinner.cut(b, EVERY).expect("whole");
            wanted += u32::from(thinner.wants_key());
        }
        (thinner.layers(), wanted)
    };
    assert_eq!(layers(0..170, all), (3, 0));
    assert_eq!(layers(170..171, two), (2, 0));
    assert_eq!(layers(171..175, two), (2, 0));
    assert_eq!(layers(175..180, all), (2, 1), "asked for once, soon");
    assert_eq!(layers(180..240, all).0, 3);
}

#[test]
fn after_a_seek_what_blocks_take_is_still_known() {
    let whole = stream(200, 80, &KEY, &OTHER, 0.1);
    let mut thinner = Thinner::default();
    let asked = rate(&whole, 2) * 1.2;
    pass(&mut thinner, &whole[..170], asked);
    thinner.restart();
    let passed = pass(&mut thinner, &whole[80..160], asked);
    assert!(passed.iter().zip(&whole[80..]).all(|(n, b)| *n == thin(b, 2).expect("whole").len()));
}

#[test]
fn blocks_of_varying_depth_are_measured_by_what_they_have() {
    let mut thinner = Thinner::default();
    thinner.set_limits(0, 8.0 * 6000.0);
    // One layer at first, then three: those that no block had before take nothing.
    let all: Vec<_> = (0..60).map(|n| block(n % 20, if n < 20 { &OTHER[..1] } else { &OTHER })).collect();
    let passed: Vec<_> = all.iter().map(|b| thinner.cut(b, EVERY).expect("whole").len()).collect();
    assert!(passed.iter().zip(&all).all(|(n, b)| *n == b.len()));
    assert_eq!(thinner.layers(), 3);
}

proptest! {
    /// Whatever comes, what passes is what thinning to some number of layers leaves.
    #[test]
    fn what_passes_is_a_thinned_block(
        blocks in prop::collection::vec((0u32..6, prop::collection::vec(prop_oneof![Just(0usize), 1..300usize], 0..9), 0.0f64..3.0), 1..60),
        bitrate in 0.0f64..40_000.0,
        max_layers in 0usize..5,
        cut in any::<prop::sample::Index>(),
    ) {
        let mut thinner = Thinner::default();
        thinner.set_limits(max_layers, bitrate);
        for (position, layers, since) in &blocks {
            let whole = block(*position, layers);
            let damaged = &whole[..whole.len() - cut.index(whole.len())];
            for data in [&whole[..], damaged] {
                let Ok(passed) = thinner.cut(data, *since) else {
                    prop_assert!(thin(data, 1).is_err());
                    continue;
                };
                let n = thinner.layers().max(1);
                prop_assert_eq!(passed, thin(data, n).expect("the same"), "{} layers", n);
                prop_assert!(max_layers == 0 || n <= max_layers);
            }
            thinner.wants_key();
        }
    }

    /// Whatever blocks come: see `excess`.
    #[test]
    fn the_bitrate_holds_whatever_comes(
        scenes in prop::collection::vec((1usize..40, 1usize..30, 0.0f64..0.4), 1..8),
        blocks in prop::collection::vec((0u32..12, prop::collection::vec(1usize..40, 1..6)), 200),
        bytes_per_second in 50.0f64..20_000.0,
    ) {
        let mut thinner = Thinner::default();
        thinner.set_limits(0, bytes_per_second * 8.0);
        let mut source = blocks.iter();
        let mut passed = Vec::new();
        for (count, scale, since) in scenes {
            for (position, layers) in source.by_ref().take(count) {
                let whole = block(*position, &layers.iter().map(|n| n * scale).collect::<Vec<_>>());
                let n = thinner.cut(&whole, since).expect("whole").len();
                passed.push((since, n, thin(&whole, 1).expect("whole").len()));
            }
        }
        prop_assert_eq!(excess(&passed, bytes_per_second), None);
    }
}
