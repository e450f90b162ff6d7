// SPDX-License-Identifier: MIT OR Apache-2.0
//! Encoder and decoder on small fsq and vae bundles.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{Rgb, runtime, tiny};
use elastictok::Error;
use elastictok::bitstream::{Block, Limits, thin};
use elastictok::bundle::{Bottleneck, Bundle, Graph};
use elastictok::codec::{DecoderConfig, Encoder, EncoderConfig, LiveSettings, RateControl, SearchMethod, psnr};
use elastictok::internals::runtime::{DecoderGraph, EncoderGraph, PictureOutput, Tokens, TokensMut};
use elastictok::internals::search::Official;

const SIZE: Rgb = Rgb { width: 70, height: 45 };
const CELLS: usize = 15;
const NAMES: [&str; 3] = ["fsq", "official", "vae"];

fn tokens(n: u32) -> LiveSettings {
    LiveSettings { rate_control: RateControl::Tokens, tokens: n, ..Default::default() }
}

fn quality(target_mse: f64) -> LiveSettings {
    LiveSettings { target_mse, ..Default::default() }
}

/// The losses of each count, in one cell of one key block, straight from the graphs.
fn curve(bundle: &Bundle, frames: &[u8]) -> Vec<f32> {
    let geometry = bundle.geometry(16, 16).unwrap();
    let mut decoder = DecoderGraph::open_for(bundle, &geometry, &runtime(), PictureOutput::Reconstruction).unwrap();
    let mut encoder = EncoderGraph::open(bundle, &geometry, &runtime(), &mut decoder).unwrap();
    encoder.frames_mut().copy_from_slice(frames);
    (1..=16)
        .map(|n| {
            encoder.inputs().counts_mut().fill(n);
            encoder.run(&mut decoder).unwrap();
            let (Tokens::I32(made), TokensMut::I32(taken)) = (encoder.tokens(), decoder.tokens_mut()) else { panic!() };
            taken.copy_from_slice(made);
            decoder.inputs().counts_mut().fill(n);
            decoder.run().unwrap();
            let picture = decoder.reconstruction().unwrap();
            let sum: f64 = picture.iter().zip(frames).map(|(&r, &u)| (f64::from(r) - (f64::from(u) / 127.5 - 1.0)).powi(2)).sum();
            (sum / frames.len() as f64) as f32
        })
        .collect()
}

#[test]
fn more_tokens_are_more_quality_whole_or_thinned() {
    for name in NAMES {
        let bundle = Arc::new(tiny(name));
        let mut before = 0.0;
        for n in [1, 3, 4, 6, 8, 16] {
            let mut e = Encoder::new(SIZE.config(&bundle, SearchMethod::Binary, tokens(n))).unwrap();
            let packets = SIZE.push(&mut e, 0..12);
            assert_eq!(packets.len(), 3);
            assert_eq!(e.counts(), [n as i32; CELLS], "exactly as many as asked for");
            assert_eq!(e.stats().psnr.is_some(), name == "vae", "{name} decodes for its closed loop only");
            let mut d = SIZE.decoder(&bundle, e.sequence_header(), None);
            let last = packets.iter().map(|p| SIZE.decode(&mut d, &p.data)).last().unwrap();
            let made = SIZE.psnr(&last, 8);
            assert!(made > before, "{name}, {n} tokens: {made} after {before}");
            before = made;
            // Layers end at 4, 8 and 16 tokens.
            let layers = Block::parse(&packets[0].data, 4).unwrap().segments().count();
            assert_eq!(layers, [4, 8, 16].iter().position(|&b| n <= b).unwrap() + 1);
        }
        let mut e = Encoder::new(SIZE.config(&bundle, SearchMethod::Binary, tokens(0))).unwrap();
        let packets = SIZE.push(&mut e, 0..12);
        for layers in 1..=3 {
            let (mut cut, mut limited) =
                (SIZE.decoder(&bundle, e.sequence_header(), None), SIZE.decoder(&bundle, e.sequence_header(), Some(layers)));
            for p in &packets {
                let short = thin(&p.data, layers).unwrap();
                assert!(layers == 3 || short.len() < p.data.len());
                assert_eq!(SIZE.decode(&mut cut, short), SIZE.decode(&mut limited, &p.data));
            }
        }
    }
}

