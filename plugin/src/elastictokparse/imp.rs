// SPDX-License-Identifier: MIT OR Apache-2.0
/**
 * SECTION:element-elastictokparse
 * @see_also: elastictokenc, elastictokdec
 *
 * Finds the blocks of an ElasticTok byte stream, stamps them, and converts between the stream's two forms.
 *
 * Of a file it knows where the key blocks are, so that seeks land exactly. A stream that begins at some other time than zero
 * and cannot be sought in, as one joined over the network, is shown from there on without delay.
 *
 * ## Example pipeline
 * |[
 * gst-launch-1.0 filesrc location=test.etok ! elastictokparse ! elastictokdec ! videoconvert ! autovideosink
 * ]| This plays a stream from a file.
 */
use std::sync::Mutex;

use elastictok::Error;
use elastictok::bitstream::{BlockHeader, Limits, Parsed, SequenceHeader, StreamWriter, UnitKind, parse_last_unit, parse_unit};
use elastictok::timing::Timeline;
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;
use once_cell::sync::Lazy;

use super::index::{Index, span};
use crate::common::{MEDIA_TYPE, MaxPixels, block_rate, contradiction, error_message, lock, refuse, stream_caps};

static CAT: Lazy<gst::DebugCategory> =
    Lazy::new(|| gst::DebugCategory::new("elastictokparse", gst::DebugColorFlags::empty(), Some("ElasticTok parser")));

/// No unit is shorter.
const MIN_FRAME_SIZE: u32 = 4;

/// What is known of the stream.
struct Stream {
    header: SequenceHeader,
    timeline: Timeline,
    /// Set where downstream wants a byte stream.
    writer: Option<StreamWriter>,
    /// Epoch of the last key block: what hangs on another one has no time.
    epoch: Option<u8>,
}

impl Stream {
    /// Goes on at another place of the file.
    fn jump(&mut self, index: &Index, offset: u64) {
        self.timeline.reset();
        self.epoch = index.key_at(offset).map(|key| {
            self.timeline.decode(0, key.header.frames, &key.header.timing, None);
            key.header.epoch
        });
    }
}

/// Streams put one after the other in a file: each begins its times anew, and is moved behind what came before.
#[derive(Debug, Default)]
struct Joined {
    shift: gst::ClockTime,
    /// Time stamp and end of the last block, moved.
    last: Option<(gst::ClockTime, gst::ClockTime)>,
}

impl Joined {
    /// Moves a block's time stamp; only a key block can begin a stream.
    fn place(&mut self, key: bool, (pts, duration): (Option<gst::ClockTime>, Option<gst::ClockTime>)) -> Option<gst::ClockTime> {
        let pts = pts?;
        if let Some((last, end)) = self.last.filter(|(last, _)| key && pts.saturating_add(self.shift) <= *last) {
            self.shift = end.max(last).saturating_sub(pts);
        }
        let moved = pts.saturating_add(self.shift);
        self.last = Some((moved, moved.saturating_add(duration.unwrap_or_default())));
        Some(moved)
    }
}

/// Whether the output's segment is to begin with the first block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Shift {
    #[default]
    No,
    /// If upstream turns out not to be seekable.
    Perhaps,
    Yes,
}

#[derive(Default)]
struct State {
    packets_in: bool,
    /// Upstream's buffers carry the times of blocks.
    timed: bool,
    stream: Option<Stream>,
    caps: Option<gst::Caps>,
    index: Option<Index>,
    /// Where the next unit is expected.
    offset: u64,
    /// Time stamp of a buffer that began with a unit, until a block takes it.
    pts: Option<gst::ClockTime>,
    joined: Joined,
    /// Time stamp and duration of the block on its way out.
    stamp: (Option<gst::ClockTime>, Option<gst::ClockTime>),
    shift: Shift,
}

#[derive(Default)]
pub struct ElasticTokParse {
    /// Never held across a call out of the element.
    state: Mutex<State>,
    max_pixels: MaxPixels,
}

