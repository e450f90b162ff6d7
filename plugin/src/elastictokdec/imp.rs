// SPDX-License-Identifier: MIT OR Apache-2.0
/**
 * SECTION:element-elastictokdec
 * @see_also: elastictokenc, elastictokparse, avdec_h264
 *
 * Decodes ElasticTok streams, whole or thinned.
 *
 * A block that is damaged beyond use is replaced by the last good picture, flagged as corrupted; those that hang on it are
 * dropped, a key unit is asked for upstream, and decoding goes on with the next key block.
 *
 * ## Example pipeline
 * |[
 * gst-launch-1.0 filesrc location=test.etok ! elastictokparse ! elastictokdec ! videoconvert ! autovideosink
 * ]| This plays a stream from a file.
 */
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use elastictok::Error;
use elastictok::bitstream::{SequenceHeader, UnitKind};
use elastictok::bundle::Bundle;
use elastictok::codec::{Decoder, DecoderConfig};
use elastictok::frame::PlanesMut;
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::prelude::*;
use gst_video::subclass::prelude::*;
use once_cell::sync::Lazy;

use super::input::{Found, Input};
use crate::common::{
    DEFAULT_MODEL, MEDIA_TYPE, MaxPixels, ModelSettings, contradiction, error_message, lock, refuse, video_info,
};

static CAT: Lazy<gst::DebugCategory> =
    Lazy::new(|| gst::DebugCategory::new("elastictokdec", gst::DebugColorFlags::empty(), Some("ElasticTok decoder")));

/// A key unit that was asked for and does not come is asked for again after this long.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Default)]
struct Settings {
    model: ModelSettings,
    max_layers: u32,
}

type InputState = gst_video::VideoCodecState<'static, gst_video::video_codec_state::Readable>;

#[derive(Default)]
struct State {
    bundle: Option<Arc<Bundle>>,
    decoder: Option<Decoder>,
    info: Option<gst_video::VideoInfo>,
    caps: Option<InputState>,
    input: Input,
    /// Pictures of the decoder's last block that are still to be shown.
    to_show: Range<usize>,
    /// They stand in for a block that could not be decoded.
    concealed: bool,
    /// Bytes of that block that no frame of the base class has taken yet.
    bytes_left: usize,
    /// Something is wrong since, and the user was told.
    troubled: bool,
    /// When a key unit was asked for that has not come yet.
    asked: Option<Instant>,
}

#[derive(Default)]
pub struct ElasticTokDec {
    /// Never held across a call out of the element.
    state: Mutex<State>,
    settings: Mutex<Settings>,
    max_pixels: MaxPixels,
}

fn layers(max: u32) -> Option<usize> {
    (max > 0).then_some(max as usize)
}

fn clock_time(ns: Option<u64>) -> Option<gst::ClockTime> {
    ns.and_then(|t| gst::ClockTime::try_from(t).ok())
}

impl ElasticTokDec {
    fn post(&self, error: &Error) -> gst::FlowError {
        self.post_error_message(error_message(error));
        gst::FlowError::Error
    }

    /// Takes a sequence header: makes a decoder for it unless it is the one in use.
    fn take_header(&self, header: SequenceHeader) -> Result<(), gst::ErrorMessage> {
        let (caps, bundle, same) = {
            let state = lock(&self.state);
            let same = state.decoder.as_ref().is_some_and(|d| *d.sequence_header() == header);
            (state.caps.clone(), state.bundle.clone(), same)
        };
        let structure = caps.as_ref().and_then(|s| s.caps()).and_then(|c| c.structure(0));
        if let Some(what) = structure.and_then(|s| contradiction(s, &header)) {
            return Err(error_message(&Error::Malformed(format!("{what}; send the caps that belong to the stream"))));
        }
        if same {
            return Ok(());
        }
        let settings = lock(&self.settings).clone();
        let fail = |e: Error| error_message(&e);
        // With model=builtin any builtin bundle will do that made the stream.
        let named = Bundle::by_fingerprint(&header.fingerprint).map_err(fail)?.filter(|_| settings.model.model == DEFAULT_MODEL);
        let bundle =
            named.or(bundle).ok_or_else(|| gst::error_msg!(gst::CoreError::StateChange, ["the decoder is not started"]))?;
        let info = video_info(&header).map_err(|e| fail(Error::Unsupported(format!("the stream's video format: {e}"))))?;
        let config = DecoderConfig {
            bundle,
            runtime: settings.model.runtime(),
            header: header.clone(),
            max_layers: layers(settings.max_layers),
            limits: self.max_pixels.limits(),
        };
        let decoder = Decoder::new(config).map_err(fail)?;
        gst::info!(CAT, imp = self, "a stream of {}x{}", header.width, header.height);
        {
            let mut state = lock(&self.state);
            state.input.set_header(decoder.sequence_header());
            state.decoder = Some(decoder);
            state.info = Some(info.clone());
            state.to_show = 0..0;
        }
        let obj = self.obj();
        let mut tags = gst::TagList::new();
        tags.make_mut().add::<gst::tags::VideoCodec>(&"ElasticTok", gst::TagMergeMode::Replace);
        obj.merge_tags(Some(&tags), gst::TagMergeMode::Replace);
        let refused = |e| gst::error_msg!(gst::CoreError::Negotiation, ["downstream does not take {}: {e}", info.name()]);
        let mut output = obj.set_output_state(info.format(), info.width(), info.height(), caps.as_ref()).map_err(refused)?;
        output.set_info(info.clone());
        obj.negotiate(output).map_err(refused)
    }

