// SPDX-License-Identifier: MIT OR Apache-2.0
//! The codec on YUV4MPEG2 files, without GStreamer: `codec encode IN.y4m OUT.etok`, `codec decode IN.etok OUT.y4m`, `codec thin`, `codec dump`.
//! Benchmarks and training use it; `etok` (in `etok/`) is the tool for everything else.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::BytesMut;
use clap::{Args, Parser, Subcommand, ValueEnum};
use elastictok::Error;
use elastictok::bitstream::{DEFAULT_MAX_PIXELS, Limits, SequenceHeader, StreamReader, StreamWriter, UnitKind, thin};
use elastictok::bundle::{Bottleneck, Bundle};
use elastictok::codec::{
    DEFAULT_LAYER_RATIO, DEFAULT_LAYERS, Decoder, DecoderConfig, Encoder, EncoderConfig, FrameTime, LiveSettings, Packet,
    RateControl, SearchMethod,
};
use elastictok::frame::{PixelFormat, PlanesMut, PlanesRef, SourceFormat};
use elastictok::runtime::{ExecutionProvider, RuntimeConfig};
use elastictok_tools::dump::DumpWriter;

#[derive(Parser)]
#[command(name = "codec", about = "ElasticTok on files: YUV4MPEG2 (4:2:0, 8 bit) in and out")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Encode a .y4m file
    Encode(EncodeArgs),
    /// Decode an .etok file
    Decode {
        input: PathBuf,
        output: PathBuf,
        #[arg(long)]
        max_layers: Option<usize>,
        /// Largest picture to decode, in pixels; 0 = all that the format allows
        #[arg(long, default_value_t = DEFAULT_MAX_PIXELS)]
        max_pixels: u32,
        #[command(flatten)]
        runtime: RuntimeArgs,
    },
    /// Cut every block down to its first layers
    Thin {
        input: PathBuf,
        output: PathBuf,
        layers: usize,
        /// The blocks before this one stay whole
        #[arg(long, default_value_t = 0)]
        from_block: u64,
    },
    /// Write latents and motion for `collect_tables`
    Dump(EncodeArgs),
}

#[derive(Args)]
struct RuntimeArgs {
    #[arg(long, default_value = "builtin")]
    model: String,
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Search {
    Full,
    Binary,
    Regression,
}

#[derive(Args)]
struct EncodeArgs {
    input: PathBuf,
    output: PathBuf,
    /// Hold this quality, luma PSNR in dB
    #[arg(long)]
    target_psnr: Option<f64>,
    /// Hold this bitrate in kbit/s
    #[arg(long)]
    bitrate: Option<u32>,
    /// Hold this count of tokens in every cell
    #[arg(long)]
    tokens: Option<u32>,
    /// Most frames between key blocks; 0 = only the first
    #[arg(long, default_value_t = 240)]
    key_int_max: u32,
    #[arg(long, value_enum, default_value = "regression")]
    search: Search,
    /// Most layers to code in; 0 = the default
    #[arg(long, default_value_t = 0)]
    layers: u32,
    /// Ratio of the steps of neighbouring layers; 0 = so that rates differ by a factor of about 2.3
    #[arg(long, default_value_t = DEFAULT_LAYER_RATIO)]
    layer_ratio: f64,
    /// Hold this bitrate of layer 0 as well, in kbit/s
    #[arg(long, default_value_t = 0)]
    base_bitrate: u32,
    /// Code all layers in one loop: receivers of fewer layers drift
    #[arg(long)]
    single_loop: bool,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

impl RuntimeArgs {
    fn open(&self) -> Result<(std::sync::Arc<Bundle>, RuntimeConfig)> {
        let runtime = RuntimeConfig { provider: ExecutionProvider::Cpu, threads: self.threads, ..Default::default() };
        let bundle = Bundle::resolve(&self.model)?;
        ensure!(
            bundle.manifest.pixel_format == PixelFormat::I420,
            "model '{}' takes RGB, and YUV4MPEG2 has none; use the GStreamer elements with it",
            bundle.manifest.name
        );
        Ok((bundle, runtime))
    }
}

struct Y4m<R> {
    input: R,
    width: usize,
    height: usize,
    framerate: (u32, u32),
}

impl<R: BufRead> Y4m<R> {
    fn new(mut input: R) -> Result<Self> {
        let mut line = String::new();
        input.read_line(&mut line)?;
        ensure!(
            line.starts_with("YUV4MPEG2"),
            "the input is not YUV4MPEG2; make it with: ffmpeg -i INPUT -pix_fmt yuv420p OUT.y4m"
        );
        let field = |c: char| line.split_whitespace().skip(1).find_map(|f| f.strip_prefix(c));
        if let Some(format) = field('C') {
            ensure!(
                format.starts_with("420") && !format.contains("p1"),
                "pixel format {format} is not 8-bit 4:2:0; convert with -pix_fmt yuv420p"
            );
        }
        let (n, d) = field('F').and_then(|f| f.split_once(':')).unwrap_or(("30", "1"));
        let size = |c| field(c).and_then(|f| f.parse().ok()).context("the header has no size");
        Ok(Self { width: size('W')?, height: size('H')?, framerate: (n.parse()?, d.parse()?), input })
    }