enum Found {
    /// Too little to say: as many bytes are needed.
    NeedMore(usize),
    Skip(usize),
    Header(SequenceHeader, usize),
    /// A header of no use, and what follows with it.
    Refused(Error, usize),
    /// Where the block lies, and all bytes to take.
    Block(std::ops::Range<usize>, usize),
}

impl ElasticTokParse {
    /// Takes a sequence header and tells downstream about it.
    fn take_header(&self, header: SequenceHeader) -> Result<(), gst::ErrorMessage> {
        let said = lock(&self.state).caps.as_ref().and_then(|c| contradiction(c.structure(0)?, &header));
        if let Some(what) = said {
            return Err(error_message(&Error::Malformed(format!("{what}; send the caps that belong to the stream"))));
        }
        if lock(&self.state).stream.as_ref().is_some_and(|s| s.header == header) {
            return Ok(());
        }
        let obj = self.obj();
        let src = obj.src_pad();
        let template = src.pad_template_caps();
        let allowed = src.peer_query_caps(Some(&template)).intersect(&template);
        // Packets unless downstream wants bytes only: they cost it no search.
        let packetized = gst::Caps::builder(MEDIA_TYPE).field("stream-format", "packetized").build();
        let packets = allowed.is_empty() || allowed.can_intersect(&packetized);
        let caps = stream_caps(&header).field("parsed", true);
        let (caps, writer) = if packets {
            (caps.field("stream-format", "packetized").field("codec_data", gst::Buffer::from_slice(header.to_bytes())), None)
        } else {
            (caps.field("stream-format", "byte-stream"), Some(StreamWriter::new(&header).map_err(|e| error_message(&e))?))
        };
        let timeline = Timeline::new(header.framerate, header.block_length).map_err(|e| error_message(&e))?;
        if let Some(blocks) = block_rate(&header) {
            obj.set_frame_rate(blocks, 0, 0);
        }
        lock(&self.state).stream = Some(Stream { header, timeline, writer, epoch: None });
        let mut tags = gst::TagList::new();
        tags.make_mut().add::<gst::tags::VideoCodec>(&"ElasticTok", gst::TagMergeMode::Replace);
        obj.merge_tags(Some(&tags), gst::TagMergeMode::Replace);
        if !src.push_event(gst::event::Caps::new(&caps.build())) {
            gst::debug!(CAT, imp = self, "downstream refused the caps");
        }
        self.build_index();
        Ok(())
    }

    /// Looks through a file once, for exact seeks and its duration.
    fn build_index(&self) {
        let obj = self.obj();
        let sink = obj.sink_pad();
        if sink.mode() != gst::PadMode::Pull || lock(&self.state).index.is_some() {
            return;
        }
        let Some(size) = sink.peer_query_duration::<gst::format::Bytes>().map(|b| *b) else { return };
        let index = Index::scan(size, |at, bytes| sink.pull_range(at, bytes).ok());
        gst::debug!(CAT, imp = self, "{} key blocks, end {:?}, complete {}", index.keys().len(), index.end, index.complete);
        for key in index.keys() {
            if let Some(pts) = key.pts {
                obj.add_index_entry(key.offset, pts, true, true);
            }
        }
        if let Some(end) = index.end.filter(|_| index.complete) {
            obj.set_duration(end, 0);
        }
        lock(&self.state).index = Some(index);
    }

    fn find(&self, data: &[u8], offset: u64, pts: Option<gst::ClockTime>, draining: bool) -> Found {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        state.pts = pts.or(state.pts).filter(|_| state.timed);
        if state.packets_in {
            return if data.is_empty() { Found::NeedMore(1) } else { Found::Block(0..data.len(), data.len()) };
        }
        if offset != state.offset
            && let Some(stream) = &mut state.stream
        {
            state.joined = Joined::default();
            stream.jump(state.index.as_ref().unwrap_or(&Index::default()), offset);
        }
        state.offset = offset;
        let limit = state.stream.as_ref().map_or(0, |s| Limits::default().block_bytes(&s.header));
        let found = match if draining { parse_last_unit(data, limit) } else { parse_unit(data, limit) } {
            Parsed::NeedMore(bytes) => Found::NeedMore(bytes),
            Parsed::Junk(bytes) => Found::Skip(bytes),
            Parsed::Unit { kind: UnitKind::Block, payload, total } => Found::Block(payload, total),
            Parsed::Unit { kind: UnitKind::Sequence, payload, total } => {
                match SequenceHeader::parse_with(&data[payload], &self.max_pixels.limits()) {
                    Ok(header) => Found::Header(header, total),
                    Err(e) => {
                        state.stream = None;
                        Found::Refused(e, total)
                    }
                }
            }
        };
        state.offset += match &found {
            Found::NeedMore(_) => 0,
            Found::Skip(bytes) | Found::Header(_, bytes) | Found::Refused(_, bytes) | Found::Block(_, bytes) => *bytes as u64,
        };
        found
    }

