// SPDX-License-Identifier: MIT OR Apache-2.0
//! Metas of the frames that share a buffer: time codes, captions, regions of interest.
//!
//! A block is one buffer and has the metas of its first frame like any other buffer. Those of the frames after it travel in a
//! custom meta on the same buffer, [`NAME`]: for each frame that has any, a field with the frame's index as its name and an
//! empty buffer with the frame's metas as its value. The meta is copied with its buffer, and has a tag of its own, so that the
//! base class of decoders leaves it off the pictures.

use std::sync::Once;

use gst::meta::{CustomMeta, MetaTransformCopy, tags};

/// The meta's name, and its structure's.
const NAME: &str = "ElasticTokFrameMeta";
/// The meta's only tag.
const TAG: &str = "elastictok";
/// Tags of metas that the base class of encoders takes from a picture to its coded buffer.
const TRAVELLING: [&str; 3] = ["video", "orientation", "size"];

/// Makes the meta known to GStreamer; to be called before the other functions, any number of times.
pub fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Another copy of the plugin may have registered it.
        if !CustomMeta::is_registered(NAME) {
            CustomMeta::register(NAME, &[TAG]);
        }
    });
}

/// Whether a meta is of use without the picture's memory, by the base classes' rule.
fn travels(meta: &gst::MetaRef<'_, gst::Meta>) -> bool {
    !meta.has_tag::<tags::Memory>()
        && !meta.has_tag::<tags::MemoryReference>()
        && meta.tags().iter().all(|tag| TRAVELLING.contains(&tag.as_str()))
}

/// Copies the metas of `from` that travel; returns how many.
fn copy(from: &gst::BufferRef, to: &mut gst::BufferRef) -> usize {
    let whole = MetaTransformCopy::new(..);
    from.iter_meta::<gst::Meta>().filter(|meta| travels(meta) && meta.transform(to, &whole).is_ok()).count()
}

/// Attaches the metas of `frame`, the block's frame `index` (1 or above), to the block's buffer.
pub fn attach(block: &mut gst::BufferRef, index: usize, frame: &gst::BufferRef) {
    let mut carrier = gst::Buffer::new();
    if copy(frame, carrier.make_mut()) == 0 {
        return;
    }
    let mut meta = match CustomMeta::from_mut_buffer(block, NAME) {
        Ok(meta) => meta,
        Err(_) => match CustomMeta::add(block, NAME) {
            Ok(meta) => meta,
            Err(_) => return,
        },
    };
    meta.mut_structure().set(index.to_string(), carrier);
}

/// Gives `frame`, made of the block's frame `index` (1 or above), the metas that [`attach`] put on the block's buffer.
pub fn restore(block: &gst::BufferRef, index: usize, frame: &mut gst::BufferRef) {
    if let Ok(meta) = CustomMeta::from_buffer(block, NAME)
        && let Ok(carrier) = meta.structure().get::<gst::Buffer>(index.to_string())
    {
        copy(&carrier, frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captioned(text: &[u8]) -> gst::Buffer {
        let mut buffer = gst::Buffer::with_size(64).expect("memory");
        gst_video::VideoCaptionMeta::add(buffer.make_mut(), gst_video::VideoCaptionType::Cea608Raw, text);
        buffer
    }

    fn captions(buffer: &gst::BufferRef) -> Vec<Vec<u8>> {
        buffer.iter_meta::<gst_video::VideoCaptionMeta>().map(|m| m.data().to_vec()).collect()
    }

    #[test]
    fn each_frame_gets_its_own_metas_back_also_from_a_copy() {
        gst::init().expect("GStreamer");
        register();
        register();
        let mut frames: Vec<_> = (0..4u8).map(|i| captioned(&[i, i])).collect();
        gst_video::VideoRegionOfInterestMeta::add(frames[2].make_mut(), "face", (1, 2, 3, 4));
        // Meaningless without the picture's memory.
        let plane = (gst_video::VideoFormat::Gray8, 8, 8, &[0][..], &[8][..]);
        gst_video::VideoMeta::add_full(
            frames[2].make_mut(),
            gst_video::VideoFrameFlags::empty(),
            plane.0,
            plane.1,
            plane.2,
            plane.3,
            plane.4,
        )
        .expect("it fits");
        frames[3] = gst::Buffer::with_size(64).expect("memory");

        let mut block = gst::Buffer::from_slice([1u8, 2, 3]);
        for (index, frame) in frames.iter().enumerate().skip(1) {
            attach(block.make_mut(), index, frame);
        }
        let mut copied = block.copy_region(gst::BufferCopyFlags::all(), 0..2).expect("a region");
        copied.make_mut().set_pts(gst::ClockTime::ZERO);
        for block in [&block, &copied, &block.copy_deep().expect("memory")] {
            for (index, frame) in frames.iter().enumerate().skip(1) {
                let mut picture = gst::Buffer::new();
                restore(block, index, picture.make_mut());
                assert_eq!(captions(&picture), captions(frame), "frame {index}");
                let regions = picture.iter_meta::<gst_video::VideoRegionOfInterestMeta>().map(|m| m.rect()).collect::<Vec<_>>();
                assert_eq!(regions, if index == 2 { vec![(1, 2, 3, 4)] } else { vec![] });
                assert!(picture.meta::<gst_video::VideoMeta>().is_none());
                assert!(CustomMeta::from_buffer(&picture, NAME).is_err());
            }
        }
        let mut plain = gst::Buffer::new();
        attach(plain.make_mut(), 1, &frames[3]);
        assert_eq!(plain.iter_meta::<gst::Meta>().count(), 0, "nothing to carry");
    }
}
