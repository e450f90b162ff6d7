// SPDX-License-Identifier: MIT OR Apache-2.0
//! Thinning to a bitrate, on streams of blocks of known sizes.

use bytes::BytesMut;

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

/// Bytes of each block that pass, having checked that no more pass in any time than a second's worth beyond the bitrate, and
/// the key blocks of `slack` bytes.
fn pass(thinner: &mut Thinner, stream: &[BytesMut], bytes_per_second: f64, slack: f64) -> Vec<usize> {
    thinner.set_limits(0, bytes_per_second * 8.0);
    let mut owed = 0.0f64;
    let cut = |b: &BytesMut| {
        let n = thinner.cut(b, EVERY).expect("whole").len();
        owed = (owed - bytes_per_second * EVERY).max(0.0) + n as f64;
        assert!(owed <= bytes_per_second + slack, "{owed} bytes beyond {bytes_per_second} bytes/s");
        n
    };
    stream.iter().map(cut).collect()
}

fn mean(passed: &[usize]) -> f64 {
    passed.iter().sum::<usize>() as f64 / (passed.len() as f64 * EVERY)
}

const KEY: [usize; 3] = [400, 800, 1600];
const OTHER: [usize; 3] = [50, 150, 300];

#[test]
fn a_bitrate_above_that_of_the_whole_stream_passes_everything() {
    // key blocks of a tenth of a second's worth up to two seconds' worth, groups of one block up to a hundred, and none but the first
    for (group, key) in [(1, 1), (2, 1), (5, 2), (10, 4), (30, 16), (100, 20), (0, 4)] {
        let key = OTHER.map(|n| n * key);
        let whole = stream(400, group, &key, &OTHER, 0.3);
        for above in [1.005, 1.08, 2.0] {
            let passed = pass(&mut Thinner::default(), &whole, rate(&whole, 3) * above, key.iter().sum::<usize>() as f64);
            assert!(passed.iter().zip(&whole).all(|(n, b)| *n == b.len()), "groups of {group}, {above} times the whole stream's");
        }
    }
}

#[test]
fn a_static_camera_is_judged_by_its_groups() {
    // a key block of five seconds' worth and next to nothing else: the first group may lack something, the others do not
    let whole = stream(400, 80, &[4000, 8000, 16000], &[1, 3, 6], 0.2);
    let passed = pass(&mut Thinner::default(), &whole, rate(&whole, 3) * 1.1, 35000.0);
    assert!(passed[80..].iter().zip(&whole[80..]).all(|(n, b)| *n == b.len()));
}

#[test]
fn between_two_rates_the_lower_one_passes_and_no_less() {
    for group in [5, 20, 80] {
        let whole = stream(480, group, &KEY, &OTHER, 0.2);
        for layers in 1..3 {
            let (low, high) = (rate(&whole, layers), rate(&whole, layers + 1));
            for asked in [low * 1.03, (low + high) / 2.0, high * 0.93] {
                let passed = mean(&pass(&mut Thinner::default(), &whole, asked, 2900.0));
                let least = low.min(asked) * 0.98;
                assert!(
                    (least..asked + asked / 48.0).contains(&passed),
                    "{passed} of {low} and {high} for {asked}, groups of {group}"
                );
            }
        }
    }
    let least = stream(200, 20, &KEY, &OTHER, 0.0);
    assert_eq!(mean(&pass(&mut Thinner::default(), &least, 1.0, 1e9)), rate(&least, 1), "the first layer always passes");
}

#[test]
fn a_bitrate_equal_to_a_rate_is_used() {
    for layers in [1, 2, 3] {
        let whole = stream(800, 40, &KEY, &OTHER, 0.2);
        let asked = rate(&whole, layers);
        let passed = mean(&pass(&mut Thinner::default(), &whole, asked, 2900.0));
        assert!(passed >= asked * 0.9 || layers == 1 && passed >= asked * 0.99, "{passed} for {asked}, {layers} layers");
    }
}

#[test]
fn without_a_second_key_block_the_layers_that_last_pass() {
    let whole = stream(300, 0, &KEY, &OTHER, 0.3);
    for layers in 1..=3 {
        let asked = rate(&whole, layers) * 1.15;
        let passed = mean(&pass(&mut Thinner::default(), &whole, asked, 2900.0));
        assert!(passed >= rate(&whole, layers) * 0.98, "{passed} for {asked}");
    }
}