    /// Decodes a block; how many pictures are to be shown for it.
    fn decode(&self, data: &[u8], pts: Option<gst::ClockTime>) -> Result<usize, Error> {
        let max_layers = lock(&self.settings).max_layers;
        let pts = pts.map(|t| t.nseconds());
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let Some(decoder) = &mut state.decoder else {
            return Err(Error::ContextLost("waiting for a sequence header".into()));
        };
        decoder.set_max_layers(layers(max_layers));
        let (frames, trouble) = match decoder.decode(data, pts) {
            Ok(block) => (block.frames(), block.damaged().map(|what| format!("{what}; the picture is coarser for it"))),
            Err(e @ Error::Malformed(_)) => match decoder.repeat(data, pts) {
                Some(block) => (block.frames(), Some(format!("{e}; the last good picture stands in"))),
                None => return Err(e),
            },
            Err(e) => return Err(e),
        };
        state.concealed = trouble.is_some() && decoder.is_waiting();
        state.to_show = 0..frames;
        if !state.concealed {
            state.asked = None;
        }
        let concealed = state.concealed;
        drop(guard);
        match trouble {
            Some(what) => self.warn(&what),
            None => lock(&self.state).troubled = false,
        }
        if concealed {
            self.ask_for_key();
        }
        Ok(frames)
    }

    /// Tells the user when trouble begins; the log has the rest of it.
    fn warn(&self, what: &str) {
        gst::warning!(CAT, imp = self, "{what}");
        if !std::mem::replace(&mut lock(&self.state).troubled, true) {
            gst::element_imp_warning!(self, gst::StreamError::Decode, ["{what}"]);
        }
    }

    /// Asks the sender for a key block.
    fn ask_for_key(&self) {
        {
            let mut state = lock(&self.state);
            if state.asked.is_some_and(|at| at.elapsed() < PATIENCE) {
                return;
            }
            state.asked = Some(Instant::now());
        }
        let event = gst_video::UpstreamForceKeyUnitEvent::builder().all_headers(true).build();
        self.obj().sink_pad().push_event(event);
    }

