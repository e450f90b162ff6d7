// SPDX-License-Identifier: MIT OR Apache-2.0
/**
 * SECTION:element-elastictokdec
 * @see_also: elastictokenc, elastictokparse, avdec_h264
 *
 * Decodes ElasticTok streams, whole or thinned. It takes packets, one block each; put elastictokparse before it where the
 * stream is a file or comes as bytes. decodebin3 and playbin3 do so by themselves.
 *
 * A block that is damaged beyond use is replaced by the last good picture, flagged as corrupted; the blocks that depend on it
 * are dropped, and decoding continues with the next key block. The element asks upstream for one, and again while none comes.
 *
 * In the trick mode for key units, the first picture of each key block is shown. Seeks to play backwards are refused.
 * A picture that is too late to be shown is decoded, for those that depend on it, but not pushed, unless qos is off.
 *
 * ## Example pipeline
 * |[
 * gst-launch-1.0 filesrc location=test.etok ! elastictokparse ! elastictokdec ! videoconvert ! autovideosink
 * ]| This plays a stream from a file.
 *
 * Since: 0.1.0
 */
use elastictok::bundle::Bundle;
use elastictok::codec::GraphAhead;
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::prelude::*;
use gst_video::subclass::prelude::*;
use once_cell::sync::Lazy;

use super::state::{CAT, ElasticTokDec, InputState, Pictures, State};
use super::{pictures, stats};
use crate::common::{MEDIA_TYPE, MaxPixels, ModelSettings, end_runs, error_message, lock, refuse};
use crate::keyrequest::KeyRequest;

#[glib::object_subclass]
impl ObjectSubclass for ElasticTokDec {
    const NAME: &'static str = "GstElasticTokDec";
    type Type = super::ElasticTokDec;
    type ParentType = gst_video::VideoDecoder;
}

impl ObjectImpl for ElasticTokDec {
    fn constructed(&self) {
        self.parent_constructed();
        self.take_packets();
        self.watch_caps();
    }

