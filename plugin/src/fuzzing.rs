// SPDX-License-Identifier: MIT OR Apache-2.0
//! Properties that hold for any header on its way to caps and to raw video, shared by the fuzz target and the tests.

use std::sync::Once;

use elastictok::bitstream::{SequenceHeader, Timeline, Timing};
use elastictok::frame::PixelFormat;

use crate::caps::{block_rate, chroma_site_to_header, colorimetry_to_header, contradiction, stream_caps, unsigned, video_info};

const UNSPECIFIED: u8 = 2;

fn initialise() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| gst::init().expect("GStreamer starts"));
}

/// Any bytes as the fields of a header, and as the bytes of one.
pub fn header(data: &[u8]) {
    initialise();
    if let Ok(header) = SequenceHeader::parse(data) {
        check(&header);
    }
    let mut bytes = data.iter().copied().chain(std::iter::repeat(0));
    let mut byte = || bytes.next().unwrap_or_default();
    // Short and long numbers are as likely.
    let mut number = || match byte() % 4 {
        0 => u32::from(byte()),
        1 => u32::from_le_bytes([byte(), byte(), 0, 0]),
        2 => u32::from_le_bytes([byte(), byte(), byte(), byte()]),
        _ => u32::MAX - u32::from(byte()),
    };
    let (width, height) = (number() % 8192 + 1, number() % 8192 + 1);
    let (rate, aspect) = ((number(), number().max(1)), (number().max(1), number().max(1)));
    check(&SequenceHeader {
        fingerprint: [byte(); 8],
        width,
        height,
        framerate: if rate.0 == 0 { (0, 1) } else { rate },
        pixel_aspect_ratio: aspect,
        colorimetry: [byte() % 3, byte(), byte(), byte()],
        pixel_format: if byte() % 2 == 0 { PixelFormat::I420 } else { PixelFormat::Rgb },
        block_length: byte() % 16 + 1,
        chroma_site: byte() % 7,
        layers: 4,
        layer_ratio: 8,
    });
}

/// A field comes back as it was or, where that cannot be expressed, as unspecified.
pub(crate) fn check(header: &SequenceHeader) {
    initialise();
    assert_eq!(SequenceHeader::parse(&header.to_bytes()).as_ref(), Ok(header));
    let caps = stream_caps(header).build();
    assert_eq!(caps.to_string().parse::<gst::Caps>().ok().as_ref(), Some(&caps));
    let said = caps.structure(0).expect("caps of one structure");
    assert_eq!(contradiction(said, header), None);
    assert_eq!(said.get::<i32>("width").map(i64::from), Ok(header.width.into()));
    assert_eq!(said.get::<i32>("height").map(i64::from), Ok(header.height.into()));
    let rate = said.get::<gst::Fraction>("framerate").expect("caps have a rate");
    same_ratio(Some(rate).filter(|f| f.numer() > 0), header.framerate);
    same_ratio(said.get("pixel-aspect-ratio").ok(), header.pixel_aspect_ratio);
    if let Ok(colorimetry) = said.get::<&str>("colorimetry") {
        let colorimetry = colorimetry.parse().expect("GStreamer reads what it wrote");
        same_colorimetry(colorimetry_to_header(colorimetry), header);
    }
    if let Ok(site) = said.get::<&str>("chroma-site") {
        assert_eq!(chroma_site_to_header(site), header.chroma_site);
    }
    check_raw(header);
    check_times(header);
}

/// Raw caps agree with the video info, which is the header's or GStreamer's default.
fn check_raw(header: &SequenceHeader) {
    let info = video_info(header).expect("every header has a raw video");
    let again = gst_video::VideoInfo::from_caps(&info.to_caps().expect("caps of raw video")).expect("readable caps");
    assert_eq!((info.width(), info.height()), (header.width, header.height));
    assert_eq!((again.width(), again.height(), again.fps(), again.par()), (info.width(), info.height(), info.fps(), info.par()));
    assert_eq!(again.colorimetry(), info.colorimetry(), "{header:?}");
    assert_eq!(again.chroma_site(), info.chroma_site());
    same_ratio(Some(info.fps()).filter(|f| f.numer() > 0), header.framerate);
    same_ratio(Some(info.par()).filter(|f| *f != gst::Fraction::new(1, 1)), header.pixel_aspect_ratio);
    let display = gst_video::calculate_display_ratio(info.width(), info.height(), info.par(), gst::Fraction::new(1, 1));
    assert!(display.is_some(), "sinks cannot show {header:?}");
    let default = gst_video::VideoInfo::builder(info.format(), info.width(), info.height()).build().expect("valid");
    if info.colorimetry() != default.colorimetry() {
        let mut read = colorimetry_to_header(info.colorimetry());
        if info.colorimetry().matrix() == default.colorimetry().matrix() || info.is_rgb() {
            // Raw video cannot leave it open.
            read[1] = UNSPECIFIED;
        }
        same_colorimetry(read, header);
    }
}

fn same_ratio(read: Option<gst::Fraction>, (n, d): (u32, u32)) {
    if let Some(read) = read {
        let (read_n, read_d) = unsigned(read);
        assert_eq!(u64::from(read_n) * u64::from(d), u64::from(read_d) * u64::from(n), "{read} for {n}/{d}");
    }
}

