// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the element is made of: its settings, and the state of a stream.

use std::sync::{Arc, Mutex};

use elastictok::bundle::Bundle;
use elastictok::codec::{Decoder, GraphAhead};
use elastictok::runtime::Canceller;
use once_cell::sync::Lazy;

use super::stats::Snapshot;
use crate::common::{MaxPixels, ModelSettings, lock};
use crate::keyrequest::KeyRequest;

pub type InputState = gst_video::VideoCodecState<'static, gst_video::video_codec_state::Readable>;

pub(super) static CAT: Lazy<gst::DebugCategory> =
    Lazy::new(|| gst::DebugCategory::new("elastictokdec", gst::DebugColorFlags::empty(), Some("ElasticTok decoder")));

#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    pub model: ModelSettings,
    pub max_layers: u32,
}

impl Settings {
    /// Most layers to decode, as the core has it.
    pub fn layers(&self) -> Option<usize> {
        (self.max_layers > 0).then_some(self.max_layers as usize)
    }
}

/// The pictures of the last block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pictures {
    /// How many of them are to be shown.
    pub count: usize,
    /// Which one the next frame shows; none: the next frame has a packet.
    pub next: Option<usize>,
    /// They replace a block that could not be decoded.
    pub concealed: bool,
}

#[derive(Default)]
pub(super) struct State {
    /// Set from start to stop.
    pub bundle: Option<Arc<Bundle>>,
    /// Set once caps are there.
    pub decoder: Option<Decoder>,
    /// The graph that is being loaded since the start, until there are caps.
    pub loading: Option<GraphAhead>,
    /// A graph was opened ahead of blocks, and none was decoded since.
    pub opened_ahead: bool,
    pub info: Option<gst_video::VideoInfo>,
    /// The decoder's last block, whose pictures are being shown.
    pub pictures: Pictures,
    /// A problem began and the user was told.
    pub troubled: bool,
    /// Blocks were skipped for the trick mode: the next ones lack their context, and nothing is wrong.
    pub skipped: bool,
    pub key_request: KeyRequest,
}

#[derive(Default)]
pub struct ElasticTokDec {
    /// Never held across a call out of the element.
    pub(super) state: Mutex<State>,
    /// For the property `stats`, which does not wait for a block to be decoded: locked briefly, after `state`.
    pub(super) snapshot: Mutex<Option<Snapshot>>,
    pub(super) settings: Mutex<Settings>,
    /// Ends runs, from a flush or a stop until data may flow again. Neither then waits for a search.
    pub(super) canceller: Canceller,
    pub(super) max_pixels: MaxPixels,
}

impl ElasticTokDec {
    /// Makes the measurements of `decoder` those that the property `stats` has; none without a stream.
    pub(super) fn publish(&self, decoder: Option<&Decoder>) {
        let snapshot = decoder.map(Snapshot::of);
        *lock(&self.snapshot) = snapshot;
    }
}
