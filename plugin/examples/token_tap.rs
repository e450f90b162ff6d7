// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tokens of a running pipeline as NumPy arrays, and a stream out of such arrays.
//!
//! ```sh
//! token_tap read --model BUNDLE "v4l2src num-buffers=400 ! videoconvert ! elastictokenc model=BUNDLE" tokens.npz
//! token_tap write --model BUNDLE tokens.npz out.etok
//! ```
//!
//! The arrays of a stream of B blocks:
//!
//! | array | type and shape | meaning |
//! | --- | --- | --- |
//! | `tokens` | i32 [B, cells_y, cells_x, K] (fsq) or f32 [B, cells_y, cells_x, K, D] (vae) | indices or means, zero from the count on |
//! | `counts` | i32 [B, cells_y, cells_x] | tokens kept of each cell, 0..=K |
//!
//! Of a nested bundle, such as the builtin one, with L layers of C coefficients, there is in place of `tokens`:
//!
//! | array | type and shape | meaning |
//! | --- | --- | --- |
//! | `indices` | i16 [B, L, cells_y, cells_x, C] | signed quantisation indices as each layer leaves them, zero in layers that did not come |
//! | `layers` | i32 [B] | layers that came, 1..=L |
//! | `layer_counts` | i32 [B, L, cells_y, cells_x] | coefficients that each cell sent in each layer |
//! | `transform_sizes` | i32 [B, cells_y, cells_x] | of the luma of each cell: 0 is 16x16, 1 is 8x8, 2 is 4x4 |
//! | `motion` | i32 [B, 5, cells_y, cells_x] | dy and dx in quarter pixels, mode (0 inter, 1 intra), by and bx in eighths of a pixel |
//!
//! And of every bundle:
//!
//! | array | type and shape | meaning |
//! | --- | --- | --- |
//! | `pts`, `duration` | i64 [B, T] | of each frame in ns; -1: none, or no such frame |
//! | `key` | bool [B] | whether decoding can begin there |
//! | `headers`, `header_bytes` | u8 [all], i32 [B] | the blocks' headers one after the other, as `docs/bitstream.md` has them |
//! | `sequence_header` | u8 [n] | what a decoder needs first |
//!
//! Written back, a stream is the same byte for byte. Change `tokens` and `counts`, or `indices`, `transform_sizes` and `motion`, in between and it is a
//! stream of those. The other arrays follow from them or, as `pts` does, from the headers: changing them changes nothing.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::BytesMut;
use clap::{Parser, Subcommand};
use elastictok::bitstream::{BlockHeader, SequenceHeader, StreamWriter};
use elastictok::bundle::{Bottleneck, Bundle};
use elastictok::codec::{FrameTime, TokenBlock, TokenReader, TokenShape, TokenValues, TokenWriter};
use gst::prelude::*;
use npyz::WriterBuilder;
use npyz::npz::{NpzArchive, NpzWriter};

#[derive(Parser)]
#[command(about = "Tokens of an ElasticTok stream as NumPy arrays, and back")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a pipeline that ends in an ElasticTok stream, and write its tokens
    Read {
        /// In gst-launch syntax, for example "filesrc location=a.etok ! elastictokparse"
        pipeline: String,
        output: PathBuf,
        #[arg(long)]
        model: String,
    },
    /// Make a stream of arrays
    Write {
        input: PathBuf,
        output: PathBuf,
        #[arg(long)]
        model: String,
    },
}

/// What was read of a stream.
struct Tapped {
    header: SequenceHeader,
    shape: TokenShape,
    blocks: Vec<TokenBlock>,
}

/// Runs `pipeline` to its end and reads the tokens of every block.
fn tap(pipeline: &str, bundle: &Bundle) -> Result<Tapped> {
    let caps = "video/x-elastictok,stream-format=packetized";
    let pipeline = gst::parse::launch(&format!("{pipeline} ! {caps} ! appsink name=tap sync=false"))?;
    let pipeline = pipeline.downcast::<gst::Pipeline>().ok().context("not a pipeline")?;
    let sink = pipeline.by_name("tap").and_then(|s| s.downcast::<gst_app::AppSink>().ok()).context("no appsink")?;
    let bus = pipeline.bus().context("a pipeline without a bus")?;
    let result = pipeline.set_state(gst::State::Playing).map_err(Into::into).and_then(|_| pull(&sink, &bus, bundle));
    let failure = bus.pop_filtered(&[gst::MessageType::Error]);
    pipeline.set_state(gst::State::Null)?;
    if let Some(gst::MessageView::Error(e)) = failure.as_ref().map(|m| m.view()) {
        bail!("{} ({})", e.error(), e.debug().unwrap_or_default());
    }
    result
}

