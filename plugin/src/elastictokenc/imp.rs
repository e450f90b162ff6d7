// SPDX-License-Identifier: MIT OR Apache-2.0
/**
 * SECTION:element-elastictokenc
 * @see_also: elastictokdec, elastictokparse, x264enc, rav1enc
 *
 * Encodes raw video into ElasticTok streams, whose buffers can be cut anywhere between layers to lower the bitrate.
 *
 * ## Example pipeline
 * |[
 * gst-launch-1.0 videotestsrc num-buffers=300 ! elastictokenc target-psnr=36 ! filesink location=test.etok
 * ]| This writes ten seconds of test video at 36 dB.
 */
use std::sync::Mutex;

use elastictok::bitstream::StreamWriter;
use elastictok::bundle::Bundle;
use elastictok::codec::{Encoder, EncoderConfig, FrameTime, LiveSettings, Packet, RateControl, SearchMethod};
use elastictok::frame::{PixelFormat, PlanesRef, SourceFormat};
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::prelude::*;
use gst_video::subclass::prelude::*;
use once_cell::sync::Lazy;

use crate::common::{
    MEDIA_TYPE, ModelSettings, chroma_site_to_header, colorimetry_to_header, error_message, stream_caps, unsigned,
};

static CAT: Lazy<gst::DebugCategory> =
    Lazy::new(|| gst::DebugCategory::new("elastictokenc", gst::DebugColorFlags::empty(), Some("ElasticTok encoder")));

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[enum_type(name = "GstElasticTokEncRateControl")]
#[repr(i32)]
pub enum Control {
    #[default]
    #[enum_value(name = "Quality: hold target-psnr", nick = "quality")]
    Quality,
    #[enum_value(name = "Bitrate: hold bitrate", nick = "bitrate")]
    Bitrate,
    #[enum_value(name = "Tokens: hold the count of tokens of every cell", nick = "tokens")]
    Tokens,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[enum_type(name = "GstElasticTokEncSearch")]
#[repr(i32)]
pub enum Search {
    #[enum_value(name = "Full: decode every candidate, slow", nick = "full")]
    Full,
    #[enum_value(name = "Binary: bisect, decoding on the way", nick = "binary")]
    Binary,
    #[default]
    #[enum_value(name = "Regression: predict from the latents", nick = "regression")]
    Regression,
}

const DEFAULT_TARGET_PSNR: f64 = 36.0;
const DEFAULT_BITRATE: u32 = 2048;
const DEFAULT_KEY_INT_MAX: u32 = 240;

#[derive(Debug, Clone)]
struct Settings {
    model: ModelSettings,
    rate_control: Control,
    target_psnr: f64,
    bitrate: u32,
    tokens: u32,
    min_tokens: u32,
    max_tokens: u32,
    search: Search,
    key_int_max: u32,
    /// A live property changed since the streaming thread last looked.
    changed: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model: ModelSettings::default(),
            rate_control: Control::default(),
            target_psnr: DEFAULT_TARGET_PSNR,
            bitrate: DEFAULT_BITRATE,
            tokens: 0,
            min_tokens: 0,
            max_tokens: 0,
            search: Search::default(),
            key_int_max: DEFAULT_KEY_INT_MAX,
            changed: false,
        }
    }
}

impl Settings {
    fn live(&self) -> LiveSettings {
        LiveSettings {
            rate_control: match self.rate_control {
                Control::Quality => RateControl::Quality,
                Control::Bitrate => RateControl::Bitrate,
                Control::Tokens => RateControl::Tokens,
            },
            target_psnr: self.target_psnr,
            bitrate: self.bitrate,
            tokens: self.tokens,
            min_tokens: self.min_tokens,
            max_tokens: self.max_tokens,
        }
    }

    fn search(&self) -> SearchMethod {
        match self.search {
            Search::Full => SearchMethod::Full,
            Search::Binary => SearchMethod::Binary,
            Search::Regression => SearchMethod::Regression,
        }
    }
}

struct State {
    encoder: Encoder,
    info: gst_video::VideoInfo,
    /// Set where downstream wants a byte stream.
    writer: Option<StreamWriter>,
    /// The frames of the block that is filling, first one first.
    waiting: Vec<u32>,
}

