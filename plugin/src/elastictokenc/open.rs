// SPDX-License-Identifier: MIT OR Apache-2.0
//! From caps to an encoder: what upstream offers, what downstream wants, and when graphs are loaded.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use elastictok::bitstream::StreamWriter;
use elastictok::bundle::Bundle;
use elastictok::codec::{Encoder, EncoderConfig, SearchMethod};
use elastictok::frame::PixelFormat;
use elastictok::runtime::Canceller;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::prelude::*;

use super::settings::{Control, Settings};
use super::state::{CAT, ElasticTokEnc, InputState, State};
use super::times::InputTimes;
use crate::common::{
    MEDIA_TYPE, UNKNOWN_COLORIMETRY, chroma_site_to_header, colorimetry_to_header, error_message, lock, stream_caps, unsigned,
};

/// An encoder's configuration for pictures of a size; the rest of the stream's description is not known yet.
fn config(bundle: Arc<Bundle>, settings: &Settings, canceller: &Canceller, width: u32, height: u32) -> EncoderConfig {
    EncoderConfig {
        search: settings.search_method(SearchMethod::best_for(&bundle.manifest)),
        bundle,
        runtime: settings.model.runtime(canceller),
        width,
        height,
        framerate: (0, 1),
        pixel_aspect_ratio: (1, 1),
        colorimetry: UNKNOWN_COLORIMETRY,
        chroma_site: 0,
        key_int_max: settings.key_int_max,
        layers: settings.layers,
        layer_ratio: settings.layer_ratio,
        drift_free: settings.drift_free,
        live: settings.live(),
    }
}