fn pull(sink: &gst_app::AppSink, bus: &gst::Bus, bundle: &Bundle) -> Result<Tapped> {
    let mut stream: Option<(TokenReader, Tapped)> = None;
    loop {
        let Some(sample) = sink.try_pull_sample(gst::ClockTime::from_mseconds(200)) else {
            if sink.is_eos() {
                break;
            }
            // a pipeline that failed further up never ends here
            if let Some(message) = bus.pop_filtered(&[gst::MessageType::Error])
                && let gst::MessageView::Error(e) = message.view()
            {
                bail!("{} ({})", e.error(), e.debug().unwrap_or_default());
            }
            continue;
        };
        let codec_data = sample.caps().and_then(|c| c.structure(0)?.get::<gst::Buffer>("codec_data").ok());
        let header = SequenceHeader::parse(&codec_data.context("no codec_data in the caps")?.map_readable()?)?;
        let (reader, tapped) = match &mut stream {
            Some(stream) => stream,
            none => {
                let reader = TokenReader::new(bundle, &header)?;
                let shape = reader.shape();
                none.insert((reader, Tapped { header: header.clone(), shape, blocks: Vec::new() }))
            }
        };
        ensure!(tapped.header == header, "the stream changes its format; arrays cannot");
        let buffer = sample.buffer().context("a sample without a buffer")?;
        tapped.blocks.push(reader.read(&buffer.map_readable()?, buffer.pts().map(|t| t.nseconds()))?);
    }
    Ok(stream.context("the pipeline made no block")?.1)
}

fn save<T: npyz::AutoSerialize>(
    npz: &mut NpzWriter<BufWriter<File>>,
    name: &str,
    shape: &[usize],
    values: impl IntoIterator<Item = T>,
) -> Result<()> {
    let shape: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
    let mut array = npz.array(name, Default::default())?.default_dtype().shape(&shape).begin_nd()?;
    array.extend(values)?;
    Ok(array.finish()?)
}

fn save_nested(npz: &mut NpzWriter<BufWriter<File>>, shape: TokenShape, blocks: &[TokenBlock]) -> Result<()> {
    let (n, cells, layers) = (blocks.len(), shape.cells(), shape.tokens / shape.numbers);
    let (mut indices, mut layer_counts, mut came) = (Vec::new(), Vec::new(), Vec::new());
    let (mut transform_sizes, mut motion): (Vec<i32>, Vec<i32>) = Default::default();
    for (block, TokenBlock { tokens, .. }) in blocks.iter().enumerate() {
        let TokenValues::Nested { indices: i, layer_counts: counts, transform_sizes: sizes, motion: m } = tokens else {
            continue;
        };
        came.push(i32::try_from(counts.len() / cells)?);
        indices.extend(i);
        indices.resize((block + 1) * layers * cells * shape.numbers, 0);
        layer_counts.extend(counts);
        layer_counts.resize((block + 1) * layers * cells, 0);
        transform_sizes.extend(sizes);
        motion.extend(m);
    }
    let (y, x) = (shape.cells_y, shape.cells_x);
    save::<i16>(npz, "indices", &[n, layers, y, x, shape.numbers], indices)?;
    save(npz, "layers", &[n], came)?;
    save(npz, "layer_counts", &[n, layers, y, x], layer_counts)?;
    save(npz, "transform_sizes", &[n, y, x], transform_sizes)?;
    save(npz, "motion", &[n, 5, y, x], motion)
}

/// Reads tokens out of the stream that `pipeline` (in gst-launch syntax) ends in, and writes them as arrays to `output`.
pub fn read(pipeline: &str, model: &str, output: &Path) -> Result<()> {
    let Tapped { header, shape, blocks } = tap(pipeline, Bundle::resolve(model)?.as_ref())?;
    let mut npz = NpzWriter::create(output)?;
    let (n, t) = (blocks.len(), usize::from(header.block_length));
    let mut sizes = vec![n, shape.cells_y, shape.cells_x];
    save(&mut npz, "counts", &sizes, blocks.iter().flat_map(|b| b.counts.iter().copied()))?;
    match blocks.first().map(|b| &b.tokens) {
        Some(TokenValues::Means(_)) => {
            sizes.extend([shape.tokens, shape.numbers]);
            let means = blocks.iter().filter_map(|b| if let TokenValues::Means(m) = &b.tokens { Some(m) } else { None });
            save(&mut npz, "tokens", &sizes, means.flatten().copied())?;
        }
        Some(TokenValues::Nested { .. }) => save_nested(&mut npz, shape, &blocks)?,
        _ => {
            sizes.push(shape.tokens);
            let indices = blocks.iter().filter_map(|b| if let TokenValues::Indices(i) = &b.tokens { Some(i) } else { None });
            save(&mut npz, "tokens", &sizes, indices.flatten().copied())?;
        }
    }
    let each = |of: fn(&FrameTime) -> Option<u64>| {
        let time = move |b: &TokenBlock, i| b.times.get(i).and_then(of).map_or(-1, |ns| ns as i64);
        blocks.iter().flat_map(move |b| (0..t).map(move |i| time(b, i))).collect::<Vec<i64>>()
    };
    save(&mut npz, "pts", &[n, t], each(|time| time.pts))?;
    save(&mut npz, "duration", &[n, t], each(|time| time.duration))?;
    save(&mut npz, "key", &[n], blocks.iter().map(|b| b.header.key))?;
    let (mut headers, mut lengths) = (BytesMut::new(), Vec::with_capacity(n));
    for block in &blocks {
        let before = headers.len();
        block.header.write(header.block_length, &mut headers)?;
        lengths.push((headers.len() - before) as i32);
    }
    save(&mut npz, "header_bytes", &[n], lengths)?;
    save(&mut npz, "headers", &[headers.len()], headers.iter().copied())?;
    let sequence = header.to_bytes();
    save(&mut npz, "sequence_header", &[sequence.len()], sequence.iter().copied())?;
    println!("{n} blocks, {}x{} cells of up to {} tokens", shape.cells_x, shape.cells_y, shape.tokens);
    Ok(())
}

