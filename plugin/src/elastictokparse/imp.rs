// SPDX-License-Identifier: MIT OR Apache-2.0
/**
 * SECTION:element-elastictokparse
 * @see_also: elastictokenc, elastictokdec
 *
 * Finds the blocks of an ElasticTok byte stream, stamps them, and converts between the stream's two forms.
 *
 * ## Example pipeline
 * |[
 * gst-launch-1.0 filesrc location=test.etok ! elastictokparse ! elastictokdec ! videoconvert ! autovideosink
 * ]| This plays a stream from a file.
 */
use std::sync::Mutex;

use elastictok::bitstream::{BlockHeader, Limits, Parsed, SequenceHeader, StreamWriter, UnitKind, parse_last_unit, parse_unit};
use elastictok::timing::Timeline;
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;
use once_cell::sync::Lazy;

use crate::common::{MEDIA_TYPE, contradiction, error_message, stream_caps};

static CAT: Lazy<gst::DebugCategory> =
    Lazy::new(|| gst::DebugCategory::new("elastictokparse", gst::DebugColorFlags::empty(), Some("ElasticTok parser")));

/// What is known of the stream.
struct Stream {
    header: SequenceHeader,
    timeline: Timeline,
    /// Set where downstream wants a byte stream.
    writer: Option<StreamWriter>,
    /// Epoch of the last key block: what hangs on another one has no time.
    epoch: Option<u8>,
}

#[derive(Default)]
struct State {
    packets_in: bool,
    stream: Option<Stream>,
    caps: Option<gst::Caps>,
}

#[derive(Default)]
pub struct ElasticTokParse {
    /// Never held across a call out of the element.
    state: Mutex<State>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

enum Found {
    NeedMore,
    Skip(usize),
    Header(SequenceHeader, usize),
    /// Where the block lies, and all bytes to take.
    Block(std::ops::Range<usize>, usize),
}

impl ElasticTokParse {
    fn post(&self, error: &elastictok::Error) -> gst::FlowError {
        self.post_error_message(error_message(error));
        gst::FlowError::Error
    }

    /// Takes a sequence header and tells downstream about it.
    fn take_header(&self, header: SequenceHeader) -> Result<(), gst::FlowError> {
        if lock(&self.state).stream.as_ref().is_some_and(|s| s.header == header) {
            return Ok(());
        }
        let said = lock(&self.state).caps.as_ref().and_then(|c| contradiction(c.structure(0)?, &header));
        if let Some(what) = said {
            return Err(self.post(&elastictok::Error::Malformed(format!("{what}; send the caps that belong to the stream"))));
        }
        let obj = self.obj();
        let src = obj.src_pad();
        let template = src.pad_template_caps();
        let allowed = src.peer_query_caps(Some(&template)).intersect(&template);
        // Packets unless downstream wants bytes only: they cost it no search.
        let packets = allowed.is_empty()
            || allowed.iter().any(|s| {
                let one = gst::Caps::builder(MEDIA_TYPE).field("stream-format", "packetized").build();
                gst::Caps::builder_full().structure(s.to_owned()).build().can_intersect(&one)
            });
        let caps = stream_caps(&header).field("parsed", true);
        let (caps, writer) = if packets {
            (caps.field("stream-format", "packetized").field("codec_data", gst::Buffer::from_slice(header.to_bytes())), None)
        } else {
            (caps.field("stream-format", "byte-stream"), Some(StreamWriter::new(&header).map_err(|e| self.post(&e))?))
        };
        let timeline = Timeline::new(header.framerate, header.block_length).map_err(|e| self.post(&e))?;
        let (n, d) = header.framerate;
        let blocks = gst::Fraction::new(
            i32::try_from(n).unwrap_or(i32::MAX),
            i32::try_from(u64::from(d) * u64::from(header.block_length)).unwrap_or(i32::MAX),
        );
        lock(&self.state).stream = Some(Stream { header, timeline, writer, epoch: None });
        if n > 0 {
            // Sizes vary too much to guess positions from bytes, but the rate of blocks is known.
            obj.set_frame_rate(blocks, 0, 0);
        }
        src.push_event(gst::event::Caps::new(&caps.build()));
        Ok(())
    }

