// SPDX-License-Identifier: MIT OR Apache-2.0
//! `etok info`: what is in a stream.

use std::fmt::Write as _;

use elastictok::bundle::fingerprint_name;
use elastictok::frame::PixelFormat;

use crate::cli::InfoArgs;
use crate::failure::Exit;
use crate::output;
use crate::scan::{Problem, Stream, scan};
use crate::text;

pub fn run(args: &InfoArgs) -> anyhow::Result<Exit> {
    let stream = scan(&args.input, &args.model, |_, _| ())?;
    let page = if args.json {
        let mut json = serde_json::to_vec_pretty(&summary(&args.input.display().to_string(), &stream))?;
        json.push(b'\n');
        json
    } else {
        table(&args.input.display().to_string(), &stream)?.into_bytes()
    };
    output::print(&page)?;
    Ok(if stream.problem_count > 0 { Exit::Damaged } else { Exit::Done })
}

/// The figures as JSON has them.
#[derive(serde::Serialize)]
struct Summary<'a> {
    file: &'a str,
    width: u32,
    height: u32,
    framerate: [u32; 2],
    pixel_aspect_ratio: [u32; 2],
    pixel_format: &'static str,
    frames: u64,
    duration_s: f64,
    start_s: f64,
    bytes: u64,
    bitrate_kbps: Option<f64>,
    bits_per_pixel: f64,
    model: Model,
    blocks: Blocks,
    layers: Vec<Layer>,
    tokens_per_block: Option<Tokens>,
    format_changes: u64,
    damage: Damage<'a>,
}

#[derive(serde::Serialize)]
struct Model {
    name: Option<String>,
    fingerprint: String,
    /// Whether every machine decodes the same samples; null where the bundle is not known.
    exact: Option<bool>,
}

#[derive(serde::Serialize)]
struct Blocks {
    all: u64,
    key: u64,
    decodable: u64,
    frames_per_block: u8,
    /// Layers that a block of the stream may have.
    layers: u8,
    /// Layers that the last block has, and those it left out since they would be too coarse for its quality.
    last_layers: usize,
    last_left_out: u8,
}

#[derive(serde::Serialize)]
struct Layer {
    bits: u64,
    share: f64,
    /// kbit/s of this layer alone.
    kbps: Option<f64>,
    /// kbit/s of the stream cut to this layer and those before it; without what the byte stream adds.
    cumulative_kbps: Option<f64>,
}

#[derive(serde::Serialize)]
struct Tokens {
    least: u64,
    mean: f64,
    most: u64,
    cells: u64,
    tokens_per_cell: u32,
}

#[derive(serde::Serialize)]
struct Damage<'a> {
    problems: u64,
    first: &'a [Problem],
}

fn bits_per_pixel(stream: &Stream) -> f64 {
    let pixels = f64::from(stream.header.width) * f64::from(stream.header.height) * stream.frames().max(1) as f64;
    stream.file_bytes as f64 * 8.0 / pixels
}

/// kbit/s of the stream cut to each count of layers: block headers with the layers.
pub fn cumulative_kbps(stream: &Stream) -> Option<Vec<f64>> {
    let seconds = stream.duration();
    let layers = stream.layer_bytes();
    let headers = stream.blocks.iter().map(|b| b.bytes.saturating_sub(b.layers.iter().sum())).sum::<u64>();
    let mut sum = headers;
    (seconds > 0.0).then(|| {
        layers
            .iter()
            .map(|bytes| {
                sum += bytes;
                sum as f64 * 8e-3 / seconds
            })
            .collect()
    })
}

fn summary<'a>(file: &'a str, stream: &'a Stream) -> Summary<'a> {
    let h = &stream.header;
    let bytes = stream.layer_bytes();
    let all = bytes.iter().sum::<u64>().max(1);
    let cumulative = cumulative_kbps(stream);
    Summary {
        file,
        width: h.width,
        height: h.height,
        framerate: [h.framerate.0, h.framerate.1],
        pixel_aspect_ratio: [h.pixel_aspect_ratio.0, h.pixel_aspect_ratio.1],
        pixel_format: format_name(h.pixel_format),
        frames: stream.frames(),
        duration_s: stream.duration(),
        start_s: stream.start(),
        bytes: stream.file_bytes,
        bitrate_kbps: stream.kbps(),
        bits_per_pixel: bits_per_pixel(stream),
        model: Model {
            name: stream.bundle.as_ref().map(|b| b.manifest.name.clone()),
            fingerprint: fingerprint_name(&h.fingerprint),
            exact: stream.bundle.as_ref().map(|b| b.manifest.exact),
        },
        blocks: Blocks {
            all: stream.blocks.len() as u64,
            key: key_blocks(stream),
            decodable: stream.blocks.iter().filter(|b| b.decodes).count() as u64,
            frames_per_block: h.block_length,
            layers: h.layers,
            last_layers: stream.blocks.last().map_or(0, |b| b.layers.len()),
            last_left_out: stream.blocks.last().map_or(0, |b| b.left_out),
        },
        layers: bytes
            .iter()
            .enumerate()
            .map(|(i, &b)| Layer {
                bits: b * 8,
                share: b as f64 / all as f64,
                kbps: (stream.duration() > 0.0).then(|| b as f64 * 8e-3 / stream.duration()),
                cumulative_kbps: cumulative.as_ref().map(|c| c[i]),
            })
            .collect(),
        tokens_per_block: stream.tokens().zip(grid(stream)).map(|((least, mean, most), (cells, tokens_per_cell))| Tokens {
            least,
            mean,
            most,
            cells,
            tokens_per_cell,
        }),
        format_changes: stream.format_changes,
        damage: Damage { problems: stream.problem_count, first: &stream.problems },
    }
}

