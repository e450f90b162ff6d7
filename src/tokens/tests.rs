// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whole blocks: what an encoder writes is what a decoder reads, at every cut.

use proptest::prelude::*;

use super::layout::tests::positions;
use super::*;
use crate::entropy::Tables;

/// Latents as residuals have them: most cells empty, the rest Laplacian and falling with the index.
pub(super) fn latents(seed: u64, cells: usize, c: usize, scale: f64) -> Vec<i16> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut out = Vec::with_capacity(cells * c);
    for _ in 0..cells {
        let coarse_class = if random() < 0.4 { 0.02 } else { random() * random() };
        for i in 0..c {
            let spread = scale * coarse_class / (1.0 + i as f64 * 0.1);
            let value = -spread * (1.0 - random()).ln();
            out.push((if random() < 0.5 { -value } else { value }).clamp(-32768.0, 32767.0) as i16);
        }
    }
    out
}

/// Of pictures of five cells in a row.
fn motion(seed: u64, cells: usize) -> Vec<i32> {
    let mut out = vec![0; motion::PLANES * cells];
    for cell in 0..cells {
        let r = seed.wrapping_mul(31).wrapping_add(cell as u64 / 3).wrapping_mul(0x2545_f491_4f6c_dd1d) >> 20;
        if r.is_multiple_of(7) {
            out[2 * cells + cell] = 1;
        } else {
            out[cell] = (r >> 8 & 0xffff) as i32 % 511 - 255;
            out[cells + cell] = (r >> 20 & 0xffff) as i32 % 511 - 255;
            if seed.is_multiple_of(2) && !r.is_multiple_of(3) {
                out[3 * cells + cell] = (r >> 12 & 0xffff) as i32 % 511 - 255;
                out[4 * cells + cell] = (r >> 24 & 7) as i32 - 3;
            }
        }
    }
    for cell in 0..cells {
        if (seed + cell as u64).is_multiple_of(3) && motion::may_blend(&out, 5, cell) {
            out[2 * cells + cell] = motion::BLENDED;
        }
    }
    out
}

/// Layers of the streams here.
const LAYERS: usize = 5;

/// Writes and reads a block, from one set of latents or one for each layer; returns bytes by layer.
fn round_trip(steps: LayerSteps, latents: &[&[i16]], motion: Option<&[i32]>, rdo: &Rdo) -> Vec<usize> {
    round_trip_sizes(8, steps, latents, motion, rdo).0
}

/// The same for cells of `n` x `n`; returns transform sizes too.
fn round_trip_sizes(
    n: u16,
    steps: LayerSteps,
    latents: &[&[i16]],
    motion: Option<&[i32]>,
    rdo: &Rdo,
) -> (Vec<usize>, Vec<TransformSize>) {
    let p = positions(n);
    let layout = NestedLayout::new(&p, LAYERS, 5, 3).expect("valid");
    let tables = Tables::flat(CONTEXTS);
    let mut encoder = NestedEncoder::new(&layout, &tables).expect("tables fit");
    let mut decoder = NestedDecoder::new(&layout, &tables).expect("tables fit");
    if let [latents] = latents {
        encoder.quantise(latents, steps, motion, rdo).expect("quantises");
    } else {
        encoder.begin_block(steps).expect("depth");
        for (layer, latents) in latents.iter().enumerate() {
            encoder.quantise_layer(layer, latents, None, motion, rdo).expect("quantises");
        }
    }
    let n = latents[0].len();
    let (mut a, mut b) = (vec![1; n], vec![2; n]);
    let (mut na, mut nb) = (vec![1; 15], vec![2; 15]);
    let (mut sizes, mut filled) = (Vec::new(), FilledCells::default());
    for layer in 0..steps.depth() {
        let mut segment = Vec::new();
        encoder.write_segment(layer, motion, &mut segment).expect("writes");
        decoder.read_segment(layer, BlockShape { key: motion.is_none(), steps }, &segment).expect("reads");
        if let Some(m) = motion {
            assert_eq!(decoder.motion(), m);
        }
        encoder.block().dequantise(layer + 1, motion, &mut a, &mut filled, &mut na).expect("sizes fit");
        decoder.dequantise(&mut b, &mut FilledCells::default(), &mut nb).expect("sizes fit");
        assert_eq!(a, b, "layer {layer}");
        assert_eq!(na, nb, "layer {layer}");
        for (cell, n) in nb.iter().enumerate() {
            let silent = b[cell * p.len()..(cell + 1) * p.len()].iter().all(|v| *v == 0);
            assert!(*n > 0 || silent, "a cell without tokens has latents");
        }
        sizes.push(segment.len());
    }
    let transforms = decoder.sizes().collect();
    (sizes, transforms)
}