#[test]
fn searches_meet_the_target_and_the_receiver_has_what_was_measured() {
    let target = 0.003;
    for name in ["fsq", "vae"] {
        let bundle = Arc::new(tiny(name));
        let mut used = Vec::new();
        for search in [SearchMethod::Full, SearchMethod::Binary] {
            let mut e = Encoder::new(SIZE.config(&bundle, search, quality(target))).unwrap();
            let mut d = SIZE.decoder(&bundle, e.sequence_header(), None);
            let whole = Rgb { width: 80, height: 48 };
            let mut check = whole.decoder(&bundle, e.sequence_header(), None);
            for block in 0..6 {
                let packets = SIZE.push(&mut e, 4 * block..4 * block + 4);
                let measured = e.stats().psnr.unwrap();
                // Padding counts in what the encoder measures, so pictures differ a little from it.
                let shown = SIZE.psnr(&SIZE.decode(&mut d, &packets[0].data), 4 * block);
                assert!((shown - measured).abs() < 1.0, "{name} {search:?} block {block}: {shown} and {measured}");
                assert!(e.counts().iter().all(|n| (1..=16).contains(n)));
                if search == SearchMethod::Full {
                    assert!(measured >= psnr(target * 127.5 * 127.5) - 1e-3, "{name} block {block}: {measured}");
                }
                let _ = check.decode(&packets[0].data, None).unwrap();
            }
            used.push((e.stats().tokens, e.stats().evaluations));
        }
        assert!(used[0].0 < used[1].0, "{name}: sharing tokens out between cells saves some: {used:?}");
        assert!(used[1].1 <= 6 * 5 && used[0].1 >= 6 * 16, "{used:?}");
    }
}

#[test]
fn what_is_measured_is_exact() {
    let size = Rgb { width: 48, height: 32 };
    let bundle = Arc::new(tiny("vae"));
    let mut e = Encoder::new(size.config(&bundle, SearchMethod::Binary, quality(0.004))).unwrap();
    let mut d = size.decoder(&bundle, e.sequence_header(), None);
    for block in 0..5 {
        let packets = size.push(&mut e, 4 * block..4 * block + 4);
        let shown = size.psnr(&size.decode(&mut d, &packets[0].data), 4 * block);
        assert!((shown - e.stats().psnr.unwrap()).abs() < 1e-4, "without padding and with 8-bit frames there is no difference");
    }
}

#[test]
fn the_official_rule_gives_the_official_counts() {
    let size = Rgb { width: 16, height: 16 };
    let bundle = Arc::new(tiny("official"));
    let frames: Vec<u8> = (0..4).flat_map(|n| size.frame(n)).collect();
    let curve = curve(&bundle, &frames);
    assert!(curve.windows(2).filter(|w| w[1] < w[0]).count() > 6, "{curve:?}");
    for target in [0.0, 0.002, 0.01, 0.02, 0.05, 0.1, 1.0].into_iter().chain(curve.iter().map(|&l| f64::from(l) * 1.001)) {
        let rule = Official { least: 2, most: 16, default_prop: 1.0, max_prop: 1.0, n_interp: 100, threshold: target as f32 };
        let mut evaluate = |kept: &[u32], losses: &mut [f32]| {
            losses[0] = curve[kept[0] as usize - 1];
            Ok(())
        };
        for (search, wanted) in [
            (SearchMethod::Binary, rule.binary(1, &mut evaluate).unwrap()),
            (SearchMethod::Full, rule.linear(1, &mut evaluate).unwrap()),
        ] {
            // A target of nothing cannot be told from none.
            let live = quality(target.max(1e-30));
            let mut e = Encoder::new(size.config(&bundle, search, live)).unwrap();
            size.push(&mut e, 0..4);
            assert_eq!(e.counts(), [rule.kept(wanted.counts[0]) as i32], "{search:?} at {target}");
            assert_eq!(e.stats().evaluations, u64::from(wanted.evaluations));
        }
    }
}

