// SPDX-License-Identifier: MIT OR Apache-2.0
/**
 * SECTION:element-rtpelastictokpay
 * @see_also: rtpelastictokdepay, elastictokenc, elastictokthin, rtpulpfecenc
 *
 * Puts ElasticTok blocks into RTP packets, one layer or part of a layer in each, so that whoever forwards them can drop upper layers
 * without reading further than the eight bytes before the data. docs/rtp.md has the payload format.
 *
 * Packets of the base layer have the flag non-droppable, those of upper layers droppable: `rtpulpfecenc percentage-important` protects
 * the former. The caps carry the sequence header as `config`, and offer PLI, FIR and transport-wide feedback.
 *
 * ## Example pipeline
 * |[
 * gst-launch-1.0 v4l2src ! videoconvert ! elastictokenc ! rtpelastictokpay ! udpsink host=127.0.0.1 port=5004
 * ]| This sends a camera to port 5004.
 *
 * Since: 0.1.0
 */
use std::sync::Mutex;

use elastictok::Error;
use elastictok::bitstream::SequenceHeader;
use elastictok::bitstream::rtp::{DESCRIPTOR_BYTES, Descriptor, Packetizer, Piece, UNIT_PREFIX_BYTES, put_unit};
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_rtp::prelude::*;
use gst_rtp::subclass::prelude::*;
use once_cell::sync::Lazy;

use crate::common::{MEDIA_TYPE, RTP_CLOCK_RATE, RTP_ENCODING_NAME, error_message, lock, refuse};

static CAT: Lazy<gst::DebugCategory> =
    Lazy::new(|| gst::DebugCategory::new("rtpelastictokpay", gst::DebugColorFlags::empty(), Some("ElasticTok RTP payloader")));

/// Bytes of a packet, where nobody says otherwise: what passes tunnels too.
const DEFAULT_MTU: u32 = 1200;

/// Delay of the aggregation of blocks.
const AGGREGATION_DELAY: gst::ClockTime = gst::ClockTime::from_mseconds(200);

/**
 * GstRtpElasticTokPayAggregateMode:
 * @none: a packet for each layer
 * @zero-latency: layers of a block share packets where they fit
 * @max: small blocks share packets too, which delays them by up to 200 ms
 *
 * What may share a packet. A server on the way can then only drop all of it or nothing.
 *
 * Since: 0.1.0
 */
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[enum_type(name = "GstRtpElasticTokPayAggregateMode")]
#[repr(i32)]
pub enum AggregateMode {
    #[default]
    #[enum_value(name = "A packet for each layer", nick = "none")]
    None,
    #[enum_value(name = "Layers of a block share packets where they fit", nick = "zero-latency")]
    ZeroLatency,
    #[enum_value(name = "Small blocks share packets too, which delays them by up to 200 ms", nick = "max")]
    Max,
}

#[derive(Debug, Clone, Copy)]
struct Settings {
    config_interval: i32,
    aggregate_mode: AggregateMode,
}

impl Default for Settings {
    fn default() -> Self {
        Self { config_interval: -1, aggregate_mode: AggregateMode::None }
    }
}

/// A piece that waits for others to share its packet.
struct Unit {
    piece: Piece,
    header: bool,
    block: gst::Buffer,
    time: Option<gst::ClockTime>,
}

struct State {
    packetizer: Packetizer,
    /// Bytes of the sequence header; empty before caps.
    header: Vec<u8>,
    /// When one was sent in band.
    header_sent: Option<gst::ClockTime>,
    /// The next key block must have one: it is new.
    header_due: bool,
    pieces: Vec<Piece>,
    waiting: Vec<Unit>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            packetizer: Packetizer::new(glib::random_int() as u16),
            header: Vec::new(),
            header_sent: None,
            header_due: true,
            pieces: Vec::new(),
            waiting: Vec::new(),
        }
    }
}

impl State {
    /// Whether a key block at `time` carries the sequence header.
    fn wants_header(&self, interval: i32, time: Option<gst::ClockTime>) -> bool {
        match u64::try_from(interval) {
            Err(_) => true,
            Ok(0) => false,
            Ok(seconds) => {
                let since = time.zip(self.header_sent).and_then(|(now, then)| now.checked_sub(then));
                self.header_due || since.is_none_or(|since| since >= gst::ClockTime::from_seconds(seconds))
            }
        }
    }