/// Latents of 15 cells of 16x16 of which each has a few large coefficients in a transform of some size.
fn blocky_latents(seed: u64) -> Vec<i16> {
    let p = positions(16);
    let layout = NestedLayout::new(&p, 3, 5, 3).expect("valid");
    let luma = layout.luma.as_ref().expect("16x16");
    let spread = latents(seed, 15, 768, 20.0);
    let mut out = vec![0i16; 15 * 768];
    for (cell, out) in out.chunks_exact_mut(768).enumerate() {
        let size = TransformSize::from_number(cell as i32 % 3).expect("0 to 2");
        let coefficients = (0..4).map(|n| {
            let i = (seed.wrapping_mul(97).wrapping_add((cell * 31 + n * 53) as u64) % 200) as usize;
            (i, if n % 2 == 0 { 900 } else { -1700 })
        });
        for (i, value) in coefficients.clone() {
            out[i] = if size == TransformSize::Size16 || !luma.has(i) { value } else { 0 };
        }
        luma.backward(size, coefficients.filter(|(i, _)| luma.has(*i)), out);
        out.iter_mut().zip(&spread[cell * 768..]).for_each(|(x, s)| *x = x.saturating_add(*s / 4));
    }
    out
}

#[test]
fn cells_get_the_transform_size_that_suits_them() {
    let (x, m) = (blocky_latents(4), motion(5, 15));
    for depth in 1..=3 {
        for latents in [vec![&x[..]], vec![&x[..]; depth]] {
            for motion in [None, Some(&m[..])] {
                let sizes = round_trip_sizes(16, LayerSteps::spaced(depth, 8, 16), &latents, motion, &Rdo::default()).1;
                let right = sizes.iter().enumerate().filter(|(cell, size)| size.number() == *cell as i32 % 3).count();
                assert!(right >= 12, "{depth} layers: {sizes:?}");
            }
        }
    }
}

#[test]
fn a_second_thread_changes_nothing() {
    let tables = Tables::flat(CONTEXTS);
    for (cells_x, cells_y) in [(5, 3), (3, 5), (1, 15)] {
        let layout = NestedLayout::new(&positions(16), 3, cells_x, cells_y).expect("valid");
        let new = |threads| NestedEncoder::new(&layout, &tables).expect("tables fit").with_threads(threads).expect("a thread");
        let mut encoders = [1, 2].map(new);
        for seed in 0..6 {
            let (x, y, m) = (blocky_latents(seed), blocky_latents(seed + 9), motion(seed, 15));
            let motion = (seed % 3 > 0).then_some(&m[..]);
            let found = encoders.each_mut().map(|encoder| {
                encoder.begin_block(LayerSteps::spaced(3, 8, 12 + 4 * seed as u8)).expect("depth");
                let latents = [&x, &x, &y].into_iter().enumerate();
                let estimates: Vec<_> = latents
                    .map(|(layer, x)| encoder.quantise_layer(layer, x, None, motion, &Rdo::default()).expect("quantises"))
                    .collect();
                let (mut segments, mut latents, mut counts) = (vec![vec![7]; 3], vec![0i16; 15 * 768], vec![0; 15]);
                let meanwhile = |block: ChosenBlock<'_>| {
                    block.dequantise(3, motion, &mut latents, &mut FilledCells::default(), &mut counts).expect("sizes fit");
                };
                encoder.write_segments(motion, &mut segments, meanwhile).expect("writes");
                (estimates, segments, latents, counts)
            });
            assert_eq!(found[0], found[1], "{cells_x}x{cells_y}, {seed}");
            assert!(found[0].0.iter().all(|estimate| estimate.coded_cells > 5));
        }
    }
}

