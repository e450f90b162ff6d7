// SPDX-License-Identifier: MIT OR Apache-2.0
/**
 * SECTION:element-rtpelastictokdepay
 * @see_also: rtpelastictokpay, elastictokdec, rtpjitterbuffer
 *
 * Takes ElasticTok blocks out of RTP packets. A block of which upper layers are missing is handed on with the layers that came
 * whole. Where the base layer of a block was lost, blocks are dropped up to the next key block, and the sender is asked for one.
 * Packets must come in order: put rtpjitterbuffer or rtpbin before it. docs/rtp.md has the payload format.
 *
 * Buffers after a packet loss have the flag discont, whether or not a block was lost with the packet.
 *
 * ## Example pipeline
 * |[
 * gst-launch-1.0 udpsrc port=5004 caps="application/x-rtp,media=video,clock-rate=90000,encoding-name=ELASTICTOK" ! rtpjitterbuffer latency=100 ! rtpelastictokdepay ! elastictokdec ! videoconvert ! autovideosink
 * ]| This plays what `rtpelastictokpay` sends to port 5004.
 *
 * Since: 0.1.0
 */
use std::sync::Mutex;
use std::time::Instant;

use elastictok::bitstream::SequenceHeader;
use elastictok::bitstream::rtp::{Depacketizer, Received, RtpPacket};
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_rtp::prelude::*;
use gst_rtp::subclass::prelude::*;
use once_cell::sync::Lazy;

use crate::common::{MEDIA_TYPE, MaxPixels, RTP_CLOCK_RATE, RTP_ENCODING_NAME, lock, stream_caps};
use crate::keyrequest::KeyRequest;

static CAT: Lazy<gst::DebugCategory> = Lazy::new(|| {
    gst::DebugCategory::new("rtpelastictokdepay", gst::DebugColorFlags::empty(), Some("ElasticTok RTP depayloader"))
});

#[derive(Debug, Clone, Copy)]
struct Settings {
    request_keyframe: bool,
    wait_for_keyframe: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { request_keyframe: true, wait_for_keyframe: true }
    }
}

#[derive(Default)]
struct State {
    /// Set once caps are there.
    receiver: Option<Depacketizer<Option<gst::ClockTime>>>,
    ssrc: Option<u32>,
    request: KeyRequest,
    /// The group in which a key block was last asked for.
    asked: Option<u8>,
    /// It was said that there is no sequence header.
    told: bool,
    /// What downstream was told last.
    announced: Option<SequenceHeader>,
}

#[derive(Default)]
pub struct RtpElasticTokDepay {
    settings: Mutex<Settings>,
    max_pixels: MaxPixels,
    /// Never held across a call out of the element.
    state: Mutex<State>,
}

impl RtpElasticTokDepay {
    /// Sends caps for `header`, unless downstream has them.
    fn announce(&self, header: &SequenceHeader) {
        if lock(&self.state).announced.replace(header.clone()).as_ref() == Some(header) {
            return;
        }
        let caps = stream_caps(header)
            .field("stream-format", "packetized")
            .field("codec_data", gst::Buffer::from_slice(header.to_bytes()))
            .build();
        if !self.obj().src_pad().push_event(gst::event::Caps::new(&caps)) {
            lock(&self.state).announced = None;
            gst::debug!(CAT, imp = self, "downstream refused {caps}");
        }
    }

    /// Sends a block, and the caps that it begins with.
    fn push(&self, block: Received<Option<gst::ClockTime>>) {
        if let Some(header) = &block.header {
            self.announce(header);
        }
        let offset = gst::ClockTime::from_nseconds(u64::from(block.offset) * 1_000_000_000 / u64::from(RTP_CLOCK_RATE));
        let mut buffer = gst::Buffer::from_slice(block.data);
        {
            let buffer = buffer.make_mut();
            buffer.set_pts(block.time.and_then(|time| time.checked_add(offset)));
            if !block.key {
                buffer.set_flags(gst::BufferFlags::DELTA_UNIT);
            }
            if block.discontinuity {
                buffer.set_flags(gst::BufferFlags::DISCONT);
            }
        }
        // The base class returns a failure to the streaming thread.
        if let Err(flow) = self.obj().push(buffer) {
            gst::debug!(CAT, imp = self, "downstream: {flow}");
        }
    }