#[test]
fn predictions_need_no_decoding() {
    let bundle = Arc::new(tiny("fsq"));
    let made = |search, target| {
        let mut e = Encoder::new(SIZE.config(&bundle, search, quality(target))).unwrap();
        let packets = SIZE.push(&mut e, 0..12);
        let mut d = SIZE.decoder(&bundle, e.sequence_header(), None);
        let frames: Vec<_> = packets.iter().flat_map(|p| SIZE.decode(&mut d, &p.data)).collect();
        (SIZE.psnr(&frames, 0), e.stats().tokens, e.stats().psnr, e.stats().evaluations)
    };
    for target in [0.002, 0.005] {
        let (psnr, tokens, measured, evaluations) = made(SearchMethod::Regression, target);
        assert_eq!((measured, evaluations), (None, 0));
        let full = made(SearchMethod::Full, target);
        assert!((psnr - full.0).abs() < 2.0, "{psnr} where all candidates give {}", full.0);
        assert!((tokens as f64 / full.1 as f64 - 1.0).abs() < 0.6, "{tokens} and {}", full.1);
    }
    assert_eq!(SearchMethod::best_for(&bundle.manifest), SearchMethod::Regression);
    let without = Arc::new(tiny("vae"));
    assert_eq!(SearchMethod::best_for(&without.manifest), SearchMethod::Binary);
    let refused = |live| Encoder::new(SIZE.config(&without, SearchMethod::Regression, live)).err();
    assert!(matches!(refused(quality(0.01)), Some(Error::Settings(m)) if m.contains("search=binary")));
    assert!(refused(tokens(4)).is_none(), "a fixed count needs no predictions");
    let mut e = Encoder::new(SIZE.config(&without, SearchMethod::Regression, tokens(4))).unwrap();
    assert!(matches!(e.set_live(quality(0.01)), Err(Error::Settings(_))), "nor may it come to need them");
}

#[test]
fn the_bitrate_follows_the_setting() {
    let bundle = Arc::new(tiny("fsq"));
    for search in [SearchMethod::Binary, SearchMethod::Full, SearchMethod::Regression] {
        let at = |bitrate| LiveSettings { rate_control: RateControl::Bitrate, bitrate, ..Default::default() };
        let mut e = Encoder::new(SIZE.config(&bundle, search, at(13))).unwrap();
        let rate = |e: &mut Encoder, from: usize| {
            let packets = SIZE.push(e, from..from + 100);
            packets.iter().map(|p| p.data.len() * 8).sum::<usize>() as f64 / 4.0 / 1000.0
        };
        let first = rate(&mut e, 0);
        e.set_live(at(8)).unwrap();
        let second = rate(&mut e, 100);
        assert!((11.0..=13.5).contains(&first) && (7.0..=9.0).contains(&second), "{search:?}: {first} and {second} kbit/s");
    }
}

#[test]
fn key_blocks_come_when_the_context_is_full_or_the_decoder_was_idle() {
    let bundle = Arc::new(tiny("fsq"));
    let mut e = Encoder::new(SIZE.config(&bundle, SearchMethod::Binary, tokens(4))).unwrap();
    let keys: Vec<bool> = SIZE.push(&mut e, 0..24).iter().map(|p| p.key).collect();
    assert_eq!(keys, [true, false, false, false, true, false]);
    e.set_live(quality(0.01)).unwrap();
    let keys: Vec<bool> = SIZE.push(&mut e, 24..40).iter().map(|p| p.key).collect();
    assert_eq!(keys, [true, false, false, false], "a search that looks at pictures starts with a key block");
    let sliding = Arc::new(tiny("official"));
    let mut e = Encoder::new(SIZE.config(&sliding, SearchMethod::Binary, tokens(4))).unwrap();
    assert_eq!(SIZE.push(&mut e, 0..40).iter().filter(|p| p.key).count(), 1);
}

