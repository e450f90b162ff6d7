// SPDX-License-Identifier: MIT OR Apache-2.0
//! From frames to blocks, and from blocks to buffers.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use elastictok::Error;
use elastictok::codec::Packet;
use elastictok::frame::{PlanesRef, SourceFormat};
use gst::subclass::prelude::*;
use gst_video::prelude::*;

use super::keys::Asked;
use super::state::{CAT, ElasticTokEnc, State};
use super::times;
use crate::common::{error_message, lock};
use crate::framemetas;

/// A block that is to be pushed.
struct Coded {
    buffer: gst::Buffer,
    key: bool,
    /// Requests that it answers.
    asked: Vec<Asked>,
    frames: Vec<u32>,
    measured: Measured,
    /// Set if the bitrate cannot be held and the user was not told yet: the bitrate set and the least possible one, in
    /// kbit/s.
    least: Option<(u32, f64)>,
}

/// What the debug log says of a block.
struct Measured {
    number: u64,
    tokens: u64,
    quantiser: u8,
    /// The last one known, which may be that of the block before.
    psnr: Option<f64>,
    /// From the call that completed the block to its packet.
    coding: Duration,
    /// For which the encoder was at work since the block before.
    busy: Duration,
}

impl Measured {
    /// How many times as long as this block took to code the encoder was at work since the block before.
    fn work_factor(&self) -> f64 {
        self.busy.max(self.coding).as_secs_f64() / self.coding.as_secs_f64().max(1e-9)
    }
}

impl ElasticTokEnc {
    /// Posts the error; one of a flush or a stop is none.
    fn post(&self, error: &Error) -> gst::FlowError {
        if matches!(error, Error::Cancelled) {
            return gst::FlowError::Flushing;
        }
        self.post_error_message(error_message(error));
        gst::FlowError::Error
    }