    /// Bytes of the payload of an aggregation packet of the units that wait.
    fn waiting_bytes(&self) -> usize {
        let unit = |u: &Unit| self.unit_bytes(&u.piece, u.header);
        DESCRIPTOR_BYTES + self.waiting.iter().map(unit).sum::<usize>()
    }

    fn unit_bytes(&self, piece: &Piece, header: bool) -> usize {
        let header = if header { 1 + self.header.len() } else { 0 };
        UNIT_PREFIX_BYTES + DESCRIPTOR_BYTES + header + piece.data.len()
    }
}

/// Time from `first` to `time` on the RTP clock.
fn offset(first: Option<gst::ClockTime>, time: Option<gst::ClockTime>) -> Option<u16> {
    let Some((first, time)) = first.zip(time) else { return (first == time).then_some(0) };
    let ticks = |time: gst::ClockTime| u128::from(time.nseconds()) * u128::from(RTP_CLOCK_RATE) / 1_000_000_000;
    u16::try_from(ticks(time).checked_sub(ticks(first))?).ok()
}

impl RtpElasticTokPay {
    /// A packet with `before` in front of `data`, which stays where it is.
    fn packet(&self, before: &[u8], data: &[(gst::Buffer, Vec<u8>)], marker: bool) -> Result<gst::Buffer, gst::FlowError> {
        let mut packet = self.obj().allocate_output_buffer(before.len() as u32, 0, 0);
        {
            let buffer = packet.make_mut();
            let mut rtp = gst_rtp::RTPBuffer::from_buffer_writable(buffer).map_err(|_| gst::FlowError::Error)?;
            rtp.set_marker(marker);
            rtp.payload_mut().map_err(|_| gst::FlowError::Error)?.copy_from_slice(before);
        }
        for (data, next) in data {
            packet.append(data.clone());
            if !next.is_empty() {
                packet.append(gst::Buffer::from_slice(next.clone()));
            }
        }
        Ok(packet)
    }

    /// Bytes that stand before a piece's data.
    fn front(descriptor: &Descriptor, header: &[u8], front: &mut Vec<u8>) {
        front.extend_from_slice(&descriptor.to_bytes());
        if descriptor.header {
            front.push(header.len() as u8);
            front.extend_from_slice(header);
        }
    }

    /// Puts the units that wait into a packet.
    fn flush(&self, state: &mut State, out: &mut gst::BufferList) -> Result<(), gst::FlowError> {
        let units = std::mem::take(&mut state.waiting);
        let Some((first, last)) = units.first().zip(units.last()) else { return Ok(()) };
        let mut front = Vec::with_capacity(DESCRIPTOR_BYTES * 2 + UNIT_PREFIX_BYTES + state.header.len() + 1);
        let region = |unit: &Unit| {
            unit.block.copy_region(gst::BufferCopyFlags::MEMORY, unit.piece.data.clone()).map_err(|_| gst::FlowError::Error)
        };
        let mut packet = if units.len() == 1 {
            Self::front(&first.piece.descriptor, &state.header, &mut front);
            self.packet(&front, &[(region(first)?, Vec::new())], last.piece.last)?
        } else {
            front.extend_from_slice(&Descriptor { aggregate: true, header: false, ..first.piece.descriptor }.to_bytes());
            let mut data: Vec<(gst::Buffer, Vec<u8>)> = Vec::with_capacity(units.len());
            for unit in &units {
                let offset = offset(first.time, unit.time).ok_or(gst::FlowError::Error)?;
                let header = if unit.header { 1 + state.header.len() } else { 0 };
                let prefix =
                    put_unit(&unit.piece.descriptor, unit.piece.data.len() + header, offset).ok_or(gst::FlowError::Error)?;
                let before = data.last_mut().map_or(&mut front, |(_, next)| next);
                before.extend_from_slice(&prefix);
                if unit.header {
                    before.push(state.header.len() as u8);
                    before.extend_from_slice(&state.header);
                }
                data.push((region(unit)?, Vec::new()));
            }
            self.packet(&front, &data, last.piece.last)?
        };
        {
            let buffer = packet.make_mut();
            buffer.set_pts(first.time);
            if !units.iter().any(|unit| unit.piece.descriptor.key) {
                buffer.set_flags(gst::BufferFlags::DELTA_UNIT);
            }
            let base = units.iter().any(|unit| unit.piece.descriptor.layer == 0);
            buffer.set_flags(if base { gst::BufferFlags::NON_DROPPABLE } else { gst::BufferFlags::DROPPABLE });
        }
        if let Some(list) = out.get_mut() {
            list.add(packet);
        }
        Ok(())
    }

