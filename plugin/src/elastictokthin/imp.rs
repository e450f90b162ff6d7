// SPDX-License-Identifier: MIT OR Apache-2.0
/**
 * SECTION:element-elastictokthin
 * @see_also: elastictokenc, elastictokparse
 *
 * Lowers the bitrate of an ElasticTok stream by cutting the upper layers off its blocks, without decoding. Buffers are shared, not
 * copied. The bitrate is a mean over whole groups, key block to key block: a key block takes the most layers whose last group was within
 * it. Layers are given up at once where a second's worth too much has passed, and taken back at the next key block, which is asked for
 * upstream where a limit was raised. Encode with `drift-free=true` what is to be thinned for long.
 *
 * ## Example pipeline
 * |[
 * gst-launch-1.0 filesrc location=in.etok ! elastictokparse ! elastictokthin bitrate=500 ! elastictokparse ! video/x-elastictok,stream-format=byte-stream ! filesink location=out.etok
 * ]| This thins a recording to 500 kbit/s.
 *
 * Since: 0.1.0
 */
use std::sync::Mutex;

use elastictok::bitstream::Thinner;
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use once_cell::sync::Lazy;

use crate::common::{MEDIA_TYPE, lock};

static CAT: Lazy<gst::DebugCategory> =
    Lazy::new(|| gst::DebugCategory::new("elastictokthin", gst::DebugColorFlags::empty(), Some("ElasticTok thinner")));

/// Duration of a block that has none, in seconds: two frames at 30 frames/s.
const USUAL_DURATION: f64 = 2.0 / 30.0;

#[derive(Debug, Clone, Copy, Default)]
struct Settings {
    max_layers: u32,
    bitrate: u32,
}

#[derive(Debug, Default)]
struct State {
    thinner: Thinner,
    /// Time stamp and duration of the last block.
    last: (Option<gst::ClockTime>, Option<gst::ClockTime>),
    blocks: u64,
    bytes_in: u64,
    bytes_out: u64,
}

impl State {
    /// Seconds from the last block to `buffer`: what time stamps say, which need not be what durations say, for sources differ from
    /// their nominal rate. Durations where there are no time stamps or these have jumped.
    fn since(&self, buffer: &gst::BufferRef) -> f64 {
        let (pts, duration) = self.last;
        let stamped = buffer.pts().zip(pts).filter(|_| !buffer.flags().contains(gst::BufferFlags::DISCONT));
        let since = stamped.and_then(|(now, last)| now.checked_sub(last)).filter(|since| !since.is_zero());
        since.or(duration).or(buffer.duration()).map_or(USUAL_DURATION, |d| d.nseconds() as f64 * 1e-9)
    }
}

pub struct ElasticTokThin {
    sink: gst::Pad,
    src: gst::Pad,
    settings: Mutex<Settings>,
    state: Mutex<State>,
}

impl ElasticTokThin {
    fn chain(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        if !self.sink.has_current_caps() {
            gst::element_imp_error!(
                self,
                gst::CoreError::Negotiation,
                ("the input is not packetized; put elastictokparse before")
            );
            return Err(gst::FlowError::NotNegotiated);
        }
        let Settings { max_layers, bitrate } = *lock(&self.settings);
        let (kept, wants_key) = {
            let map = buffer.map_readable().map_err(|_| {
                gst::element_imp_error!(self, gst::ResourceError::Read, ("A buffer cannot be mapped for reading"));
                gst::FlowError::Error
            })?;
            let mut state = lock(&self.state);
            let since = state.since(&buffer);
            state.thinner.set_limits(max_layers as usize, f64::from(bitrate) * 1000.0);
            let kept = state.thinner.cut(&map, since).map_or_else(
                |e| {
                    gst::debug!(CAT, imp = self, "passed on as it is, for the decoder to conceal: {e}");
                    map.len()
                },
                <[u8]>::len,
            );
            state.last = (buffer.pts(), buffer.duration());
            state.blocks += 1;
            state.bytes_in += map.len() as u64;
            state.bytes_out += kept as u64;
            (kept, state.thinner.wants_key())
        };
        // no lock is held from here on: upstream and downstream may call back
        if wants_key {
            gst::debug!(CAT, imp = self, "more layers fit from a key block on: asking upstream for one");
            let event = gst_video::UpstreamForceKeyUnitEvent::builder().all_headers(true).build();
            if !self.sink.push_event(event) {
                gst::debug!(CAT, imp = self, "nothing upstream makes key blocks");
            }
        }
        let mut buffer = buffer;
        if kept < buffer.size() {
            // times, flags and metas are those of the whole block; the memory is shared
            buffer.make_mut().set_size(kept);
        }
        self.src.push(buffer)
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::FlushStop(_) => {
                let mut state = lock(&self.state);
                state.thinner.restart();
                state.last = (None, None);
            }
            gst::EventView::Segment(_) => lock(&self.state).last.0 = None,
            // what groups take is not known of another stream, nor of this one in another size
            gst::EventView::StreamStart(_) => lock(&self.state).thinner = Thinner::default(),
            gst::EventView::Caps(e) if self.sink.current_caps().is_some_and(|old| *old != *e.caps()) => {
                lock(&self.state).thinner = Thinner::default();
            }
            _ => {}
        }
        gst::Pad::event_default(&self.sink, Some(&*self.obj()), event)
    }
}