    fn find(&self, data: &[u8], draining: bool) -> Found {
        let state = lock(&self.state);
        if state.packets_in {
            return if data.is_empty() { Found::NeedMore } else { Found::Block(0..data.len(), data.len()) };
        }
        let limit = state.stream.as_ref().map_or(0, |s| Limits::default().block_bytes(&s.header));
        match if draining { parse_last_unit(data, limit) } else { parse_unit(data, limit) } {
            Parsed::NeedMore(_) => Found::NeedMore,
            Parsed::Junk(n) => Found::Skip(n),
            Parsed::Unit { kind: UnitKind::Block, payload, total } => Found::Block(payload, total),
            Parsed::Unit { kind: UnitKind::Sequence, payload, total } => match SequenceHeader::parse(&data[payload]) {
                Ok(header) => Found::Header(header, total),
                Err(e) => {
                    gst::warning!(CAT, imp = self, "{e}");
                    Found::Skip(total)
                }
            },
        }
    }

    /// Stamps a block and brings it into downstream's form; `None`: it is of no use.
    fn block(&self, data: &[u8], pts: Option<gst::ClockTime>) -> Result<Option<(gst::Buffer, bool)>, elastictok::Error> {
        let mut guard = lock(&self.state);
        let Some(stream) = &mut guard.stream else { return Ok(None) };
        let (header, _) = match BlockHeader::parse(data, stream.header.block_length) {
            Ok(parsed) => parsed,
            Err(e) => {
                gst::warning!(CAT, imp = self, "dropping a block: {e}");
                return Ok(None);
            }
        };
        if header.key {
            stream.epoch = Some(header.epoch);
        } else if stream.epoch != Some(header.epoch) {
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
        {
            let buffer = buffer.make_mut();
            let frames = times.frames();
            let time = |ns: Option<u64>| ns.and_then(|t| gst::ClockTime::try_from(t).ok());
            buffer.set_pts(frames.first().and_then(|f| time(f.pts)));
            buffer.set_dts(buffer.pts());
            buffer.set_duration(time(frames.iter().map(|f| f.duration).sum::<Option<u64>>()));
            if !header.key {
                buffer.set_flags(gst::BufferFlags::DELTA_UNIT);
            }
        }
        Ok(Some((buffer, header.key)))
    }
}

#[glib::object_subclass]
impl ObjectSubclass for ElasticTokParse {
    const NAME: &'static str = "GstElasticTokParse";
    type Type = super::ElasticTokParse;
    type ParentType = gst_base::BaseParse;
}

impl ObjectImpl for ElasticTokParse {}

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
        obj.set_min_frame_size(4);
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
            let data = structure
                .get::<gst::Buffer>("codec_data")
                .map_err(|_| gst::loggable_error!(CAT, "packetized caps have no codec_data"))?;
            let data = data.map_readable().map_err(|_| gst::loggable_error!(CAT, "codec_data cannot be read"))?;
            let header = SequenceHeader::parse(&data).map_err(|e| gst::loggable_error!(CAT, "{e}"))?;
            self.take_header(header).map_err(|e| gst::loggable_error!(CAT, "{e}"))?;
        }
        Ok(())
    }

    fn handle_frame(&self, mut frame: gst_base::BaseParseFrame<'_>) -> Result<(gst::FlowSuccess, u32), gst::FlowError> {
        let obj = self.obj();
        let Some(input) = frame.buffer() else { return Ok((gst::FlowSuccess::Ok, 0)) };
        let Ok(map) = input.map_readable() else { return Err(gst::FlowError::Error) };
        let found = self.find(&map, obj.is_draining());
        match found {
            Found::NeedMore => {
                drop(map);
                Ok((gst::FlowSuccess::Ok, 0))
            }
            Found::Skip(n) => {
                drop(map);
                gst::warning!(CAT, imp = self, "skipping {n} bytes that are no unit");
                Ok((gst::FlowSuccess::Ok, n as u32))
            }
            Found::Header(header, total) => {
                drop(map);
                self.take_header(header)?;
                Ok((gst::FlowSuccess::Ok, total as u32))
            }
            Found::Block(payload, total) => {
                let pts = lock(&self.state).packets_in.then(|| input.pts()).flatten();
                let made = self.block(&map[payload], pts);
                drop(map);
                match made {
                    Ok(Some((buffer, key))) => {
                        {
                            // The base class takes time stamps from the input side of the frame.
                            let (pts, duration) = (buffer.pts(), buffer.duration());
                            if let Some(input) = frame.buffer_mut() {
                                input.set_pts(pts);
                                input.set_dts(pts);
                                input.set_duration(duration);
                                if key {
                                    input.unset_flags(gst::BufferFlags::DELTA_UNIT);
                                } else {
                                    input.set_flags(gst::BufferFlags::DELTA_UNIT);
                                }
                            }
                            frame.set_output_buffer(buffer);
                        }
                        obj.finish_frame(frame, total as u32).map(|flow| (flow, 0))
                    }
                    Ok(None) => Ok((gst::FlowSuccess::Ok, total as u32)),
                    Err(e) => Err(self.post(&e)),
                }
            }
        }
    }
}
