// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an encoder measures.

use std::time::{Duration, Instant};

use super::coder::{BlockCoder, Settled};

/// Measurements since the encoder was made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EncoderStats {
    /// Blocks coded.
    pub blocks: u64,
    /// Key blocks among them.
    pub key_blocks: u64,
    /// Frames coded.
    pub frames: u64,
    /// Sum of all cells' counts.
    pub tokens: u64,
    /// Bytes of packets.
    pub bytes: u64,
    /// Bytes of each layer's segments.
    pub layer_bytes: Vec<u64>,
    /// Layers in the last block, and those that its encoder left out since their steps would be too coarse for its quality:
    /// see LEFT_OUT in `docs/bitstream.md`.
    pub block_layers: u32,
    /// See `block_layers`.
    pub left_out_layers: u32,
    /// bit/s of each layer over about a second of video, without block headers; 0 before a block whose duration is known.
    pub layer_bitrates: Vec<f64>,
    /// Candidates that searches evaluated.
    pub evaluations: u64,
    /// Time for which the encoder was at work: in calls, and beside its caller.
    pub time: Duration,
    /// Part of it in ONNX Runtime.
    pub runtime_time: Duration,
    /// Part of it in the motion search.
    pub motion_time: Duration,
    /// Part of it in quantisation and entropy coding.
    pub token_time: Duration,
    /// PSNR in dB, of luma for I420 and of all samples for RGB: of the last block, or of the one before while the last is [still being
    /// decoded](super::Encoder::settle); `None` where the encoder did not decode it.
    pub psnr: Option<f64>,
    /// Its mean over the frames of all blocks that the encoder has decoded.
    pub mean_psnr: Option<f64>,
    /// Quantiser of the last block's last layer; 0 for bottlenecks that have none.
    pub quantiser: u8,
    /// The least bitrate that the last seconds could be coded at, in kbit/s, where it is above the one to hold.
    pub least_bitrate: Option<f64>,
    /// The quality is above `target_psnr`, since a lower one would not cost fewer bits.
    pub above_target: bool,
    /// Upper layers that are left out now since the encoder could not keep up: see [`Encoder::note_load`](super::Encoder::note_load).
    pub shed_layers: u32,
    /// Blocks that lack layers for that reason.
    pub shed_blocks: u64,
}

/// Measures. Times are of calls, and of what goes on beside the caller when a packet was given out.
#[derive(Debug, Default)]
pub(super) struct Meter {
    pub stats: EncoderStats,
    /// The last packet, while its block may be being decoded.
    given: Option<Given>,
    /// Frames that the mean PSNR is of.
    decoded: u64,
}

#[derive(Debug)]
struct Given {
    frames: u32,
    at: Instant,
    /// Time in calls since.
    in_calls: Duration,
}

impl Meter {
    /// Of a stream of so many layers.
    pub fn new(layers: usize) -> Self {
        let stats = EncoderStats { layer_bytes: vec![0; layers], layer_bitrates: vec![0.0; layers], ..Default::default() };
        Self { stats, ..Self::default() }
    }

    /// Adds a call that `started` then and ends now.
    pub fn add_call(&mut self, started: Instant) {
        let elapsed = started.elapsed();
        self.stats.time += elapsed;
        if let Some(given) = &mut self.given {
            given.in_calls += elapsed;
        }
    }

    /// A packet of so many frames is given out now.
    pub fn give(&mut self, frames: u32) {
        self.given = Some(Given { frames, at: Instant::now(), in_calls: Duration::ZERO });
    }

    /// Takes over the PSNR of a block of so many frames.
    pub fn add_psnr(&mut self, psnr: Option<f64>, frames: u32) {
        self.stats.psnr = psnr;
        if let Some(psnr) = psnr {
            self.decoded += u64::from(frames);
            let mean = self.stats.mean_psnr.get_or_insert(psnr);
            *mean += (psnr - *mean) * f64::from(frames) / self.decoded as f64;
        }
    }

    /// The last block is decoded. A call that `started` then has waited for it.
    pub fn settle(&mut self, settled: Settled, started: Instant) {
        let Some(given) = self.given.take() else { return };
        let beside = settled.at.min(started).saturating_duration_since(given.at);
        self.stats.time += beside.saturating_sub(given.in_calls);
        self.add_psnr(Some(settled.psnr), given.frames);
    }

    /// Takes over what the coder has measured.
    pub fn take_over(&mut self, coder: &dyn BlockCoder) {
        let (s, spent) = (&mut self.stats, coder.spent());
        (s.runtime_time, s.motion_time, s.token_time) = (spent.runtime_time, spent.motion_time, spent.token_time);
        (s.least_bitrate, s.above_target) = (coder.least_bitrate(), coder.above_target());
    }
}
