// SPDX-License-Identifier: MIT OR Apache-2.0
//! Golden streams: short files in `tests/golden`, each with what it must decode to. `docs/bitstream.md` names them.
//!
//! They pin the stream: a decoder that reads them differently reads another format. To add one, name it in [`recipes`] and run
//! `ELASTICTOK_WRITE_GOLDEN=1 cargo test --test golden`, which writes what is missing and leaves what is there.
#![allow(clippy::unwrap_used)]

mod common;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use std::process::Command;
use std::sync::Arc;

use bytes::BytesMut;
use common::{runtime, tiny};
use elastictok::bitstream::{Limits, SequenceHeader, StreamReader, StreamWriter, UnitKind, thin};
use elastictok::bundle::{Bottleneck, Bundle, fingerprint_name};
use elastictok::codec::{
    Decoder, DecoderConfig, Encoder, EncoderConfig, FrameTime, LiveSettings, RateControl, SearchMethod, TokenReader, TokenValues,
    TokenWriter,
};
use elastictok::frame::{PixelFormat, PlanesMut, PlanesRef, SourceFormat};
use elastictok::runtime::RuntimeConfig;
use sha2::{Digest, Sha256};

/// How a golden stream is made.
struct Recipe {
    name: &'static str,
    bundle: &'static str,
    width: usize,
    height: usize,
    frames: usize,
    /// Frame at which the scene changes.
    cut: usize,
    /// The camera shakes, so that frames leave the straight line.
    shakes: bool,
    /// Layers that stay.
    thin: Option<usize>,
    settings: fn(&mut EncoderConfig),
}