#[test]
fn limits_hold_in_every_mode() {
    let bundle = Arc::new(tiny("fsq"));
    for search in [SearchMethod::Full, SearchMethod::Binary, SearchMethod::Regression] {
        for live in [quality(1e-9), quality(3.9), tokens(0), LiveSettings { rate_control: RateControl::Bitrate, ..tokens(0) }] {
            let live = LiveSettings { min_tokens: 5, max_tokens: 9, ..live };
            let mut e = Encoder::new(SIZE.config(&bundle, search, live)).unwrap();
            SIZE.push(&mut e, 0..8);
            assert!(e.counts().iter().all(|n| (5..=9).contains(n)), "{search:?} {live:?}: {:?}", e.counts());
        }
    }
}

#[test]
fn fewer_layers_are_fewer_tokens() {
    let bundle = Arc::new(tiny("fsq"));
    for (layers, most) in [(1, 4), (2, 8), (3, 16), (9, 16)] {
        let config = SIZE.config(&bundle, SearchMethod::Binary, tokens(0));
        let mut e = Encoder::new(EncoderConfig { layers, ..config }).unwrap();
        SIZE.push(&mut e, 0..4);
        assert_eq!(e.counts().iter().max(), Some(&most), "{layers} layers");
    }
}

#[test]
fn a_still_is_a_block_of_one_frame() {
    for name in NAMES {
        let bundle = Arc::new(tiny(name));
        let config = SIZE.config(&bundle, SearchMethod::Binary, tokens(0));
        let mut e = Encoder::new(EncoderConfig { framerate: (0, 1), ..config }).unwrap();
        assert!(SIZE.push(&mut e, 3..4).is_empty());
        let packet = e.drain().unwrap().unwrap();
        assert_eq!((packet.frames, packet.key), (1, true));
        let mut d = SIZE.decoder(&bundle, e.sequence_header(), None);
        let frames = SIZE.decode(&mut d, &packet.data);
        assert_eq!(frames.len(), 1);
        assert!(SIZE.psnr(&frames, 3) > 24.0, "{name}: {}", SIZE.psnr(&frames, 3));
        assert!(e.drain().unwrap().is_none());
    }
}

#[test]
fn a_limit_below_what_the_bundle_needs_is_refused() {
    let bundle = Arc::new(tiny("official"));
    assert_eq!(bundle.manifest.min_tokens, 2);
    let limit = |n| LiveSettings { max_tokens: n, ..quality(0.01) };
    let refused = Encoder::new(SIZE.config(&bundle, SearchMethod::Binary, limit(1))).err();
    assert!(matches!(refused, Some(Error::Settings(m)) if m.contains("max-tokens 1 is below the 2")));
    let mut e = Encoder::new(SIZE.config(&bundle, SearchMethod::Binary, limit(2))).unwrap();
    assert!(matches!(e.set_live(limit(1)), Err(Error::Settings(_))));
}

