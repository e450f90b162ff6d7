// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use elastictok::codec::LAYER_RATIOS;

use crate::input::Input;
use crate::media::Rate;

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed for another reason than those below
  2    wrong usage
  3    the input is missing, unreadable, or not what the command takes
  4    an element, a library or the model is missing; the message names the remedy
  5    the output exists (see --force) or cannot be written
  6    done, but the stream is damaged (info, decode, report)
  130  stopped by Ctrl-C; encode and decode leave a file that plays
  141  the reader of the output went away

Examples:
  etok encode holiday.mp4 holiday.etok --psnr 38
  etok play holiday.etok
  etok thin holiday.etok small.etok --bitrate 300
  etok segment holiday.etok site/holiday
  etok info holiday.etok
  etok report holiday.etok holiday.mp4 -o holiday.html
  etok compare holiday.mp4";

/// Encode, play, thin, inspect and compare ElasticTok video.
///
/// ElasticTok turns video into tokens ordered by importance: any prefix of a block decodes, so a stream is made smaller by
/// cutting, without encoding again.
#[derive(Parser)]
#[command(name = "etok", version, after_help = EXIT_CODES, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Encode a video file, a URL, a camera or standard input
    Encode(EncodeArgs),
    /// Show a stream on the screen
    Play(PlayArgs),
    /// Decode a stream to raw video, H.264 or pictures
    Decode(DecodeArgs),
    /// Make a stream smaller by cutting layers off, without decoding it
    Thin(ThinArgs),
    /// Store a stream for HTTP servers, layer by layer, so that players choose the rate
    Segment(SegmentArgs),
    /// Say what is in a stream, and what of it is damaged
    Info(InfoArgs),
    /// Write a page that shows where the tokens and bits of a stream go
    Report(ReportArgs),
    /// Compare ElasticTok with other encoders on your own video
    Compare(CompareArgs),
    /// Print the manual page, or write those of all commands into a folder
    #[command(hide = true)]
    Man {
        /// Folder to write etok.1, etok-encode.1 and so on into
        folder: Option<PathBuf>,
    },
    /// Print completions for a shell
    #[command(after_help = "Example:\n  etok completions bash > ~/.local/share/bash-completion/completions/etok")]
    Completions { shell: clap_complete::Shell },
}

/// Where the model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Provider {
    /// CUDA where it works, else the CPU
    Auto,
    /// The CPU
    Cpu,
    /// An NVIDIA GPU
    Cuda,
    /// An NVIDIA GPU; builds engines at the first start
    Tensorrt,
}

impl Provider {
    /// As the elements' property calls it.
    pub fn nick(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Tensorrt => "tensorrt",
        }
    }
}

#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// Model: "builtin", or the folder of a bundle
    #[arg(long, default_value = "builtin")]
    pub model: String,
    /// Threads of the model on the CPU; 0 = as many as there are processors, 4 at the most
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=256))]
    pub threads: u32,
    /// Where the model runs
    #[arg(long, value_enum, default_value = "auto")]
    pub provider: Provider,
}

#[derive(Debug, Clone, Args)]
pub struct DecodingArgs {
    /// Layers to decode at the most [default: all that come]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=32))]
    pub layers: Option<u32>,
    #[command(flatten)]
    pub model: ModelArgs,
}

#[derive(Debug, Clone, Args)]
pub struct LimitArgs {
    /// Stop after this many frames
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_frames: Option<u64>,
    /// Stop after this many seconds of video
    #[arg(long, value_name = "SECONDS", value_parser = positive)]
    pub duration: Option<f64>,
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|x: &f64| x.is_finite() && *x > 0.0).ok_or_else(|| "not a number above 0".into())
}

fn psnr(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|x| (20.0..=60.0).contains(x)).ok_or_else(|| "not a number of dB from 20 to 60".into())
}

/// kbit/s, or "auto".
fn bitrate(text: &str) -> Result<Rate, String> {
    if text == "auto" {
        return Ok(Rate::Auto);
    }
    let kbps = text.parse().ok().filter(|kbps| (1..=2_000_000).contains(kbps));
    kbps.map(Rate::Kbps).ok_or_else(|| "neither \"auto\" nor a number of kbit/s from 1 to 2000000".into())
}

/// A picture's size as WxH.
fn size(text: &str) -> Result<(u32, u32), String> {
    let parts = text.split_once(['x', 'X']).and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    parts
        .filter(|(w, h)| elastictok::frame::SIZE_RANGE.contains(w) && elastictok::frame::SIZE_RANGE.contains(h))
        .ok_or_else(|| "not a size such as 1280x720, from 16x16 to 8192x8192".into())
}

/// Frames per second as N or N/D.
fn rate(text: &str) -> Result<(u32, u32), String> {
    let (n, d) = text.split_once('/').unwrap_or((text, "1"));
    let parts = n.parse().ok().zip(d.parse().ok());
    parts
        .filter(|(n, d)| (1..=1_000_000).contains(n) && (1..=1_000_000).contains(d))
        .ok_or_else(|| "not a rate such as 30 or 30000/1001".into())
}