fn format_name(format: PixelFormat) -> &'static str {
    match format {
        PixelFormat::I420 => "I420",
        PixelFormat::Rgb => "RGB",
    }
}

fn key_blocks(stream: &Stream) -> u64 {
    stream.blocks.iter().filter(|b| b.key).count() as u64
}

/// Cells of a block, and tokens of a cell.
fn grid(stream: &Stream) -> Option<(u64, u32)> {
    let bundle = stream.bundle.as_ref()?;
    let geometry = bundle.geometry(stream.header.width, stream.header.height).ok()?;
    Some((geometry.cells() as u64, bundle.manifest.stream_tokens_per_cell(usize::from(stream.header.layers))))
}

fn table(file: &str, stream: &Stream) -> Result<String, std::fmt::Error> {
    let h = &stream.header;
    let mut out = String::new();
    writeln!(out, "{file}")?;
    let mut row = |name: &str, value: String| writeln!(out, "  {name:<8} {value}");
    let aspect = h.pixel_aspect_ratio;
    let aspect = if aspect.0 == aspect.1 { String::new() } else { format!(", pixel aspect ratio {}:{}", aspect.0, aspect.1) };
    row("video", format!("{}x{}, {}, {}{aspect}", h.width, h.height, text::framerate(h.framerate), format_name(h.pixel_format)))?;
    row("length", format!("{}, {}", text::duration(stream.duration()), text::count(stream.frames(), "frame")))?;
    let rate = stream.kbps().map_or(String::new(), |k| format!(", {}", text::bitrate(k)));
    row("size", format!("{} bytes{rate}, {:.4} bit/pixel", text::grouped(stream.file_bytes), bits_per_pixel(stream)))?;
    row(
        "model",
        match &stream.bundle {
            Some(bundle) if bundle.manifest.exact => format!("{}, decodes to the same samples everywhere", stream.model_name()),
            Some(_) => stream.model_name(),
            None => format!("{}; name its bundle with --model", stream.model_name()),
        },
    )?;
    let keys = key_blocks(stream);
    row(
        "blocks",
        format!(
            "{} of {}, {}{}",
            text::grouped(stream.blocks.len() as u64),
            text::count(h.block_length.into(), "frame"),
            text::count(keys, "key block"),
            if keys > 1 { format!(", one every {}", text::duration(stream.duration() / keys as f64)) } else { String::new() }
        ),
    )?;
    if let Some(last) = stream.blocks.last() {
        let why = match last.left_out {
            0 => String::new(),
            n => format!(", {n} left out as too coarse for this quality"),
        };
        row("layers", format!("up to {}; in the last block {}{why}", h.layers, last.layers.len()))?;
    }
    let bytes = stream.layer_bytes();
    let all = bytes.iter().sum::<u64>().max(1) as f64;
    let cumulative = cumulative_kbps(stream);
    for (i, &b) in bytes.iter().enumerate() {
        let own =
            cumulative.as_ref().map_or(String::new(), |_| format!(", {}", text::bitrate(b as f64 * 8e-3 / stream.duration())));
        let cut = match &cumulative {
            Some(c) if i + 1 < bytes.len() => format!(", {} where the stream is cut after it", text::bitrate(c[i])),
            _ => String::new(),
        };
        let kbit = text::significant(b as f64 * 8e-3);
        row(&format!("layer {}", i + 1), format!("{kbit} kbit{own}, {:.0} % of the bits{cut}", b as f64 / all * 100.0))?;
    }
    row(
        "tokens",
        match stream.tokens().zip(grid(stream)) {
            Some(((least, mean, most), (cells, per_cell))) => format!(
                "in a block: least {}, mean {}, most {}; {} of up to {} tokens",
                text::grouped(least),
                text::grouped(mean.round() as u64),
                text::grouped(most),
                text::count(cells, "cell"),
                text::grouped(per_cell.into())
            ),
            None => "not counted without the model".into(),
        },
    )?;
    if stream.format_changes > 0 {
        row(
            "changes",
            format!("{} of size, rate or model within the file; the rows above tell the first", stream.format_changes),
        )?;
    }
    if stream.problem_count == 0 {
        row("damage", "none".into())?;
    } else {
        let lost = stream.blocks.iter().filter(|b| !b.decodes).count() as u64;
        row(
            "damage",
            format!("{}, {} cannot be decoded", text::count(stream.problem_count, "problem"), text::count(lost, "block")),
        )?;
        for p in &stream.problems {
            writeln!(out, "           block {}: {}", p.block, p.what)?;
        }
        let more = stream.problem_count - stream.problems.len() as u64;
        if more > 0 {
            writeln!(out, "           and {more} more")?;
        }
    }
    Ok(out)
}
