// SPDX-License-Identifier: MIT OR Apache-2.0
/**
 * SECTION:element-elastictokparse
 * @see_also: elastictokenc, elastictokdec
 *
 * Finds the blocks of an ElasticTok byte stream, stamps them, and converts between the stream's two forms.
 *
 * Playback begins with the first frame, whatever its time stamp, and files joined end to end play one after the other. The
 * parser finds the key blocks of a file, so that seeks are exact. Blocks depend on those before them, so it refuses to play
 * backwards. Where blocks are lost it asks upstream for a key block.
 *
 * ## Example pipeline
 * |[
 * gst-launch-1.0 filesrc location=test.etok ! elastictokparse ! elastictokdec ! videoconvert ! autovideosink
 * ]| This plays a stream from a file.
 *
 * Since: 0.1.0
 */
use std::time::Instant;

use elastictok::Error;
use elastictok::bitstream::{SequenceHeader, StreamWriter};
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;
use once_cell::sync::Lazy;

use super::state::{CAT, ElasticTokParse};
use super::stream::{Arrival, Found, Made, Output, Snap, State, Unit, mark};
use crate::common::{MEDIA_TYPE, MaxPixels, block_rate, contradiction, error_message, lock, refuse, stream_caps};
use crate::keyrequest::KeyRequest;

/// Bytes of the shortest unit.
const MIN_FRAME_SIZE: u32 = 4;

/// Why a header is not accepted.
enum Refusal {
    /// To be posted.
    Bad(gst::ErrorMessage),
    /// A flush or the end of the element came between, which is no error.
    Flushing,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Bad(error_message(&error))
    }
}

impl ElasticTokParse {
    /// Takes a sequence header and tells downstream about it.
    fn take_header(&self, header: SequenceHeader) -> Result<(), Refusal> {
        {
            let mut state = lock(&self.state);
            if let Some(what) = state.caps.as_ref().and_then(|c| contradiction(c.structure(0)?, &header)) {
                return Err(Error::Malformed(format!("{what}; send the caps that belong to the stream")).into());
            }
            state.tracker.set_header(header.clone())?;
            if state.output.as_ref().is_some_and(|output| output.header == header) {
                return Ok(());
            }
        }
        self.negotiate(header)
    }

    /// Chooses the form that goes out and sends its caps.
    fn negotiate(&self, header: SequenceHeader) -> Result<(), Refusal> {
        let obj = self.obj();
        let src = obj.src_pad();
        let template = src.pad_template_caps();
        let allowed = src.peer_query_caps(Some(&template)).intersect(&template);
        // Packets unless downstream wants bytes only: they cost it no search, and the decoder that a player adds later
        // takes nothing else.
        let packetized = gst::Caps::builder(MEDIA_TYPE).field("stream-format", "packetized").build();
        let packets = allowed.is_empty() || allowed.can_intersect(&packetized);
        let caps = stream_caps(&header).field("parsed", true);
        let (caps, writer) = if packets {
            (caps.field("stream-format", "packetized").field("codec_data", gst::Buffer::from_slice(header.to_bytes())), None)
        } else {
            (caps.field("stream-format", "byte-stream"), Some(StreamWriter::new(&header)?))
        };
        if let Some(blocks) = block_rate(&header) {
            obj.set_frame_rate(blocks, 0, 0);
        }
        let mut tags = gst::TagList::new();
        tags.make_mut().add::<gst::tags::VideoCodec>(&"ElasticTok", gst::TagMergeMode::Replace);
        obj.merge_tags(Some(&tags), gst::TagMergeMode::Replace);
        if !src.push_event(gst::event::Caps::new(&caps.build())) {
            if src.pad_flags().contains(gst::PadFlags::FLUSHING) {
                // The pad has not kept them: they are sent again before the next block.
                return Err(Refusal::Flushing);
            }
            gst::debug!(CAT, imp = self, "downstream refused the caps");
        }
        lock(&self.state).output = Some(Output { header, writer });
        Ok(())
    }

    fn refused(&self, refusal: Refusal) -> gst::FlowError {
        match refusal {
            Refusal::Flushing => gst::FlowError::Flushing,
            Refusal::Bad(message) => {
                self.post_error_message(message);
                gst::FlowError::Error
            }
        }
    }

