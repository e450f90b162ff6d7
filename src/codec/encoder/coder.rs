// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the encoder of a stream asks of a bottleneck.

use std::time::{Duration, Instant};

use super::pace::BlockSpan;
use crate::Result;
use crate::codec::LiveSettings;
use crate::tokens::LayerSteps;

/// Raw material for training, one block as the encoder had it.
#[derive(Debug)]
pub struct BlockView<'a> {
    /// Whether it was a key block.
    pub key: bool,
    /// The quantisers of its layers.
    pub steps: LayerSteps,
    /// Planes dy, dx, mode, by, bx.
    pub motion: &'a [i32],
    /// The encoder graph's latents, \[cells, C\] in the graph's order: one set for all layers, or one for each layer.
    pub latents: Vec<&'a [i16]>,
}

/// Turns blocks of pixels into segments, with graphs and contexts of its own.
pub(super) trait BlockCoder: Send {
    /// T aligned frames to code.
    fn frames_mut(&mut self) -> &mut [u8];

    /// Whether coefficients are quantised: blocks then predict from each other with motion.
    fn has_quantiser(&self) -> bool {
        false
    }

    /// New settings, checked, from the next block on.
    fn set_live(&mut self, live: LiveSettings) -> Result<()>;

    /// Begins another stream with the same graphs; its first block is a key block.
    fn restart(&mut self, live: LiveSettings) -> Result<()>;

    /// See [`EncoderStats::least_bitrate`](super::EncoderStats::least_bitrate).
    fn least_bitrate(&self) -> Option<f64>;

    /// See [`EncoderStats::above_target`](super::EncoderStats::above_target).
    fn above_target(&self) -> bool;

    /// Codes the frames and commits the contexts. The coder may make any block a key block. It may go on decoding the block when this has
    /// returned.
    fn code(&mut self, place: Place) -> Result<CodedBlock>;

    /// The block's segments, one for each layer.
    fn segments(&self) -> &[Vec<u8>];

    /// The block's counts, \[cells\].
    fn counts(&self) -> &[i32];

    /// Learns the size of the block with its header, `bits`, for rate control.
    fn learn(&mut self, block: &CodedBlock, bits: f64);

    /// Whether the last block has been decoded, where it is.
    fn is_settled(&self) -> bool {
        true
    }

    /// Waits until the last block has been decoded, and then lets rate control learn of it. Where that was not known before, returns what
    /// came of it. After an error the next block must be a key block.
    fn settle(&mut self) -> Result<Option<Settled>> {
        Ok(None)
    }

    /// How many layers of the last block were coded, and how many could be left out of the next ones to save time: none where all
    /// share one coding loop, since the loop is what takes the time.
    fn layers(&self) -> Layers {
        Layers::default()
    }

    /// Leaves out the upper `layers` layers of blocks; more than before at once, fewer from the next key block on.
    fn shed(&mut self, _layers: usize) {}

    /// Where time went so far.
    fn spent(&self) -> Spent;

    /// Where the graphs run.
    fn provider(&self) -> &'static str;

    /// The T aligned frames of the last block as a receiver of `layers` layers has them, where there is a loop that decodes those.
    fn reconstruction(&mut self, _layers: usize) -> Result<Option<&[u8]>> {
        Ok(None)
    }

    /// The block as it was quantised, for bottlenecks with a quantiser.
    fn view(&mut self) -> Result<Option<BlockView<'_>>> {
        Ok(None)
    }
}

/// Where a block stands in its group and in time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub must_be_key: bool,
    /// Blocks since the key block, unless the block becomes one.
    pub position: u32,
    /// When the block begins, and how long it is expected to last.
    pub span: BlockSpan,
}

/// The last coded block; its segments are [`BlockCoder::segments`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CodedBlock {
    pub key: bool,
    /// Layers fewer than the stream has.
    pub left_out: u8,
    /// Quantiser of the last layer; that of layer 0 where the stream's layer ratio does not say it.
    pub quantiser: u8,
    pub base_quantiser: Option<u8>,
    /// PSNR in dB as estimated before the loop filter, and as decoded; `None` where the coder does not know it, or [not
    /// yet](BlockCoder::settle).
    pub estimated_psnr: Option<f64>,
    pub psnr: Option<f64>,
    pub evaluations: u32,
    /// Upper layers were left out to save time.
    pub shed: bool,
}

/// See [`BlockCoder::settle`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Settled {
    /// As decoded, in dB.
    pub psnr: f64,
    /// When that was known.
    pub at: Instant,
}

/// See [`BlockCoder::layers`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Layers {
    pub coded: usize,
    pub sheddable: usize,
}

/// Time that a coder spent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spent {
    pub runtime_time: Duration,
    pub motion_time: Duration,
    pub token_time: Duration,
}

/// Layers that are sent of `segments`: trailing empty ones are not, and a decoder cannot tell them from layers that were cut off.
pub(super) fn sent_layers(segments: &[Vec<u8>]) -> usize {
    segments.iter().rposition(|s| !s.is_empty()).map_or(0, |last| last + 1)
}