    fn frame_bytes(&self) -> usize {
        self.width * self.height + 2 * self.width.div_ceil(2) * self.height.div_ceil(2)
    }

    fn next(&mut self, frame: &mut [u8]) -> Result<bool> {
        let mut line = Vec::new();
        if self.input.read_until(b'\n', &mut line)? == 0 {
            return Ok(false);
        }
        ensure!(line.starts_with(b"FRAME"), "the file is damaged: no FRAME where one must be");
        self.input.read_exact(frame).context("the last frame is cut short")?;
        Ok(true)
    }
}

fn encode(args: &EncodeArgs, mut sink: impl FnMut(&mut Encoder, Packet) -> Result<()>) -> Result<()> {
    let mut input =
        Y4m::new(BufReader::with_capacity(1 << 20, File::open(&args.input).with_context(|| args.input.display().to_string())?))?;
    let (bundle, runtime) = args.runtime.open()?;
    let mut live = LiveSettings::default();
    match (args.target_psnr, args.bitrate, args.tokens) {
        (psnr, None, None) => live.target_psnr = psnr.unwrap_or(live.target_psnr),
        (None, Some(bitrate), None) => (live.rate_control, live.bitrate) = (RateControl::Bitrate, bitrate),
        (None, None, Some(tokens)) => (live.rate_control, live.tokens) = (RateControl::Tokens, tokens),
        _ => bail!("only one of --target-psnr, --bitrate and --tokens can be held"),
    }
    live.base_bitrate = args.base_bitrate;
    let search = match args.search {
        Search::Full => SearchMethod::Full,
        Search::Binary => SearchMethod::Binary,
        Search::Regression => SearchMethod::Regression,
    };
    let (width, height) = (input.width, input.height);
    let mut encoder = Encoder::new(EncoderConfig {
        bundle,
        runtime,
        width: width as u32,
        height: height as u32,
        framerate: input.framerate,
        pixel_aspect_ratio: (1, 1),
        colorimetry: [0, 2, 2, 2],
        chroma_site: 0,
        key_int_max: args.key_int_max,
        search,
        layers: args.layers,
        layer_ratio: args.layer_ratio,
        drift_free: !args.single_loop,
        live,
    })?;
    let mut frame = vec![0; input.frame_bytes()];
    let (cw, luma) = (width.div_ceil(2), width * height);
    let chroma = cw * height.div_ceil(2);
    let started = Instant::now();
    let mut n = 0u64;
    while input.next(&mut frame)? {
        let planes = [&frame[..luma], &frame[luma..luma + chroma], &frame[luma + chroma..]];
        let grid = |i: u64| u128::from(i) * 1_000_000_000 * u128::from(input.framerate.1) / u128::from(input.framerate.0.max(1));
        let time = FrameTime { pts: Some(grid(n) as u64), duration: Some((grid(n + 1) - grid(n)) as u64) };
        n += 1;
        let picture = PlanesRef { format: SourceFormat::I420, planes, strides: [width, cw, cw] };
        if let Some(packet) = encoder.push(&picture, time)? {
            sink(&mut encoder, packet)?;
        }
    }
    if let Some(packet) = encoder.drain()? {
        sink(&mut encoder, packet)?;
    }
    encoder.settle()?;
    let s = encoder.stats();
    let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3 / s.frames.max(1) as f64;
    eprintln!(
        "encoded {} frames, {} blocks ({} key), {} bytes, layers {:?}; {:.1} frames/s; ms a frame: {:.2} in all, {:.2} ONNX Runtime, {:.2} motion, {:.2} tokens; provider {}",
        s.frames,
        s.blocks,
        s.key_blocks,
        s.bytes,
        s.layer_bytes,
        s.frames as f64 / started.elapsed().as_secs_f64(),
        ms(s.time),
        ms(s.runtime_time),
        ms(s.motion_time),
        ms(s.token_time),
        encoder.provider()
    );
    Ok(())
}

fn encode_file(args: &EncodeArgs) -> Result<()> {
    let mut file = BufWriter::new(File::create(&args.output)?);
    let mut out = BytesMut::new();
    let mut writer: Option<StreamWriter> = None;
    encode(args, |encoder, packet| {
        let writer = match &mut writer {
            Some(writer) => writer,
            none => none.insert(StreamWriter::new(encoder.sequence_header())?),
        };
        writer.write(&packet.data, &mut out)?;
        file.write_all(&out.split())?;
        Ok(())
    })?;
    file.flush()?;
    Ok(())
}

fn dump(args: &EncodeArgs) -> Result<()> {
    let (bundle, _) = args.runtime.open()?;
    let Bottleneck::Nested { positions, order, .. } = &bundle.manifest.bottleneck else {
        bail!("only nested bundles have latents to dump")
    };
    let layers = if args.layers == 0 { DEFAULT_LAYERS } else { args.layers };
    let mut dump = DumpWriter::new(BufWriter::new(File::create(&args.output)?), positions, order, layers)?;
    encode(args, |encoder, packet| {
        let header = encoder.sequence_header();
        let geometry = bundle.geometry(header.width, header.height)?;
        if let Some(block) = encoder.last_block()? {
            dump.write(&block, packet.frames as u8, geometry.cells_x, geometry.cells_y)?;
        }
        Ok(())
    })?;
    dump.flush()?;
    Ok(())
}

/// Calls `each` for every unit of a stream within `limits`.
fn units(input: &PathBuf, limits: Limits, mut each: impl FnMut(UnitKind, &[u8]) -> Result<()>) -> Result<()> {
    let mut reader = StreamReader::new(limits);
    let mut file = File::open(input).with_context(|| input.display().to_string())?;
    let mut chunk = vec![0; 1 << 16];
    loop {
        let n = file.read(&mut chunk)?;
        if n == 0 {
            reader.end();
        } else {
            reader.push(&chunk[..n]);
        }
        while let Some(unit) = reader.next_unit() {
            each(unit.kind, &unit.payload)?;
        }
        if n == 0 {
            return Ok(());
        }
    }
}

fn decode(input: &PathBuf, output: &PathBuf, max_layers: Option<usize>, limits: Limits, runtime: &RuntimeArgs) -> Result<()> {
    let (bundle, config) = runtime.open()?;
    let mut out = BufWriter::with_capacity(1 << 20, File::create(output)?);
    let mut decoder: Option<Decoder> = None;
    let mut frame = Vec::new();
    let started = Instant::now();
    units(input, limits, |kind, data| {
        if kind == UnitKind::Sequence {
            let header = SequenceHeader::parse_with(data, &limits)?;
            if decoder.as_ref().is_none_or(|d| *d.sequence_header() != header) {
                ensure!(decoder.is_none(), "the stream changes its format; y4m cannot");
                writeln!(
                    out,
                    "YUV4MPEG2 W{} H{} F{}:{} Ip A1:1 C420jpeg",
                    header.width,
                    header.height,
                    header.framerate.0.max(1),
                    header.framerate.1
                )?;
                decoder = Some(Decoder::new(DecoderConfig {
                    bundle: bundle.clone(),
                    runtime: config.clone(),
                    header,
                    max_layers,
                    limits,
                })?);
            }
            return Ok(());
        }
        let Some(decoder) = &mut decoder else { return Ok(()) };
        let (w, h) = (decoder.sequence_header().width as usize, decoder.sequence_header().height as usize);
        let (cw, luma) = (w.div_ceil(2), w * h);
        let chroma = cw * h.div_ceil(2);
        frame.resize(luma + 2 * chroma, 0);
        match decoder.decode(data, None) {
            Ok(block) => {
                if let Some(why) = block.damaged() {
                    eprintln!("{why}");
                }
                for i in 0..block.frames() {
                    let (y, rest) = frame.split_at_mut(luma);
                    let (u, v) = rest.split_at_mut(chroma);
                    block.store(i, &mut PlanesMut { planes: [y, u, v], strides: [w, cw, cw] })?;
                    out.write_all(b"FRAME\n")?;
                    out.write_all(&frame)?;
                }
            }
            Err(e @ (Error::Malformed(_) | Error::ContextLost(_))) => eprintln!("{e}"),
            Err(e) => return Err(e.into()),
        }
        Ok(())
    })?;
    out.flush()?;
    let decoder = decoder.context("the file holds no ElasticTok stream")?;
    let s = decoder.stats();
    let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3 / s.frames.max(1) as f64;
    eprintln!(
        "decoded {} frames, {} blocks ({} damaged, {} refused); {:.1} frames/s; ms a frame: {:.2} in all, {:.2} ONNX Runtime; provider {}",
        s.frames,
        s.blocks,
        s.damaged,
        s.refused,
        s.frames as f64 / started.elapsed().as_secs_f64(),
        ms(s.time),
        ms(s.runtime_time),
        decoder.provider()
    );
    Ok(())
}

fn thin_file(input: &PathBuf, output: &PathBuf, layers: usize, from_block: u64) -> Result<()> {
    let mut file = BufWriter::new(File::create(output)?);
    let mut out = BytesMut::new();
    let mut writer: Option<(SequenceHeader, StreamWriter)> = None;
    let mut block = 0;
    units(input, Limits::FORMAT, |kind, data| {
        match (kind, &mut writer) {
            (UnitKind::Sequence, _) => {
                let header = SequenceHeader::parse(data)?;
                if writer.as_ref().is_none_or(|w| w.0 != header) {
                    writer = Some((header.clone(), StreamWriter::new(&header)?));
                }
            }
            (UnitKind::Block, Some((_, writer))) => {
                writer.write(if block < from_block { data } else { thin(data, layers)? }, &mut out)?;
                block += 1;
            }
            (UnitKind::Block, None) => {}
        }
        file.write_all(&out.split())?;
        Ok(())
    })?;
    file.flush()?;
    Ok(())
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Encode(args) => encode_file(&args),
        Command::Decode { input, output, max_layers, max_pixels, runtime } => {
            decode(&input, &output, max_layers, Limits::with_max_pixels(max_pixels), &runtime)
        }
        Command::Thin { input, output, layers, from_block } => thin_file(&input, &output, layers, from_block),
        Command::Dump(args) => dump(&args),
    }
}