    /// Asks the sender for a key block: something was lost.
    fn ask_for_key(&self) {
        let sink = self.obj().sink_pad().clone();
        if sink.mode() == gst::PadMode::Push && lock(&self.state).request.due(Instant::now()) {
            gst::info!(CAT, imp = self, "asking for a key block");
            sink.push_event(KeyRequest::event());
        }
    }

    /// Before the first block: queries upstream and makes the index. Fails if a flush comes between, and is then tried again.
    fn begin(&self) -> Result<(), gst::FlowError> {
        if lock(&self.state).begun {
            return Ok(());
        }
        self.build_index()?;
        let sink = self.obj().sink_pad().clone();
        let mut query = gst::query::Seeking::new(gst::Format::Bytes);
        let seekable = sink.mode() == gst::PadMode::Pull || (sink.peer_query(&mut query) && query.result().0);
        let mut state = lock(&self.state);
        state.begun = true;
        state.tracker.close_gaps(seekable);
        Ok(())
    }

    /// Sends the block of `unit`, or returns how many bytes are to be skipped where it cannot be used.
    fn take_block(
        &self,
        mut frame: gst_base::BaseParseFrame<'_>,
        header: Option<SequenceHeader>,
        unit: &Unit,
    ) -> Result<(gst::FlowSuccess, u32), gst::FlowError> {
        self.begin()?;
        let header = header.or_else(|| {
            // The header in force, if a flush has kept it from downstream.
            let state = lock(&self.state);
            state.tracker.header().filter(|_| state.output.is_none()).cloned()
        });
        if let Some(header) = header {
            self.take_header(header).map_err(|refusal| self.refused(refusal))?;
        }
        let obj = self.obj();
        let key_units_only = {
            let trick = gst::SegmentFlags::TRICKMODE_KEY_UNITS;
            obj.segment().flags().contains(trick) || lock(&self.state).flags.is_some_and(|flags| flags.contains(trick))
        };
        let made = {
            let Some(input) = frame.buffer() else { return Ok((gst::FlowSuccess::Ok, 0)) };
            let data = input.map_readable().map_err(|_| gst::FlowError::Error)?;
            lock(&self.state).make(input, &data, unit, key_units_only)
        };
        let buffer = match made {
            Ok(Made::Buffer(buffer)) => buffer,
            Ok(Made::Orphan(buffer)) => {
                self.ask_for_key();
                buffer
            }
            Ok(Made::PassedOver) => return Ok((gst::FlowSuccess::Ok, lock(&self.state).leave_out(unit.total) as u32)),
            Ok(Made::Lost) => {
                gst::warning!(CAT, imp = self, "dropping a block whose key block is missing");
                let skip = lock(&self.state).leave_out(unit.total);
                self.ask_for_key();
                return Ok((gst::FlowSuccess::Ok, skip as u32));
            }
            Err(e @ Error::Malformed(_)) => {
                gst::warning!(CAT, imp = self, "dropping a block: {e}");
                let skip = lock(&self.state).leave_out(unit.total);
                self.ask_for_key();
                return Ok((gst::FlowSuccess::Ok, skip as u32));
            }
            Err(e) => return Err(self.refused(e.into())),
        };
        self.refine_duration();
        // The base class takes time stamps from the input side of the frame.
        if let Some(input) = frame.buffer_mut() {
            mark(input, buffer.pts(), buffer.duration());
        }
        frame.set_output_buffer(buffer);
        obj.finish_frame(frame, unit.total as u32).map(|flow| (flow, 0))
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

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            MaxPixels::NAME => self.max_pixels.get(),
            other => {
                gst::error!(CAT, imp = self, "no property {other} can be read");
                pspec.default_value().clone()
            }
        }
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
                .and_then(|data| SequenceHeader::parse_with(&data, &self.max_pixels.limits()).map_err(|e| error_message(&e)))
                .map_err(|e| refuse(self, &CAT, e))?;
            match self.take_header(header) {
                Err(Refusal::Bad(message)) => return Err(refuse(self, &CAT, message)),
                Err(Refusal::Flushing) | Ok(()) => {}
            }
        }
        Ok(())
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::StreamStart(_) => {
                // Another source, as from concat: its stream is played after the one before.
                let mut state = lock(&self.state);
                (state.index, state.estimate, state.begun) = (None, None, false);
            }
            gst::EventView::Segment(segment) => {
                let segment = segment.segment();
                if self.obj().segment().rate() > 0.0 {
                    // Data from before still belongs to the segment before.
                    self.obj().drain();
                }
                let mut state = lock(&self.state);
                state.timed = segment.format() == gst::Format::Time;
                state.pts = None;
                if state.arrival == Arrival::Seeking {
                    state.arrival = Arrival::Jump;
                } else if state.arrival == Arrival::Onwards {
                    // Another file after the one before, as from concat, or the first one: reading continues.
                    (state.flags, state.snap) = (None, Snap::Whole);
                }
                if let gst::GenericFormattedValue::Bytes(Some(at)) = segment.time() {
                    state.offset = *at;
                    drop(state);
                    self.read_ahead(*at);
                }
            }
            gst::EventView::FlushStop(_) => {
                let mut state = lock(&self.state);
                state.pts = None;
                if state.arrival == Arrival::Onwards {
                    // It is not known who sought, nor the target.
                    (state.arrival, state.flags, state.snap) = (Arrival::Jump, None, Snap::FirstBlock);
                }
            }
            gst::EventView::Gap(_) if !self.obj().src_pad().has_current_caps() => {
                // Without a header it is not known what is missing.
                return true;
            }
            _ => {}
        }
        self.parent_sink_event(event)
    }

    fn src_event(&self, event: gst::Event) -> bool {
        self.seek(event)
    }

    fn pre_push_frame(&self, frame: &mut gst_base::BaseParseFrame<'_>) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.correct_segment();
        let (stamp, timed) = {
            let state = lock(&self.state);
            (state.stamp, state.timed)
        };
        // Where upstream uses time, the base class has replaced the stream's times by its own.
        if let Some(buffer) = frame.buffer_mut() {
            mark(buffer, stamp.pts, stamp.duration);
        }
        if timed {
            return self.parent_pre_push_frame(frame);
        }
        // The base class would compare the stamp of the source pad with its own playback time.
        let segment = self.obj().segment();
        let stop = segment.downcast_ref::<gst::ClockTime>().and_then(|segment| segment.stop());
        if stamp.start.zip(stop).is_some_and(|(start, stop)| start >= stop) {
            return Err(gst::FlowError::Eos);
        }
        Ok(gst::FlowSuccess::Ok)
    }

    fn handle_frame(&self, frame: gst_base::BaseParseFrame<'_>) -> Result<(gst::FlowSuccess, u32), gst::FlowError> {
        let obj = self.obj();
        let (offset, draining) = (frame.offset(), obj.is_draining());
        let found = {
            let Some(input) = frame.buffer() else { return Ok((gst::FlowSuccess::Ok, 0)) };
            let data = input.map_readable().map_err(|_| gst::FlowError::Error)?;
            lock(&self.state).find(&data, offset, input.pts(), draining, &self.max_pixels.limits())
        };
        let needed = if let Found::NeedMore(bytes) = found { u32::try_from(bytes).unwrap_or(u32::MAX) } else { MIN_FRAME_SIZE };
        obj.set_min_frame_size(needed);
        let skipped = match found {
            Found::NeedMore(_) => 0,
            Found::Rest(bytes) => bytes,
            Found::Junk(bytes) => {
                gst::warning!(CAT, imp = self, "skipping {bytes} bytes that are no unit");
                self.ask_for_key();
                bytes
            }
            Found::Refused(error @ (Error::Unsupported(_) | Error::Limit(_)), _) => return Err(self.refused(error.into())),
            Found::Refused(error, total) => {
                gst::element_imp_warning!(self, gst::StreamError::Decode, ("{error}"));
                self.ask_for_key();
                total
            }
            Found::Header(header, total) => {
                self.take_header(header).map_err(|refusal| self.refused(refusal))?;
                total
            }
            Found::Block(header, unit) => return self.take_block(frame, header, &unit),
        };
        Ok((gst::FlowSuccess::Ok, skipped as u32))
    }
}