    /// Stamps a block and brings it into downstream's form; `None`: it is of no use.
    fn block(&self, data: &[u8]) -> Result<Option<gst::Buffer>, Error> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let pts = state.pts.take();
        let Some(stream) = &mut state.stream else { return Ok(None) };
        let (header, _) = match BlockHeader::parse(data, stream.header.block_length) {
            Ok(parsed) => parsed,
            Err(e) => {
                gst::warning!(CAT, imp = self, "dropping a block: {e}");
                return Ok(None);
            }
        };
        if header.key {
            stream.epoch = Some(header.epoch);
        } else if stream.epoch != Some(header.epoch) && !state.packets_in {
            // Packets bring their own times, and it is for a decoder to ask for a key block.
            gst::warning!(CAT, imp = self, "dropping a block whose key block is missing");
            return Ok(None);
        }
        let times = stream.timeline.decode(header.position, header.frames, &header.timing, pts.map(|t| t.nseconds()));
        let mut buffer = match &mut stream.writer {
            None => gst::Buffer::from_slice(bytes::Bytes::copy_from_slice(data)),
            Some(writer) => {
                let mut out = bytes::BytesMut::new();
                writer.write(data, &mut out)?;
                gst::Buffer::from_slice(out)
            }
        };
        state.stamp = span(&times);
        if !state.timed {
            state.stamp.0 = state.joined.place(header.key, state.stamp);
        }
        let out = buffer.make_mut();
        mark(out, state.stamp, !header.key);
        Ok(Some(buffer))
    }

    /// Whether upstream can be sought in, which the base class then makes use of.
    fn settle_shift(&self) {
        if lock(&self.state).shift != Shift::Perhaps {
            return;
        }
        let mut query = gst::query::Seeking::new(gst::Format::Bytes);
        let seekable = self.obj().sink_pad().peer_query(&mut query) && query.result().0;
        lock(&self.state).shift = if seekable { Shift::No } else { Shift::Yes };
    }
}

fn mark(buffer: &mut gst::BufferRef, (pts, duration): (Option<gst::ClockTime>, Option<gst::ClockTime>), delta: bool) {
    buffer.set_pts(pts);
    buffer.set_dts(pts);
    buffer.set_duration(duration);
    if delta {
        buffer.set_flags(gst::BufferFlags::DELTA_UNIT);
    } else {
        buffer.unset_flags(gst::BufferFlags::DELTA_UNIT);
    }
}

#[glib::object_subclass]
impl ObjectSubclass for ElasticTokParse {
    const NAME: &'static str = "GstElasticTokParse";
    type Type = super::ElasticTokParse;
    type ParentType = gst_base::BaseParse;
}

impl ObjectImpl for ElasticTokParse {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: Lazy<Vec<glib::ParamSpec>> = Lazy::new(|| vec![MaxPixels::property()]);
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        match pspec.name() {
            MaxPixels::NAME => self.max_pixels.set(value),
            other => gst::error!(CAT, imp = self, "no property {other} can be set"),
        }
    }

    fn property(&self, _id: usize, _pspec: &glib::ParamSpec) -> glib::Value {
        self.max_pixels.get()
    }
}

impl GstObjectImpl for ElasticTokParse {}