#[derive(Default)]
pub struct ElasticTokEnc {
    /// Locked before `settings`, and never held across a call out of the element.
    state: Mutex<Option<State>>,
    settings: Mutex<Settings>,
    bundle: Mutex<Option<std::sync::Arc<Bundle>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl ElasticTokEnc {
    fn post(&self, error: &elastictok::Error) -> gst::FlowError {
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

    /// Finishes a block's frames: the first one carries the packet, the others are in it.
    fn finish_block(
        &self,
        packet: Packet,
        waiting: Vec<u32>,
        writer: &mut Option<StreamWriter>,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let obj = self.obj();
        let mut frames: Vec<_> = waiting.iter().filter_map(|&n| obj.frame(n as i32)).collect();
        if frames.is_empty() {
            return Ok(gst::FlowSuccess::Ok);
        }
        let durations: Option<gst::ClockTime> = frames.iter().map(|f| f.duration()).sum();
        let rest = frames.split_off(1);
        let Some(mut first) = frames.pop() else { return Ok(gst::FlowSuccess::Ok) };
        let buffer = match writer {
            Some(writer) => {
                let mut bytes = bytes::BytesMut::new();
                writer.write(&packet.data, &mut bytes).map_err(|e| self.post(&e))?;
                gst::Buffer::from_slice(bytes)
            }
            None => gst::Buffer::from_slice(packet.data),
        };
        gst::log!(CAT, imp = self, "block of {} frames, {} bytes, key {}", packet.frames, buffer.size(), packet.key);
        first.set_output_buffer(buffer);
        // One buffer stands for all frames of its block.
        first.set_duration(durations);
        if packet.key {
            first.set_flags(gst_video::VideoCodecFrameFlags::SYNC_POINT);
        }
        let mut flow = obj.finish_frame(first);
        for frame in rest {
            // Without an output buffer a frame is only taken off the base class's list.
            let released = obj.finish_frame(frame);
            flow = flow.and(released);
        }
        flow
    }

    /// Runs `code` on the encoder and pushes the packet it may give, without the state's lock.
    fn encode(
        &self,
        code: impl FnOnce(&mut State) -> elastictok::Result<Option<Packet>>,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let mut guard = lock(&self.state);
        let Some(state) = guard.as_mut() else { return Err(gst::FlowError::NotNegotiated) };
        let packet = match code(state) {
            Ok(Some(packet)) => packet,
            Ok(None) => return Ok(gst::FlowSuccess::Ok),
            Err(e) => {
                drop(guard);
                return Err(self.post(&e));
            }
        };
        let waiting = std::mem::take(&mut state.waiting);
        // Taken out while pushing: downstream may call back.
        let mut writer = state.writer.take();
        drop(guard);
        let flow = self.finish_block(packet, waiting, &mut writer);
        if let Some(state) = lock(&self.state).as_mut() {
            state.writer = writer;
        }
        flow
    }

    fn drain(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        if lock(&self.state).is_none() {
            return Ok(gst::FlowSuccess::Ok);
        }
        self.encode(|state| state.encoder.drain())
    }

    /// Whether downstream takes packets rather than a byte stream. Anything goes: a byte stream, as it can go to a file.
    fn wants_packets(&self) -> Result<bool, gst::LoggableError> {
        let template = self.obj().src_pad().pad_template_caps();
        let allowed = self.obj().src_pad().peer_query_caps(Some(&template));
        let allowed = allowed.intersect(&template);
        if allowed.is_empty() {
            return Err(gst::loggable_error!(
                CAT,
                "downstream does not take {MEDIA_TYPE}; put elastictokdec, a file sink or a muxer for any data behind the encoder"
            ));
        }
        let mut first = allowed;
        first.fixate();
        Ok(first.structure(0).and_then(|s| s.get::<&str>("stream-format").ok()) == Some("packetized"))
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
        static PROPERTIES: Lazy<Vec<glib::ParamSpec>> = Lazy::new(|| {
            let mut all = ModelSettings::properties();
            all.extend([
                glib::ParamSpecEnum::builder::<Control>("rate-control")
                    .nick("Rate Control")
                    .blurb("What is held constant")
                    .mutable_ready()
                    .build(),
                glib::ParamSpecDouble::builder("target-psnr")
                    .nick("Target PSNR")
                    .blurb("Quality to hold with rate-control=quality: luma PSNR in dB, averaged over time")
                    .minimum(20.0)
                    .maximum(60.0)
                    .default_value(DEFAULT_TARGET_PSNR)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("bitrate")
                    .nick("Bitrate")
                    .blurb("Bitrate to hold with rate-control=bitrate, in kbit/s")
                    .minimum(1)
                    .maximum(2_000_000)
                    .default_value(DEFAULT_BITRATE)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("tokens")
                    .nick("Tokens")
                    .blurb("Tokens that every cell keeps with rate-control=tokens (0 = all)")
                    .maximum(65536)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("min-tokens")
                    .nick("Minimum Tokens")
                    .blurb("Tokens of a cell that are never thinned out to save bits")
                    .maximum(65536)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("max-tokens")
                    .nick("Maximum Tokens")
                    .blurb("Most tokens of a cell (0 = as many as the model has)")
                    .maximum(65536)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecEnum::builder::<Search>("search")
                    .nick("Search")
                    .blurb("How the tokens that meet target-psnr are found")
                    .default_value(Search::Regression)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt::builder("key-int-max")
                    .nick("Key-frame maximal interval")
                    .blurb("Most frames from one key block to the next (0 = only the first block is one)")
                    .default_value(DEFAULT_KEY_INT_MAX)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb(
                        "Measurements since the stream began: blocks, tokens, bytes of each layer, times in ms, provider in use",
                    )
                    .read_only()
                    .build(),
            ]);
            all
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let mut s = lock(&self.settings);
        if s.model.set(pspec.name(), value) {
            return;
        }
        match pspec.name() {
            "rate-control" => s.rate_control = value.get().expect("type checked upstream"),
            "target-psnr" => s.target_psnr = value.get().expect("type checked upstream"),
            "bitrate" => s.bitrate = value.get().expect("type checked upstream"),
            "tokens" => s.tokens = value.get().expect("type checked upstream"),
            "min-tokens" => s.min_tokens = value.get().expect("type checked upstream"),
            "max-tokens" => s.max_tokens = value.get().expect("type checked upstream"),
            "search" => s.search = value.get().expect("type checked upstream"),
            "key-int-max" => s.key_int_max = value.get().expect("type checked upstream"),
            other => gst::warning!(CAT, imp = self, "no property {other} to set"),
        }
        s.changed = true;
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        if pspec.name() == "stats" {
            return self.stats().to_value();
        }
        let s = lock(&self.settings);
        if let Some(value) = s.model.get(pspec.name()) {
            return value;
        }
        match pspec.name() {
            "rate-control" => s.rate_control.to_value(),
            "target-psnr" => s.target_psnr.to_value(),
            "bitrate" => s.bitrate.to_value(),
            "tokens" => s.tokens.to_value(),
            "min-tokens" => s.min_tokens.to_value(),
            "max-tokens" => s.max_tokens.to_value(),
            "search" => s.search.to_value(),
            _ => s.key_int_max.to_value(),
        }
    }
}

impl ElasticTokEnc {
    fn stats(&self) -> gst::Structure {
        let guard = lock(&self.state);
        let mut stats = gst::Structure::builder("application/x-elastictok-stats");
        if let Some(state) = guard.as_ref() {
            let s = state.encoder.stats();
            let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3;
            stats = stats
                .field("blocks", s.blocks)
                .field("key-blocks", s.key_blocks)
                .field("frames", s.frames)
                .field("tokens", s.tokens)
                .field("bytes", s.bytes)
                .field("layer-bytes", gst::Array::new(s.layer_bytes.iter().copied()))
                .field("encode-ms", ms(s.time))
                .field("runtime-ms", ms(s.runtime_time))
                .field("motion-ms", ms(s.motion_time))
                .field("token-ms", ms(s.token_time))
                .field("psnr", s.psnr)
                .field("quantiser", u32::from(s.quantiser))
                .field("provider", state.encoder.provider());
        }
        stats.build()
    }
}

impl GstObjectImpl for ElasticTokEnc {}

impl PresetImpl for ElasticTokEnc {}

impl ElementImpl for ElasticTokEnc {
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
        self.obj().proxy_getcaps(Some(&caps), filter)
    }

    fn set_format(
        &self,
        input: &gst_video::VideoCodecState<'static, gst_video::video_codec_state::Readable>,
    ) -> Result<(), gst::LoggableError> {
        self.drain().map_err(|e| gst::loggable_error!(CAT, "draining before new caps failed: {e}"))?;
        let info = input.info().clone();
        let format = info.format().to_str();
        if !self.formats().contains(&format.as_str()) {
            return Err(gst::loggable_error!(
                CAT,
                "the model takes {:?}, not {format}; put videoconvert before the encoder",
                self.formats()
            ));
        }
        if info.is_interlaced() {
            return Err(gst::loggable_error!(CAT, "interlaced video is not supported; put deinterlace before the encoder"));
        }
        let bundle = lock(&self.bundle).clone().ok_or_else(|| gst::loggable_error!(CAT, "not started"))?;
        let settings = {
            let mut settings = lock(&self.settings);
            settings.changed = false;
            settings.clone()
        };
        let site = input.caps().and_then(|c| c.structure(0)?.get::<String>("chroma-site").ok()).unwrap_or_default();
        let has_colorimetry = input.caps().and_then(|c| c.structure(0)).is_some_and(|s| s.has_field("colorimetry"));
        let encoder = Encoder::new(EncoderConfig {
            bundle,
            runtime: settings.model.runtime(),
            width: info.width(),
            height: info.height(),
            framerate: unsigned(info.fps()),
            pixel_aspect_ratio: unsigned(info.par()),
            colorimetry: if has_colorimetry { colorimetry_to_header(info.colorimetry()) } else { [0, 2, 2, 2] },
            chroma_site: chroma_site_to_header(&site),
            key_int_max: settings.key_int_max,
            search: settings.search(),
            live: settings.live(),
        })
        .map_err(|e| {
            self.post_error_message(error_message(&e));
            gst::loggable_error!(CAT, "{e}")
        })?;
        gst::info!(CAT, imp = self, "{}x{} on {}", info.width(), info.height(), encoder.provider());
        let header = encoder.sequence_header().clone();
        let packets = self.wants_packets()?;
        let caps = stream_caps(&header);
        let (caps, writer) = if packets {
            (caps.field("stream-format", "packetized").field("codec_data", gst::Buffer::from_slice(header.to_bytes())), None)
        } else {
            let writer = StreamWriter::new(&header).map_err(|e| gst::loggable_error!(CAT, "{e}"))?;
            (caps.field("stream-format", "byte-stream"), Some(writer))
        };
        let waits = encoder.block_length() as u64 - 1;
        *lock(&self.state) = Some(State { encoder, info: info.clone(), writer, waiting: Vec::new() });
        let obj = self.obj();
        let state = obj
            .set_output_state(caps.build(), Some(input))
            .map_err(|e| gst::loggable_error!(CAT, "setting the output state failed: {e}"))?;
        obj.negotiate(state).map_err(|e| gst::loggable_error!(CAT, "downstream refused the caps: {e}"))?;
        // A block waits for its last frame. Variable rates count as 30 frames/s.
        let (n, d) = unsigned(info.fps());
        let (n, d) = if n == 0 { (30, 1) } else { (n, d) };
        let latency = gst::ClockTime::SECOND.mul_div_ceil(waits * u64::from(d), u64::from(n)).unwrap_or(gst::ClockTime::ZERO);
        obj.set_latency(latency, Some(latency));
        self.parent_set_format(input)
    }

    fn propose_allocation(&self, query: &mut gst::query::Allocation) -> Result<(), gst::LoggableError> {
        query.add_allocation_meta::<gst_video::VideoMeta>(None);
        self.parent_propose_allocation(query)
    }

    fn handle_frame(&self, frame: gst_video::VideoCodecFrame<'_>) -> Result<gst::FlowSuccess, gst::FlowError> {
        let live = {
            let mut settings = lock(&self.settings);
            std::mem::take(&mut settings.changed).then(|| settings.live())
        };
        if let Some(live) = live {
            let result = lock(&self.state).as_mut().map(|s| s.encoder.set_live(live));
            if let Some(Err(e)) = result {
                gst::element_imp_warning!(self, gst::LibraryError::Settings, ["{e}; the settings before stay in force"]);
            }
        }
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
            let picture = gst_video::VideoFrameRef::from_buffer_ref_readable(&buffer, &state.info).map_err(|_| {
                elastictok::Error::Settings("an input buffer does not hold a picture of the negotiated format".into())
            })?;
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