#[test]
fn a_stream_joined_after_its_key_block_is_thinned_too() {
    let whole = stream(300, 100, &KEY, &OTHER, 0.2);
    let passed = pass(&mut Thinner::default(), &whole[37..], rate(&whole, 2) * 1.2, 2900.0);
    let expected = rate(&whole[37..], 2);
    assert!((expected * 0.97..expected * 1.1).contains(&mean(&passed)), "{} of {expected}", mean(&passed));
}

#[test]
fn time_stamps_decide_and_not_how_many_blocks_there_are() {
    // half the stream comes at half the pace
    let whole = stream(400, 20, &KEY, &OTHER, 0.0);
    let mut thinner = Thinner::default();
    thinner.set_limits(0, rate(&whole, 3) * 8.0 * 0.55);
    let sizes: Vec<_> = whole.iter().map(|b| thinner.cut(b, EVERY * 2.0).expect("whole").len()).collect();
    assert!(sizes.iter().zip(&whole).all(|(n, b)| *n == b.len()));
}

#[test]
fn a_busier_group_gives_up_layers_at_once_and_a_calmer_one_takes_them_back() {
    let calm = stream(200, 50, &KEY, &OTHER, 0.1);
    let busy = stream(200, 50, &KEY.map(|n| n * 3), &OTHER.map(|n| n * 3), 0.1);
    let asked = rate(&calm, 3) * 1.2;
    let mut thinner = Thinner::default();
    assert_eq!(mean(&pass(&mut thinner, &calm, asked, 2900.0)), rate(&calm, 3));
    let passed = pass(&mut thinner, &busy, asked, 8700.0);
    assert!(mean(&passed) <= asked * 1.06 && mean(&passed) >= rate(&busy, 1) * 0.99, "{} for {asked}", mean(&passed));
    let again = pass(&mut thinner, &calm, asked, 8700.0);
    assert_eq!(mean(&again[50..]), rate(&calm[50..], 3), "back after one group");
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
    assert_eq!(size(&mut thinner, 0), whole);
    assert!(!thinner.wants_key());
    assert!(thinner.cut(&[1, 2, 3], EVERY).is_err());
}

#[test]
fn a_lower_bitrate_acts_on_the_next_block_and_a_higher_one_wants_a_key_block() {
    for first_group in [false, true] {
        let whole = stream(400, if first_group { 0 } else { 50 }, &KEY, &OTHER, 0.1);
        let mut thinner = Thinner::default();
        let (all, two) = (rate(&whole, 3) * 8.0 * 1.1, rate(&whole, 2) * 8.0 * 1.2);
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
        assert_eq!(layers(180..240, all), if first_group { (2, 0) } else { (3, 0) });
    }
}

#[test]
fn where_no_key_block_comes_layers_that_fit_again_are_asked_for() {
    let mut thinner = Thinner::default();
    let (calm, busy) = (stream(1000, 0, &KEY, &OTHER, 0.0), stream(60, 0, &KEY, &OTHER.map(|n| n * 4), 0.0));
    thinner.set_limits(0, rate(&calm, 3) * 8.0 * 1.5);
    let mut asked = Vec::new();
    for (i, b) in calm[..50].iter().chain(&busy[1..]).chain(&calm[50..]).enumerate() {
        thinner.cut(b, EVERY).expect("whole");
        if thinner.wants_key() {
            asked.push(i);
        }
    }
    assert_eq!(thinner.layers(), 1);
    assert!(!asked.is_empty() && asked[0] >= 109 && asked.windows(2).all(|w| w[1] - w[0] >= 99), "{asked:?}");
}

#[test]
fn after_a_seek_what_groups_take_is_still_known() {
    let whole = stream(200, 80, &[4000, 8000, 16000], &[1, 3, 6], 0.2);
    let asked = rate(&whole, 3) * 1.1;
    let mut thinner = Thinner::default();
    pass(&mut thinner, &whole[..170], asked, 35000.0);
    thinner.restart();
    let passed = pass(&mut thinner, &whole[80..160], asked, 35000.0);
    assert_eq!(mean(&passed), rate(&whole[80..160], 3));
}