#[test]
fn quantised_means_cost_next_to_nothing() {
    let size = Rgb { width: 48, height: 32 };
    let bundle = tiny("vae");
    let geometry = bundle.geometry(48, 32).unwrap();
    let mut decoder = DecoderGraph::open(&bundle, &geometry, &runtime()).unwrap();
    let mut encoder = EncoderGraph::open(&bundle, &geometry, &runtime(), &mut decoder).unwrap();
    let frames: Vec<u8> = (0..4).flat_map(|n| size.frame(n)).collect();
    encoder.frames_mut().copy_from_slice(&frames);
    encoder.run(&mut decoder).unwrap();
    let (Tokens::F32(means), TokensMut::F32(taken)) = (encoder.tokens(), decoder.tokens_mut()) else { panic!() };
    taken.copy_from_slice(means);
    // Not all: what the bundle codes without any loss says little of a loss.
    decoder.inputs().counts_mut().fill(12);
    decoder.run().unwrap();
    let split = |f: &[u8]| f.chunks_exact(48 * 32 * 3).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let unquantised = size.psnr(&split(decoder.frames()), 0);
    let bundle = Arc::new(bundle);
    let mut e = Encoder::new(size.config(&bundle, SearchMethod::Binary, tokens(12))).unwrap();
    let packets = size.push(&mut e, 0..4);
    let mut d = size.decoder(&bundle, e.sequence_header(), None);
    let quantised = size.psnr(&size.decode(&mut d, &packets[0].data), 0);
    assert!((quantised - unquantised).abs() < 0.05, "{quantised} dB, {unquantised} dB without quantisation");
    assert_eq!(bundle.manifest.bottleneck.token_bits(), Some(36.0));
    let bits = (packets[0].data.len() * 8) as f64;
    assert!((bits / (6.0 * 12.0 * 36.0) - 1.0).abs() < 0.1, "{bits} bits for 72 tokens of 36");
}

#[test]
fn weights_in_files_of_their_own_are_part_of_the_fingerprint() {
    let folder = std::env::temp_dir().join(format!("elastictok-external-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles/official");
    for file in std::fs::read_dir(source).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), folder.join(file.file_name())).unwrap();
    }
    let first = Bundle::load(&folder).unwrap();
    assert!(matches!(first.decoder, Graph::File(_)));
    assert_eq!(first.fingerprint, tiny("official").fingerprint, "wherever it lies");
    let weights = folder.join("decoder.onnx.data");
    let mut data = std::fs::read(&weights).unwrap();
    data[1] ^= 1;
    std::fs::write(&weights, &data).unwrap();
    assert_ne!(Bundle::load(&folder).unwrap().fingerprint, first.fingerprint);
    std::fs::remove_file(&weights).unwrap();
    assert!(matches!(Bundle::load(&folder), Err(Error::Model(m)) if m.contains("decoder.onnx.data is missing")));
    std::fs::remove_dir_all(&folder).unwrap();
}

fn bytes(graph: &Graph) -> Vec<u8> {
    let Graph::Memory(bytes) = graph else { panic!("in a file") };
    bytes.to_vec()
}

/// The graph with the first constant of value `from` made NaN.
fn poisoned(graph: &Graph, from: f32) -> Graph {
    let mut bytes = bytes(graph);
    let at = bytes.windows(4).position(|w| w == from.to_le_bytes()).unwrap();
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    bytes.into()
}

#[test]
fn broken_graphs_are_refused_with_a_reason() {
    let failure = |name: &str, live: LiveSettings, change: &dyn Fn(&mut Bundle)| {
        let mut bundle = tiny(name);
        change(&mut bundle);
        match Encoder::new(SIZE.config(&Arc::new(bundle), SearchMethod::Binary, live)) {
            Err(e) => e.to_string(),
            Ok(mut e) => {
                let frame = SIZE.frame(0);
                let picture = elastictok::frame::PlanesRef {
                    format: elastictok::frame::SourceFormat::Rgb,
                    planes: [&frame, &[], &[]],
                    strides: [SIZE.width * 3, 0, 0],
                };
                e.push(&picture, Default::default()).unwrap();
                e.drain().unwrap_err().to_string()
            }
        }
    };
    let nan = failure("vae", tokens(0), &|b| b.encoder = poisoned(&b.encoder, 127.5));
    assert!(nan.contains("not a finite number"), "{nan}");
    let nan = failure("fsq", quality(0.01), &|b| b.decoder = poisoned(&b.decoder, 4.0));
    assert!(nan.contains("not numbers"), "{nan}");
    let range = failure("fsq", tokens(0), &|b| b.manifest.bottleneck = Bottleneck::Fsq { levels: vec![2, 2] });
    assert!(range.contains("of 4") && range.contains("export"), "{range}");
    let cut = failure("fsq", tokens(0), &|b| b.encoder = bytes(&b.encoder)[..900].to_vec().into());
    assert!(cut.contains("does not load") && cut.contains("export"), "{cut}");
    let missing = failure("vae", tokens(0), &|b| b.manifest.has_reconstruction = true);
    assert!(missing.contains("'reconstruction' is missing"), "{missing}");
    let undeclared = failure("fsq", tokens(0), &|b| b.manifest.has_distortion = false);
    assert!(undeclared.contains("'distortion'"), "{undeclared}");
}

