// SPDX-License-Identifier: MIT OR Apache-2.0
//! From caps to a decoder and to caps downstream. Input that is not in packets is refused with advice.

use elastictok::Error;
use elastictok::bitstream::{Limits, SequenceHeader};
use elastictok::bundle::Bundle;
use elastictok::codec::{Decoder, DecoderConfig};
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::prelude::*;

use super::state::{CAT, ElasticTokDec, InputState, Pictures};
use crate::common::{DEFAULT_MODEL, MEDIA_TYPE, contradiction, error_message, lock, video_info};

/// Advice for a stream that is not cut into packets.
pub const ADVICE: &str = "the input is not packetized; put elastictokparse before elastictokdec";

impl ElasticTokDec {
    /// Makes a decoder for caps, unless the one in use fits them, and tells downstream the format.
    pub(super) fn take_format(&self, input: &InputState) -> Result<(), gst::ErrorMessage> {
        let header = header_of(input, &self.max_pixels.limits())?;
        let structure = input.caps().and_then(|c| c.structure(0));
        if let Some(what) = structure.and_then(|s| contradiction(s, &header)) {
            return Err(error_message(&Error::Malformed(format!("{what}; send the caps that belong to the stream"))));
        }
        let info =
            video_info(&header).map_err(|e| error_message(&Error::Unsupported(format!("the stream's video format: {e}"))))?;
        let fits = lock(&self.state).decoder.as_ref().is_some_and(|d| *d.sequence_header() == header);
        if !fits {
            let decoder = self.open(header).map_err(|e| error_message(&e))?;
            self.publish(Some(&decoder));
            let before = {
                let mut state = lock(&self.state);
                state.info = Some(info.clone());
                state.pictures = Pictures::default();
                state.decoder.replace(decoder)
            };
            // Two graphs would take twice the memory.
            drop(before);
            self.open_ahead();
        }
        let obj = self.obj();
        let mut tags = gst::TagList::new();
        tags.make_mut().add::<gst::tags::VideoCodec>(&"ElasticTok", gst::TagMergeMode::Replace);
        obj.merge_tags(Some(&tags), gst::TagMergeMode::Replace);
        let unusable = |e| gst::error_msg!(gst::CoreError::Negotiation, ["no output of {}: {e}", info.name()]);
        let mut output = obj.set_output_state(info.format(), info.width(), info.height(), Some(input)).map_err(unusable)?;
        output.set_info(info);
        // Downstream learns the format as early as possible. A flush or a stop may come between. So a failure here is no
        // error: the base class negotiates again before the next picture.
        if obj.negotiate(output).is_err() {
            gst::debug!(CAT, imp = self, "not negotiated yet, flushing: {}", self.is_flushing());
        }
        Ok(())
    }

    fn open(&self, header: SequenceHeader) -> Result<Decoder, Error> {
        let settings = lock(&self.settings).clone();
        // With model=builtin, any builtin bundle that made the stream is used.
        let named = Bundle::by_fingerprint(&header.fingerprint)?.filter(|_| settings.model.model == DEFAULT_MODEL);
        let bundle = named.or_else(|| lock(&self.state).bundle.clone());
        let config = DecoderConfig {
            bundle: bundle.ok_or_else(|| Error::Settings("the decoder is not started".into()))?,
            runtime: settings.model.runtime(&self.canceller),
            max_layers: settings.layers(),
            header,
            limits: self.max_pixels.limits(),
        };
        let decoder = Decoder::new(config)?;
        let header = decoder.sequence_header();
        gst::info!(CAT, imp = self, "a stream of {}x{}", header.width, header.height);
        Ok(decoder)
    }

    /// Begins to open the graph before the first key block is there. Headers may come from anywhere, so until a block was decoded only
    /// the first one causes such work.
    fn open_ahead(&self) {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        if std::mem::replace(&mut state.opened_ahead, true) {
            return;
        }
        let loading = state.loading.take();
        if let Some(Err(e)) = state.decoder.as_mut().map(|decoder| decoder.open_ahead(loading)) {
            gst::debug!(CAT, imp = self, "not opened ahead: {e}");
        }
    }

    /// Says what to do about caps that the pad template excludes. The pad refuses them without a message, before the base
    /// class sees the event.
    pub(super) fn watch_caps(&self) {
        self.obj().sink_pad().add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, |pad, info| {
            if let Some(gst::EventView::Caps(caps)) = info.event().map(|e| e.view())
                && is_unparsed(caps.caps())
                && let Some(element) = pad.parent_element()
            {
                gst::element_error!(element, gst::StreamError::Format, ("{ADVICE}"), ["{}", caps.caps()]);
            }
            gst::PadProbeReturn::Ok
        });
    }

    /// Whether a failure of downstream is a flush or a stop, which are no errors.
    pub(super) fn is_flushing(&self) -> bool {
        self.obj().src_pad().pad_flags().contains(gst::PadFlags::FLUSHING)
    }
}

fn is_unparsed(caps: &gst::CapsRef) -> bool {
    caps.structure(0).is_some_and(|s| s.name() == MEDIA_TYPE && s.get::<&str>("stream-format") != Ok("packetized"))
}

/// The sequence header in the caps.
fn header_of(input: &InputState, limits: &Limits) -> Result<SequenceHeader, gst::ErrorMessage> {
    const MISSING: &str = "packetized caps have no codec_data; keep the caps that the encoder or elastictokparse sent";
    let data = input.codec_data().ok_or_else(|| gst::error_msg!(gst::StreamError::Format, ["{MISSING}"]))?;
    let data = data.map_readable().map_err(|_| gst::error_msg!(gst::StreamError::Format, ["codec_data cannot be read"]))?;
    SequenceHeader::parse_with(&data, limits).map_err(|e| error_message(&e))
}