#[glib::object_subclass]
impl ObjectSubclass for ElasticTokThin {
    const NAME: &'static str = "GstElasticTokThin";
    type Type = super::ElasticTokThin;
    type ParentType = gst::Element;

    fn with_class(class: &Self::Class) -> Self {
        let pad = |name| {
            let template = class.pad_template(name).expect("the class has this template");
            gst::Pad::builder_from_template(&template)
                .flags(gst::PadFlags::PROXY_CAPS | gst::PadFlags::PROXY_ALLOCATION | gst::PadFlags::FIXED_CAPS)
        };
        let sink = pad("sink")
            .chain_function(|_, parent, buffer| {
                Self::catch_panic_pad_function(parent, || Err(gst::FlowError::Error), |this| this.chain(buffer))
            })
            .event_function(|_, parent, event| Self::catch_panic_pad_function(parent, || false, |this| this.sink_event(event)))
            .build();
        Self { sink, src: pad("src").build(), settings: Mutex::default(), state: Mutex::default() }
    }
}

impl ObjectImpl for ElasticTokThin {
    /**
     * GstElasticTokThin:stats:
     *
     * Measurements since the element started.
     *
     * * `blocks` (guint64): blocks that passed.
     * * `bytes-in`, `bytes-out` (guint64): their bytes before and after.
     * * `layers` (guint): layers that pass now.
     *
     * Since: 0.1.0
     */
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: Lazy<Vec<glib::ParamSpec>> = Lazy::new(|| {
            vec![
                glib::ParamSpecUInt::builder("max-layers")
                    .nick("Maximum Layers")
                    .blurb("Maximum number of layers that pass (0 = all)")
                    .maximum(32)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("bitrate")
                    .nick("Bitrate")
                    .blurb(
                        "Bitrate to hold on average from key block to key block, in kbit/s; bursts of about a second's worth above it pass, \
                         and the first layer always does (0 = no limit)",
                    )
                    .maximum(2_000_000)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb("Measurements since the element started: blocks, bytes in and out, layers that pass now")
                    .read_only()
                    .build(),
            ]
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let mut settings = lock(&self.settings);
        match pspec.name() {
            "max-layers" => settings.max_layers = value.get().expect("type checked upstream"),
            "bitrate" => settings.bitrate = value.get().expect("type checked upstream"),
            other => gst::error!(CAT, imp = self, "no property {other} can be set"),
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "max-layers" => lock(&self.settings).max_layers.to_value(),
            "bitrate" => lock(&self.settings).bitrate.to_value(),
            "stats" => {
                let state = lock(&self.state);
                gst::Structure::builder("elastictokthin-stats")
                    .field("blocks", state.blocks)
                    .field("bytes-in", state.bytes_in)
                    .field("bytes-out", state.bytes_out)
                    .field("layers", state.thinner.layers() as u32)
                    .build()
                    .to_value()
            }
            other => {
                gst::error!(CAT, imp = self, "no property {other} can be read");
                pspec.default_value().clone()
            }
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        for pad in [&self.sink, &self.src] {
            self.obj().add_pad(pad).expect("a new element has no pad of that name");
        }
    }
}

impl GstObjectImpl for ElasticTokThin {}

impl ElementImpl for ElasticTokThin {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: Lazy<gst::subclass::ElementMetadata> = Lazy::new(|| {
            gst::subclass::ElementMetadata::new(
                "ElasticTok stream thinner",
                "Filter/Video",
                "Lowers the bitrate of ElasticTok streams without decoding them",
                "ElasticTok developers",
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: Lazy<Vec<gst::PadTemplate>> = Lazy::new(|| {
            let caps = gst::Caps::builder(MEDIA_TYPE).field("stream-format", "packetized").build();
            let template = |name, direction| gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps);
            [template("sink", gst::PadDirection::Sink), template("src", gst::PadDirection::Src)]
                .into_iter()
                .collect::<Result<_, _>>()
                .expect("caps of a template are valid")
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