fn load<T: npyz::Deserialize>(npz: &mut NpzArchive<BufReader<File>>, name: &str) -> Result<Vec<T>> {
    let array = npz.by_name(name)?.with_context(|| format!("the file has no array '{name}'"))?;
    ensure!(array.order() == npyz::Order::C, "'{name}' is not in C order; save numpy.ascontiguousarray of it");
    array.into_vec().with_context(|| format!("array '{name}'"))
}

/// The tokens of every block.
fn load_tokens(npz: &mut NpzArchive<BufReader<File>>, bundle: &Bundle, shape: TokenShape) -> Result<Vec<TokenValues>> {
    let numbers = shape.cells() * shape.tokens;
    Ok(match bundle.manifest.bottleneck {
        Bottleneck::Fsq { .. } => {
            load(npz, "tokens")?.chunks_exact(numbers).map(|block| TokenValues::Indices(block.to_vec())).collect()
        }
        Bottleneck::Vae { .. } => {
            load(npz, "tokens")?.chunks_exact(numbers * shape.numbers).map(|block| TokenValues::Means(block.to_vec())).collect()
        }
        Bottleneck::Nested { .. } => {
            let (indices, motion): (Vec<i16>, Vec<i32>) = (load(npz, "indices")?, load(npz, "motion")?);
            let sizes: Vec<i32> = load(npz, "transform_sizes")?;
            let blocks = indices.chunks_exact(numbers).zip(motion.chunks_exact(5 * shape.cells()));
            let mut tokens = Vec::new();
            for (((indices, motion), sizes), layers) in
                blocks.zip(sizes.chunks_exact(shape.cells())).zip(load::<i32>(npz, "layers")?)
            {
                let came = usize::try_from(layers).unwrap_or(0).saturating_mul(shape.cells() * shape.numbers);
                let indices = indices.get(..came).context("'layers' are more than 'indices' has")?.to_vec();
                let (transform_sizes, motion) = (sizes.to_vec(), motion.to_vec());
                tokens.push(TokenValues::Nested { indices, layer_counts: Vec::new(), transform_sizes, motion });
            }
            tokens
        }
    })
}

/// Makes the stream `output` of the arrays in `input`.
pub fn write(input: &Path, model: &str, output: &Path) -> Result<()> {
    let mut npz = NpzArchive::open(input).with_context(|| input.display().to_string())?;
    let header = SequenceHeader::parse(&load::<u8>(&mut npz, "sequence_header")?)?;
    let bundle = Bundle::resolve(model)?;
    let shape = TokenReader::new(&bundle, &header)?.shape();
    let mut writer = TokenWriter::new(&bundle, &header)?;
    let counts: Vec<i32> = load(&mut npz, "counts")?;
    let (headers, lengths): (Vec<u8>, Vec<i32>) = (load(&mut npz, "headers")?, load(&mut npz, "header_bytes")?);
    let mut tokens = load_tokens(&mut npz, &bundle, shape)?.into_iter();
    ensure!(counts.len() == lengths.len() * shape.cells(), "'counts' and 'header_bytes' are not of the same number of blocks");
    let mut stream = StreamWriter::new(&header)?;
    let (mut out, mut file) = (BytesMut::new(), BufWriter::new(File::create(output)?));
    let mut rest = &headers[..];
    for (counts, &length) in counts.chunks_exact(shape.cells()).zip(&lengths) {
        let bytes = usize::try_from(length).ok().and_then(|n| rest.split_at_checked(n)).context("'headers' ends early")?;
        rest = bytes.1;
        let (block_header, _) = BlockHeader::parse(bytes.0, header.block_length)?;
        let tokens = tokens.next().context("'tokens' has fewer blocks than 'header_bytes'")?;
        let block = TokenBlock { header: block_header, times: Vec::new(), counts: counts.to_vec(), tokens };
        stream.write(&writer.write(&block)?, &mut out)?;
        file.write_all(&out.split())?;
    }
    Ok(file.flush()?)
}

#[allow(dead_code, reason = "the test of this example calls `read` and `write`")]
fn main() -> Result<()> {
    gst::init()?;
    gstelastictok::plugin_register_static()?;
    match Cli::parse().command {
        Command::Read { pipeline, output, model } => read(&pipeline, &model, &output),
        Command::Write { input, output, model } => write(&input, &model, &output),
    }
}