#[test]
fn the_decoder_graph_is_loaded_when_it_is_needed() {
    let mut bundle = tiny("fsq");
    let whole = Arc::new(bundle.clone());
    bundle.decoder = b"not a graph".as_slice().into();
    let broken = Arc::new(bundle);
    let mut e = Encoder::new(SIZE.config(&broken, SearchMethod::Binary, tokens(5))).unwrap();
    let without = SIZE.push(&mut e, 0..8);
    let mut e = Encoder::new(SIZE.config(&whole, SearchMethod::Binary, tokens(5))).unwrap();
    assert_eq!(SIZE.push(&mut e, 0..8), without);
    let e = Encoder::new(SIZE.config(&broken, SearchMethod::Binary, quality(0.01)));
    assert!(matches!(e.err(), Some(Error::Model(m)) if m.contains("does not load")));
    // A graph that reads the decoder's context opens it, and cannot run without.
    let vae = tiny("vae");
    let geometry = vae.geometry(16, 16).unwrap();
    let mut decoder = DecoderGraph::open(&vae, &geometry, &runtime()).unwrap();
    let mut asked = false;
    let mut graph = EncoderGraph::open_alone(&vae, &geometry, &runtime(), |_| {
        asked = true;
        Ok(&mut decoder)
    })
    .unwrap();
    assert!(asked && graph.reads_decoder());
    assert!(graph.run(&mut decoder).is_ok());
    assert!(matches!(graph.run(None), Err(Error::Runtime(_))));
}

#[test]
fn a_stream_of_another_bundle_says_what_to_do() {
    let (fsq, vae) = (Arc::new(tiny("fsq")), Arc::new(tiny("vae")));
    let e = Encoder::new(SIZE.config(&fsq, SearchMethod::Binary, tokens(0))).unwrap();
    let header = e.sequence_header().clone();
    let Err(Error::Model(m)) = elastictok::codec::Decoder::new(DecoderConfig {
        bundle: vae,
        runtime: runtime(),
        header,
        max_layers: None,
        limits: Limits::default(),
    }) else {
        panic!("accepted")
    };
    assert!(m.contains("test-vae") && m.contains("model property"), "{m}");
}

#[test]
fn damaged_layers_leave_the_lower_ones() {
    let bundle = Arc::new(tiny("fsq"));
    let mut e = Encoder::new(SIZE.config(&bundle, SearchMethod::Binary, tokens(0))).unwrap();
    let packet = SIZE.push(&mut e, 0..4).remove(0).data.to_vec();
    let mut d = SIZE.decoder(&bundle, e.sequence_header(), None);
    let mut seen = [0; 2];
    for at in 0..packet.len() {
        let mut broken = packet.clone();
        broken[at] ^= 1 << (at % 8);
        match d.decode(&broken, None) {
            Ok(block) => {
                assert!(block.damaged().is_some(), "byte {at}");
                seen[0] += 1;
            }
            Err(_) => seen[1] += 1,
        }
    }
    assert!(seen[0] > 100 && seen[1] > 10, "{seen:?}");
}
