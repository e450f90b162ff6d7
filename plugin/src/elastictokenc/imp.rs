// SPDX-License-Identifier: MIT OR Apache-2.0
/**
 * SECTION:element-elastictokenc
 * @see_also: elastictokdec, elastictokparse, x264enc, rav1enc
 *
 * Encodes raw video into ElasticTok streams, whose buffers can be cut anywhere between layers to lower the bitrate.
 *
 * Downstream chooses between `stream-format=packetized` (one block in a buffer, header in `codec_data`) and `byte-stream`
 * (self-delimiting units, header before each key block). An element that takes anything, such as a file sink, gets a byte stream.
 *
 * In a live pipeline a block whose next frame is late is coded with the frames that it has. Where coding takes longer than there is time,
 * upper layers are left out, and come back with a key block when there is time again (not with `drift-free=false`; with one loop for all
 * layers they cost next to nothing). A message of type QoS on the bus says so, and `stats`. `qos=false` turns that off. What is
 * still too much is for a `queue leaky=downstream` before the encoder to drop. Graphs are loaded at the change to
 * PAUSED where the caps upstream fix width and height, so that a live stream does not wait for them: put a capsfilter before the
 * encoder. Bitrates are measured by time stamps. Where the video needs more than `bitrate`, a warning says so and `stats` has
 * the least possible bitrate.
 *
 * ## Example pipeline
 * |[
 * gst-launch-1.0 videotestsrc num-buffers=300 ! elastictokenc target-psnr=36 ! filesink location=test.etok
 * ]| This writes ten seconds of test video at 36 dB.
 * |[
 * gst-launch-1.0 filesrc location=photo.png ! pngdec ! videoconvert ! elastictokenc model=/path/of/bundle ! filesink location=photo.etok
 * ]| This writes a still as one block, with a model that codes RGB. It decodes to one picture.
 *
 * Pictures of up to 8192x8192 are encoded where memory allows. Above 4096x2304 pixels, elastictokparse and elastictokdec refuse the stream
 * unless their `max-pixels` is raised.
 *
 * Since: 0.1.0
 */
use std::sync::atomic::Ordering;

use elastictok::bundle::Bundle;
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::prelude::*;
use gst_video::subclass::prelude::*;
use once_cell::sync::Lazy;

use super::deadline::Deadline;
use super::settings::Settings;
use super::state::{CAT, ElasticTokEnc, InputState, State};
use super::{stats, times};
use crate::common::{MEDIA_TYPE, end_runs, error_message, lock, refuse};

impl ElasticTokEnc {
    /// Applies live properties that changed; the block that is filling is coded with them.
    fn apply_settings(&self) {
        let live = {
            let mut settings = lock(&self.settings);
            std::mem::take(&mut settings.changed).then(|| settings.live())
        };
        let Some(live) = live else { return };
        let result = lock(&self.state).as_mut().map(|s| {
            s.told_least &= s.encoder.live().bitrate == live.bitrate;
            s.encoder.set_live(live)
        });
        match result {
            Some(Err(e)) => {
                gst::element_imp_warning!(self, gst::LibraryError::Settings, ("{e}; the settings before stay in force"));
            }
            _ => self.set_tags(),
        }
    }
}

#[glib::object_subclass]
impl ObjectSubclass for ElasticTokEnc {
    const NAME: &'static str = "GstElasticTokEnc";
    type Type = super::ElasticTokEnc;
    type ParentType = gst_video::VideoEncoder;
    type Interfaces = (gst::Preset,);
}

impl ObjectImpl for ElasticTokEnc {
    fn constructed(&self) {
        self.parent_constructed();
        self.obj().set_qos_enabled(true);
    }

    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: Lazy<Vec<glib::ParamSpec>> = Lazy::new(Settings::properties);
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        if !lock(&self.settings).set(pspec.name(), value) {
            gst::warning!(CAT, imp = self, "no property {} to set", pspec.name());
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        if pspec.name() == "stats" {
            return stats::structure(lock(&self.snapshot).as_ref()).to_value();
        }
        let value = lock(&self.settings).get(pspec.name());
        value.unwrap_or_else(|| {
            gst::warning!(CAT, imp = self, "no property {} to get", pspec.name());
            pspec.default_value().clone()
        })
    }
}

impl GstObjectImpl for ElasticTokEnc {}

impl PresetImpl for ElasticTokEnc {}

impl ElementImpl for ElasticTokEnc {
    fn change_state(&self, transition: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        match transition {
            // Running time stops, and no frame comes.
            gst::StateChange::PlayingToPaused => self.stop_timer(),
            // The pads wait for the streaming thread.
            gst::StateChange::PausedToReady => self.canceller.cancel(),
            _ => {}
        }
        self.parent_change_state(transition)
    }

