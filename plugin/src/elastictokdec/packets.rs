// SPDX-License-Identifier: MIT OR Apache-2.0
//! One packet comes in, several pictures go out.
//!
//! The base class makes one frame of each input buffer and one picture of each frame, but a block has several pictures. So the
//! element's chain function stands before that of the base class. It passes on the packet: the frame made of it decodes the
//! block and shows the first picture. Then it passes on an empty buffer for each further picture, with the time stamp and the
//! metas of that picture. Every picture has its own frame, and the base class handles segments, QoS, metas, flags and events as
//! in any decoder.
//!
//! The other way to several frames per buffer is parse(). It runs only while bytes are left, its frames after the first have no
//! time stamps, and the bindings hold a reference to a frame while it runs: downstream would have to copy every picture that it
//! changes.

use std::time::Instant;

use elastictok::Error;
use elastictok::bitstream::BlockHeader;
use gst::glib::translate::{IntoGlibPtr, ToGlibPtr, try_from_glib};
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::prelude::*;

use super::format::ADVICE;
use super::pictures::clock_time;
use super::state::{CAT, ElasticTokDec, Pictures};
use crate::common::lock;
use crate::framemetas;

type Flow = Result<gst::FlowSuccess, gst::FlowError>;

impl ElasticTokDec {
    /// Puts [`chain`](Self::chain) before the base class's function.
    #[allow(unsafe_code, reason = "the bindings cannot name the function that a pad has")]
    pub(super) fn take_packets(&self) {
        let obj = self.obj();
        let pad = obj.sink_pad();
        // SAFETY: the pad is alive, and this is its only user while the element is being constructed.
        let base = unsafe { (*ToGlibPtr::<*mut gst::ffi::GstPad>::to_glib_none(pad).0).chainfunc };
        let base = base.expect("the base class sets a chain function");
        let chain = move |pad: &gst::Pad, parent: Option<&gst::Object>, packet| {
            Self::catch_panic_pad_function(
                parent,
                || Err(gst::FlowError::Error),
                |this| {
                    this.chain(packet, |buffer| {
                        // SAFETY: these are the pad and parent that the function was called for, and it takes the buffer.
                        unsafe { try_from_glib(base(pad.to_glib_none().0, parent.to_glib_none().0, buffer.into_glib_ptr())) }
                    })
                },
            )
        };
        // SAFETY: no data flows through a pad of an element that is being constructed.
        unsafe { pad.set_chain_function(chain) };
    }

    fn chain(&self, packet: gst::Buffer, base: impl Fn(gst::Buffer) -> Flow) -> Flow {
        // After an error, pictures may be left.
        lock(&self.state).pictures = Pictures::default();
        let mut flow = base(packet.clone())?;
        let count = lock(&self.state).pictures.count;
        for index in 1..count {
            flow = base(self.request(index, &packet))?;
        }
        Ok(flow)
    }

    /// A buffer that makes the base class ask for picture `index` of the last block, which came in `packet`.
    fn request(&self, index: usize, packet: &gst::Buffer) -> gst::Buffer {
        let mut request = gst::Buffer::new();
        let buffer = request.make_mut();
        buffer.set_flags(gst::BufferFlags::DELTA_UNIT);
        framemetas::restore(packet, index, buffer);
        let mut state = lock(&self.state);
        state.pictures.next = Some(index);
        buffer.set_pts(state.decoder.as_ref().and_then(|d| clock_time(d.block().time(index).pts)));
        request
    }

    pub(super) fn take_frame(&self, frame: gst_video::VideoCodecFrame<'_>) -> Flow {
        let requested = lock(&self.state).pictures.next.take();
        match requested {
            Some(index) => self.show(frame, index),
            None => self.take_packet(frame),
        }
    }

    fn take_packet(&self, frame: gst_video::VideoCodecFrame<'_>) -> Flow {
        let obj = self.obj();
        if lock(&self.state).decoder.is_none() {
            obj.release_frame(frame);
            gst::element_imp_error!(self, gst::StreamError::Format, ("{ADVICE}"));
            return Err(gst::FlowError::NotNegotiated);
        }
        let key_only = obj.input_segment().flags().contains(gst::SegmentFlags::TRICKMODE_KEY_UNITS);
        let decoded = match frame.input_buffer().map(|b| b.map_readable()) {
            // Nothing came, so nothing is damaged. If a block is missing, the next one shows it.
            Some(Ok(data)) if data.is_empty() => Ok(0),
            Some(Ok(data)) => self.decode(&data, frame.pts(), key_only),
            _ => Err(Error::Malformed("an input buffer that cannot be read".into())),
        };
        match decoded {
            Ok(0) => {
                obj.release_frame(frame);
                Ok(gst::FlowSuccess::Ok)
            }
            Ok(_) => self.show(frame, 0),
            Err(e) => {
                obj.release_frame(frame);
                self.refuse_block(&e)
            }
        }
    }

    /// Decodes a block; returns how many of its pictures are to be shown.
    fn decode(&self, data: &[u8], pts: Option<gst::ClockTime>, key_only: bool) -> Result<usize, Error> {
        let layers = lock(&self.settings).layers();
        let pts = pts.map(|t| t.nseconds());
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let Some(decoder) = &mut state.decoder else { return Ok(0) };
        let block_length = decoder.sequence_header().block_length;
        if key_only && BlockHeader::parse(data, block_length).is_ok_and(|(header, _)| !header.key) {
            state.skipped = true;
            return Ok(0);
        }
        decoder.set_max_layers(layers);
        let before = (decoder.stats().key_blocks, decoder.stats().layers);
        let started = Instant::now();
        let decoded = decoder
            .decode(data, pts)
            .map(|block| (block.frames(), block.damaged().map(|what| format!("{what}; the picture is coarser for it"))));
        self.publish(Some(decoder));
        let (time, s) = (started.elapsed(), decoder.stats());
        let (number, key, layers) = (s.blocks + s.refused, s.key_blocks > before.0, s.layers - before.1);
        let (frames, trouble) = match decoded {
            Ok(decoded) => decoded,
            Err(e @ Error::Malformed(_)) => match decoder.repeat(data, pts) {
                Some(block) => (block.frames(), Some(format!("{e}; the last good picture replaces it"))),
                None => return Err(e),
            },
            Err(e) => return Err(e),
        };
        let concealed = trouble.is_some() && decoder.is_waiting();
        let count = if key_only { frames.min(1) } else { frames };
        state.pictures = Pictures { count, next: None, concealed };
        if !concealed {
            state.key_request.fulfilled();
            state.skipped = false;
            state.opened_ahead = false;
        }
        state.troubled &= trouble.is_some();
        drop(guard);
        gst::log!(
            CAT,
            imp = self,
            "block {number} at {}: key {key}, frames {frames}, bits {}, layers {layers}, damage {}, decoded in {time:.1?}",
            clock_time(pts).display(),
            data.len() * 8,
            trouble.as_deref().unwrap_or("none"),
        );
        if let Some(what) = trouble {
            self.warn(&what);
        }
        if concealed {
            self.ask_for_key();
        }
        Ok(count)
    }
}
