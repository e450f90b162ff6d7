// SPDX-License-Identifier: MIT OR Apache-2.0
//! A decoded picture on its way downstream.

use elastictok::Error;
use elastictok::codec::DecodedBlock;
use elastictok::frame::PlanesMut;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::prelude::*;

use super::state::ElasticTokDec;
use crate::common::lock;

pub(super) fn clock_time(ns: Option<u64>) -> Option<gst::ClockTime> {
    ns.and_then(|t| gst::ClockTime::try_from(t).ok())
}

impl ElasticTokDec {
    /// Shows picture `index` of the last block in `frame`.
    pub(super) fn show(
        &self,
        mut frame: gst_video::VideoCodecFrame<'_>,
        index: usize,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let obj = self.obj();
        // Too late to be shown: the picture was decoded for those that depend on it, and is not copied. The base class would
        // drop it too, but only after the copy.
        if obj.max_decode_time(&frame) < 0 && obj.property("qos") {
            return obj.drop_frame(frame);
        }
        // From downstream's pool, which may wait: so before the state is locked, and no more at a time than are shown.
        if let Err(flow) = obj.allocate_output_frame(&mut frame, None) {
            obj.release_frame(frame);
            return Err(self.no_buffer(flow));
        }
        let stored = {
            let guard = lock(&self.state);
            match (&guard.decoder, &guard.info, frame.output_buffer_mut()) {
                (Some(decoder), Some(info), Some(buffer)) => {
                    let block = decoder.block();
                    store(&block, index, buffer, info).map(|()| (block.time(index), guard.pictures.concealed))
                }
                _ => Err(Error::Runtime("no picture to show".into())),
            }
        };
        match stored {
            Ok((time, concealed)) => {
                frame.set_pts(clock_time(time.pts));
                frame.set_duration(clock_time(time.duration));
                if concealed {
                    frame.set_flags(gst_video::VideoCodecFrameFlags::CORRUPTED);
                }
                obj.finish_frame(frame).inspect_err(|flow| self.explain(*flow))
            }
            Err(e) => {
                obj.release_frame(frame);
                Err(self.post(&e))
            }
        }
    }

    /// Says what to do where downstream refuses the format. Upstream will post that streaming stopped, and cannot know why.
    fn explain(&self, flow: gst::FlowError) {
        if flow == gst::FlowError::NotNegotiated && !self.is_flushing() {
            let caps = self.obj().src_pad().current_caps();
            gst::element_imp_error!(
                self,
                gst::CoreError::Negotiation,
                ("downstream does not take the decoder's format; put videoconvert after elastictokdec"),
                ["{caps:?}"]
            );
        }
    }

    /// The error for a picture without a buffer.
    fn no_buffer(&self, flow: gst::FlowError) -> gst::FlowError {
        if self.is_flushing() {
            return gst::FlowError::Flushing;
        }
        if flow == gst::FlowError::Error {
            gst::element_imp_error!(
                self,
                gst::CoreError::Negotiation,
                ("downstream and the decoder found no common buffers for pictures; see the messages of downstream")
            );
        }
        flow
    }
}

/// Copies picture `index` into `buffer`, whatever its strides.
fn store(block: &DecodedBlock<'_>, index: usize, buffer: &mut gst::BufferRef, info: &gst_video::VideoInfo) -> Result<(), Error> {
    let mut picture = gst_video::VideoFrameRef::from_buffer_ref_writable(buffer, info)
        .map_err(|_| Error::Runtime("downstream's pool gave a buffer that does not hold a picture".into()))?;
    let strides = picture.plane_stride().to_vec();
    let stride = |i: usize| strides.get(i).map_or(0, |s| (*s).max(0) as usize);
    let mut planes: [&mut [u8]; 3] = [&mut [], &mut [], &mut []];
    for (slot, data) in planes.iter_mut().zip(picture.planes_data_mut()) {
        *slot = data;
    }
    block.store(index, &mut PlanesMut { planes, strides: [stride(0), stride(1), stride(2)] })
}

/// Downstream that knows the video meta may give any strides; the frame map follows them.
pub(super) fn allow_strides(query: &mut gst::query::Allocation) {
    if query.find_allocation_meta::<gst_video::VideoMeta>().is_some()
        && let Some((Some(pool), size, min, max)) =
            query.allocation_pools().next().map(|p| (p.0.map(|p| p.to_owned()), p.1, p.2, p.3))
    {
        let mut config = pool.config();
        config.add_option(gst_video::BUFFER_POOL_OPTION_VIDEO_META);
        if pool.set_config(config).is_ok() {
            query.set_nth_allocation_pool(0, Some(&pool), size, min, max);
        }
    }
}
