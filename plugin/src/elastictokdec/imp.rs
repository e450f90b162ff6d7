// SPDX-License-Identifier: MIT OR Apache-2.0
/**
 * SECTION:element-elastictokdec
 * @see_also: elastictokenc, elastictokparse, avdec_h264
 *
 * Decodes ElasticTok streams, whole or thinned.
 *
 * ## Example pipeline
 * |[
 * gst-launch-1.0 filesrc location=test.etok ! elastictokparse ! elastictokdec ! videoconvert ! autovideosink
 * ]| This plays a stream from a file.
 */
use std::sync::Mutex;

use elastictok::Error;
use elastictok::bitstream::{Limits, Parsed, SequenceHeader, UnitKind, parse_last_unit, parse_unit};
use elastictok::bundle::Bundle;
use elastictok::codec::{Decoder, DecoderConfig};
use elastictok::frame::PlanesMut;
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::prelude::*;
use gst_video::subclass::prelude::*;
use once_cell::sync::Lazy;

use crate::common::{DEFAULT_MODEL, MEDIA_TYPE, ModelSettings, contradiction, error_message, video_info};

static CAT: Lazy<gst::DebugCategory> =
    Lazy::new(|| gst::DebugCategory::new("elastictokdec", gst::DebugColorFlags::empty(), Some("ElasticTok decoder")));

/// Most frames of a block: as many as the shortest block has bytes, see `offer_frame`.
const MOST_FRAMES: u8 = 4;

#[derive(Debug, Clone, Default)]
struct Settings {
    model: ModelSettings,
    max_layers: u32,
}

/// A picture that is decoded and waits for its frame.
struct Picture {
    buffer: gst::Buffer,
    pts: Option<gst::ClockTime>,
    duration: Option<gst::ClockTime>,
}

#[derive(Default)]
struct State {
    decoder: Option<Decoder>,
    info: Option<gst_video::VideoInfo>,
    input: Option<gst_video::VideoCodecState<'static, gst_video::video_codec_state::Readable>>,
    packetized: bool,
    /// Pictures of the block at hand.
    waiting: std::collections::VecDeque<Picture>,
    /// Bytes of that block that no frame of the base class has taken yet.
    bytes_left: usize,
    /// A key unit was asked for and has not come yet.
    asked: bool,
}

#[derive(Default)]
pub struct ElasticTokDec {
    /// Never held across a call out of the element.
    state: Mutex<State>,
    settings: Mutex<Settings>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

fn layers(max: u32) -> Option<usize> {
    (max > 0).then_some(max as usize)
}

impl ElasticTokDec {
    fn post(&self, error: &Error) -> gst::FlowError {
        self.post_error_message(error_message(error));
        gst::FlowError::Error
    }

    /// Takes a sequence header: makes a decoder for it unless it is the one in use.
    fn take_header(&self, header: SequenceHeader) -> Result<(), gst::FlowError> {
        if lock(&self.state).decoder.as_ref().is_some_and(|d| *d.sequence_header() == header) {
            return Ok(());
        }
        let input = lock(&self.state).input.clone();
        if let Some(caps) = input.as_ref().and_then(|s| s.caps()).and_then(|c| c.structure(0))
            && let Some(what) = contradiction(caps, &header)
        {
            return Err(self.post(&Error::Malformed(format!("{what}; send the caps that belong to the stream"))));
        }
        if header.block_length > MOST_FRAMES {
            let what = format!("blocks of {} frames; this element takes up to {MOST_FRAMES}", header.block_length);
            return Err(self.post(&Error::Unsupported(what)));
        }
        let settings = lock(&self.settings).clone();
        let bundle = if settings.model.model == DEFAULT_MODEL {
            Bundle::by_fingerprint(&header.fingerprint).and_then(|b| b.map_or_else(Bundle::builtin, Ok))
        } else {
            Bundle::resolve(&settings.model.model)
        };
        let config = |bundle| DecoderConfig {
            bundle,
            runtime: settings.model.runtime(),
            header: header.clone(),
            max_layers: layers(settings.max_layers),
        };
        let decoder = bundle.and_then(|bundle| Decoder::new(config(bundle))).map_err(|e| self.post(&e))?;
        let info = video_info(&header).map_err(|e| self.post(&Error::Unsupported(format!("the stream's video format: {e}"))))?;
        gst::info!(CAT, imp = self, "{}x{} on {}", header.width, header.height, decoder.provider());
        {
            let mut state = lock(&self.state);
            state.decoder = Some(decoder);
            state.info = Some(info.clone());
            state.waiting.clear();
        }
        let obj = self.obj();
        let mut output = obj.set_output_state(info.format(), info.width(), info.height(), input.as_ref())?;
        output.set_info(info);
        obj.negotiate(output)
    }

