// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the element is made of: its settings, and the state of a stream.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use elastictok::bitstream::StreamWriter;
use elastictok::bundle::Bundle;
use elastictok::codec::{Encoder, SearchMethod};
use elastictok::runtime::Canceller;
use once_cell::sync::Lazy;

use super::deadline::Deadline;
use super::keys::Asked;
use super::settings::Settings;
use super::stats::Snapshot;
use super::times::InputTimes;
use crate::common::lock;

pub type InputState = gst_video::VideoCodecState<'static, gst_video::video_codec_state::Readable>;

pub(super) static CAT: Lazy<gst::DebugCategory> =
    Lazy::new(|| gst::DebugCategory::new("elastictokenc", gst::DebugColorFlags::empty(), Some("ElasticTok encoder")));

pub(super) struct State {
    pub encoder: Encoder,
    pub info: gst_video::VideoInfo,
    /// Set where downstream wants a byte stream.
    pub writer: Option<StreamWriter>,
    pub search: SearchMethod,
    /// Bits of a token, for models with tokens of fixed width.
    pub token_bits: Option<f64>,
    /// System frame numbers of the frames of the block that is filling, first one first.
    pub waiting: Vec<u32>,
    /// Number of the block that is filling.
    pub block: u64,
    /// For how long the encoder had been at work after the last block.
    pub worked: Duration,
    pub times: InputTimes,
    /// The error of a block that was pushed outside the streaming thread, which must then stop.
    pub failed: Option<gst::FlowError>,
    /// The user knows that the bitrate cannot be held.
    pub told_least: bool,
    /// Requests that the next key block answers.
    pub asked: Vec<Asked>,
}

#[derive(Default)]
pub struct ElasticTokEnc {
    /// Locked before `settings`, and never held across a call out of the element. Blocks are coded and pushed with the base
    /// class's stream lock, which is taken before.
    pub(super) state: Mutex<Option<State>>,
    /// For the property `stats`, which does not wait for a block to be coded: locked briefly, after `state`.
    pub(super) snapshot: Mutex<Option<Snapshot>>,
    pub(super) settings: Mutex<Settings>,
    /// Ends runs, from a flush or a stop until data may flow again. Neither then waits for a search.
    pub(super) canceller: Canceller,
    /// Set from start to stop.
    pub(super) bundle: Mutex<Option<Arc<Bundle>>>,
    /// An encoder whose graphs were loaded before caps came.
    pub(super) prepared: Mutex<Option<Encoder>>,
    pub(super) deadline: Mutex<Deadline>,
    /// Requests for key units that came since a frame was last dealt with. Locked briefly.
    pub(super) asked: Mutex<Vec<Asked>>,
    /// The base class has such a request.
    pub(super) hurry: AtomicBool,
    /// Frames that are in another one's buffer are being taken off the base class's list.
    pub(super) absorbing: AtomicBool,
    /// Upstream's formats do not suffice and the user was told.
    pub(super) told: AtomicBool,
}

impl State {
    /// The measurements so far.
    pub(super) fn snapshot(&self) -> Snapshot {
        let stats = self.encoder.stats().clone();
        Snapshot { stats, search: self.search, token_bits: self.token_bits, provider: self.encoder.provider() }
    }

    /// Ends a block of the first `frames` frames that wait; returns them.
    pub(super) fn take_block(&mut self, frames: usize) -> Vec<u32> {
        self.block += 1;
        self.waiting.drain(..frames.min(self.waiting.len())).collect()
    }

    /// Ends the block: the next frame begins another one. Returns the block's frames.
    pub(super) fn forget_block(&mut self) -> Vec<u32> {
        self.block += 1;
        std::mem::take(&mut self.waiting)
    }
}

impl ElasticTokEnc {
    /// Makes the measurements of `state` those that the property `stats` has; none without a stream.
    pub(super) fn publish(&self, state: Option<&State>) {
        let snapshot = state.map(State::snapshot);
        *lock(&self.snapshot) = snapshot;
    }
}