impl ElasticTokEnc {
    /// Raw formats of the loaded bundle, or of any.
    pub(super) fn formats(&self) -> &'static [&'static str] {
        match lock(&self.bundle).as_ref().map(|b| b.manifest.pixel_format) {
            Some(PixelFormat::I420) => &["I420", "NV12"],
            Some(PixelFormat::Rgb) => &["RGB"],
            None => &["I420", "NV12", "RGB"],
        }
    }

    /// Says once what upstream must send, where negotiation is about to fail. The error that follows comes from upstream,
    /// which does not know the reason.
    pub(super) fn tell_formats(&self, offered: &gst::CapsRef) {
        let started = lock(&self.bundle).is_some();
        // Elements such as timeoverlay ask for memory features first, and continue without them where they are refused.
        let plain = offered.iter_with_features().all(|(_, f)| f.is_equal(gst::CAPS_FEATURES_MEMORY_SYSTEM_MEMORY.as_ref()));
        if offered.is_empty() || offered.is_any() || !plain || !started || self.told.swap(true, Ordering::Relaxed) {
            return;
        }
        let formats = self.formats().join(" or ");
        gst::element_imp_warning!(
            self,
            gst::CoreError::Negotiation,
            ("the model takes progressive {formats} of 16x16 to 8192x8192; put videoconvert (and videoscale) before the encoder"),
            ["upstream offers {offered}"]
        );
    }

    /// Whether the source pad is being flushed or was stopped: a failure is then no error.
    pub(super) fn is_flushing(&self) -> bool {
        self.obj().src_pad().pad_flags().contains(gst::PadFlags::FLUSHING)
    }

    /// Loads the graphs before data flows, if the pictures' size is known, so that a live source does not wait for it later.
    pub(super) fn prepare(&self) -> Result<(), gst::ErrorMessage> {
        let sink = self.obj().sink_pad().clone();
        let caps = sink.peer_query_caps(Some(&sink.pad_template_caps()));
        let fixed = |name: &str| {
            let mut sizes = caps.iter().map(|s| s.get::<i32>(name).ok().and_then(|n| u32::try_from(n).ok()));
            let first = sizes.next().flatten()?;
            sizes.all(|size| size == Some(first)).then_some(first)
        };
        let (Some(width), Some(height), Some(bundle)) = (fixed("width"), fixed("height"), lock(&self.bundle).clone()) else {
            return Ok(());
        };
        let settings = lock(&self.settings).clone();
        let encoder = Encoder::new(config(bundle, &settings, &self.canceller, width, height)).map_err(|e| error_message(&e))?;
        gst::info!(CAT, imp = self, "{width}x{height} on {}, before data flows", encoder.provider());
        *lock(&self.prepared) = Some(encoder);
        Ok(())
    }

    /// Whether downstream takes packets rather than a byte stream. If it takes anything it gets a byte stream, as it may be a
    /// file.
    fn wants_packets(&self) -> Result<bool, gst::ErrorMessage> {
        let template = self.obj().src_pad().pad_template_caps();
        let mut allowed = self.obj().src_pad().peer_query_caps(Some(&template)).intersect(&template);
        if allowed.is_empty() {
            if self.is_flushing() {
                return Ok(false);
            }
            return Err(gst::error_msg!(
                gst::CoreError::Negotiation,
                [
                    "downstream does not take {MEDIA_TYPE}; put elastictokdec, a file sink or a payloader for any data after the encoder"
                ]
            ));
        }
        allowed.fixate();
        Ok(allowed.structure(0).and_then(|s| s.get::<&str>("stream-format").ok()) == Some("packetized"))
    }

    /// An encoder for `input`, with the graphs of `before` if they fit, and its output caps.
    pub(super) fn open(&self, input: &InputState, before: Option<Encoder>) -> Result<(State, gst::Caps), gst::ErrorMessage> {
        let info = input.info().clone();
        let format = info.format().to_str();
        if !self.formats().contains(&format.as_str()) {
            return Err(gst::error_msg!(
                gst::CoreError::Negotiation,
                ["the model takes {}, not {format}; put videoconvert before the encoder", self.formats().join(" or ")]
            ));
        }
        if info.is_interlaced() {
            return Err(gst::error_msg!(
                gst::CoreError::Negotiation,
                ["interlaced video is not supported; put deinterlace before the encoder"]
            ));
        }
        let bundle = lock(&self.bundle).clone();
        let bundle = bundle.ok_or_else(|| gst::error_msg!(gst::CoreError::StateChange, ["the encoder is not started"]))?;
        let settings = {
            let mut settings = lock(&self.settings);
            settings.changed = false;
            settings.clone()
        };
        let structure = input.caps().and_then(|c| c.structure(0));
        let site = structure.and_then(|s| s.get::<String>("chroma-site").ok()).unwrap_or_default();
        // Colorimetry that upstream did not specify is not invented here.
        let colorimetry = structure.is_some_and(|s| s.has_field("colorimetry"));
        let best = SearchMethod::best_for(&bundle.manifest);
        if settings.search.is_none() && settings.rate_control == Control::Quality && best != SearchMethod::default() {
            gst::element_imp_info!(
                self,
                gst::LibraryError::Settings,
                ("'{}' predicts no distortion, so search=binary is used; set search to choose", bundle.manifest.name)
            );
        }
        let token_bits = bundle.manifest.bottleneck.token_bits();
        let config = EncoderConfig {
            framerate: unsigned(info.fps()),
            pixel_aspect_ratio: unsigned(info.par()),
            colorimetry: if colorimetry { colorimetry_to_header(info.colorimetry()) } else { UNKNOWN_COLORIMETRY },
            chroma_site: chroma_site_to_header(&site),
            ..config(bundle, &settings, &self.canceller, info.width(), info.height())
        };
        let search = config.search;
        let encoder = match before {
            Some(before) => before.restart(config),
            None => Encoder::new(config),
        }
        .map_err(|e| error_message(&e))?;
        gst::info!(CAT, imp = self, "{}x{} on {}", info.width(), info.height(), encoder.provider());
        let header = encoder.sequence_header();
        let caps = stream_caps(header);
        let (caps, writer) = if self.wants_packets()? {
            let header = gst::Buffer::from_slice(header.to_bytes());
            (caps.field("stream-format", "packetized").field("codec_data", header), None)
        } else {
            let writer = StreamWriter::new(header).map_err(|e| error_message(&e))?;
            (caps.field("stream-format", "byte-stream"), Some(writer))
        };
        let state = State {
            encoder,
            info,
            writer,
            search,
            token_bits,
            waiting: Vec::new(),
            worked: std::time::Duration::ZERO,
            block: 0,
            times: InputTimes::default(),
            failed: None,
            told_least: false,
            asked: Vec::new(),
        };
        Ok((state, caps.build()))
    }

    /// Sets tags: the codec and, where a bitrate is held, the bitrate. RTSP servers put the maximum into their SDP (`b=AS`), from which
    /// receivers derive how much RTCP they may send.
    pub(super) fn set_tags(&self) {
        let settings = lock(&self.settings).clone();
        let mut tags = gst::TagList::new();
        {
            let tags = tags.make_mut();
            tags.add::<gst::tags::Encoder>(&"ElasticTok", gst::TagMergeMode::Replace);
            tags.add::<gst::tags::VideoCodec>(&"ElasticTok", gst::TagMergeMode::Replace);
            if settings.rate_control == Control::Bitrate {
                let bitrate = settings.bitrate.saturating_mul(1000);
                tags.add::<gst::tags::NominalBitrate>(&bitrate, gst::TagMergeMode::Replace);
                tags.add::<gst::tags::MaximumBitrate>(&bitrate, gst::TagMergeMode::Replace);
            }
        }
        self.obj().merge_tags(Some(&tags), gst::TagMergeMode::Replace);
    }

    /// Announces the stream and its latency.
    pub(super) fn announce(&self, input: &InputState, caps: gst::Caps, block_length: usize) -> Result<(), gst::LoggableError> {
        self.set_tags();
        let obj = self.obj();
        let output = obj
            .set_output_state(caps, Some(input))
            .map_err(|e| gst::loggable_error!(CAT, "setting the output state failed: {e}"))?;
        if let Err(e) = obj.negotiate(output) {
            if !self.is_flushing() {
                return Err(gst::loggable_error!(CAT, "downstream refused the caps: {e}"));
            }
            // For the first buffer after the flush, if there is one.
            obj.src_pad().mark_reconfigure();
        }
        // A block waits for its last frame. Variable rates count as 30 frames/s.
        let waits = block_length as u64 - 1;
        let (n, d) = match unsigned(input.info().fps()) {
            (0, _) => (30, 1),
            rate => rate,
        };
        let time = |frames: u64| gst::ClockTime::SECOND.mul_div_ceil(frames * u64::from(d), u64::from(n)).unwrap_or_default();
        obj.set_latency(time(waits), Some(time(waits)));
        self.set_wait(waits, time(1));
        Ok(())
    }
}
