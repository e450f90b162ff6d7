// SPDX-License-Identifier: MIT OR Apache-2.0
/**
 * SECTION:element-elastictokthin
 * @see_also: elastictokenc, elastictokparse
 *
 * Lowers the bitrate of an ElasticTok stream by cutting the upper layers off its blocks, without decoding. Buffers are shared, not
 * copied. The most layers pass whose mean over the last second, with the key block spread over its group, is within `bitrate`. In any
 * `t` seconds no more passes than `bitrate` gives in `t + 1` seconds, unless first layers alone are more. Layers are given up at once
 * where they would exceed that or their mean is above `bitrate` by a quarter. They are taken back at key blocks, which
 * `request-key-unit` asks for, where they have fitted `bitrate` for some seconds. Until the next key block after layers were given up, the
 * receiver's picture differs from the one that the encoder reckons with by what was between the two before, which shows as residue of
 * the finer picture where things move. Streams that were encoded with `drift-free=false` drift all the time.
 *
 * ## Example pipeline
 * |[
 * gst-launch-1.0 filesrc location=in.etok ! elastictokparse ! elastictokthin bitrate=500 ! elastictokparse ! video/x-elastictok,stream-format=byte-stream ! filesink location=out.etok
 * ]| This thins a recording to 500 kbit/s.
 *
 * Since: 0.1.0
 */
use std::sync::Mutex;

use elastictok::bitstream::Thinner;
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::base_transform::{BaseTransformMode, GenerateOutputSuccess};
use gst_base::subclass::prelude::*;
use once_cell::sync::Lazy;

use crate::common::{MEDIA_TYPE, lock};

static CAT: Lazy<gst::DebugCategory> =
    Lazy::new(|| gst::DebugCategory::new("elastictokthin", gst::DebugColorFlags::empty(), Some("ElasticTok thinner")));

/// Duration of a block that has none, in seconds: two frames at 30 frames/s.
const USUAL_DURATION: f64 = 2.0 / 30.0;

#[derive(Debug, Clone, Copy, Default)]
struct Settings {
    max_layers: u32,
    bitrate: u32,
    request_key_unit: bool,
}

#[derive(Debug, Default)]
struct State {
    thinner: Thinner,
    /// Time stamp and duration of the last block.
    last: (Option<gst::ClockTime>, Option<gst::ClockTime>),
    blocks: u64,
    bytes_in: u64,
    bytes_out: u64,
}

impl State {
    /// Seconds from the last block to `buffer`: what time stamps say, which need not be what durations say, for sources differ from
    /// their nominal rate. Durations where there are no time stamps or these have jumped.
    fn since(&self, buffer: &gst::BufferRef) -> f64 {
        let (pts, duration) = self.last;
        let stamped = buffer.pts().zip(pts).filter(|_| !buffer.flags().contains(gst::BufferFlags::DISCONT));
        let since = stamped.and_then(|(now, last)| now.checked_sub(last)).filter(|since| !since.is_zero());
        since.or(duration).or(buffer.duration()).map_or(USUAL_DURATION, |d| d.nseconds() as f64 * 1e-9)
    }
}

#[derive(Default)]
pub struct ElasticTokThin {
    settings: Mutex<Settings>,
    /// Never held across a call out of the element.
    state: Mutex<State>,
}

impl ElasticTokThin {
    /// Bytes of the block that pass, and whether a key block would let more layers pass.
    fn measure(&self, buffer: &gst::Buffer) -> Result<(usize, bool), gst::FlowError> {
        let Settings { max_layers, bitrate, .. } = *lock(&self.settings);
        let map = buffer.map_readable().map_err(|_| {
            gst::element_imp_error!(self, gst::ResourceError::Read, ("A buffer cannot be mapped for reading"));
            gst::FlowError::Error
        })?;
        let mut state = lock(&self.state);
        let since = state.since(buffer);
        state.thinner.set_limits(max_layers as usize, f64::from(bitrate) * 1000.0);
        let kept = state.thinner.cut(&map, since).map_or_else(
            |e| {
                gst::debug!(CAT, imp = self, "passed on as it is, for the decoder to conceal: {e}");
                map.len()
            },
            <[u8]>::len,
        );
        state.last = (buffer.pts(), buffer.duration());
        state.blocks += 1;
        state.bytes_in += map.len() as u64;
        state.bytes_out += kept as u64;
        Ok((kept, state.thinner.wants_key()))
    }

    fn request_key_unit(&self) {
        gst::debug!(CAT, imp = self, "more layers fit from a key block on: asking upstream for one");
        let event = gst_video::UpstreamForceKeyUnitEvent::builder().all_headers(true).build();
        if !self.obj().sink_pad().push_event(event) {
            gst::debug!(CAT, imp = self, "nothing upstream makes key blocks");
        }
    }
}

#[glib::object_subclass]
impl ObjectSubclass for ElasticTokThin {
    const NAME: &'static str = "GstElasticTokThin";
    type Type = super::ElasticTokThin;
    type ParentType = gst_base::BaseTransform;
}

