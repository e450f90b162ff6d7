// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the core's integration tests share: reference data of the official code, and small bundles.
#![allow(dead_code, clippy::unwrap_used)]

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use elastictok::bitstream::{Limits, SequenceHeader};
use elastictok::bundle::Bundle;
use elastictok::codec::{Decoder, DecoderConfig, Encoder, EncoderConfig, FrameTime, LiveSettings, Packet, SearchMethod, psnr};
use elastictok::frame::{PlanesMut, PlanesRef, SourceFormat};
use elastictok::runtime::{ExecutionProvider, RuntimeConfig};

/// The official code's reference data: `ELASTICTOK_FIXTURES`, else `../shared/fixtures/official` beside the workspace. Tests that
/// need it are ignored unless asked for, and fail without it.
pub fn fixtures() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures/official");
    let folder = std::env::var_os("ELASTICTOK_FIXTURES").map_or(default, PathBuf::from);
    assert!(folder.join("units").is_dir(), "no reference data in {}; set ELASTICTOK_FIXTURES", folder.display());
    folder
}

/// An .npz archive.
pub struct Npz(npyz::npz::NpzArchive<BufReader<File>>);

impl Npz {
    pub fn open(path: &Path) -> Self {
        Self(npyz::npz::NpzArchive::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }

    pub fn names(&self) -> Vec<String> {
        self.0.array_names().map(str::to_owned).collect()
    }

    /// The values of an array in C order.
    pub fn get<T: npyz::Deserialize>(&mut self, name: &str) -> Vec<T> {
        let array = self.0.by_name(name).unwrap().unwrap_or_else(|| panic!("no array {name}"));
        assert_eq!(array.order(), npyz::Order::C, "{name}");
        array.into_vec().unwrap_or_else(|e| panic!("{name}: {e}"))
    }
}

/// A small bundle of `tests/bundles`, which has a README of them in `generate.py`.
pub fn tiny(name: &str) -> Bundle {
    Bundle::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles").join(name)).unwrap()
}

pub fn runtime() -> RuntimeConfig {
    RuntimeConfig { provider: ExecutionProvider::Cpu, threads: 1, ..Default::default() }
}

/// A stream of RGB pictures of one size.
pub struct Rgb {
    pub width: usize,
    pub height: usize,
}

impl Rgb {
    /// Frame `n` of a scene of 4x4 pixel patches, which the small bundles can code: smooth waves that drift, and texture.
    pub fn frame(&self, n: usize) -> Vec<u8> {
        let t = n as f32;
        let pixel = |i: usize| {
            let (row, column) = (i / self.width / 4, i % self.width / 4);
            let noise = ((row * 37 + column * 101 + row * column * 13) % 64) as f32 - 32.0;
            let (y, x) = (4.0 * row as f32, 4.0 * column as f32);
            let wave = (0.11 * x + 0.03 * t).sin() * 50.0 + (0.09 * y - 0.02 * t).cos() * 30.0;
            let texture = noise * if x < 32.0 { 0.9 } else { 0.2 };
            [0.0, 9.0, -14.0].map(|c| (125.0 + wave + texture + c * (0.05 * x + t * 0.02).cos()) as u8)
        };
        (0..self.width * self.height).flat_map(pixel).collect()
    }

    pub fn config(&self, bundle: &Arc<Bundle>, search: SearchMethod, live: LiveSettings) -> EncoderConfig {
        EncoderConfig {
            bundle: bundle.clone(),
            runtime: runtime(),
            width: self.width as u32,
            height: self.height as u32,
            framerate: (25, 1),
            pixel_aspect_ratio: (1, 1),
            colorimetry: [0, 2, 2, 2],
            chroma_site: 0,
            key_int_max: 0,
            search,
            layers: 0,
            layer_ratio: 2.0,
            drift_free: true,
            live,
        }
    }

    /// Pushes frames `range` of the scene; the packets that came.
    pub fn push(&self, encoder: &mut Encoder, range: std::ops::Range<usize>) -> Vec<Packet> {
        let push = |n: usize| {
            let frame = self.frame(n);
            let picture = PlanesRef { format: SourceFormat::Rgb, planes: [&frame, &[], &[]], strides: [self.width * 3, 0, 0] };
            let time = FrameTime { pts: Some(n as u64 * 40_000_000), duration: Some(40_000_000) };
            encoder.push(&picture, time).unwrap()
        };
        range.filter_map(push).collect()
    }

    pub fn decoder(&self, bundle: &Arc<Bundle>, header: &SequenceHeader, max_layers: Option<usize>) -> Decoder {
        Decoder::new(DecoderConfig {
            bundle: bundle.clone(),
            runtime: runtime(),
            header: header.clone(),
            max_layers,
            limits: Limits::default(),
        })
        .unwrap()
    }

    /// The frames of a block.
    pub fn decode(&self, decoder: &mut Decoder, packet: &[u8]) -> Vec<Vec<u8>> {
        let block = decoder.decode(packet, None).unwrap();
        (0..block.frames())
            .map(|i| {
                let mut frame = vec![0; self.width * self.height * 3];
                block
                    .store(i, &mut PlanesMut { planes: [&mut frame, &mut [], &mut []], strides: [self.width * 3, 0, 0] })
                    .unwrap();
                frame
            })
            .collect()
    }

    /// PSNR of decoded frames, the first being frame `n` of the scene.
    pub fn psnr(&self, frames: &[Vec<u8>], n: usize) -> f64 {
        let sum: f64 = frames
            .iter()
            .enumerate()
            .flat_map(|(i, f)| {
                f.iter().zip(self.frame(n + i)).map(|(&a, b)| (f64::from(a) - f64::from(b)).powi(2)).collect::<Vec<_>>()
            })
            .sum();
        psnr(sum / (frames.len() * self.width * self.height * 3) as f64)
    }
}
