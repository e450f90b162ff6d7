// SPDX-License-Identifier: MIT OR Apache-2.0
/**
 * SECTION:element-elastictokenc
 * @see_also: elastictokdec, elastictokparse, x264enc, rav1enc
 *
 * Encodes raw video into ElasticTok streams, whose buffers can be cut anywhere between layers to lower the bitrate.
 *
 * Downstream chooses between `stream-format=packetized` (a block a buffer, header in `codec_data`) and `byte-stream` (units
 * that need nothing else, header before each key block); what takes anything, as a file does, gets a byte stream.
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
 */
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use elastictok::Error;
use elastictok::bitstream::StreamWriter;
use elastictok::bundle::Bundle;
use elastictok::codec::{Encoder, EncoderConfig, FrameTime, SearchMethod};
use elastictok::frame::{PixelFormat, PlanesRef, SourceFormat};
use elastictok::tokens::fixed::FixedKind;
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::prelude::*;
use gst_video::subclass::prelude::*;
use once_cell::sync::Lazy;

use super::settings::{Control, Settings};
use super::stats;
use crate::common::{
    MEDIA_TYPE, UNKNOWN_COLORIMETRY, chroma_site_to_header, colorimetry_to_header, error_message, lock, refuse, stream_caps,
    unsigned,
};

static CAT: Lazy<gst::DebugCategory> =
    Lazy::new(|| gst::DebugCategory::new("elastictokenc", gst::DebugColorFlags::empty(), Some("ElasticTok encoder")));

struct State {
    encoder: Encoder,
    info: gst_video::VideoInfo,
    /// Set where downstream wants a byte stream.
    writer: Option<StreamWriter>,
    search: SearchMethod,
    /// Bits of a token, for models with tokens of fixed width.
    token_bits: Option<f64>,
    /// System frame numbers of the frames of the block that is filling, first one first.
    waiting: Vec<u32>,
}

/// A block on its way out.
struct Coded {
    buffer: gst::Buffer,
    key: bool,
    frames: Vec<u32>,
}

#[derive(Default)]
pub struct ElasticTokEnc {
    /// Locked before `settings`, and never held across a call out of the element.
    state: Mutex<Option<State>>,
    settings: Mutex<Settings>,
    /// Set from start to stop.
    bundle: Mutex<Option<Arc<Bundle>>>,
    /// Frames that went out within another one's buffer are being taken off the base class's list.
    absorbing: AtomicBool,
    /// Upstream's formats were found wanting and the user was told.
    told: AtomicBool,
}

impl ElasticTokEnc {
    fn post(&self, error: &Error) -> gst::FlowError {
        self.post_error_message(error_message(error));
        gst::FlowError::Error
    }