fn recipes() -> Vec<Recipe> {
    let builtin = Recipe {
        name: "",
        bundle: "builtin",
        width: 64,
        height: 48,
        frames: 8,
        cut: usize::MAX,
        shakes: false,
        thin: None,
        settings: |c| c.live.target_psnr = 46.0,
    };
    let fixed = |name, bundle| Recipe {
        name,
        bundle,
        settings: |c| {
            (c.search, c.key_int_max) = (SearchMethod::Binary, 6);
            c.live.target_mse = 0.004;
        },
        ..builtin
    };
    vec![
        Recipe { name: "builtin-one-layer", settings: |c| c.live.target_psnr = 25.0, ..builtin },
        Recipe {
            name: "builtin-two-layers",
            settings: |c| (c.layers, c.layer_ratio, c.live.target_psnr) = (2, 3.0, 40.0),
            ..builtin
        },
        Recipe { name: "builtin-four-layers", ..builtin },
        Recipe {
            name: "builtin-five-layers",
            settings: |c| (c.layers, c.layer_ratio, c.live.target_psnr) = (5, 1.5, 46.0),
            ..builtin
        },
        Recipe {
            name: "builtin-base-quantisers",
            settings: |c| (c.layer_ratio, c.live.base_bitrate, c.live.target_psnr) = (0.0, 40, 42.0),
            ..builtin
        },
        Recipe { name: "builtin-single-loop", settings: |c| (c.drift_free, c.live.target_psnr) = (false, 46.0), ..builtin },
        Recipe { name: "builtin-thinned", thin: Some(2), ..builtin },
        Recipe { name: "builtin-odd-size", width: 51, height: 35, ..builtin },
        Recipe {
            name: "builtin-partial-last-block",
            frames: 7,
            settings: |c| (c.key_int_max, c.live.target_psnr) = (4, 36.0),
            ..builtin
        },
        Recipe { name: "builtin-scene-cut", cut: 4, settings: |c| c.live.target_psnr = 36.0, ..builtin },
        Recipe { name: "builtin-shake", shakes: true, settings: |c| (c.layers, c.live.target_psnr) = (1, 46.0), ..builtin },
        Recipe { name: "builtin-irregular-times", settings: |c| (c.framerate, c.live.target_psnr) = ((0, 1), 34.0), ..builtin },
        Recipe {
            name: "builtin-bitrate",
            settings: |c| (c.live.rate_control, c.live.bitrate) = (RateControl::Bitrate, 200),
            ..builtin
        },
        fixed("fsq", "fsq"),
        fixed("vae", "vae"),
    ]
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn bundle(name: &str) -> Arc<Bundle> {
    if name == "builtin" { Bundle::builtin().unwrap() } else { Arc::new(tiny(name)) }
}

/// The bundle that made a stream.
fn maker(header: &SequenceHeader) -> Arc<Bundle> {
    let known = ["builtin", "fsq", "vae"].into_iter().map(bundle).find(|b| b.fingerprint == header.fingerprint);
    known.unwrap_or_else(|| {
        panic!(
            "no bundle has fingerprint {}: a bundle has changed that golden streams depend on; \
             if that is meant, make them again and say so in the change log",
            fingerprint_name(&header.fingerprint)
        )
    })
}

/// Sample (y, x) of component `c` of frame `n`: a textured ground that pans or shakes, with a square that moves over it. Whole numbers, so the
/// same on every machine.
fn sample(recipe: &Recipe, n: usize, c: usize, y: usize, x: usize) -> u8 {
    let scene = if n >= recipe.cut { 5 } else { 0 };
    let [right, down] = if recipe.shakes { [[4, 4], [7, 1], [2, 6], [5, 3]][n % 4] } else { [3 * n, n] };
    let (u, v) = (x + right, y + down);
    let texture = (u * 7 + v * 13 + scene * 29) % 23 + (u * v / 16 + scene) % 17;
    let slope = (u * 3 + scene * 40) % 128 / 2;
    let square = (y + 64 - 2 * n % 32) % 48 < 14 && (x + 64 - n) % 56 < 18;
    (60 + 20 * c + texture + slope + if square { 55 } else { 0 }) as u8
}

/// The planes of frame `n`.
fn picture(recipe: &Recipe, format: PixelFormat, n: usize) -> [Vec<u8>; 3] {
    let (w, h) = (recipe.width, recipe.height);
    let plane = |c: usize, step: usize| -> Vec<u8> {
        let row = |y: usize| (0..w.div_ceil(step)).map(move |x| sample(recipe, n, c, y * step, x * step));
        (0..h.div_ceil(step)).flat_map(row).collect()
    };
    match format {
        PixelFormat::I420 => [plane(0, 1), plane(1, 2), plane(2, 2)],
        // Smooth patches, which is what the small bundles can code.
        PixelFormat::Rgb => {
            let pixel = |i: usize| [0, 1, 2].map(|c| sample(recipe, n, c, i / w / 4 * 4, i % w / 4 * 4));
            [(0..w * h).flat_map(pixel).collect(), Vec::new(), Vec::new()]
        }
    }
}

fn strides(format: PixelFormat, width: usize) -> [usize; 3] {
    match format {
        PixelFormat::I420 => [width, width.div_ceil(2), width.div_ceil(2)],
        PixelFormat::Rgb => [3 * width, 0, 0],
    }
}

fn encode(recipe: &Recipe) -> Vec<u8> {
    let bundle = bundle(recipe.bundle);
    let format = bundle.manifest.pixel_format;
    let mut config = EncoderConfig {
        bundle,
        runtime: runtime(),
        width: recipe.width as u32,
        height: recipe.height as u32,
        framerate: (30000, 1001),
        pixel_aspect_ratio: (12, 11),
        colorimetry: [2, 6, 6, 6],
        chroma_site: 1,
        key_int_max: 0,
        search: SearchMethod::Regression,
        layers: 0,
        layer_ratio: 2.0,
        drift_free: true,
        live: LiveSettings::default(),
    };
    (recipe.settings)(&mut config);
    let irregular = config.framerate.0 == 0;
    let mut encoder = Encoder::new(config).unwrap();
    let mut writer = StreamWriter::new(encoder.sequence_header()).unwrap();
    let mut out = BytesMut::new();
    let mut packets = Vec::new();
    for n in 0..recipe.frames {
        let planes = picture(recipe, format, n);
        let source = if format == PixelFormat::I420 { SourceFormat::I420 } else { SourceFormat::Rgb };
        let picture =
            PlanesRef { format: source, planes: [&planes[0], &planes[1], &planes[2]], strides: strides(format, recipe.width) };
        let at = |n: u64| if irregular { n * 40_000_000 + n * n * 1_234_567 } else { n * 1_001_000_000 / 30 };
        let time = FrameTime { pts: Some(at(n as u64)), duration: Some(at(n as u64 + 1) - at(n as u64)) };
        packets.extend(encoder.push(&picture, time).unwrap());
    }
    packets.extend(encoder.drain().unwrap());
    for packet in packets {
        let block = recipe.thin.map_or(&packet.data[..], |layers| thin(&packet.data, layers).unwrap());
        writer.write(block, &mut out).unwrap();
    }
    out.to_vec()
}

fn hash(tokens: &TokenValues, counts: &[i32], bundle: &Bundle) -> String {
    let mut hash = Sha256::new();
    let mut integers = |values: &mut dyn Iterator<Item = i32>| values.for_each(|v| hash.update(v.to_le_bytes()));
    match tokens {
        TokenValues::Indices(indices) => integers(&mut indices.iter().copied()),
        TokenValues::Means(means) => {
            let Bottleneck::Vae { scale, .. } = bundle.manifest.bottleneck else { panic!("means of a bundle that has none") };
            integers(&mut means.iter().map(|m| (f64::from(*m) * f64::from(scale)).round() as i32));
        }
        TokenValues::Nested { indices, transform_sizes, motion, .. } => {
            integers(&mut indices.iter().map(|k| i32::from(*k)));
            integers(&mut transform_sizes.iter().copied());
            integers(&mut motion.iter().copied());
        }
    }
    integers(&mut counts.iter().copied());
    short(hash)
}

/// The first eight bytes of a hash.
fn short(hash: Sha256) -> String {
    hash.finalize()[..8].iter().map(|b| format!("{b:02x}")).collect()
}

/// Whether a cell of a stream bends.
fn bends(stream: &[u8]) -> bool {
    let mut reader = StreamReader::default();
    reader.push(stream);
    reader.end();
    let (mut tokens, mut found) = (None, false);
    while let Some(unit) = reader.next_unit() {
        if unit.kind == UnitKind::Sequence {
            let header = SequenceHeader::parse(&unit.payload).unwrap();
            tokens = Some(TokenReader::new(&maker(&header), &header).unwrap());
        } else if let TokenValues::Nested { motion, .. } = tokens.as_mut().unwrap().read(&unit.payload, None).unwrap().tokens {
            found |= motion[motion.len() / 5 * 3..].iter().any(|b| *b != 0);
        }
    }
    found
}

type Tokens = (TokenReader, TokenWriter);

/// What a stream decodes to on that many threads, a line for each unit and frame.
fn describe(stream: &[u8], threads: usize) -> String {
    let mut reader = StreamReader::default();
    reader.push(stream);
    reader.end();
    let mut out = String::new();
    let mut open: Option<(Arc<Bundle>, SequenceHeader, Tokens, Decoder)> = None;
    let mut planes: [Vec<u8>; 3] = Default::default();
    while let Some(unit) = reader.next_unit() {
        if unit.kind == UnitKind::Sequence {
            let header = SequenceHeader::parse(&unit.payload).unwrap();
            if open.as_ref().is_some_and(|o| o.1 == header) {
                continue;
            }
            writeln!(out, "header {}", header.to_bytes().iter().map(|b| format!("{b:02x}")).collect::<String>()).unwrap();
            let bundle = maker(&header);
            let tokens = (TokenReader::new(&bundle, &header).unwrap(), TokenWriter::new(&bundle, &header).unwrap());
            let config = DecoderConfig {
                bundle: bundle.clone(),
                runtime: RuntimeConfig { threads, ..runtime() },
                header: header.clone(),
                max_layers: None,
                limits: Limits::default(),
            };
            open = Some((bundle, header, tokens, Decoder::new(config).unwrap()));
            continue;
        }
        let (bundle, header, (tokens, writer), decoder) = open.as_mut().unwrap();
        let block = tokens.read(&unit.payload, None).unwrap();
        let again = writer.write(&block).unwrap();
        assert_eq!(again, unit.payload, "tokens read and written are the same bytes");
        let layers = match &block.tokens {
            TokenValues::Nested { layer_counts, .. } => layer_counts.len() / tokens.shape().cells(),
            _ => bundle.manifest.layers.len(),
        };
        writeln!(
            out,
            "block epoch {} position {} quantiser {} frames {} layers {layers} tokens {}",
            block.header.epoch,
            block.header.position,
            block.header.quantiser,
            block.header.frames,
            hash(&block.tokens, &block.counts, bundle)
        )
        .unwrap();
        let decoded = decoder.decode(&unit.payload, None).unwrap();
        let (format, w, h) = (bundle.manifest.pixel_format, header.width as usize, header.height as usize);
        let rows = [h, h.div_ceil(2), h.div_ceil(2)];
        let strides = strides(format, w);
        for ((plane, stride), rows) in planes.iter_mut().zip(strides).zip(rows) {
            plane.resize(stride * rows, 0);
        }
        for i in 0..decoded.frames() {
            let [y, u, v] = &mut planes;
            decoded.store(i, &mut PlanesMut { planes: [&mut *y, &mut *u, &mut *v], strides }).unwrap();
            let shown = if bundle.manifest.exact {
                format!("samples {}", short(Sha256::new_with_prefix(&y).chain_update(&u).chain_update(&v)))
            } else {
                format!("mean {:.2}", y.iter().map(|&s| f64::from(s)).sum::<f64>() / y.len() as f64)
            };
            let time = decoded.time(i);
            assert_eq!(time, block.times[i]);
            writeln!(out, "frame {} {} {shown}", time.pts.unwrap(), time.duration.unwrap()).unwrap();
        }
    }
    out
}

/// Compares line by line. Bundles that are not exact compute in floating point, which differs a little between machines: their
/// means may be a quarter of a grey level apart.
fn compare(name: &str, expected: &str, found: &str) {
    let split = |line: &str| line.split_once(" mean ").map(|(l, mean)| (l.to_owned(), mean.parse::<f64>().unwrap()));
    let mut found = found.lines();
    for (i, line) in expected.lines().filter(|l| !l.starts_with('#')).enumerate() {
        let other = found.next().unwrap_or_else(|| panic!("{name}: ends before line {i}: {line}"));
        match (split(line), split(other)) {
            (Some((a, x)), Some((b, y))) => assert!(a == b && (x - y).abs() < 0.25, "{name}: {other}, not {line}"),
            _ => assert_eq!(line, other, "{name}"),
        }
    }
    assert_eq!(found.next(), None, "{name}: goes on after its end");
}

/// Whether missing streams are written. Tests that only read would be too early.
fn writes() -> bool {
    std::env::var_os("ELASTICTOK_WRITE_GOLDEN").is_some()
}

#[test]
fn golden_streams_decode_to_what_they_must() {
    let write = writes();
    let mut streams = 0;
    for recipe in recipes() {
        let (stream, reference) = (folder().join(format!("{}.etok", recipe.name)), folder().join(format!("{}.ref", recipe.name)));
        if write && !stream.exists() {
            let made = encode(&recipe);
            std::fs::write(&reference, format!("# What {}.etok decodes to.\n{}", recipe.name, describe(&made, 1))).unwrap();
            std::fs::write(&stream, made).unwrap();
        }
        let stream = std::fs::read(&stream).unwrap_or_else(|e| panic!("{}: {e}", stream.display()));
        assert!(!recipe.shakes || bends(&stream), "{}: no bends", recipe.name);
        compare(recipe.name, &std::fs::read_to_string(&reference).unwrap(), &describe(&stream, 1));
        streams += 1;
    }
    let files =
        std::fs::read_dir(folder()).unwrap().filter(|f| f.as_ref().unwrap().path().extension().is_some_and(|e| e == "etok"));
    assert_eq!(files.count(), streams, "a stream in tests/golden without a recipe");
}

/// The samples of an exact bundle are those of the encoder's machine, however many threads decode.
#[test]
fn threads_do_not_change_a_sample_of_the_builtin_bundle() {
    if !Bundle::builtin().unwrap().manifest.exact || writes() {
        eprintln!("skipped: the builtin bundle is not exact, or streams are being written");
        return;
    }
    for recipe in recipes().iter().filter(|r| r.bundle == "builtin") {
        let stream = std::fs::read(folder().join(format!("{}.etok", recipe.name))).unwrap();
        let reference = std::fs::read_to_string(folder().join(format!("{}.ref", recipe.name))).unwrap();
        for threads in [2, 3, 8] {
            compare(recipe.name, &reference, &describe(&stream, threads));
        }
    }
}

/// The same on processors without AVX, and with AVX2 but neither AVX-512 nor VNNI, emulated by QEMU.
#[test]
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn emulated_processors_decode_golden_streams_too() {
    if writes() {
        eprintln!("skipped: streams are being written");
        return;
    }
    let qemu = "qemu-x86_64";
    if Command::new(qemu).arg("--version").output().is_err() {
        eprintln!("skipped: no {qemu}; Debian has it in the package qemu-user");
        return;
    }
    for processor in ["Nehalem", "Haswell-noTSX"] {
        let mut this = Command::new(qemu);
        this.args(["-cpu", processor])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "golden_streams_decode_to_what_they_must"]);
        let done = this.output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(
            done.status.success() && said.contains("1 passed"),
            "{processor}: {said}{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
}

/// A change of the builtin model makes every stream coded before unreadable: it must be deliberate.
#[test]
fn the_builtin_bundle_keeps_its_fingerprint() {
    assert_eq!(fingerprint_name(&Bundle::builtin().unwrap().fingerprint), "c051f3f7a2f2d806");
}