impl ElementImpl for ElasticTokParse {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: Lazy<gst::subclass::ElementMetadata> = Lazy::new(|| {
            gst::subclass::ElementMetadata::new(
                "ElasticTok stream parser",
                "Codec/Parser/Converter/Video",
                "Finds and stamps the blocks of ElasticTok streams and converts between their forms",
                "ElasticTok developers",
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: Lazy<Vec<gst::PadTemplate>> = Lazy::new(|| {
            let any = gst::Caps::builder(MEDIA_TYPE).build();
            let src = gst::Caps::builder(MEDIA_TYPE)
                .field("stream-format", gst::List::new(["packetized", "byte-stream"]))
                .field("parsed", true)
                .build();
            vec![
                gst::PadTemplate::new("sink", gst::PadDirection::Sink, gst::PadPresence::Always, &any).expect("valid template"),
                gst::PadTemplate::new("src", gst::PadDirection::Src, gst::PadPresence::Always, &src).expect("valid template"),
            ]
        });
        &TEMPLATES
    }
}

impl BaseParseImpl for ElasticTokParse {
    fn start(&self) -> Result<(), gst::ErrorMessage> {
        *lock(&self.state) = State::default();
        let obj = self.obj();
        obj.set_min_frame_size(MIN_FRAME_SIZE);
        obj.set_has_timing_info(true);
        obj.set_pts_interpolation(false);
        obj.set_infer_ts(false);
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        *lock(&self.state) = State::default();
        Ok(())
    }

    fn set_sink_caps(&self, caps: &gst::Caps) -> Result<(), gst::LoggableError> {
        let structure = caps.structure(0).ok_or_else(|| gst::loggable_error!(CAT, "empty caps"))?;
        let packets = structure.get::<&str>("stream-format").ok() == Some("packetized");
        {
            let mut state = lock(&self.state);
            state.packets_in = packets;
            state.caps = Some(caps.clone());
        }
        if packets {
            let missing =
                "packetized caps have no codec_data; keep the caps that the encoder sent, or send stream-format=byte-stream";
            let header = structure
                .get::<gst::Buffer>("codec_data")
                .ok()
                .and_then(|data| data.into_mapped_buffer_readable().ok())
                .ok_or_else(|| gst::error_msg!(gst::StreamError::Format, ["{missing}"]))
                .and_then(|data| SequenceHeader::parse_with(&data, &self.max_pixels.limits()).map_err(|e| error_message(&e)));
            header.and_then(|header| self.take_header(header)).map_err(|e| refuse(self, &CAT, e))?;
        }
        Ok(())
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::Segment(segment) => {
                let bytes = segment.segment().format() == gst::Format::Bytes;
                let mut state = lock(&self.state);
                state.timed = !bytes;
                state.shift = if bytes { Shift::Perhaps } else { Shift::No };
                state.pts = None;
            }
            gst::EventView::FlushStop(_) => lock(&self.state).pts = None,
            _ => {}
        }
        self.parent_sink_event(event)
    }

    fn src_event(&self, event: gst::Event) -> bool {
        let gst::EventView::Seek(seek) = event.view() else { return self.parent_src_event(event) };
        if self.obj().sink_pad().mode() != gst::PadMode::Pull {
            return self.parent_src_event(event);
        }
        let (rate, flags, start_type, start, stop_type, stop) = seek.get();
        if rate < 0.0 {
            gst::info!(CAT, imp = self, "blocks hang on those before them: no playing backwards");
            return false;
        }
        let target = match (start_type, start) {
            (gst::SeekType::Set, gst::GenericFormattedValue::Time(Some(time))) => time,
            _ => return self.parent_src_event(event),
        };
        let start = {
            let state = lock(&self.state);
            let Some(index) = state.index.as_ref().filter(|i| i.complete) else {
                drop(state);
                return self.parent_src_event(event);
            };
            let (before, after) = (index.before(target), index.after(target));
            if !flags.contains(gst::SeekFlags::KEY_UNIT) || flags.contains(gst::SeekFlags::ACCURATE) {
                target
            } else if flags.contains(gst::SeekFlags::SNAP_NEAREST) {
                let distance = |t: Option<gst::ClockTime>| t.map_or(u64::MAX, |t| t.nseconds().abs_diff(target.nseconds()));
                if distance(after) < distance(before) { after } else { before }.unwrap_or(target)
            } else if flags.contains(gst::SeekFlags::SNAP_AFTER) {
                after.unwrap_or(target)
            } else {
                before.unwrap_or(target)
            }
        };
        // The base class looks its index up only for accurate seeks, else it guesses from the bitrate.
        let exact = gst::event::Seek::builder(
            rate,
            flags | gst::SeekFlags::ACCURATE,
            start_type,
            gst::GenericFormattedValue::Time(Some(start)),
            stop_type,
            stop,
        )
        .seqnum(event.seqnum())
        .build();
        self.parent_src_event(exact)
    }

    fn pre_push_frame(&self, frame: &mut gst_base::BaseParseFrame<'_>) -> Result<gst::FlowSuccess, gst::FlowError> {
        let (stamp, shift) = {
            let mut state = lock(&self.state);
            let shift = state.shift == Shift::Yes && state.stamp.0.is_some();
            if shift {
                state.shift = Shift::No;
            }
            (state.stamp, shift)
        };
        if shift {
            let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
            segment.set_start(stamp.0);
            segment.set_time(stamp.0);
            segment.set_position(stamp.0);
            self.obj().src_pad().push_event(gst::event::Segment::new(&segment));
        }
        // Where upstream deals in time, the base class has put its notion of it in place of the stream's.
        if let Some(buffer) = frame.buffer_mut() {
            let delta = buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
            mark(buffer, stamp, delta);
        }
        self.parent_pre_push_frame(frame)
    }

    fn handle_frame(&self, mut frame: gst_base::BaseParseFrame<'_>) -> Result<(gst::FlowSuccess, u32), gst::FlowError> {
        let obj = self.obj();
        let (offset, draining) = (frame.offset(), obj.is_draining());
        let Some(input) = frame.buffer() else { return Ok((gst::FlowSuccess::Ok, 0)) };
        let Ok(map) = input.map_readable() else { return Err(gst::FlowError::Error) };
        match self.find(&map, offset, input.pts(), draining) {
            Found::NeedMore(bytes) => {
                drop(map);
                obj.set_min_frame_size(u32::try_from(bytes).unwrap_or(u32::MAX));
                Ok((gst::FlowSuccess::Ok, 0))
            }
            Found::Skip(bytes) => {
                drop(map);
                obj.set_min_frame_size(MIN_FRAME_SIZE);
                gst::warning!(CAT, imp = self, "skipping {bytes} bytes that are no unit");
                Ok((gst::FlowSuccess::Ok, bytes as u32))
            }
            Found::Refused(error, total) => {
                drop(map);
                obj.set_min_frame_size(MIN_FRAME_SIZE);
                if let Error::Unsupported(_) | Error::Limit(_) = error {
                    self.post_error_message(error_message(&error));
                    return Err(gst::FlowError::Error);
                }
                gst::element_imp_warning!(self, gst::StreamError::Decode, ("{error}"));
                Ok((gst::FlowSuccess::Ok, total as u32))
            }
            Found::Header(header, total) => {
                drop(map);
                obj.set_min_frame_size(MIN_FRAME_SIZE);
                self.take_header(header).map_err(|message| {
                    self.post_error_message(message);
                    gst::FlowError::Error
                })?;
                Ok((gst::FlowSuccess::Ok, total as u32))
            }
            Found::Block(payload, total) => {
                obj.set_min_frame_size(MIN_FRAME_SIZE);
                let made = self.block(&map[payload]);
                drop(map);
                let buffer = match made {
                    Ok(Some(buffer)) => buffer,
                    Ok(None) => return Ok((gst::FlowSuccess::Ok, total as u32)),
                    Err(e) => {
                        self.post_error_message(error_message(&e));
                        return Err(gst::FlowError::Error);
                    }
                };
                self.settle_shift();
                // The base class takes time stamps from the input side of the frame.
                if let Some(input) = frame.buffer_mut() {
                    let delta = buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
                    mark(input, (buffer.pts(), buffer.duration()), delta);
                }
                frame.set_output_buffer(buffer);
                obj.finish_frame(frame, total as u32).map(|flow| (flow, 0))
            }
        }
    }
}