    /// Cuts `block` into packets, and those out that are full or must not wait.
    fn packets(&self, block: &gst::Buffer) -> Result<gst::BufferList, gst::ErrorMessage> {
        let settings = *lock(&self.settings);
        let map = block
            .map_readable()
            .map_err(|_| gst::error_msg!(gst::ResourceError::Read, ("A buffer cannot be mapped for reading")))?;
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let room = (self.obj().mtu() as usize).saturating_sub(gst_rtp::calc_packet_len(0, 0, 0) as usize);
        let header = if state.wants_header(settings.config_interval, block.pts()) { state.header.len() } else { 0 };
        let mut pieces = std::mem::take(&mut state.pieces);
        let mut out = gst::BufferList::new();
        if let Err(e) = state.packetizer.split(&map, header, room, &mut pieces) {
            state.pieces = pieces;
            return match e {
                Error::Malformed(_) => {
                    gst::warning!(CAT, imp = self, "{e}");
                    Ok(out)
                }
                e => Err(error_message(&e)),
            };
        }
        let failed = |_| gst::error_msg!(gst::CoreError::Failed, ("an RTP packet could not be made"));
        for piece in pieces.drain(..) {
            let (time, header) = (block.pts(), piece.descriptor.header);
            if header {
                (state.header_sent, state.header_due) = (time, false);
            }
            let first = state.waiting.first().map(|unit| unit.time);
            let fits = state.waiting_bytes() + state.unit_bytes(&piece, header) <= room
                && first.is_none_or(|first| offset(first, time).is_some());
            if settings.aggregate_mode == AggregateMode::None || !fits {
                self.flush(state, &mut out).map_err(failed)?;
            }
            let last = piece.last;
            state.waiting.push(Unit { piece, header, block: block.clone(), time });
            let goes = match settings.aggregate_mode {
                AggregateMode::None => true,
                AggregateMode::ZeroLatency => last,
                // The next block would come too late for the first one that waits.
                AggregateMode::Max => {
                    last && {
                        let first = state.waiting.first().and_then(|unit| unit.time);
                        let since = time.zip(first).and_then(|(time, first)| time.checked_sub(first));
                        let next = since.zip(block.duration()).and_then(|(since, block)| since.checked_add(block));
                        next.is_none_or(|next| next > AGGREGATION_DELAY)
                    }
                }
            };
            if goes {
                self.flush(state, &mut out).map_err(failed)?;
            }
        }
        state.pieces = pieces;
        Ok(out)
    }

    /// Sends what waits for other blocks.
    fn drain(&self) {
        let mut out = gst::BufferList::new();
        let flushed = self.flush(&mut lock(&self.state), &mut out);
        if flushed.is_ok()
            && !out.is_empty()
            && let Err(flow) = self.obj().push_list(out)
        {
            gst::debug!(CAT, imp = self, "downstream: {flow}");
        }
    }
}

#[derive(Default)]
pub struct RtpElasticTokPay {
    settings: Mutex<Settings>,
    /// Never held across a push.
    state: Mutex<State>,
}

#[glib::object_subclass]
impl ObjectSubclass for RtpElasticTokPay {
    const NAME: &'static str = "GstRtpElasticTokPay";
    type Type = super::RtpElasticTokPay;
    type ParentType = gst_rtp::RTPBasePayload;
}

