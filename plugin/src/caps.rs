// SPDX-License-Identifier: MIT OR Apache-2.0
//! A stream's header as caps and as raw video.
//!
//! A header can hold values that caps cannot: code points that GStreamer does not know, fractions beyond 32 signed bits. Each
//! such field becomes unspecified by itself, and never another value. Packetized caps carry the whole header in `codec_data`.

use elastictok::bitstream::SequenceHeader;
use elastictok::frame::PixelFormat;
use gst::glib;
use gst_video::{VideoColorMatrix as Matrix, VideoColorRange as Range};
use gst_video::{VideoColorPrimaries as Primaries, VideoTransferFunction as Transfer};

use crate::common::MEDIA_TYPE;

/// Colorimetry of a header that does not specify it.
pub const UNKNOWN_COLORIMETRY: [u8; 4] = [0, 2, 2, 2];

/// GStreamer's colorimetry as a stream's header has it: range, then H.273 matrix, transfer and primaries.
pub fn colorimetry_to_header(c: gst_video::VideoColorimetry) -> [u8; 4] {
    let range = match c.range() {
        Range::Range0_255 => 1,
        Range::Range16_235 => 2,
        _ => 0,
    };
    [range, c.matrix().to_iso() as u8, c.transfer().to_iso() as u8, c.primaries().to_iso() as u8]
}

/// What GStreamer knows of a header's colorimetry. H.273's two numbers of the BT.601 matrix, 5 and 6, are one here.
fn colorimetry([range, matrix, transfer, primaries]: [u8; 4]) -> gst_video::VideoColorimetry {
    let range = match range {
        1 => Range::Range0_255,
        2 => Range::Range16_235,
        _ => Range::Unknown,
    };
    gst_video::VideoColorimetry::new(
        range,
        Matrix::from_iso(matrix.into()),
        Transfer::from_iso(transfer.into()),
        Primaries::from_iso(primaries.into()),
    )
}

/// GStreamer has no string for a colorimetry of which nothing is known.
fn is_unknown(c: &gst_video::VideoColorimetry) -> bool {
    c.range() == Range::Unknown
        && c.matrix() == Matrix::Unknown
        && c.transfer() == Transfer::Unknown
        && c.primaries() == Primaries::Unknown
}

/// Chroma sites in the order of the header's code points.
const CHROMA_SITES: [&str; 7] = ["", "mpeg2", "jpeg", "cosited", "v-cosited", "", ""];

pub fn chroma_site_to_header(site: &str) -> u8 {
    CHROMA_SITES.iter().skip(1).position(|s| !s.is_empty() && *s == site).map_or(0, |i| i as u8 + 1)
}

fn chroma_site(header: &SequenceHeader) -> Option<&'static str> {
    let sited = header.pixel_format == PixelFormat::I420;
    CHROMA_SITES.get(usize::from(header.chroma_site)).copied().filter(|s| sited && !s.is_empty())
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// n / d in lowest terms, where these are within an `i32`; neither is 0.
fn fraction(n: u64, d: u64) -> Option<gst::Fraction> {
    let common = greatest_common_divisor(n, d).max(1);
    let (n, d) = (i32::try_from(n / common).ok()?, i32::try_from(d / common).ok()?);
    (d > 0).then(|| gst::Fraction::new(n, d))
}

/// Frames per second; 0/1, a variable rate, where caps cannot express it.
fn framerate(header: &SequenceHeader) -> gst::Fraction {
    let (n, d) = header.framerate;
    fraction(n.into(), d.into()).unwrap_or(gst::Fraction::new(0, 1))
}

/// Full blocks per second; `None` where the rate is variable or cannot be expressed.
pub fn block_rate(header: &SequenceHeader) -> Option<gst::Fraction> {
    let (n, d) = header.framerate;
    fraction(n.into(), u64::from(d) * u64::from(header.block_length)).filter(|f| f.numer() > 0)
}

/// Width to height of a pixel, where caps can express it and sinks can work out the picture's own from it.
fn pixel_aspect_ratio(header: &SequenceHeader) -> Option<gst::Fraction> {
    let (n, d) = header.pixel_aspect_ratio;
    let (n, d) = (u64::from(n), u64::from(d));
    fraction(n * u64::from(header.width), d * u64::from(header.height))?;
    fraction(n, d)
}

pub fn unsigned(f: gst::Fraction) -> (u32, u32) {
    (f.numer().max(0) as u32, f.denom().max(1) as u32)
}

/// Caps of a stream with this header, without stream-format and codec_data.
pub fn stream_caps(header: &SequenceHeader) -> gst::caps::Builder<gst::caps::NoFeature> {
    let colorimetry = colorimetry(header.colorimetry);
    gst::Caps::builder(MEDIA_TYPE)
        .field("width", header.width as i32)
        .field("height", header.height as i32)
        .field("framerate", framerate(header))
        .field_if_some("pixel-aspect-ratio", pixel_aspect_ratio(header))
        .field_if_some("colorimetry", (!is_unknown(&colorimetry)).then(|| colorimetry.to_string()))
        .field_if_some("chroma-site", chroma_site(header))
}

/// The stream's raw video. Of a colorimetry that is known in part, the matrix may not stay open (GStreamer would put defaults in
/// place of all of it): it is then the default one for the picture's size, and RGB for RGB.
pub fn video_info(header: &SequenceHeader) -> Result<gst_video::VideoInfo, glib::BoolError> {
    let format = match header.pixel_format {
        PixelFormat::I420 => gst_video::VideoFormat::I420,
        PixelFormat::Rgb => gst_video::VideoFormat::Rgb,
    };
    let builder = || gst_video::VideoInfo::builder(format, header.width, header.height);
    let default = builder().build()?.colorimetry();
    let said = colorimetry(header.colorimetry);
    let matrix = match said.matrix() {
        _ if header.pixel_format == PixelFormat::Rgb => Matrix::Rgb,
        Matrix::Unknown | Matrix::Rgb => default.matrix(),
        matrix => matrix,
    };
    let colorimetry = if is_unknown(&said) {
        default
    } else {
        gst_video::VideoColorimetry::new(said.range(), matrix, said.transfer(), said.primaries())
    };
    let mut info = builder().fps(framerate(header)).colorimetry(&colorimetry);
    if let Some(aspect) = pixel_aspect_ratio(header) {
        info = info.par(aspect);
    }
    if let Some(site) = chroma_site(header).map(gst_video::VideoChromaSite::from_string) {
        info = info.chroma_site(site);
    }
    info.build()
}

/// The contradiction between caps and header, if there is one. A variable rate contradicts nothing.
pub fn contradiction(caps: &gst::StructureRef, header: &SequenceHeader) -> Option<String> {
    let sizes = [("width", header.width), ("height", header.height)];
    let size = sizes.into_iter().find_map(|(name, of_header)| {
        let of_caps = caps.get::<i32>(name).ok()?;
        (i64::from(of_caps) != i64::from(of_header))
            .then(|| format!("caps say {name} {of_caps}, the stream's header says {of_header}"))
    });
    size.or_else(|| {
        let of_caps = caps.get::<gst::Fraction>("framerate").ok().filter(|f| f.numer() > 0)?;
        let of_header = framerate(header);
        (of_header.numer() > 0 && of_caps != of_header)
            .then(|| format!("caps say framerate {of_caps}, the stream's header says {of_header}"))
    })
}