impl ObjectImpl for ElasticTokThin {
    /**
     * GstElasticTokThin:stats:
     *
     * Measurements since the element started.
     *
     * * `blocks` (guint64): blocks that passed.
     * * `bytes-in`, `bytes-out` (guint64): their bytes before and after.
     * * `layers` (guint): layers that pass now.
     *
     * Since: 0.1.0
     */
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: Lazy<Vec<glib::ParamSpec>> = Lazy::new(|| {
            vec![
                glib::ParamSpecUInt::builder("max-layers")
                    .nick("Maximum Layers")
                    .blurb("Maximum number of layers that pass (0 = all)")
                    .maximum(32)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("bitrate")
                    .nick("Bitrate")
                    .blurb("Bitrate to hold, with bursts of a second, in kbit/s; the first layer always passes (0 = no limit)")
                    .maximum(2_000_000)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecBoolean::builder("request-key-unit")
                    .nick("Request Key Unit")
                    .blurb("Ask upstream for a key block where it would let more layers pass, every two seconds at the most")
                    .mutable_playing()
                    .build(),
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb("Measurements since the element started: blocks, bytes in and out, layers that pass now")
                    .read_only()
                    .build(),
            ]
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let mut settings = lock(&self.settings);
        match pspec.name() {
            "max-layers" => settings.max_layers = value.get().expect("type checked upstream"),
            "bitrate" => settings.bitrate = value.get().expect("type checked upstream"),
            "request-key-unit" => settings.request_key_unit = value.get().expect("type checked upstream"),
            other => gst::error!(CAT, imp = self, "no property {other} can be set"),
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "max-layers" => lock(&self.settings).max_layers.to_value(),
            "bitrate" => lock(&self.settings).bitrate.to_value(),
            "request-key-unit" => lock(&self.settings).request_key_unit.to_value(),
            "stats" => {
                let state = lock(&self.state);
                gst::Structure::builder("elastictokthin-stats")
                    .field("blocks", state.blocks)
                    .field("bytes-in", state.bytes_in)
                    .field("bytes-out", state.bytes_out)
                    .field("layers", state.thinner.layers() as u32)
                    .build()
                    .to_value()
            }
            other => {
                gst::error!(CAT, imp = self, "no property {other} can be read");
                pspec.default_value().clone()
            }
        }
    }
}

impl GstObjectImpl for ElasticTokThin {}

impl ElementImpl for ElasticTokThin {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: Lazy<gst::subclass::ElementMetadata> = Lazy::new(|| {
            gst::subclass::ElementMetadata::new(
                "ElasticTok stream thinner",
                "Filter/Video",
                "Lowers the bitrate of ElasticTok streams without decoding them",
                "ElasticTok developers",
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: Lazy<Vec<gst::PadTemplate>> = Lazy::new(|| {
            let caps = gst::Caps::builder(MEDIA_TYPE).field("stream-format", "packetized").build();
            let template = |name, direction| gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps);
            [template("sink", gst::PadDirection::Sink), template("src", gst::PadDirection::Src)]
                .into_iter()
                .collect::<Result<_, _>>()
                .expect("caps of a template are valid")
        });
        &TEMPLATES
    }
}

impl BaseTransformImpl for ElasticTokThin {
    const MODE: BaseTransformMode = BaseTransformMode::AlwaysInPlace;
    const PASSTHROUGH_ON_SAME_CAPS: bool = false;
    const TRANSFORM_IP_ON_PASSTHROUGH: bool = false;

    fn start(&self) -> Result<(), gst::ErrorMessage> {
        *lock(&self.state) = State::default();
        Ok(())
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::FlushStop(_) => {
                let mut state = lock(&self.state);
                state.thinner.restart();
                state.last = (None, None);
            }
            gst::EventView::Segment(_) => lock(&self.state).last.0 = None,
            // What blocks take is not known of another stream, nor of this one in another size.
            gst::EventView::StreamStart(_) => lock(&self.state).thinner = Thinner::default(),
            gst::EventView::Caps(e) if self.obj().sink_pad().current_caps().is_some_and(|old| *old != *e.caps()) => {
                lock(&self.state).thinner = Thinner::default();
            }
            _ => {}
        }
        self.parent_sink_event(event)
    }

    fn submit_input_buffer(&self, is_discont: bool, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        if !self.obj().sink_pad().has_current_caps() {
            gst::element_imp_error!(
                self,
                gst::CoreError::Negotiation,
                ("the input is not packetized; put elastictokparse before")
            );
            return Err(gst::FlowError::NotNegotiated);
        }
        self.parent_submit_input_buffer(is_discont, buffer)
    }

    /// Instead of a transform in place, for which the base class would copy the bytes of a buffer that others hold too.
    fn generate_output(&self) -> Result<GenerateOutputSuccess, gst::FlowError> {
        let Some(mut buffer) = self.take_queued_buffer() else { return Ok(GenerateOutputSuccess::NoOutput) };
        let (kept, wants_key) = self.measure(&buffer)?;
        if wants_key && lock(&self.settings).request_key_unit {
            self.request_key_unit();
        }
        if kept < buffer.size() {
            // Times, flags and metas are those of the whole block.
            buffer.make_mut().set_size(kept);
        }
        Ok(GenerateOutputSuccess::Buffer(buffer))
    }
}