    /// Raw formats of the loaded bundle, or of any.
    fn formats(&self) -> &'static [&'static str] {
        match lock(&self.bundle).as_ref().map(|b| b.manifest.pixel_format) {
            Some(PixelFormat::I420) => &["I420", "NV12"],
            Some(PixelFormat::Rgb) => &["RGB"],
            None => &["I420", "NV12", "RGB"],
        }
    }

    /// Says once what upstream must do, where negotiation is about to fail: the error that follows comes from upstream, which
    /// does not know.
    fn tell_formats(&self, offered: &gst::CapsRef) {
        let started = lock(&self.bundle).is_some();
        // Elements such as timeoverlay ask with memory features first, and do without where these are refused.
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

    /// Pushes a block: its first frame carries the buffer, the others are in it.
    fn finish_block(&self, coded: Coded) -> Result<gst::FlowSuccess, gst::FlowError> {
        let obj = self.obj();
        // They are gone where a flush came between.
        let mut frames = coded.frames.iter().filter_map(|&n| obj.frame(n as i32)).collect::<Vec<_>>().into_iter();
        let Some(mut first) = frames.next() else { return Ok(gst::FlowSuccess::Ok) };
        gst::log!(CAT, imp = self, "block of {} frames, {} bytes, key {}", coded.frames.len(), coded.buffer.size(), coded.key);
        let last = frames.as_slice().last();
        let end = last.and_then(|f| Some(f.pts()? + f.duration()?)).and_then(|end| end.checked_sub(first.pts()?));
        let sum = frames.as_slice().iter().map(|f| f.duration()).chain([first.duration()]).sum::<Option<gst::ClockTime>>();
        first.set_duration(end.or(sum));
        first.set_output_buffer(coded.buffer);
        if coded.key {
            first.set_flags(gst_video::VideoCodecFrameFlags::SYNC_POINT);
        }
        let flow = obj.finish_frame(first);
        // Without a buffer, a frame is taken off the base class's list with its events in order; that it was dropped, as the
        // base class then says on the bus, is not so. gst_video_encoder_release_frame() came with 1.26.
        self.absorbing.store(true, Ordering::Relaxed);
        // All of them, whatever becomes of one.
        let mut released = flow;
        for frame in frames {
            released = released.and(obj.finish_frame(frame));
        }
        self.absorbing.store(false, Ordering::Relaxed);
        released
    }

    /// Runs `code` on the encoder, and pushes the block that it may give without the state's lock.
    fn encode(
        &self,
        code: impl FnOnce(&mut State) -> elastictok::Result<Option<elastictok::codec::Packet>>,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let mut guard = lock(&self.state);
        let Some(state) = guard.as_mut() else { return Err(gst::FlowError::NotNegotiated) };
        let coded = code(state).and_then(|packet| {
            let Some(packet) = packet else { return Ok(None) };
            let frames = std::mem::take(&mut state.waiting);
            let buffer = match &mut state.writer {
                Some(writer) => {
                    let mut bytes = bytes::BytesMut::new();
                    writer.write(&packet.data, &mut bytes)?;
                    gst::Buffer::from_slice(bytes)
                }
                None => gst::Buffer::from_slice(packet.data),
            };
            Ok(Some(Coded { buffer, key: packet.key, frames }))
        });
        drop(guard);
        match coded {
            Ok(Some(coded)) => self.finish_block(coded),
            Ok(None) => Ok(gst::FlowSuccess::Ok),
            Err(e) => Err(self.post(&e)),
        }
    }

    /// Codes the frames that wait as a shorter block.
    fn drain(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        if lock(&self.state).is_none() {
            return Ok(gst::FlowSuccess::Ok);
        }
        self.encode(|state| state.encoder.drain())
    }

    /// Whether downstream takes packets rather than a byte stream. Anything goes: a byte stream, as it can go to a file.
    fn wants_packets(&self) -> Result<bool, gst::ErrorMessage> {
        let template = self.obj().src_pad().pad_template_caps();
        let mut allowed = self.obj().src_pad().peer_query_caps(Some(&template)).intersect(&template);
        if allowed.is_empty() {
            return Err(gst::error_msg!(
                gst::CoreError::Negotiation,
                [
                    "downstream does not take {MEDIA_TYPE}; put elastictokdec, a file sink or a payloader for any data behind the encoder"
                ]
            ));
        }
        allowed.fixate();
        Ok(allowed.structure(0).and_then(|s| s.get::<&str>("stream-format").ok()) == Some("packetized"))
    }

    /// An encoder for `input`, and the caps of what it makes.
    fn open(
        &self,
        input: &gst_video::VideoCodecState<'static, gst_video::video_codec_state::Readable>,
    ) -> Result<(State, gst::Caps), gst::ErrorMessage> {
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
        // What upstream did not say is not made up here.
        let colorimetry = structure.is_some_and(|s| s.has_field("colorimetry"));
        let best = SearchMethod::best_for(&bundle.manifest);
        let search = settings.search_method(best);
        if settings.search.is_none() && settings.rate_control == Control::Quality && best != SearchMethod::default() {
            gst::element_imp_info!(
                self,
                gst::LibraryError::Settings,
                ("'{}' predicts no distortion, so search=binary is used; set search to choose", bundle.manifest.name)
            );
        }
        let token_bits = FixedKind::new(&bundle.manifest).ok().map(|k| k.token_bits());
        let encoder = Encoder::new(EncoderConfig {
            bundle,
            runtime: settings.model.runtime(),
            width: info.width(),
            height: info.height(),
            framerate: unsigned(info.fps()),
            pixel_aspect_ratio: unsigned(info.par()),
            colorimetry: if colorimetry { colorimetry_to_header(info.colorimetry()) } else { UNKNOWN_COLORIMETRY },
            chroma_site: chroma_site_to_header(&site),
            key_int_max: settings.key_int_max,
            search,
            layers: settings.layers,
            drift_free: settings.drift_free,
            live: settings.live(),
        })
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
        Ok((State { encoder, info, writer, search, token_bits, waiting: Vec::new() }, caps.build()))
    }

    /// Who made the stream and, where a bitrate is held, which.
    fn set_tags(&self) {
        let settings = lock(&self.settings).clone();
        let mut tags = gst::TagList::new();
        {
            let tags = tags.make_mut();
            tags.add::<gst::tags::Encoder>(&"ElasticTok", gst::TagMergeMode::Replace);
            tags.add::<gst::tags::VideoCodec>(&"ElasticTok", gst::TagMergeMode::Replace);
            if settings.rate_control == Control::Bitrate {
                tags.add::<gst::tags::NominalBitrate>(&settings.bitrate.saturating_mul(1000), gst::TagMergeMode::Replace);
            }
        }
        self.obj().merge_tags(Some(&tags), gst::TagMergeMode::Replace);
    }

    /// Applies live properties that changed; the block that is filling is coded with them.
    fn apply_settings(&self) {
        let live = {
            let mut settings = lock(&self.settings);
            std::mem::take(&mut settings.changed).then(|| settings.live())
        };
        let Some(live) = live else { return };
        let result = lock(&self.state).as_mut().map(|s| s.encoder.set_live(live));
        match result {
            Some(Err(e)) => {
                gst::element_imp_warning!(self, gst::LibraryError::Settings, ("{e}; the settings before stay in force"));
            }
            _ => self.set_tags(),
        }
    }

    fn stats(&self) -> gst::Structure {
        let guard = lock(&self.state);
        match guard.as_ref() {
            Some(state) => stats::structure(&state.encoder, state.search, state.token_bits),
            None => gst::Structure::new_empty(stats::NAME),
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
        match lock(&self.settings).get(pspec.name()) {
            Some(value) => value,
            None => self.stats().to_value(),
        }
    }
}

impl GstObjectImpl for ElasticTokEnc {}

impl PresetImpl for ElasticTokEnc {}

impl ElementImpl for ElasticTokEnc {
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
        let model = lock(&self.settings).model.model.clone();
        let bundle = Bundle::resolve(&model).map_err(|e| error_message(&e))?;
        *lock(&self.bundle) = Some(bundle);
        self.told.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        *lock(&self.state) = None;
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
        // A block must not reach from one segment into another, nor wait while nothing comes.
        if matches!(event.view(), gst::EventView::StreamStart(_) | gst::EventView::Segment(_) | gst::EventView::Gap(_))
            && let Err(e) = self.drain()
        {
            gst::debug!(CAT, imp = self, "draining before {:?}: {e}", event.type_());
        }
        self.parent_sink_event(event)
    }

    fn set_format(
        &self,
        input: &gst_video::VideoCodecState<'static, gst_video::video_codec_state::Readable>,
    ) -> Result<(), gst::LoggableError> {
        self.drain().map_err(|e| gst::loggable_error!(CAT, "draining before new caps failed: {e}"))?;
        *lock(&self.state) = None;
        let (state, caps) = self.open(input).map_err(|message| refuse(self, &CAT, message))?;
        // A block waits for its last frame. Variable rates count as 30 frames/s.
        let waits = state.encoder.block_length() as u64 - 1;
        let (n, d) = match unsigned(state.info.fps()) {
            (0, _) => (30, 1),
            rate => rate,
        };
        *lock(&self.state) = Some(state);
        self.set_tags();
        let obj = self.obj();
        let output = obj
            .set_output_state(caps, Some(input))
            .map_err(|e| gst::loggable_error!(CAT, "setting the output state failed: {e}"))?;
        obj.negotiate(output).map_err(|e| gst::loggable_error!(CAT, "downstream refused the caps: {e}"))?;
        let latency = gst::ClockTime::SECOND.mul_div_ceil(waits * u64::from(d), u64::from(n)).unwrap_or(gst::ClockTime::ZERO);
        obj.set_latency(latency, Some(latency));
        self.parent_set_format(input)
    }

    fn propose_allocation(&self, query: &mut gst::query::Allocation) -> Result<(), gst::LoggableError> {
        query.add_allocation_meta::<gst_video::VideoMeta>(None);
        self.parent_propose_allocation(query)
    }

    fn handle_frame(&self, frame: gst_video::VideoCodecFrame<'_>) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.apply_settings();
        if frame.flags().contains(gst_video::VideoCodecFrameFlags::FORCE_KEYFRAME) {
            // The key block begins with this very frame.
            self.drain()?;
            if let Some(state) = lock(&self.state).as_mut() {
                state.encoder.force_key();
            }
        }
        let number = frame.system_frame_number();
        let time = FrameTime { pts: frame.pts().map(|t| t.nseconds()), duration: frame.duration().map(|t| t.nseconds()) };
        let Some(buffer) = frame.input_buffer_owned() else { return Err(gst::FlowError::Error) };
        // Given back to the base class, which keeps it until its block is finished.
        drop(frame);
        self.encode(|state| {
            let picture = gst_video::VideoFrameRef::from_buffer_ref_readable(&buffer, &state.info)
                .map_err(|_| Error::Settings("an input buffer does not hold a picture of the negotiated format".into()))?;
            let format = match picture.format() {
                gst_video::VideoFormat::Nv12 => SourceFormat::Nv12,
                gst_video::VideoFormat::Rgb => SourceFormat::Rgb,
                _ => SourceFormat::I420,
            };
            let mut planes: [&[u8]; 3] = [&[]; 3];
            let mut strides = [0; 3];
            for i in 0..(picture.n_planes() as usize).min(3) {
                planes[i] = picture.plane_data(i as u32).unwrap_or_default();
                strides[i] = picture.plane_stride()[i].max(0) as usize;
            }
            state.waiting.push(number);
            state.encoder.push(&PlanesRef { format, planes, strides }, time)
        })
    }

    fn finish(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.drain()
    }

    fn flush(&self) -> bool {
        if let Some(state) = lock(&self.state).as_mut() {
            state.encoder.reset();
            state.waiting.clear();
        }
        true
    }
}