    /// Takes frames off the base class's list that go into another one's buffer or, after an error, nowhere.
    fn absorb<'a>(
        &self,
        frames: impl Iterator<Item = gst_video::VideoCodecFrame<'a>>,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let obj = self.obj();
        // A frame that is finished without a buffer is taken off with its events in order. The base class then says on the
        // bus that it was dropped, which is not true. gst_video_encoder_release_frame() came with 1.26.
        self.absorbing.store(true, Ordering::Relaxed);
        let mut released = Ok(gst::FlowSuccess::Ok);
        // All of them, even if one fails.
        for frame in frames {
            released = released.and(obj.finish_frame(frame));
        }
        self.absorbing.store(false, Ordering::Relaxed);
        released
    }

    /// Pushes a block: its first frame carries the buffer, the others are in it.
    fn finish_block(&self, mut coded: Coded) -> Result<gst::FlowSuccess, gst::FlowError> {
        let obj = self.obj();
        // The stream lock that comes with a frame is kept to the end, so that blocks stay in order.
        let _first = obj.oldest_frame();
        // They are gone if a flush came between.
        let mut frames = coded.frames.iter().filter_map(|&n| obj.frame(n as i32)).collect::<Vec<_>>().into_iter();
        let Some(mut first) = frames.next() else { return Ok(gst::FlowSuccess::Ok) };
        self.log_block(&coded, first.pts());
        let last = frames.as_slice().last();
        let end = last.and_then(|f| Some(f.pts()? + f.duration()?)).and_then(|end| end.checked_sub(first.pts()?));
        let sum = frames.as_slice().iter().map(|f| f.duration()).chain([first.duration()]).sum::<Option<gst::ClockTime>>();
        first.set_duration(end.or(sum));
        for (index, frame) in frames.as_slice().iter().enumerate() {
            if let Some(input) = frame.input_buffer() {
                framemetas::attach(coded.buffer.make_mut(), index + 1, input);
            }
        }
        first.set_output_buffer(coded.buffer);
        if coded.key {
            first.set_flags(gst_video::VideoCodecFrameFlags::SYNC_POINT);
        }
        self.announce_key(&coded.asked, first.pts());
        let flow = obj.finish_frame(first);
        let released = self.absorb(frames);
        flow.and(released)
    }

    fn log_block(&self, coded: &Coded, pts: Option<gst::ClockTime>) {
        let Measured { number, tokens, quantiser, psnr, coding, .. } = coded.measured;
        gst::log!(
            CAT,
            imp = self,
            "block {number} at {}: key {}, frames {}, bits {}, tokens {tokens}, quantiser {quantiser}, last PSNR {} dB, coded in {coding:.1?}",
            pts.display(),
            coded.key,
            coded.frames.len(),
            coded.buffer.size() * 8,
            psnr.map_or("unknown".into(), |psnr| format!("{psnr:.2}")),
        );
    }

    /// Says once that the bitrate cannot be held.
    fn tell_least(&self, (asked, least): (u32, f64)) {
        gst::element_imp_warning!(
            self,
            gst::LibraryError::Settings,
            (
                "{asked} kbit/s cannot be held: this video takes about {} kbit/s at the least; set bitrate to that or more, or \
                 lower the resolution or the framerate",
                least.ceil()
            )
        );
    }

    /// Runs `code` on the encoder. If it returns a block, pushes it without the state's lock.
    fn encode(
        &self,
        code: impl FnOnce(&mut State) -> elastictok::Result<Option<Packet>>,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let begun = self.live_time();
        let mut guard = lock(&self.state);
        let Some(state) = guard.as_mut() else {
            return Err(if self.is_flushing() { gst::FlowError::Flushing } else { gst::FlowError::NotNegotiated });
        };
        let started = Instant::now();
        let tokens = state.encoder.stats().tokens;
        let coded = code(state).and_then(|packet| packet.map(|packet| state.take(packet, started, tokens)).transpose());
        if !matches!(coded, Ok(None)) {
            self.publish(Some(state));
        }
        let lost = if coded.is_err() {
            state.encoder.reset();
            state.forget_block()
        } else {
            Vec::new()
        };
        drop(guard);
        match coded {
            Ok(Some(coded)) => {
                self.stop_timer();
                self.note_coding(coded.measured.coding);
                self.note_load(begun, coded.measured.work_factor());
                if let Some(least) = coded.least {
                    self.tell_least(least);
                }
                self.finish_block(coded)
            }
            Ok(None) => Ok(gst::FlowSuccess::Ok),
            Err(e) => {
                self.stop_timer();
                let obj = self.obj();
                let _ = self.absorb(lost.iter().filter_map(|&n| obj.frame(n as i32)));
                Err(self.post(&e))
            }
        }
    }

    /// Codes the waiting frames as a partial block.
    pub(super) fn drain(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        // A waiting frame comes with the stream lock, so a block that is being pushed goes first.
        let obj = self.obj();
        let Some(_first) = obj.oldest_frame() else { return Ok(gst::FlowSuccess::Ok) };
        if lock(&self.state).is_none() {
            return Ok(gst::FlowSuccess::Ok);
        }
        self.encode(|state| state.encoder.drain())
    }

    /// Codes the waiting frames, and waits for what is known of the last block.
    pub(super) fn end_stream(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        let flow = self.drain()?;
        if let Some(state) = lock(&self.state).as_mut() {
            if let Err(e) = state.encoder.settle() {
                // no block follows that would need the picture
                gst::warning!(CAT, imp = self, "the last block's picture is not known: {e}");
            }
            self.publish(Some(state));
        }
        Ok(flow)
    }

    /// Codes a frame from the base class.
    pub(super) fn encode_frame(&self, frame: gst_video::VideoCodecFrame<'_>) -> Result<gst::FlowSuccess, gst::FlowError> {
        let arrived = self.live_time();
        let segment = self.obj().input_segment();
        let (pts, number) = (frame.pts(), frame.system_frame_number());
        let running = times::running_time(&segment, pts);
        self.note_arrival(running, arrived);
        self.note_qos(&frame);
        let failed = {
            let mut guard = lock(&self.state);
            guard.as_mut().and_then(|state| state.failed.take())
        };
        if let Some(failed) = failed {
            return Err(failed);
        }
        self.answer_key_requests()?;
        let broken = lock(&self.state).as_mut().is_some_and(|state| state.times.breaks(pts));
        let forced = frame.flags().contains(gst_video::VideoCodecFrameFlags::FORCE_KEYFRAME);
        if broken || forced {
            // The key block begins with this very frame.
            self.drain()?;
            if let Some(state) = lock(&self.state).as_mut() {
                match forced && self.hurry.swap(false, Ordering::Relaxed) {
                    true => state.encoder.hurry_key(),
                    false => state.encoder.force_key(),
                }
            }
        }
        let time = times::of_frame(&segment, pts, frame.duration());
        let Some(buffer) = frame.input_buffer_owned() else { return Err(gst::FlowError::Error) };
        // Given back to the base class, which keeps it until its block is finished.
        drop(frame);
        let flow = self.encode(|state| {
            state.waiting.push(number);
            let picture = gst_video::VideoFrameRef::from_buffer_ref_readable(&buffer, &state.info)
                .map_err(|_| Error::Settings("an input buffer does not hold a picture of the negotiated format".into()))?;
            let format = match picture.format() {
                gst_video::VideoFormat::Nv12 => SourceFormat::Nv12,
                gst_video::VideoFormat::Rgb => SourceFormat::Rgb,
                _ => SourceFormat::I420,
            };
            let mut planes: [&[u8]; 3] = [&[]; 3];
            let mut strides = [0; 3];
            for i in 0..(picture.n_planes() as usize).min(3) {
                planes[i] = picture.plane_data(i as u32).unwrap_or_default();
                strides[i] = picture.plane_stride()[i].max(0) as usize;
            }
            state.encoder.push(&PlanesRef { format, planes, strides }, time)
        })?;
        let waiting = lock(&self.state).as_ref().filter(|s| !s.waiting.is_empty()).map(|s| s.block);
        if let Some(block) = waiting
            && self.is_hopeless(block, running, arrived)
        {
            return self.drain();
        }
        Ok(flow)
    }
}

impl State {
    /// Makes a buffer of a packet, whose coding `started` when the encoder had counted `tokens`.
    fn take(&mut self, packet: Packet, started: Instant, tokens: u64) -> elastictok::Result<Coded> {
        let buffer = match &mut self.writer {
            Some(writer) => {
                let mut bytes = bytes::BytesMut::new();
                writer.write(&packet.data, &mut bytes)?;
                gst::Buffer::from_slice(bytes)
            }
            None => gst::Buffer::from_slice(packet.data),
        };
        let stats = self.encoder.stats();
        let measured = Measured {
            number: stats.blocks,
            tokens: stats.tokens - tokens,
            quantiser: stats.quantiser,
            psnr: stats.psnr,
            coding: started.elapsed(),
            busy: stats.time.saturating_sub(self.worked),
        };
        self.worked = stats.time;
        let least = stats.least_bitrate.filter(|_| !self.told_least);
        self.told_least |= least.is_some();
        let least = least.map(|least| (self.encoder.live().bitrate, least));
        let asked = if packet.key { std::mem::take(&mut self.asked) } else { Vec::new() };
        Ok(Coded { buffer, key: packet.key, asked, frames: self.take_block(packet.frames as usize), measured, least })
    }
}