    /// Asks for a key block where one is wanted. A request that was answered by a key block that was lost too is repeated at once.
    fn ask_for_key(&self) {
        let due = {
            let mut state = lock(&self.state);
            let Some(epoch) = state.receiver.as_mut().and_then(Depacketizer::key_wanted) else { return };
            if !lock(&self.settings).request_keyframe {
                return;
            }
            if state.asked.replace(epoch) != Some(epoch) {
                state.request.fulfilled();
            }
            state.request.due(Instant::now())
        };
        if due {
            gst::info!(CAT, imp = self, "asking for a key block");
            self.obj().sink_pad().push_event(KeyRequest::event());
        }
    }

    /// Says once that nothing can be decoded for lack of a sequence header.
    fn tell_missing_header(&self) {
        {
            let mut state = lock(&self.state);
            let lacks = state.receiver.as_ref().is_some_and(|r| !r.has_header() && r.stats().lost > 0);
            if !lacks || std::mem::replace(&mut state.told, true) {
                return;
            }
        }
        gst::info!(
            CAT,
            imp = self,
            "no sequence header so far: waiting for a key block that has one; where none comes, take over config from the sender's \
             caps, or let rtpelastictokpay have config-interval=-1"
        );
    }

    fn finish(&self) {
        let mut blocks = Vec::new();
        if let Some(receiver) = &mut lock(&self.state).receiver {
            receiver.finish(&mut |block| blocks.push(block));
        }
        blocks.into_iter().for_each(|block| self.push(block));
    }
}

#[glib::object_subclass]
impl ObjectSubclass for RtpElasticTokDepay {
    const NAME: &'static str = "GstRtpElasticTokDepay";
    type Type = super::RtpElasticTokDepay;
    type ParentType = gst_rtp::RTPBaseDepayload;
}

