// SPDX-License-Identifier: MIT OR Apache-2.0
/**
 * SECTION:element-elastictokthin
 * @see_also: elastictokenc, elastictokparse
 *
 * Lowers the bitrate of an ElasticTok stream by cutting the upper layers off its blocks, without decoding. Buffers are shared, not
 * copied. Layers are given up at once where the bitrate asks for it, and taken back at the next key block. Encode with
 * `drift-free=true` what is to be thinned for long.
 *
 * ## Example pipeline
 * |[
 * gst-launch-1.0 filesrc location=in.etok ! elastictokparse ! elastictokthin bitrate=500 ! elastictokparse ! video/x-elastictok,stream-format=byte-stream ! filesink location=out.etok
 * ]| This thins a recording to 500 kbit/s.
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
    /// Time stamp of the last block: durations follow from it where buffers have none.
    last: Option<gst::ClockTime>,
    blocks: u64,
    bytes_in: u64,
    bytes_out: u64,
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
                ("what comes in is not cut into blocks; put elastictokparse before")
            );
            return Err(gst::FlowError::NotNegotiated);
        }
        let Settings { max_layers, bitrate } = *lock(&self.settings);
        let kept = {
            let map = buffer.map_readable().map_err(|_| {
                gst::element_imp_error!(self, gst::ResourceError::Read, ("A buffer cannot be mapped for reading"));
                gst::FlowError::Error
            })?;
            let mut state = lock(&self.state);
            let since = buffer.pts().zip(state.last).and_then(|(now, last)| now.checked_sub(last));
            let duration = buffer.duration().or(since).map_or(USUAL_DURATION, |d| d.nseconds() as f64 * 1e-9);
            state.thinner.set_limits(max_layers as usize, f64::from(bitrate) * 1000.0);
            let kept = state.thinner.cut(&map, duration).map_or_else(
                |e| {
                    gst::debug!(CAT, imp = self, "passed on as it is, for the decoder to conceal: {e}");
                    map.len()
                },
                <[u8]>::len,
            );
            state.last = buffer.pts();
            state.blocks += 1;
            state.bytes_in += map.len() as u64;
            state.bytes_out += kept as u64;
            kept
        };
        if kept == buffer.size() {
            return self.src.push(buffer);
        }
        // all() would copy the bytes too
        let shared = gst::BUFFER_COPY_METADATA | gst::BufferCopyFlags::MEMORY;
        let mut thin = buffer.copy_region(shared, 0..kept).map_err(|_| {
            gst::element_imp_error!(self, gst::ResourceError::Failed, ("A buffer of {} bytes cannot be cut", buffer.size()));
            gst::FlowError::Error
        })?;
        // what was cut has no share in the duration
        thin.make_mut().set_duration(buffer.duration());
        // no lock is held here: downstream may call back
        self.src.push(thin)
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        if let gst::EventView::FlushStop(_) | gst::EventView::StreamStart(_) = event.view() {
            let mut state = lock(&self.state);
            (state.thinner, state.last) = (Thinner::default(), None);
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
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: Lazy<Vec<glib::ParamSpec>> = Lazy::new(|| {
            vec![
                glib::ParamSpecUInt::builder("max-layers")
                    .nick("Maximum Layers")
                    .blurb("Layers that pass at the most (0 = all)")
                    .maximum(32)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("bitrate")
                    .nick("Bitrate")
                    .blurb(
                        "Bitrate to hold on average, in kbit/s; bursts of up to a second's worth above it pass, and the first layer \
                         always does (0 = no limit)",
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
                gst::error!(CAT, imp = self, "no property {other}");
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