    /// What follows from a block that cannot be decoded.
    fn refuse_block(&self, error: &Error) -> Result<gst::FlowSuccess, gst::FlowError> {
        match error {
            Error::ContextLost(_) => {
                self.warn(&error.to_string());
                self.ask_for_key();
                Ok(gst::FlowSuccess::Ok)
            }
            Error::Malformed(_) => {
                self.warn(&error.to_string());
                self.ask_for_key();
                gst_video::video_decoder_error!(self.obj(), 1, gst::StreamError::Decode, ["{error}"])
            }
            _ => Err(self.post(error)),
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
        if obj.input_segment().rate() < 0.0 {
            // The base class collects frames first and has them decoded later, from key frame to key frame.
            obj.add_to_frame(bytes as i32);
            return obj.have_frame();
        }
        let buffer = adapter.buffer(bytes).map_err(|_| gst::FlowError::Error)?;
        let data = buffer.map_readable().map_err(|_| gst::FlowError::Error)?;
        let decoded = self.decode(&data, pts);
        drop(data);
        drop(buffer);
        match decoded {
            Ok(frames) => {
                {
                    let mut state = lock(&self.state);
                    state.bytes_left = bytes;
                    state.to_show.end = frames.min(bytes);
                }
                if frames > bytes {
                    self.warn(&format!("of a block of {bytes} bytes only as many of its {frames} pictures can be shown"));
                }
                self.offer_frame()
            }
            Err(e) => {
                adapter.flush(bytes);
                self.refuse_block(&e)
            }
        }
    }

    /// Gives the base class a frame for the next picture.
    ///
    /// It makes one frame for each run of parse(), which it runs only while bytes are left, so a block's bytes are dealt out:
    /// one to each picture, the rest to the last. So a block cannot show more pictures than it has bytes; it has four or more.
    fn offer_frame(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        let bytes = {
            let mut state = lock(&self.state);
            let bytes = if state.to_show.len() > 1 { state.bytes_left.min(1) } else { state.bytes_left };
            state.bytes_left -= bytes;
            bytes
        };
        let obj = self.obj();
        obj.add_to_frame(bytes as i32);
        obj.have_frame()
    }

    /// Shows picture `index` of the decoder's last block in `frame`.
    fn show(
        &self,
        mut frame: gst_video::VideoCodecFrame<'_>,
        index: usize,
        whole_block: bool,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let obj = self.obj();
        // From downstream's pool, which may wait: so before the state is locked, and no more at a time than are shown.
        if let Err(e) = obj.allocate_output_frame(&mut frame, None) {
            obj.release_frame(frame);
            return Err(e);
        }
        let stored = {
            let guard = lock(&self.state);
            match (&guard.decoder, &guard.info, frame.output_buffer_mut()) {
                (Some(decoder), Some(info), Some(buffer)) => {
                    let block = decoder.block();
                    let span = if whole_block { 0..block.frames() } else { index..index + 1 };
                    let duration = span.map(|i| block.time(i).duration).sum::<Option<u64>>();
                    store(&block, index, buffer, info).map(|()| (block.time(index).pts, duration, guard.concealed))
                }
                _ => Err(Error::Runtime("no picture to show".into())),
            }
        };
        match stored {
            Ok((pts, duration, concealed)) => {
                frame.set_pts(clock_time(pts));
                frame.set_duration(clock_time(duration));
                if concealed {
                    frame.set_flags(gst_video::VideoCodecFrameFlags::CORRUPTED);
                }
                obj.finish_frame(frame)
            }
            Err(e) => {
                obj.release_frame(frame);
                Err(self.post(&e))
            }
        }
    }

    /// Reverse playback: `frame` has a whole block, and the base class shows one picture for it, for as long as the block lasts.
    fn handle_whole_block(&self, frame: gst_video::VideoCodecFrame<'_>) -> Result<gst::FlowSuccess, gst::FlowError> {
        let decoded = match frame.input_buffer().map(|b| b.map_readable()) {
            Some(Ok(data)) => self.decode(&data, frame.pts()),
            _ => Err(Error::Malformed("an input buffer that cannot be read".into())),
        };
        match decoded {
            Ok(frames) if frames > 0 => {
                lock(&self.state).to_show = 0..0;
                self.show(frame, 0, true)
            }
            Ok(_) => {
                self.obj().release_frame(frame);
                Ok(gst::FlowSuccess::Ok)
            }
            Err(e) => {
                self.obj().release_frame(frame);
                self.refuse_block(&e)
            }
        }
    }

    fn stats(&self) -> gst::Structure {
        let guard = lock(&self.state);
        let mut stats = gst::Structure::builder("application/x-elastictok-stats");
        if let Some(decoder) = &guard.decoder {
            let s = decoder.stats();
            let ms = |d: Duration| d.as_secs_f64() * 1e3;
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
        stats.build()
    }
}

/// Copies picture `index` into `buffer`, whatever its strides.
fn store(
    block: &elastictok::codec::DecodedBlock<'_>,
    index: usize,
    buffer: &mut gst::BufferRef,
    info: &gst_video::VideoInfo,
) -> Result<(), Error> {
    let mut picture = gst_video::VideoFrameRef::from_buffer_ref_writable(buffer, info)
        .map_err(|_| Error::Runtime("downstream's pool gave a buffer that does not hold a picture".into()))?;
    let strides = picture.plane_stride().to_vec();
    let stride = |i: usize| strides.get(i).map_or(0, |s| (*s).max(0) as usize);
    let mut planes: [&mut [u8]; 3] = [&mut [], &mut [], &mut []];
    for (slot, data) in planes.iter_mut().zip(picture.planes_data_mut()) {
        *slot = data;
    }
    block.store(index, &mut PlanesMut { planes, strides: [stride(0), stride(1), stride(2)] })
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
        let mut s = lock(&self.settings);
        match pspec.name() {
            "max-layers" => s.max_layers = value.get().expect("type checked upstream"),
            MaxPixels::NAME => self.max_pixels.set(value),
            name if s.model.set(name, value) => {}
            other => gst::error!(CAT, imp = self, "no property {other} can be set"),
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        let settings = lock(&self.settings).clone();
        match pspec.name() {
            "max-layers" => settings.max_layers.to_value(),
            MaxPixels::NAME => self.max_pixels.get(),
            name => settings.model.get(name).unwrap_or_else(|| self.stats().to_value()),
        }
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
        let bundle = Bundle::resolve(&model).map_err(|e| error_message(&e))?;
        *lock(&self.state) = State { bundle: Some(bundle), ..State::default() };
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        *lock(&self.state) = State::default();
        Ok(())
    }

    fn set_format(&self, input: &InputState) -> Result<(), gst::LoggableError> {
        let packetized = input.caps().and_then(|c| c.structure(0)?.get::<&str>("stream-format").ok()) == Some("packetized");
        {
            let mut state = lock(&self.state);
            state.input.set_packetized(packetized);
            state.caps = Some(input.clone());
        }
        if packetized {
            self.read_codec_data(input).and_then(|header| self.take_header(header)).map_err(|e| refuse(self, &CAT, e))?;
        }
        self.parent_set_format(input)
    }

    fn parse(
        &self,
        _frame: &gst_video::VideoCodecFrame<'_>,
        adapter: &gst_base::Adapter,
        at_eos: bool,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let obj = self.obj();
        // Stamps on byte streams are those of a file source's reads or of arrival, unless upstream deals in time.
        let timed = obj.input_segment().format() == gst::Format::Time;
        let found = {
            let mut state = lock(&self.state);
            if state.bytes_left > 0 { None } else { Some(state.input.next(adapter, at_eos, timed)) }
        };
        match found {
            None => self.offer_frame(),
            Some(Err(e)) => Err(self.post(&e)),
            Some(Ok(Found::NeedData)) => Ok(gst_video::VIDEO_DECODER_FLOW_NEED_DATA),
            Some(Ok(Found::Skip(bytes))) => {
                gst::warning!(CAT, imp = self, "skipping {bytes} bytes that are no unit");
                adapter.flush(bytes);
                Ok(gst::FlowSuccess::Ok)
            }
            Some(Ok(Found::Unit { kind: UnitKind::Sequence, skip, bytes, .. })) => {
                adapter.flush(skip);
                let limits = self.max_pixels.limits();
                let data =
                    adapter.buffer(bytes).and_then(|b| b.into_mapped_buffer_readable().map_err(|_| glib::bool_error!("no map")));
                let header = data.map_err(|_| gst::FlowError::Error).map(|data| SequenceHeader::parse_with(&data, &limits))?;
                adapter.flush(bytes);
                match header {
                    Ok(header) => {
                        self.take_header(header).map_err(|message| {
                            self.post_error_message(message);
                            gst::FlowError::Error
                        })?;
                        Ok(gst::FlowSuccess::Ok)
                    }
                    Err(e @ (Error::Unsupported(_) | Error::Limit(_))) => Err(self.post(&e)),
                    Err(e) => {
                        // What follows belongs to it: junk until a good one.
                        let mut state = lock(&self.state);
                        state.decoder = None;
                        state.input.forget_header();
                        drop(state);
                        self.refuse_block(&e)
                    }
                }
            }
            Some(Ok(Found::Unit { kind: UnitKind::Block, skip, bytes, pts })) => {
                adapter.flush(skip);
                self.take_block(adapter, bytes, pts)
            }
        }
    }

    fn handle_frame(&self, frame: gst_video::VideoCodecFrame<'_>) -> Result<gst::FlowSuccess, gst::FlowError> {
        let next = lock(&self.state).to_show.next();
        match next {
            Some(index) => self.show(frame, index, false),
            None if self.obj().input_segment().rate() < 0.0 => self.handle_whole_block(frame),
            None => {
                // A flush came between.
                self.obj().release_frame(frame);
                Ok(gst::FlowSuccess::Ok)
            }
        }
    }

    fn flush(&self) -> bool {
        let mut state = lock(&self.state);
        if let Some(decoder) = &mut state.decoder {
            decoder.reset();
        }
        state.input.flush();
        state.to_show = 0..0;
        state.bytes_left = 0;
        state.asked = None;
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

impl ElasticTokDec {
    fn read_codec_data(&self, input: &InputState) -> Result<SequenceHeader, gst::ErrorMessage> {
        let missing =
            "packetized caps have no codec_data; keep the caps that the encoder sent, or send stream-format=byte-stream";
        let data = input.codec_data().ok_or_else(|| gst::error_msg!(gst::StreamError::Format, ["{missing}"]))?;
        let data = data.map_readable().map_err(|_| gst::error_msg!(gst::StreamError::Format, ["codec_data cannot be read"]))?;
        let limits = self.max_pixels.limits();
        SequenceHeader::parse_with(&data, &limits).map_err(|e| error_message(&e))
    }
}