/// A ratio of neighbouring layers' quantiser steps.
fn layer_ratio(text: &str) -> Result<f64, String> {
    let (least, most) = LAYER_RATIOS.into_inner();
    text.parse().ok().filter(|ratio| LAYER_RATIOS.contains(ratio)).ok_or_else(|| format!("not a number from {least} to {most}"))
}

#[derive(Debug, Args)]
#[command(after_help = "\
IN is a file that GStreamer can decode, a URL, '-' (standard input), 'camera' (the first one), 'camera:/dev/video1', or 'test' \
(a generated picture, ten seconds unless limited; 'test:ball' and the like choose videotestsrc's pattern). A file of one of \
these names is written ./camera. Only pictures are coded: sound is left out.

Examples:
  etok encode holiday.mp4 holiday.etok
  etok encode holiday.mp4 holiday.etok --bitrate 800 --key-int-max 60
  etok encode https://example.org/clip.webm clip.etok --psnr 34 --duration 20
  etok encode camera desk.etok --size 1280x720        until Ctrl-C; the file then plays
  ffmpeg -i in.mkv -pix_fmt yuv420p -f yuv4mpegpipe - | etok encode - out.etok
  etok encode holiday.mp4 - | etok play -")]
pub struct EncodeArgs {
    /// What to encode: a file, a URL, '-', 'camera' or 'test'
    #[arg(value_name = "IN")]
    pub input: Input,
    /// File to write, '-' for standard output
    #[arg(value_name = "OUT.etok")]
    pub output: PathBuf,
    /// Hold this quality: luma PSNR in dB, 20 to 60 [default: 36]
    #[arg(long, value_name = "DB", value_parser = psnr, group = "control")]
    pub psnr: Option<f64>,
    /// Hold this bitrate in kbit/s
    #[arg(long, value_name = "KBPS", group = "control", value_parser = clap::value_parser!(u32).range(1..=2_000_000))]
    pub bitrate: Option<u32>,
    /// Keep this many tokens of every cell
    #[arg(long, value_name = "N", group = "control", value_parser = clap::value_parser!(u32).range(0..=65536))]
    pub tokens: Option<u32>,
    /// Layers to code in at the most; all but the first can be thinned out [default: 4, or as many as the model has]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=32))]
    pub layers: Option<u32>,
    /// Ratio of the quantiser steps of neighbouring layers, 1.25 to 4: how far apart the rates are [default: so that they differ by about 2.3]
    #[arg(long, value_name = "R", value_parser = layer_ratio)]
    pub layer_ratio: Option<f64>,
    /// Hold this bitrate of the first layer as well, in kbit/s
    #[arg(long, value_name = "KBPS", value_parser = clap::value_parser!(u32).range(1..=2_000_000))]
    pub base_bitrate: Option<u32>,
    /// Code all layers in one prediction loop: faster and, whole, smaller, but thinned streams drift until the next key block
    #[arg(long)]
    pub single_loop: bool,
    /// Most frames between key blocks, where players can seek to; 0 = only the first block is one
    #[arg(long, value_name = "FRAMES", default_value_t = 240)]
    pub key_int_max: u32,
    /// Scale the pictures to this size, such as 1280x720
    #[arg(long, value_name = "WxH", value_parser = size)]
    pub size: Option<(u32, u32)>,
    /// Drop or repeat frames to this rate, such as 30 or 30000/1001
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub fps: Option<(u32, u32)>,
    #[command(flatten)]
    pub limits: LimitArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, Args)]