    fn post_message(&self, message: gst::Message) -> bool {
        let absorbed = message.type_() == gst::MessageType::Qos && self.absorbing.load(Ordering::Relaxed);
        absorbed || self.parent_post_message(message)
    }

    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: Lazy<gst::subclass::ElementMetadata> = Lazy::new(|| {
            gst::subclass::ElementMetadata::new(
                "ElasticTok video encoder",
                "Codec/Encoder/Video",
                "Encodes video into elastic tokens: any prefix of a buffer's layers decodes",
                "ElasticTok developers",
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: Lazy<Vec<gst::PadTemplate>> = Lazy::new(|| {
            let sink = gst_video::VideoCapsBuilder::new()
                .format_list([gst_video::VideoFormat::I420, gst_video::VideoFormat::Nv12, gst_video::VideoFormat::Rgb])
                .width_range(16..=8192)
                .height_range(16..=8192)
                .build();
            let src = gst::Caps::builder(MEDIA_TYPE)
                .field("stream-format", gst::List::new(["byte-stream", "packetized"]))
                .field("width", gst::IntRange::new(16, 8192))
                .field("height", gst::IntRange::new(16, 8192))
                .build();
            vec![
                gst::PadTemplate::new("sink", gst::PadDirection::Sink, gst::PadPresence::Always, &sink).expect("valid template"),
                gst::PadTemplate::new("src", gst::PadDirection::Src, gst::PadPresence::Always, &src).expect("valid template"),
            ]
        });
        &TEMPLATES
    }
}

impl VideoEncoderImpl for ElasticTokEnc {
    fn start(&self) -> Result<(), gst::ErrorMessage> {
        self.canceller.resume();
        let model = lock(&self.settings).model.model.clone();
        let bundle = Bundle::resolve(&model).map_err(|e| error_message(&e))?;
        *lock(&self.bundle) = Some(bundle);
        *lock(&self.deadline) = Deadline::default();
        self.told.store(false, Ordering::Relaxed);
        self.prepare()
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        self.stop_timer();
        lock(&self.asked).clear();
        self.hurry.store(false, Ordering::Relaxed);
        *lock(&self.state) = None;
        self.publish(None);
        *lock(&self.prepared) = None;
        *lock(&self.bundle) = None;
        Ok(())
    }

    fn caps(&self, filter: Option<&gst::Caps>) -> gst::Caps {
        let mut caps = self.obj().sink_pad().pad_template_caps();
        caps.make_mut().set("format", gst::List::new(self.formats()));
        let common = self.obj().proxy_getcaps(Some(&caps), filter);
        if let Some(offered) = filter
            && common.is_empty()
            && !caps.can_intersect(offered)
        {
            self.tell_formats(offered);
        }
        common
    }

    fn sink_query(&self, query: &mut gst::QueryRef) -> bool {
        let answered = self.parent_sink_query(query);
        if let gst::QueryView::AcceptCaps(q) = query.view()
            && answered
            && !q.result()
        {
            self.tell_formats(q.caps());
        }
        answered
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        end_runs(&self.canceller, self.obj().sink_pad(), &event);
        // A block must not reach from one segment into another, nor wait while nothing comes.
        if matches!(event.view(), gst::EventView::StreamStart(_) | gst::EventView::Segment(_) | gst::EventView::Gap(_))
            && let Err(e) = self.drain()
        {
            gst::debug!(CAT, imp = self, "draining before {:?}: {e}", event.type_());
        }
        if let gst::EventView::Segment(segment) = event.view() {
            let goes_on = times::go_on(&self.obj().input_segment(), segment.segment());
            if let Some(state) = lock(&self.state).as_mut().filter(|_| !goes_on) {
                state.times.forget();
                state.encoder.force_key();
            }
        }
        self.parent_sink_event(event)
    }

    fn src_event(&self, event: gst::Event) -> bool {
        if event.type_() == gst::EventType::Latency {
            self.ask_latency_again();
        }
        self.take_key_request(&event) || self.parent_src_event(event)
    }

    fn set_format(&self, input: &InputState) -> Result<(), gst::LoggableError> {
        if let Err(e) = self.drain() {
            // Upstream learns of the failure, which may be a flush, from its next buffer and not as refused caps.
            gst::debug!(CAT, imp = self, "draining before new caps: {e}");
        }
        let before = lock(&self.state).take();
        self.publish(None);
        let (blocks, asked, before) = match before {
            Some(State { encoder, block, asked, .. }) => (block + 1, asked, Some(encoder)),
            None => (0, Vec::new(), lock(&self.prepared).take()),
        };
        let (mut state, caps) = self.open(input, before).map_err(|message| refuse(self, &CAT, message))?;
        (state.block, state.asked) = (blocks, asked);
        let block_length = state.encoder.block_length();
        self.publish(Some(&state));
        *lock(&self.state) = Some(state);
        self.announce(input, caps, block_length)?;
        self.parent_set_format(input)
    }

    fn propose_allocation(&self, query: &mut gst::query::Allocation) -> Result<(), gst::LoggableError> {
        query.add_allocation_meta::<gst_video::VideoMeta>(None);
        self.parent_propose_allocation(query)
    }

    fn handle_frame(&self, frame: gst_video::VideoCodecFrame<'_>) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.apply_settings();
        let flow = self.encode_frame(frame);
        self.note_done();
        flow
    }

    fn finish(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.end_stream()
    }

    fn flush(&self) -> bool {
        self.canceller.resume();
        self.stop_timer();
        lock(&self.asked).clear();
        if let Some(state) = lock(&self.state).as_mut() {
            state.asked.clear();
            state.encoder.reset();
            state.times.forget();
            state.failed = None;
            state.forget_block();
        }
        true
    }
}