fn same_colorimetry(read: [u8; 4], header: &SequenceHeader) {
    // 5 and 6 are one matrix by H.273 too.
    let [range, matrix, transfer, primaries] = header.colorimetry;
    let sent = [range, if matrix == 5 { 6 } else { matrix }, transfer, primaries];
    assert_eq!(read[0], sent[0], "range of {header:?}");
    for (read, sent) in read.iter().zip(sent).skip(1) {
        assert!(*read == sent || *read == UNSPECIFIED, "code point {read} for {sent} in {header:?}");
    }
}

/// Times of blocks, as the elements ask for them.
fn check_times(header: &SequenceHeader) {
    let _ = block_rate(header);
    let mut timeline = Timeline::new(header.framerate, header.block_length).expect("a valid rate");
    for (position, base) in [(0, Some(0)), (1, None), (u32::MAX, None), (0, Some(u64::MAX - 1)), (u32::MAX, None)] {
        let timing = Timing { base, ..Timing::default() };
        let times = timeline.decode(position, header.block_length, &timing, None);
        assert_eq!(times.frames().len(), usize::from(header.block_length));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn valid() -> SequenceHeader {
        SequenceHeader {
            fingerprint: [7; 8],
            width: 640,
            height: 480,
            framerate: (25, 1),
            pixel_aspect_ratio: (1, 1),
            colorimetry: [0, 2, 2, 2],
            pixel_format: PixelFormat::I420,
            block_length: 2,
            chroma_site: 0,
            layers: 4,
            layer_ratio: 8,
        }
    }

    #[test]
    fn every_code_point_goes_through_caps() {
        for pixel_format in [PixelFormat::I420, PixelFormat::Rgb] {
            for range in 0..3 {
                for code in 0..=255 {
                    for other in [0, 1, 2, 3, 6, 9] {
                        for colorimetry in [[range, code, other, other], [range, other, code, other], [range, other, other, code]]
                        {
                            check(&SequenceHeader { colorimetry, pixel_format, ..valid() });
                        }
                    }
                }
            }
            for chroma_site in 0..=6 {
                check(&SequenceHeader { chroma_site, pixel_format, ..valid() });
            }
        }
    }

    #[test]
    fn every_size_and_extreme_fractions_go_through_caps() {
        for side in 1..=8192 {
            check(&SequenceHeader { width: side, height: 8193 - side, ..valid() });
        }
        let extremes = [1, 2, 65_535, 0x7FFF_FFFE, 0x7FFF_FFFF, 0x8000_0000, u32::MAX - 1, u32::MAX];
        for (n, d) in extremes.iter().flat_map(|n| extremes.map(|d| (*n, d))) {
            for (width, height) in [(1, 8192), (8192, 1), (640, 480)] {
                check(&SequenceHeader { width, height, framerate: (n, d), pixel_aspect_ratio: (n, d), ..valid() });
            }
        }
    }

    #[test]
    fn what_caps_can_express_they_do() {
        initialise();
        let header = SequenceHeader {
            framerate: (60_000, 2002),
            pixel_aspect_ratio: (2_000_000_000, 4_000_000_000),
            colorimetry: [1, 200, 1, 1],
            chroma_site: 1,
            layers: 4,
            layer_ratio: 8,
            ..valid()
        };
        let caps = stream_caps(&header).build();
        let said = caps.structure(0).expect("one");
        assert_eq!(said.get("framerate"), Ok(gst::Fraction::new(30_000, 1001)));
        assert_eq!(said.get("pixel-aspect-ratio"), Ok(gst::Fraction::new(1, 2)));
        assert_eq!(
            (said.get("colorimetry"), said.get("chroma-site")),
            (Ok("1:0:5:1"), Ok("mpeg2")),
            "in GStreamer's own numbers"
        );
        let info = video_info(&header).expect("valid");
        assert_eq!(colorimetry_to_header(info.colorimetry()), [1, 6, 1, 1], "range kept, the matrix of this size");
        // bytes that caps cannot express
        let nothing = stream_caps(&SequenceHeader { colorimetry: [0, 3, 3, 3], framerate: (u32::MAX, 2), ..valid() }).build();
        assert!(!nothing.structure(0).expect("one").has_field("colorimetry"));
        assert_eq!(nothing.structure(0).expect("one").get("framerate"), Ok(gst::Fraction::new(0, 1)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn any_bytes(data in proptest::collection::vec(any::<u8>(), 0..48)) {
            header(&data);
        }

        #[test]
        fn any_header(
            (width, height) in (1u32..=8192, 1u32..=8192),
            framerate in (any::<u32>(), 1u32..),
            pixel_aspect_ratio in (1u32.., 1u32..),
            colorimetry in (0u8..3, any::<[u8; 3]>()),
            rgb: bool,
            block_length in 1u8..=16,
            chroma_site in 0u8..=6,
        ) {
            let (range, [m, t, p]) = colorimetry;
            check(&SequenceHeader {
                fingerprint: [1; 8],
                width,
                height,
                framerate: if framerate.0 == 0 { (0, 1) } else { framerate },
                pixel_aspect_ratio,
                colorimetry: [range, m, t, p],
                pixel_format: if rgb { PixelFormat::Rgb } else { PixelFormat::I420 },
                block_length,
                chroma_site,
                layers: 4,
                layer_ratio: 8,
            });
        }
    }
}
