// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bundles imported from official checkpoints, through encoder and decoder, against what the official code computed.
//!
//! They need PyTorch to make, so they are not in the repository. `tests/run.sh` makes them from the fixtures' checkpoints in one
//! folder, each under its case's name, which `ELASTICTOK_FIXTURE_BUNDLES` names, and runs these tests, which are ignored otherwise.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;
use std::sync::Arc;

use common::{Npz, Rgb, fixtures, runtime};
use elastictok::bitstream::Limits;
use elastictok::bundle::{Bundle, SearchRule};
use elastictok::codec::{
    Decoder, DecoderConfig, Encoder, FrameTime, LiveSettings, Packet, RateControl, SearchMethod, TokenReader, TokenValues, psnr,
};
use elastictok::frame::{PlanesMut, PlanesRef, SourceFormat};
use elastictok::internals::runtime::{DecoderGraph, EncoderGraph, Tokens, TokensMut};

const SIZE: Rgb = Rgb { width: 32, height: 32 };

/// Reference data and bundle of a case.
fn case(name: &str) -> (Npz, serde_json::Value, Bundle) {
    let bundles = std::env::var_os("ELASTICTOK_FIXTURE_BUNDLES").map(PathBuf::from);
    let bundle = bundles.expect("ELASTICTOK_FIXTURE_BUNDLES is set").join(name);
    let folder = fixtures().join(name);
    let config = serde_json::from_str(&std::fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
    (Npz::open(&folder.join("data.npz")), config, Bundle::load(&bundle).unwrap())
}

/// Bytes of a frame.
fn bytes(size: &Rgb) -> usize {
    size.width * size.height * 3
}

/// Bytes of block `b`, of four frames.
fn block_of(size: &Rgb, b: usize) -> std::ops::Range<usize> {
    b * 4 * bytes(size)..(b + 1) * 4 * bytes(size)
}

fn push(size: &Rgb, e: &mut Encoder, frames: &[u8]) -> Packet {
    let mut packet = None;
    for frame in frames.chunks_exact(bytes(size)) {
        assert!(packet.is_none());
        let picture = PlanesRef { format: SourceFormat::Rgb, planes: [frame, &[], &[]], strides: [size.width * 3, 0, 0] };
        packet = e.push(&picture, FrameTime::default()).unwrap();
    }
    packet.unwrap()
}

fn decoder(bundle: &Arc<Bundle>, e: &Encoder) -> Decoder {
    let header = e.sequence_header().clone();
    Decoder::new(DecoderConfig {
        bundle: bundle.clone(),
        runtime: runtime(),
        header,
        max_layers: None,
        limits: Limits::default(),
    })
    .unwrap()
}

fn decode(size: &Rgb, d: &mut Decoder, packet: &Packet) -> Vec<u8> {
    let block = d.decode(&packet.data, None).unwrap();
    let mut out = vec![0; block.frames() * bytes(size)];
    for (i, frame) in out.chunks_exact_mut(bytes(size)).enumerate() {
        block.store(i, &mut PlanesMut { planes: [frame, &mut [], &mut []], strides: [size.width * 3, 0, 0] }).unwrap();
    }
    out
}

fn worst(a: &[u8], b: &[u8]) -> u8 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

fn tokens(n: i32) -> LiveSettings {
    LiveSettings { rate_control: RateControl::Tokens, tokens: n as u32, ..Default::default() }
}

#[test]
#[ignore = "needs the official fixtures; tests/run.sh runs it where they are"]
fn fsq_tokens_and_pictures_are_the_official_ones() {
    for name in ["fsq_single", "fsq_multi"] {
        let (mut data, _, bundle) = case(name);
        let bundle = Arc::new(bundle);
        let frames: Vec<u8> = data.get("frames");
        let (kept, indices): (Vec<i32>, Vec<u32>) = (data.get("kept"), data.get("indices"));
        let recon: Vec<u8> = data.get("recon_u8");
        let mut e = Encoder::new(SIZE.config(&bundle, SearchMethod::Binary, tokens(kept[0]))).unwrap();
        let (mut d, mut reader) = (decoder(&bundle, &e), TokenReader::new(&bundle, e.sequence_header()).unwrap());
        for (b, &n) in kept.iter().enumerate() {
            e.set_live(tokens(n)).unwrap();
            let span = block_of(&SIZE, b);
            let packet = push(&SIZE, &mut e, &frames[span.clone()]);
            let block = reader.read(&packet.data, None).unwrap();
            assert_eq!((&block.counts[..], block.header.key), (&[n][..], b == 0));
            let TokenValues::Indices(made) = block.tokens else { panic!("fsq") };
            let wanted = &indices[b * 64..b * 64 + n as usize];
            assert!(made.iter().zip(wanted).all(|(a, b)| *a == *b as i32), "{name}, block {b}");
            let made = decode(&SIZE, &mut d, &packet);
            assert!(worst(&made, &recon[span]) <= 1, "{name}, block {b}");
        }
    }
}

#[test]
#[ignore = "needs the official fixtures; tests/run.sh runs it where they are"]
fn vae_pictures_are_the_official_ones_up_to_quantisation() {
    for (name, side) in [("vae_single", 64), ("vae_multi", 32), ("vae_fullsize", 256)] {
        let (mut data, _, bundle) = case(name);
        let (bundle, size) = (Arc::new(bundle), Rgb { width: side, height: side });
        let frames: Vec<u8> = data.get("frames");
        let (kept, recon): (Vec<i32>, Vec<u8>) = (data.get("kept"), data.get("recon_u8"));
        let mut e = Encoder::new(size.config(&bundle, SearchMethod::Binary, tokens(kept[0]))).unwrap();
        let mut d = decoder(&bundle, &e);
        // The same without quantisation, straight through the graphs.
        let geometry = bundle.geometry(side as u32, side as u32).unwrap();
        let mut plain = DecoderGraph::open(&bundle, &geometry, &runtime()).unwrap();
        let mut graph = EncoderGraph::open(&bundle, &geometry, &runtime(), &mut plain).unwrap();
        let (mut quantised, mut unquantised, mut noise) = (0.0, 0.0, 0.0);
        let error = |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum::<f64>();
        for (b, &n) in kept.iter().enumerate() {
            e.set_live(tokens(n)).unwrap();
            let span = block_of(&size, b);
            let made = decode(&size, &mut d, &push(&size, &mut e, &frames[span.clone()]));
            graph.frames_mut().copy_from_slice(&frames[span.clone()]);
            graph.inputs().counts_mut().fill(n);
            graph.inputs().set_position(b as i64);
            plain.inputs().set_position(b as i64);
            graph.run(&mut plain).unwrap();
            let (Tokens::F32(means), TokensMut::F32(taken)) = (graph.tokens(), plain.tokens_mut()) else { panic!("vae") };
            taken.copy_from_slice(means);
            plain.inputs().counts_mut().fill(n);
            plain.run().unwrap();
            graph.commit();
            plain.commit();
            assert!(worst(plain.frames(), &recon[span.clone()]) <= 1, "{name}, block {b}");
            assert!(worst(&made, &recon[span.clone()]) <= 3, "{name}, block {b}");
            noise += error(&made, plain.frames());
            quantised += error(&made, &frames[span.clone()]);
            unquantised += error(plain.frames(), &frames[span]);
        }
        let db = |sum: f64| psnr(sum / frames.len() as f64);
        println!("{name}: {} dB, {} dB unquantised, {} dB between them", db(quantised), db(unquantised), db(noise));
        // These weights are random and the pictures poor. Noise of 52 dB would cost a picture of 33 dB less than 0.05 dB.
        assert!(db(noise) > 52.0, "{name}: {}", db(noise));
        assert!((db(quantised) - db(unquantised)).abs() < 0.05, "{name}: {} and {}", db(quantised), db(unquantised));
    }
}

#[test]
#[ignore = "needs the official fixtures; tests/run.sh runs it where they are"]
fn searches_give_the_official_counts() {
    for (name, search) in [("binary_search", SearchMethod::Binary), ("linear_search", SearchMethod::Full)] {
        // Both cases have one checkpoint.
        let (_, _, bundle) = case("binary_search");
        let folder = fixtures();
        let config: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(folder.join(name).join("config.json")).unwrap()).unwrap();
        let mut data = Npz::open(&folder.join(name).join("data.npz"));
        let frames: Vec<u8> = data.get("frames");
        for (r, run) in config["runs"].as_array().unwrap().iter().enumerate() {
            let number = |name: &str| run.get(name).and_then(serde_json::Value::as_f64);
            let mut bundle = bundle.clone();
            bundle.manifest.search = SearchRule::Official {
                default_prop: number("default_prop_codes").unwrap(),
                max_prop: number("max_prop_codes").unwrap(),
                n_interp: number("n_interp").unwrap_or(100.0) as u32,
            };
            let bundle = Arc::new(bundle);
            let live = LiveSettings { target_mse: number("threshold").unwrap(), ..Default::default() };
            let mut e = Encoder::new(SIZE.config(&bundle, search, live)).unwrap();
            let (mut d, mut reader) = (decoder(&bundle, &e), TokenReader::new(&bundle, e.sequence_header()).unwrap());
            let kept: Vec<i32> = data.get(&format!("run{r}_kept"));
            let mse: Vec<f32> = data.get(&format!("run{r}_mse"));
            let recon: Vec<u8> = data.get(&format!("run{r}_recon_u8"));
            let indices: Vec<u32> = data.get(&format!("run{r}_indices_kept"));
            let commit: Vec<bool> = data.get(&format!("run{r}_trace_commit"));
            let mut at = 0;
            for (b, &n) in kept.iter().enumerate() {
                let span = block_of(&SIZE, b);
                let packet = push(&SIZE, &mut e, &frames[span.clone()]);
                assert_eq!(e.counts(), [n], "{name}, run {r}, block {b}");
                let measured = 4.0 * 10f64.powf(-e.stats().psnr.unwrap() / 10.0);
                assert!((measured - f64::from(mse[b])).abs() < 1e-6, "{name}, run {r}, block {b}: {measured} and {}", mse[b]);
                let TokenValues::Indices(made) = reader.read(&packet.data, None).unwrap().tokens else { panic!("fsq") };
                let wanted = &indices[at..at + n as usize];
                assert!(made.iter().zip(wanted).all(|(a, b)| *a == *b as i32), "{name}, run {r}, block {b}");
                at += n as usize;
                assert!(worst(&decode(&SIZE, &mut d, &packet), &recon[span]) <= 1, "{name}, run {r}, block {b}");
            }
            let tried = commit.iter().filter(|c| !**c).count() as u64;
            assert_eq!(e.stats().evaluations, tried, "{name}, run {r}");
        }
    }
}