    /// Decodes a block into pictures.
    fn decode(&self, data: &[u8], pts: Option<gst::ClockTime>) -> Result<Vec<Picture>, Error> {
        let obj = self.obj();
        let max_layers = lock(&self.settings).max_layers;
        // Buffers come from downstream's pool, so they are taken before the state is locked. No block has more frames.
        let frames = lock(&self.state).decoder.as_ref().map_or(0, |d| d.sequence_header().block_length);
        let mut buffers = Vec::with_capacity(frames.into());
        for _ in 0..frames {
            buffers.push(obj.allocate_output_buffer().map_err(|e| Error::Runtime(format!("no buffer for a picture: {e}")))?);
        }
        let mut guard = lock(&self.state);
        let State { decoder: Some(decoder), info: Some(info), .. } = &mut *guard else {
            return Err(Error::ContextLost("waiting for a sequence header".into()));
        };
        decoder.set_max_layers(layers(max_layers));
        let block = decoder.decode(data, pts.map(|t| t.nseconds()))?;
        if let Some(what) = block.damaged() {
            gst::warning!(CAT, imp = self, "lower quality: {what}");
        }
        let time = |ns: Option<u64>| ns.and_then(|t| gst::ClockTime::try_from(t).ok());
        let mut pictures = Vec::with_capacity(block.frames());
        for (i, mut buffer) in buffers.into_iter().enumerate().take(block.frames()) {
            {
                let buffer = buffer.make_mut();
                let mut frame = gst_video::VideoFrameRef::from_buffer_ref_writable(buffer, info)
                    .map_err(|_| Error::Runtime("downstream's pool gave a buffer that does not hold a picture".into()))?;
                let strides = frame.plane_stride().to_vec();
                let mut planes: [&mut [u8]; 3] = [&mut [], &mut [], &mut []];
                for (slot, data) in planes.iter_mut().zip(frame.planes_data_mut()) {
                    *slot = data;
                }
                let stride = |i: usize| strides.get(i).map_or(0, |s| (*s).max(0) as usize);
                block.store(i, &mut PlanesMut { planes, strides: [stride(0), stride(1), stride(2)] })?;
            }
            let t = block.time(i);
            pictures.push(Picture { buffer, pts: time(t.pts), duration: time(t.duration) });
        }
        guard.asked = false;
        Ok(pictures)
    }

    fn output(&self, mut frame: gst_video::VideoCodecFrame<'_>, picture: Picture) -> Result<gst::FlowSuccess, gst::FlowError> {
        frame.set_output_buffer(picture.buffer);
        frame.set_pts(picture.pts);
        frame.set_duration(picture.duration);
        self.obj().finish_frame(frame)
    }

    /// Asks the sender for a key block, once.
    fn ask_for_key(&self) {
        if !std::mem::replace(&mut lock(&self.state).asked, true) {
            let event = gst_video::UpstreamForceKeyUnitEvent::builder().all_headers(true).build();
            self.obj().sink_pad().push_event(event);
        }
    }