    /**
     * GstElasticTokDec:stats:
     *
     * Measurements since the stream began, empty without one. They are published after each block, and reading them does not
     * wait for a block to be decoded.
     *
     * * `blocks`, `key-blocks`, `frames`, `bytes` (guint64): what was decoded.
     * * `layers` (guint64): sum of the layers decoded; divided by `blocks`, their mean.
     * * `block-layers` (guint): layers decoded of the last block; `left-out-layers` (guint): how many of the stream's layers its encoder
     *   left out since they would be too coarse for the quality.
     * * `layer-bitrates` (array of guint64): the rate of each layer decoded in bit/s over about a second of video, without block headers.
     * * `damaged` (guint64): blocks of which a layer was damaged.
     * * `refused` (guint64): blocks that were broken, or came without the context they depend on.
     * * `decode-ms` (gdouble): time spent in the decoder; `runtime-ms` is the part of it in ONNX Runtime.
     * * `provider` (string): the execution provider in use, `none` before the first key block.
     *
     * Since: 0.1.0
     */
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: Lazy<Vec<glib::ParamSpec>> = Lazy::new(|| {
            let mut all = ModelSettings::properties();
            all.extend([
                glib::ParamSpecUInt::builder("max-layers")
                    .nick("Maximum Layers")
                    .blurb("Maximum number of layers to decode (0 = all that come); effective from the next block")
                    .maximum(32)
                    .mutable_playing()
                    .build(),
                MaxPixels::property(),
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb("Measurements since the stream began: blocks, frames, damaged and refused blocks, times in ms, provider in use")
                    .read_only()
                    .build(),
            ]);
            all
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let mut settings = lock(&self.settings);
        match pspec.name() {
            "max-layers" => settings.max_layers = value.get().expect("type checked upstream"),
            MaxPixels::NAME => self.max_pixels.set(value),
            name if settings.model.set(name, value) => {}
            other => gst::error!(CAT, imp = self, "no property {other} can be set"),
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "max-layers" => lock(&self.settings).max_layers.to_value(),
            MaxPixels::NAME => self.max_pixels.get(),
            "stats" => stats::structure(lock(&self.snapshot).as_ref()).to_value(),
            other => lock(&self.settings).model.get(other).unwrap_or_else(|| {
                gst::error!(CAT, imp = self, "no property {other}");
                pspec.default_value().clone()
            }),
        }
    }
}

impl GstObjectImpl for ElasticTokDec {}

impl ElementImpl for ElasticTokDec {
    fn change_state(&self, transition: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        if transition == gst::StateChange::PausedToReady {
            // The pads wait for the streaming thread.
            self.canceller.cancel();
        }
        self.parent_change_state(transition)
    }

    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: Lazy<gst::subclass::ElementMetadata> = Lazy::new(|| {
            gst::subclass::ElementMetadata::new(
                "ElasticTok video decoder",
                "Codec/Decoder/Video",
                "Decodes ElasticTok streams, whole or thinned",
                "ElasticTok developers",
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: Lazy<Vec<gst::PadTemplate>> = Lazy::new(|| {
            let sink = gst::Caps::builder(MEDIA_TYPE).field("stream-format", "packetized").build();
            let src = gst_video::VideoCapsBuilder::new()
                .format_list([gst_video::VideoFormat::I420, gst_video::VideoFormat::Rgb])
                .build();
            vec![
                gst::PadTemplate::new("sink", gst::PadDirection::Sink, gst::PadPresence::Always, &sink).expect("valid template"),
                gst::PadTemplate::new("src", gst::PadDirection::Src, gst::PadPresence::Always, &src).expect("valid template"),
            ]
        });
        &TEMPLATES
    }
}

impl VideoDecoderImpl for ElasticTokDec {
    fn start(&self) -> Result<(), gst::ErrorMessage> {
        self.canceller.resume();
        // A bundle that is not there fails before data flows.
        let model = lock(&self.settings).model.clone();
        let bundle = Bundle::resolve(&model.model).map_err(|e| error_message(&e))?;
        // What fails there fails again, and is told, when there are caps.
        let loading = GraphAhead::begin(bundle.clone(), model.runtime(&self.canceller)).ok();
        *lock(&self.state) = State { bundle: Some(bundle), loading, ..State::default() };
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        let before = std::mem::take(&mut *lock(&self.state));
        drop(before);
        self.publish(None);
        Ok(())
    }

    fn set_format(&self, input: &InputState) -> Result<(), gst::LoggableError> {
        self.take_format(input).map_err(|e| refuse(self, &CAT, e))?;
        self.parent_set_format(input)
    }

    fn handle_frame(&self, frame: gst_video::VideoCodecFrame<'_>) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.take_frame(frame)
    }

    fn flush(&self) -> bool {
        self.canceller.resume();
        let mut state = lock(&self.state);
        if let Some(decoder) = &mut state.decoder {
            decoder.reset();
        }
        state.pictures = Pictures::default();
        state.skipped = false;
        state.key_request = KeyRequest::default();
        true
    }

    fn src_event(&self, event: gst::Event) -> bool {
        if let gst::EventView::Seek(seek) = event.view()
            && seek.get().0 < 0.0
        {
            gst::info!(CAT, imp = self, "refusing a seek to play backwards");
            return false;
        }
        self.parent_src_event(event)
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        end_runs(&self.canceller, self.obj().sink_pad(), &event);
        if let gst::EventView::Segment(segment) = event.view()
            && segment.segment().rate() < 0.0
        {
            // The seek reached upstream by another way.
            gst::element_imp_error!(
                self,
                gst::CoreError::Event,
                ("elastictokdec cannot play backwards; seek with a rate above 0")
            );
            return false;
        }
        self.parent_sink_event(event)
    }

    fn decide_allocation(&self, query: &mut gst::query::Allocation) -> Result<(), gst::LoggableError> {
        self.parent_decide_allocation(query)?;
        pictures::allow_strides(query);
        Ok(())
    }
}