impl ObjectImpl for RtpElasticTokPay {
    fn constructed(&self) {
        self.parent_constructed();
        self.obj().set_mtu(DEFAULT_MTU);
    }

    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: Lazy<Vec<glib::ParamSpec>> = Lazy::new(|| {
            vec![
                glib::ParamSpecInt::builder("config-interval")
                    .nick("Config Interval")
                    .blurb("Send the sequence header in band with the first key block after so many seconds (0 = never, -1 = with each)")
                    .minimum(-1)
                    .maximum(3600)
                    .default_value(-1)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecEnum::builder::<AggregateMode>("aggregate-mode")
                    .nick("Aggregate Mode")
                    .blurb("What may share a packet; servers can then no longer drop upper layers of small blocks")
                    .mutable_ready()
                    .build(),
            ]
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let mut settings = lock(&self.settings);
        match pspec.name() {
            "config-interval" => settings.config_interval = value.get().expect("type checked upstream"),
            "aggregate-mode" => settings.aggregate_mode = value.get().expect("type checked upstream"),
            other => gst::error!(CAT, imp = self, "no property {other} can be set"),
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "config-interval" => lock(&self.settings).config_interval.to_value(),
            "aggregate-mode" => lock(&self.settings).aggregate_mode.to_value(),
            other => {
                gst::error!(CAT, imp = self, "no property {other} can be read");
                pspec.default_value().clone()
            }
        }
    }
}

impl GstObjectImpl for RtpElasticTokPay {}

impl ElementImpl for RtpElasticTokPay {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: Lazy<gst::subclass::ElementMetadata> = Lazy::new(|| {
            gst::subclass::ElementMetadata::new(
                "ElasticTok RTP payloader",
                "Codec/Payloader/Network/RTP",
                "Puts ElasticTok blocks into RTP packets, layer by layer",
                "ElasticTok developers",
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: Lazy<Vec<gst::PadTemplate>> = Lazy::new(|| {
            let sink = gst::Caps::builder(MEDIA_TYPE).field("stream-format", "packetized").build();
            let src = gst::Caps::builder("application/x-rtp")
                .field("media", "video")
                .field("payload", gst::IntRange::new(96, 127))
                .field("clock-rate", RTP_CLOCK_RATE as i32)
                .field("encoding-name", RTP_ENCODING_NAME)
                .build();
            vec![
                gst::PadTemplate::new("sink", gst::PadDirection::Sink, gst::PadPresence::Always, &sink).expect("valid template"),
                gst::PadTemplate::new("src", gst::PadDirection::Src, gst::PadPresence::Always, &src).expect("valid template"),
            ]
        });
        &TEMPLATES
    }

    fn change_state(&self, transition: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        if transition == gst::StateChange::ReadyToPaused {
            *lock(&self.state) = State::default();
        }
        self.parent_change_state(transition)
    }
}

impl RTPBasePayloadImpl for RtpElasticTokPay {
    fn set_caps(&self, caps: &gst::Caps) -> Result<(), gst::LoggableError> {
        self.drain();
        let header = caps
            .structure(0)
            .and_then(|s| s.get::<gst::Buffer>("codec_data").ok())
            .and_then(|data| data.into_mapped_buffer_readable().ok())
            .ok_or_else(|| {
                gst::error_msg!(gst::StreamError::Format, ("caps have no codec_data; put elastictokparse before the payloader"))
            })
            .and_then(|data| {
                // Sizes are for receivers to judge. What is no header would only fail there.
                SequenceHeader::parse(&data).map_err(|e| error_message(&e))?;
                Ok(data.to_vec())
            })
            .map_err(|message| refuse(self, &CAT, message))?;
        let obj = self.obj();
        obj.set_options("video", true, RTP_ENCODING_NAME, RTP_CLOCK_RATE);
        let fields = gst::Structure::builder("unused")
            .field("config", glib::base64_encode(&header).as_str())
            .field("rtcp-fb-nack-pli", true)
            .field("rtcp-fb-ccm-fir", true)
            .field("rtcp-fb-transport-cc", true)
            .build();
        {
            let mut state = lock(&self.state);
            state.header_due |= state.header != header;
            state.header = header;
        }
        obj.set_outcaps(Some(&fields)).map_err(|_| gst::loggable_error!(CAT, "downstream does not take {fields}"))
    }

    fn handle_buffer(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let packets = self.packets(&buffer).map_err(|message| {
            self.post_error_message(message);
            gst::FlowError::Error
        })?;
        if packets.is_empty() { Ok(gst::FlowSuccess::Ok) } else { self.obj().push_list(packets) }
    }

    fn query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        let answered = RTPBasePayloadImplExt::parent_query(self, pad, query);
        if answered
            && lock(&self.settings).aggregate_mode == AggregateMode::Max
            && pad.direction() == gst::PadDirection::Src
            && let gst::QueryViewMut::Latency(latency) = query.view_mut()
        {
            let (live, least, most) = latency.result();
            latency.set(live, least + AGGREGATION_DELAY, most.map(|most| most + AGGREGATION_DELAY));
        }
        answered
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::Eos(_) | gst::EventView::Gap(_) | gst::EventView::Segment(_) => self.drain(),
            gst::EventView::FlushStop(_) => lock(&self.state).waiting.clear(),
            _ => {}
        }
        self.parent_sink_event(event)
    }
}