impl ObjectImpl for RtpElasticTokDepay {
    /**
     * GstRtpElasticTokDepay:block-stats:
     *
     * What came since the stream began. (`stats` is the base class's, about packets.)
     *
     * * `whole` (guint64): blocks that came as they were sent.
     * * `thinned` (guint64): blocks of which upper layers are missing and no packet is: someone on the way dropped the layers.
     * * `impaired` (guint64): blocks of which upper layers were lost.
     * * `lost` (guint64): blocks of which the base layer or everything was lost.
     * * `undecodable` (guint64): blocks that were dropped since they depend on a lost one.
     * * `refused-packets` (guint64): packets that were malformed.
     *
     * Since: 0.1.0
     */
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: Lazy<Vec<glib::ParamSpec>> = Lazy::new(|| {
            vec![
                glib::ParamSpecBoolean::builder("request-keyframe")
                    .nick("Request Keyframe")
                    .blurb("Ask the sender for a key block where blocks are lost, and again while none comes")
                    .default_value(true)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecBoolean::builder("wait-for-keyframe")
                    .nick("Wait For Keyframe")
                    .blurb("Drop blocks that depend on one that was lost; false: pass them on, for what does not decode")
                    .default_value(true)
                    .mutable_playing()
                    .build(),
                MaxPixels::property(),
                glib::ParamSpecBoxed::builder::<gst::Structure>("block-stats")
                    .nick("Block Statistics")
                    .blurb("Blocks since the stream began: whole, thinned, impaired, lost, undecodable; packets refused")
                    .read_only()
                    .build(),
            ]
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let mut settings = lock(&self.settings);
        match pspec.name() {
            "request-keyframe" => settings.request_keyframe = value.get().expect("type checked upstream"),
            "wait-for-keyframe" => settings.wait_for_keyframe = value.get().expect("type checked upstream"),
            MaxPixels::NAME => self.max_pixels.set(value),
            other => gst::error!(CAT, imp = self, "no property {other} can be set"),
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "request-keyframe" => lock(&self.settings).request_keyframe.to_value(),
            "wait-for-keyframe" => lock(&self.settings).wait_for_keyframe.to_value(),
            MaxPixels::NAME => self.max_pixels.get(),
            "block-stats" => {
                let stats = lock(&self.state).receiver.as_ref().map(Depacketizer::stats).unwrap_or_default();
                gst::Structure::builder("rtpelastictokdepay-blocks")
                    .field("whole", stats.whole)
                    .field("thinned", stats.thinned)
                    .field("impaired", stats.impaired)
                    .field("lost", stats.lost)
                    .field("undecodable", stats.undecodable)
                    .field("refused-packets", stats.refused_packets)
                    .build()
                    .to_value()
            }
            other => {
                gst::error!(CAT, imp = self, "no property {other} can be read");
                pspec.default_value().clone()
            }
        }
    }
}

impl GstObjectImpl for RtpElasticTokDepay {}

impl ElementImpl for RtpElasticTokDepay {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: Lazy<gst::subclass::ElementMetadata> = Lazy::new(|| {
            gst::subclass::ElementMetadata::new(
                "ElasticTok RTP depayloader",
                "Codec/Depayloader/Network/RTP",
                "Takes ElasticTok blocks out of RTP packets, as whole as they came",
                "ElasticTok developers",
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: Lazy<Vec<gst::PadTemplate>> = Lazy::new(|| {
            // What caps made from an SDP have.
            let sink = gst::Caps::builder("application/x-rtp")
                .field("media", "video")
                .field("clock-rate", RTP_CLOCK_RATE as i32)
                .field("encoding-name", RTP_ENCODING_NAME)
                .build();
            let src = gst::Caps::builder(MEDIA_TYPE).field("stream-format", "packetized").build();
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

impl RTPBaseDepayloadImpl for RtpElasticTokDepay {
    fn set_caps(&self, caps: &gst::Caps) -> Result<(), gst::LoggableError> {
        let config = caps.structure(0).and_then(|s| s.get::<&str>("config").ok());
        let header = {
            let mut state = lock(&self.state);
            let limits = self.max_pixels.limits();
            let waits = lock(&self.settings).wait_for_keyframe;
            let receiver = state.receiver.get_or_insert_with(|| Depacketizer::new(limits, waits));
            receiver.set_limits(limits);
            config.and_then(|config| match receiver.set_header(&glib::base64_decode(config)) {
                Ok(header) => Some(header.clone()),
                Err(e) => {
                    gst::warning!(CAT, imp = self, "config in caps: {e}; waiting for a header in band");
                    None
                }
            })
        };
        if let Some(header) = header {
            self.announce(&header);
        }
        Ok(())
    }

    fn handle_event(&self, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::Eos(_) => self.finish(),
            gst::EventView::FlushStop(_) => {
                let mut state = lock(&self.state);
                if let Some(receiver) = &mut state.receiver {
                    receiver.flush();
                }
                state.request = KeyRequest::default();
            }
            _ => {}
        }
        self.parent_handle_event(event)
    }

    /// A packet that was lost need not be a block, so it is no gap event.
    fn packet_lost(&self, _event: &gst::EventRef) -> bool {
        if let Some(receiver) = &mut lock(&self.state).receiver {
            receiver.note_loss();
        }
        true
    }

    fn process_rtp_packet(&self, packet: &gst_rtp::RTPBuffer<'_, gst_rtp::rtp_buffer::Readable>) -> Option<gst::Buffer> {
        let waits = lock(&self.settings).wait_for_keyframe;
        let mut blocks = Vec::new();
        let early = {
            let mut state = lock(&self.state);
            let ssrc = state.ssrc.replace(packet.ssrc());
            let receiver = state.receiver.as_mut()?;
            if ssrc.is_some_and(|ssrc| ssrc != packet.ssrc()) {
                receiver.flush();
            }
            receiver.set_waits_for_key(waits);
            let time = packet.buffer().pts();
            // Without payload there is nothing to map.
            let payload = packet.payload().unwrap_or_default();
            let packet = RtpPacket { sequence: packet.seq(), marker: packet.is_marker(), payload, time };
            if let Err(e) = receiver.push(&packet, &mut |block| blocks.push(block)) {
                gst::warning!(CAT, imp = self, "packet {}: {e}", packet.sequence);
            }
            receiver.early_header().cloned()
        };
        // The decoder gets ready while the rest of the key block comes.
        if let Some(header) = &early {
            self.announce(header);
        }
        blocks.into_iter().for_each(|block| self.push(block));
        self.ask_for_key();
        self.tell_missing_header();
        None
    }
}