pub struct CommonArgs {
    /// Replace the output where it exists
    #[arg(short, long)]
    pub force: bool,
    /// Say nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  etok play holiday.etok
  etok play holiday.etok --layers 1       as a receiver sees it whose sender cut all but the first layer
  etok play https://example.org/clip.etok
  etok play https://example.org/clip/index.json           as many layers as the network gives
  etok play https://example.org/clip/index.json --bitrate 300")]
pub struct PlayArgs {
    /// Stream to play: a file, a URL, or '-'; where its name ends in .json, the index that etok segment made
    #[arg(value_name = "FILE|URL")]
    pub input: Input,
    /// Of an index, fetch as many layers as fit in so many kbit/s, or in what the network gives ("auto")
    #[arg(long, value_name = "KBPS|auto", default_value = "auto", value_parser = bitrate)]
    pub bitrate: Rate,
    /// GStreamer sink to show the pictures with
    #[arg(long, value_name = "ELEMENT", default_value = "autovideosink")]
    pub sink: String,
    #[command(flatten)]
    pub decoding: DecodingArgs,
    /// Say nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The ending of OUT chooses the form: .y4m is raw video (as is '-'), .mkv and .mp4 hold H.264 by x264enc, .png one picture. \
A pattern such as frame-%05d.png writes every picture.

Examples:
  etok decode holiday.etok holiday.mp4 --h264-quality 20
  etok decode holiday.etok - | mpv -
  etok decode holiday.etok frame-%05d.png --layers 1")]
pub struct DecodeArgs {
    /// Stream to decode: a file, a URL, or '-'
    #[arg(value_name = "IN")]
    pub input: Input,
    /// What to write: .y4m, .mkv, .mp4, .png, or '-' for raw video on standard output
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// x264's constant quality for .mkv and .mp4: 0 (without loss) to 50; 18 is hard to tell from the decoded pictures
    #[arg(long, value_name = "CRF", default_value_t = 18, value_parser = clap::value_parser!(u32).range(0..=50))]
    pub h264_quality: u32,
    #[command(flatten)]
    pub decoding: DecodingArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Nothing is decoded, so this runs as fast as the disk. Streams encoded with --single-loop lose more quality than thinning alone \
costs, until the next key block.

Examples:
  etok thin holiday.etok small.etok --bitrate 300
  etok thin holiday.etok - --layers 1 | etok play -")]
pub struct ThinArgs {
    /// Stream to thin: a file, or '-'
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// File to write, '-' for standard output
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// Bitrate to come down to on average, in kbit/s; the first layer is always kept
    #[arg(long, value_name = "KBPS", required_unless_present = "layers", value_parser = clap::value_parser!(u32).range(1..=2_000_000))]
    pub bitrate: Option<u32>,
    /// Layers to keep at the most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=32))]
    pub layers: Option<u32>,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Each file holds some seconds of video, first the base layer of all its blocks, then the next layer, and so on. So any server \
of files with Range serves every rate: a player asks for as much of the front of a file as it has bits for. docs/http.md \
describes the files. Encode with a key block (--key-int-max) every few seconds.

Examples:
  etok encode holiday.mp4 holiday.etok --key-int-max 60
  etok segment holiday.etok site/holiday
  etok play https://example.org/holiday/index.json")]
pub struct SegmentArgs {
    /// Stream to store: a file, or '-'
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// Folder to write index.json and the media segments into
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
    /// Seconds of a media segment at the least; the next key block then ends it
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = positive)]
    pub duration: f64,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Tokens are counted where the model is at hand: the builtin one, or the one that --model names. The exit code is 6 where the \
stream is damaged.

Examples:
  etok info holiday.etok
  etok info holiday.etok --json | jq .bitrate_kbps")]
pub struct InfoArgs {
    /// Stream to look at: a file, or '-'
    #[arg(value_name = "FILE")]
    pub input: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Model: "builtin", or the folder of a bundle
    #[arg(long, default_value = "builtin")]
    pub model: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The page needs nothing but itself: pictures and plots are inside. With ORIGINAL, the video that the stream was encoded from, it \
also shows PSNR over time and the original pictures.

Examples:
  etok report holiday.etok -o holiday.html
  etok report holiday.etok holiday.mp4 -o holiday.html --moments 4")]
pub struct ReportArgs {
    /// Stream to report on
    #[arg(value_name = "FILE")]
    pub input: PathBuf,
    /// The video that it was encoded from
    #[arg(value_name = "ORIGINAL")]
    pub original: Option<Input>,
    /// Page to write
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    pub output: PathBuf,
    /// Moments to show pictures of
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=12))]
    pub moments: u32,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Every encoder gets the same frames at several qualities; sizes are those of the coded streams, PSNR is that of the decoded \
luma, mean over frames. The encoders are those that GStreamer has here; the output says what was run, and what is not \
installed. BD-rate is the difference in bits at equal PSNR.

Examples:
  etok compare holiday.mp4
  etok compare a.mp4 b.webm --duration 4 -o compare.html
  etok compare holiday.mp4 --only x264 --json")]
pub struct CompareArgs {
    /// Videos to compare on: files or URLs
    #[arg(value_name = "CLIP", required = true)]
    pub clips: Vec<Input>,
    /// Page with plots to write
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Only encoders with this in their name, beside ElasticTok; may be given more than once
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// Print JSON instead of tables
    #[arg(long)]
    pub json: bool,
    /// Seconds of each clip to encode; 0 = all
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub duration: f64,
    /// Scale the pictures to this size first, such as 640x360
    #[arg(long, value_name = "WxH", value_parser = size)]
    pub size: Option<(u32, u32)>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_and_rates() {
        assert_eq!(size("1280x720"), Ok((1280, 720)));
        assert!(size("8x8").is_err() && size("1280").is_err() && size("1e3x20").is_err());
        assert_eq!(rate("30000/1001"), Ok((30000, 1001)));
        assert_eq!(rate("25"), Ok((25, 1)));
        assert!(rate("0").is_err() && rate("1/0").is_err());
        assert!(psnr("19").is_err() && psnr("nan").is_err() && psnr("36.5").is_ok());
        assert!(positive("-1").is_err() && positive("inf").is_err());
    }

    #[test]
    fn only_one_thing_is_held() {
        let parse = |args: &str| Cli::try_parse_from(args.split(' '));
        assert!(parse("etok encode a b --psnr 30 --bitrate 500").is_err());
        assert!(parse("etok encode a b --tokens 30").is_ok());
        assert!(parse("etok thin a b").is_err());
    }
}