#[test]
fn motion_of_endless_size_is_refused() {
    let layout = NestedLayout::new(&positions(8), LAYERS, 5, 3).expect("valid");
    let mut decoder = NestedDecoder::new(&layout, &Tables::flat(CONTEXTS)).expect("tables fit");
    let refused =
        decoder.read_segment(0, BlockShape { key: false, steps: LayerSteps::spaced(3, 8, 20) }, &[75, 133, 51, 0, 66, 163]);
    assert!(matches!(refused, Err(crate::Error::Malformed(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn blocks_round_trip(
        seed in any::<u64>(), depth in 1usize..=5, quantiser in 0u8..=87, ratio in 0u8..=16, key in any::<bool>(),
        scale in 1.0f64..12.0, lambda in prop::sample::select(vec![0.0f32, 1.0, 3.0]),
        most in prop::sample::select(vec![usize::MAX, 0, 1, 30, 200]), least in prop::sample::select(vec![0usize, 10, 300]),
    ) {
        let x = latents(seed, 15, 192, scale.exp());
        let m = motion(seed, 15);
        let rdo = Rdo { lambda, min_tokens: least, max_tokens: most };
        round_trip(LayerSteps::spaced(depth, ratio, quantiser), &[&x], (!key).then_some(&m[..]), &rdo);
    }

    #[test]
    fn layers_with_latents_of_their_own_round_trip(
        seed in any::<u64>(), depth in 2usize..=5, quantiser in 0u8..=87, base in 0u8..=87, key in any::<bool>(),
        scale in 1.0f64..12.0, least in prop::sample::select(vec![0usize, 10, 300]),
        most in prop::sample::select(vec![usize::MAX, 0, 1, 30, 200]),
    ) {
        let x: Vec<_> = (0..5).map(|i| latents(seed.wrapping_add(i), 15, 192, scale.exp())).collect();
        let m = motion(seed, 15);
        let rdo = Rdo { lambda: 1.0, min_tokens: least, max_tokens: most };
        let x: Vec<&[i16]> = x.iter().take(depth).map(|x| &x[..]).collect();
        round_trip(LayerSteps::new(depth, base, quantiser), &x, (!key).then_some(&m[..]), &rdo);
    }

    #[test]
    fn transform_sizes_round_trip(
        seeds in prop::collection::vec(any::<u64>(), 1..=3), depth in 1usize..=3, quantiser in 10u8..=75, key in any::<bool>(), ratio in 0u8..=16,
        empty in prop::sample::select(vec![0usize, 1]), most in prop::sample::select(vec![usize::MAX, 30, 200, 800]),
    ) {
        let mut x: Vec<_> = seeds.into_iter().cycle().map(blocky_latents).take(depth).collect();
        if depth > 1 && empty == 1 {
            // most cells have no tokens, or only constant terms, before the second layer
            x[0].iter_mut().for_each(|v| *v /= 64);
        }
        let m = motion(quantiser.into(), 15);
        let rdo = Rdo { max_tokens: most, ..Rdo::default() };
        let x: Vec<&[i16]> = x.iter().map(|x| &x[..]).collect();
        round_trip_sizes(16, LayerSteps::spaced(depth, ratio, quantiser), &x, (!key).then_some(&m[..]), &rdo);
        round_trip_sizes(16, LayerSteps::spaced(depth, ratio, quantiser), &x[..1], (!key).then_some(&m[..]), &rdo);
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        data in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..=5), key in any::<bool>(),
        left_out in 0usize..5, ratio in 0u8..=16,
    ) {
        let shape = BlockShape { key, steps: LayerSteps::spaced(data.len().max(LAYERS - left_out), ratio, 20) };
        let layout = NestedLayout::new(&positions(8), LAYERS, 5, 3).expect("valid");
        let mut decoder = NestedDecoder::new(&layout, &Tables::flat(CONTEXTS)).expect("tables fit");
        let (mut x, mut n) = (vec![0; 15 * 192], vec![0; 15]);
        for (layer, segment) in data.iter().enumerate() {
            match decoder.read_segment(layer, shape, segment) {
                Ok(()) => prop_assert!(decoder.motion().iter().all(|v| v.abs() <= motion::MAX_MOTION)),
                Err(e) => {
                    prop_assert!(matches!(e, crate::Error::Malformed(_)));
                    break;
                }
            }
            decoder.dequantise(&mut x, &mut FilledCells::default(), &mut n).expect("sizes fit");
            prop_assert!(n.iter().all(|n| (0..=5 * 192).contains(n)));
        }
        let layout = NestedLayout::new(&positions(16), LAYERS, 5, 3).expect("valid");
        let mut decoder = NestedDecoder::new(&layout, &Tables::flat(CONTEXTS)).expect("tables fit");
        for (layer, segment) in data.iter().enumerate() {
            if decoder.read_segment(layer, shape, segment).is_err() {
                break;
            }
            decoder.dequantise(&mut vec![0; 15 * 768], &mut FilledCells::default(), &mut [0; 15]).expect("sizes fit");
        }
    }

    #[test]
    fn damaged_blocks_are_read_or_refused(seed in any::<u64>(), at in any::<prop::sample::Index>(), flip in 1u8..) {
        let layout = NestedLayout::new(&positions(8), LAYERS, 5, 3).expect("valid");
        let tables = Tables::flat(CONTEXTS);
        let mut encoder = NestedEncoder::new(&layout, &tables).expect("tables fit");
        let mut decoder = NestedDecoder::new(&layout, &tables).expect("tables fit");
        let steps = LayerSteps::spaced(3, 8, 24);
        encoder.quantise(&latents(seed, 15, 192, 900.0), steps, None, &Rdo::default()).expect("quantises");
        for layer in 0..3 {
            let mut segment = Vec::new();
            encoder.write_segment(layer, None, &mut segment).expect("writes");
            if !segment.is_empty() {
                let i = at.index(segment.len());
                segment[i] ^= flip;
            }
            if decoder.read_segment(layer, BlockShape { key: true, steps }, &segment).is_err() {
                break;
            }
        }
    }
}

/// Each block starts layer 0 from where the one before ended, until a key block.
#[test]
fn layer_0_goes_on_from_block_to_block() {
    let layout = NestedLayout::new(&positions(8), LAYERS, 5, 3).expect("valid");
    let tables = Tables::flat(CONTEXTS);
    let mut encoder = NestedEncoder::new(&layout, &tables).expect("tables fit");
    let (mut all, mut late) =
        (NestedDecoder::new(&layout, &tables).expect("tables fit"), NestedDecoder::new(&layout, &tables).expect("tables fit"));
    let (x, m) = (latents(5, 15, 192, 900.0), motion(6, 15));
    let (mut a, mut b, mut n) = (vec![0; 15 * 192], vec![0; 15 * 192], vec![0; 15]);
    let mut sizes = Vec::new();
    for (block, key) in [true, false, false, true, false].into_iter().enumerate() {
        let steps = LayerSteps::spaced(2, 8, 24);
        let (shape, motion) = (BlockShape { key, steps }, (!key).then_some(&m[..]));
        encoder.quantise(&x, steps, motion, &Rdo::default()).expect("quantises");
        let mut segments = [Vec::new(), Vec::new()];
        // what is written twice is the same, and only what is committed counts
        for _ in 0..2 {
            for (layer, segment) in segments.iter_mut().enumerate() {
                segment.clear();
                encoder.write_segment(layer, motion, segment).expect("writes");
            }
        }
        encoder.commit();
        sizes.push(segments.each_ref().map(Vec::len));
        encoder.block().dequantise(2, motion, &mut a, &mut FilledCells::default(), &mut n).expect("sizes fit");
        for _ in 0..2 {
            for (layer, segment) in segments.iter().enumerate() {
                all.read_segment(layer, shape, segment).expect("reads");
            }
            all.dequantise(&mut b, &mut FilledCells::default(), &mut n).expect("sizes fit");
            assert_eq!(a, b, "block {block}");
        }
        all.commit();
        // a receiver that missed blocks must wait for a key block
        if block > 1 {
            let read = segments.iter().enumerate().try_for_each(|(layer, segment)| late.read_segment(layer, shape, segment));
            late.dequantise(&mut b, &mut FilledCells::default(), &mut n).expect("sizes fit");
            assert_eq!(read.is_ok() && a == b, block > 2, "block {block}");
            late.commit();
        }
    }
    assert!(sizes[2][0] < sizes[1][0] && sizes[1][1] == sizes[2][1], "only layer 0 learns: {sizes:?}");
    assert_eq!((sizes[0], sizes[1]), (sizes[3], sizes[4]), "a key block forgets");
}

#[test]
fn extreme_latents_round_trip() {
    for depth in 1..=LAYERS {
        for (quantiser, value) in [(0, i16::MIN), (0, i16::MAX), (87, i16::MAX), (3, -1)] {
            let x = vec![value; 15 * 192];
            let steps = LayerSteps::spaced(depth, 16, quantiser);
            round_trip(steps, &[&x], None, &Rdo::default());
            // each layer takes back all that the one before sent
            let y = vec![value.saturating_neg(); 15 * 192];
            let turns: Vec<&[i16]> = [&x[..], &y, &x, &y, &x].into_iter().take(depth).collect();
            round_trip(steps, &turns, None, &Rdo { lambda: 0.0, ..Rdo::default() });
        }
    }
}

#[test]
fn nothing_costs_nothing() {
    let m = vec![0; motion::PLANES * 15];
    let sizes = round_trip(LayerSteps::spaced(3, 8, 30), &[&vec![0; 15 * 192]], Some(&m), &Rdo::default());
    assert!(sizes.iter().sum::<usize>() <= 20, "{sizes:?} bytes for an empty block of an untrained bundle");
}

#[test]
fn layers_cannot_be_skipped() {
    let layout = NestedLayout::new(&positions(8), LAYERS, 5, 3).expect("valid");
    let mut decoder = NestedDecoder::new(&layout, &Tables::flat(CONTEXTS)).expect("tables fit");
    let shape = |key: bool, depth: usize| BlockShape { key, steps: LayerSteps::spaced(depth, 8, 20) };
    let key = shape(true, 3);
    assert!(decoder.read_segment(1, key, &[]).is_err());
    assert!(decoder.read_segment(0, key, &[]).is_ok());
    assert!(decoder.read_segment(2, key, &[]).is_err());
    assert!(decoder.read_segment(0, key, &[]).is_ok());
    assert!(decoder.read_segment(1, shape(false, 3), &[]).is_err(), "a block is key in all layers or none");
    assert!(decoder.read_segment(0, shape(true, 2), &[]).is_ok());
    assert!(decoder.read_segment(1, key, &[]).is_err(), "a block has one depth");
    assert!(decoder.read_segment(0, shape(true, 6), &[]).is_err());
    assert!(NestedDecoder::new(&layout, &Tables::flat(3)).is_err());
}

#[test]
fn estimates_are_near_the_truth() {
    let p = positions(16);
    let layout = NestedLayout::new(&p, LAYERS, 20, 15).expect("valid");
    let tables = Tables::flat(CONTEXTS);
    let mut encoder = NestedEncoder::new(&layout, &tables).expect("tables fit");
    let x = latents(3, 300, 768, 1500.0);
    let coarse_class: f64 = x.iter().map(|v| f64::from(*v).powi(2)).sum();
    for quantiser in [16, 28, 40] {
        let steps = LayerSteps::spaced(3, 8, quantiser);
        let estimate = encoder.quantise(&x, steps, None, &Rdo::default()).expect("quantises");
        let mut out = Vec::new();
        (0..3).for_each(|layer| encoder.write_segment(layer, None, &mut out).expect("writes"));
        let (mut y, mut n) = (vec![0; x.len()], vec![0; 300]);
        encoder.block().dequantise(3, None, &mut y, &mut FilledCells::default(), &mut n).expect("sizes fit");
        let error: f64 = x.iter().zip(&y).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
        let told = estimate.luma + estimate.chroma;
        let coded = y.chunks_exact(768).filter(|cell| cell.iter().any(|v| *v != 0)).count();
        assert!((told / error - 1.0).abs() < 1e-4, "quantiser {quantiser}: distortion {told} for {error}");
        let ratio: f64 = {
            encoder.begin_block(LayerSteps::spaced(2, 8, quantiser)).expect("depth");
            encoder.quantise_layer(0, &x, None, None, &Rdo::default()).expect("quantises");
            let finest = encoder.quantise_layer(1, &x, None, None, &Rdo::default()).expect("quantises");
            encoder.block().dequantise(2, None, &mut y, &mut FilledCells::default(), &mut n).expect("sizes fit");
            let error: f64 = x.iter().zip(&y).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
            (finest.luma + finest.chroma) / error
        };
        assert!((ratio - 1.0).abs() < 1e-4, "quantiser {quantiser}: distortion off by a factor of {ratio}");
        assert!(error < coarse_class && estimate.coded_cells == coded);
    }
}

/// The bytes of a block of generated latents. Where they change, the stream format has changed: see "Stability" in
/// `docs/bitstream.md`.
#[test]
fn segments_stay_as_they_are() {
    let layout = NestedLayout::new(&positions(8), LAYERS, 5, 3).expect("valid");
    let mut encoder = NestedEncoder::new(&layout, &Tables::flat(CONTEXTS)).expect("tables fit");
    let (x, straight, bent) = (latents(11, 15, 192, 700.0), motion(5, 15), motion(6, 15));
    let mut sums = Vec::new();
    for motion in [None, Some(&straight[..]), Some(&bent[..])] {
        let steps = LayerSteps::spaced(3, 8, 24);
        encoder.quantise(&x, steps, motion, &Rdo { lambda: 0.0, ..Rdo::default() }).expect("quantises");
        for layer in 0..3 {
            let mut segment = Vec::new();
            encoder.write_segment(layer, motion, &mut segment).expect("writes");
            let sum = segment.iter().fold(0x811c_9dc5u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193));
            sums.push((segment.len(), sum));
        }
    }
    assert_eq!(sums, SEGMENTS);
}

/// Length and FNV-1a of each segment: key block, then inter blocks without and with bends.
const SEGMENTS: [(usize, u32); 9] = [
    (118, 4009223160),
    (152, 4185647530),
    (208, 1899971592),
    (140, 1061537448),
    (152, 585307719),
    (208, 3955591648),
    (159, 3358213612),
    (152, 585307719),
    (208, 3955591648),
];