    /// Decodes the block in `adapter`'s first `bytes` bytes, or drops it and says why.
    fn take_block(
        &self,
        adapter: &gst_base::Adapter,
        bytes: usize,
        pts: Option<gst::ClockTime>,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let obj = self.obj();
        let buffer = adapter.buffer(bytes).map_err(|_| gst::FlowError::Error)?;
        let data = buffer.map_readable().map_err(|_| gst::FlowError::Error)?;
        let error = match self.decode(&data, pts) {
            Ok(pictures) => {
                let mut state = lock(&self.state);
                state.waiting = pictures.into();
                state.bytes_left = bytes;
                drop(state);
                return self.offer_frame();
            }
            Err(e) => e,
        };
        adapter.flush(bytes);
        match error {
            Error::ContextLost(_) => {
                gst::warning!(CAT, imp = self, "{error}");
                self.ask_for_key();
                Ok(gst::FlowSuccess::Ok)
            }
            Error::Malformed(_) | Error::Limit(_) => {
                gst::warning!(CAT, imp = self, "{error}");
                self.ask_for_key();
                gst_video::video_decoder_error!(obj, 1, gst::StreamError::Decode, ["{error}"])
            }
            _ => Err(self.post(&error)),
        }
    }

    /// Gives the base class a frame for the next picture.
    ///
    /// It makes one frame for each run of parse(), which it runs only while bytes are left, so a block's bytes are dealt out:
    /// one to each picture, the rest to the last. No block is shorter than four bytes.
    fn offer_frame(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        let bytes = {
            let mut state = lock(&self.state);
            let bytes = if state.waiting.len() > 1 { 1 } else { state.bytes_left };
            state.bytes_left -= bytes;
            bytes
        };
        let obj = self.obj();
        obj.add_to_frame(bytes as i32);
        obj.have_frame()
    }
}

#[glib::object_subclass]
impl ObjectSubclass for ElasticTokDec {
    const NAME: &'static str = "GstElasticTokDec";
    type Type = super::ElasticTokDec;
    type ParentType = gst_video::VideoDecoder;
}

impl ObjectImpl for ElasticTokDec {
    fn constructed(&self) {
        self.parent_constructed();
        // A block is several pictures, and the base class wants a frame for each: so blocks go through parse().
        self.obj().set_packetized(false);
    }

    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: Lazy<Vec<glib::ParamSpec>> = Lazy::new(|| {
            let mut all = ModelSettings::properties();
            all.extend([
                glib::ParamSpecUInt::builder("max-layers")
                    .nick("Maximum Layers")
                    .blurb("Layers to decode at the most (0 = all that come); effective from the next block")
                    .maximum(32)
                    .mutable_playing()
                    .build(),
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
        let mut s = lock(&self.settings);
        if !s.model.set(pspec.name(), value) {
            s.max_layers = value.get().expect("type checked upstream");
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        if pspec.name() == "stats" {
            let guard = lock(&self.state);
            let mut stats = gst::Structure::builder("application/x-elastictok-stats");
            if let Some(decoder) = &guard.decoder {
                let s = decoder.stats();
                let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3;
                stats = stats
                    .field("blocks", s.blocks)
                    .field("key-blocks", s.key_blocks)
                    .field("frames", s.frames)
                    .field("bytes", s.bytes)
                    .field("layers", s.layers)
                    .field("damaged", s.damaged)
                    .field("refused", s.refused)
                    .field("decode-ms", ms(s.time))
                    .field("runtime-ms", ms(s.runtime_time))
                    .field("provider", decoder.provider());
            }
            return stats.build().to_value();
        }
        let s = lock(&self.settings);
        s.model.get(pspec.name()).unwrap_or_else(|| s.max_layers.to_value())
    }
}

impl GstObjectImpl for ElasticTokDec {}

impl ElementImpl for ElasticTokDec {
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
            let sink =
                gst::Caps::builder(MEDIA_TYPE).field("stream-format", gst::List::new(["packetized", "byte-stream"])).build();
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
        // A bundle that is not there fails before data flows.
        let model = lock(&self.settings).model.model.clone();
        Bundle::resolve(&model).map(|_| ()).map_err(|e| error_message(&e))
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        *lock(&self.state) = State::default();
        Ok(())
    }

    fn set_format(
        &self,
        input: &gst_video::VideoCodecState<'static, gst_video::video_codec_state::Readable>,
    ) -> Result<(), gst::LoggableError> {
        let packetized = input.caps().and_then(|c| c.structure(0)?.get::<&str>("stream-format").ok()) == Some("packetized");
        {
            let mut state = lock(&self.state);
            state.packetized = packetized;
            state.input = Some(input.clone());
        }
        if packetized {
            let data = input.codec_data().ok_or_else(|| gst::loggable_error!(CAT, "packetized caps have no codec_data"))?;
            let data = data.map_readable().map_err(|_| gst::loggable_error!(CAT, "codec_data cannot be read"))?;
            let header = SequenceHeader::parse(&data).map_err(|e| {
                self.post_error_message(error_message(&e));
                gst::loggable_error!(CAT, "{e}")
            })?;
            self.take_header(header).map_err(|e| gst::loggable_error!(CAT, "the stream cannot be decoded: {e}"))?;
        }
        self.parent_set_format(input)
    }

    fn parse(
        &self,
        _frame: &gst_video::VideoCodecFrame<'_>,
        adapter: &gst_base::Adapter,
        at_eos: bool,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let available = adapter.available();
        if available == 0 {
            return Ok(gst_video::VIDEO_DECODER_FLOW_NEED_DATA);
        }
        if !lock(&self.state).waiting.is_empty() {
            return self.offer_frame();
        }
        if lock(&self.state).packetized {
            // One buffer at a time comes in and is taken whole.
            let (pts, distance) = adapter.prev_pts();
            return self.take_block(adapter, available, pts.filter(|_| distance == 0));
        }
        let limit = lock(&self.state).decoder.as_ref().map_or(0, |d| Limits::default().block_bytes(d.sequence_header()));
        let buffer = adapter.buffer(available).map_err(|_| gst::FlowError::Error)?;
        let data = buffer.map_readable().map_err(|_| gst::FlowError::Error)?;
        let parsed = if at_eos { parse_last_unit(&data, limit) } else { parse_unit(&data, limit) };
        match parsed {
            Parsed::NeedMore(_) => {
                drop(data);
                Ok(gst_video::VIDEO_DECODER_FLOW_NEED_DATA)
            }
            Parsed::Junk(n) => {
                drop(data);
                gst::warning!(CAT, imp = self, "skipping {n} bytes that are no unit");
                adapter.flush(n);
                Ok(gst::FlowSuccess::Ok)
            }
            Parsed::Unit { kind: UnitKind::Sequence, payload, total } => {
                let header = SequenceHeader::parse(&data[payload]);
                drop(data);
                adapter.flush(total);
                match header {
                    Ok(header) => self.take_header(header).map(|()| gst::FlowSuccess::Ok),
                    Err(e) => Err(self.post(&e)),
                }
            }
            Parsed::Unit { kind: UnitKind::Block, payload, .. } => {
                drop(data);
                adapter.flush(payload.start);
                self.take_block(adapter, payload.len(), None)
            }
        }
    }

    fn handle_frame(&self, frame: gst_video::VideoCodecFrame<'_>) -> Result<gst::FlowSuccess, gst::FlowError> {
        let waiting = lock(&self.state).waiting.pop_front();
        if let Some(picture) = waiting {
            return self.output(frame, picture);
        }
        // Nothing waits after a flush in between.
        self.obj().drop_frame(frame)
    }

    fn flush(&self) -> bool {
        let mut state = lock(&self.state);
        if let Some(decoder) = &mut state.decoder {
            decoder.reset();
        }
        state.waiting.clear();
        state.bytes_left = 0;
        state.asked = false;
        true
    }

    fn decide_allocation(&self, query: &mut gst::query::Allocation) -> Result<(), gst::LoggableError> {
        self.parent_decide_allocation(query)?;
        // Downstream that knows the meta may give any strides; the frame map follows them.
        if query.find_allocation_meta::<gst_video::VideoMeta>().is_some()
            && let Some((Some(pool), size, min, max)) =
                query.allocation_pools().next().map(|p| (p.0.map(|p| p.to_owned()), p.1, p.2, p.3))
        {
            let mut config = pool.config();
            config.add_option(gst_video::BUFFER_POOL_OPTION_VIDEO_META);
            if pool.set_config(config).is_ok() {
                query.set_nth_allocation_pool(0, Some(&pool), size, min, max);
            }
        }
        Ok(())
    }
}
