// SPDX-License-Identifier: MIT OR Apache-2.0
//! YUV4MPEG2, the raw video of pipes. GStreamer 1.22 reads and writes it right only where rows are multiples of four pixels.

use std::io::{BufRead, Read as _};

use anyhow::{Context as _, ensure};
use gst::prelude::*;
use gst_video::VideoFormat;
use gst_video::prelude::*;

use crate::failure::input;
use crate::picture::Picture;

/// First bytes of such a stream.
pub const MAGIC: &[u8] = b"YUV4MPEG2";
/// A line of the stream at the most.
const MAX_LINE: u64 = 4096;

/// A stream's pictures.
pub struct Reader<R> {
    source: R,
    info: gst_video::VideoInfo,
    frames: u64,
}

/// A line without its end; `None` at the end of the stream.
fn line(source: &mut impl BufRead) -> anyhow::Result<Option<String>> {
    let mut bytes = Vec::new();
    source.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes).map_err(|e| input(format!("cannot read YUV4MPEG2: {e}")))?;
    if bytes.is_empty() {
        return Ok(None);
    }
    ensure!(bytes.pop() == Some(b'\n'), input("YUV4MPEG2: a line does not end"));
    String::from_utf8(bytes).map(Some).map_err(|_| input("YUV4MPEG2: a line is no text"))
}

/// GStreamer's name for a chroma format, and where chroma lies.
fn format(name: &str) -> anyhow::Result<(VideoFormat, Option<&'static str>)> {
    Ok(match name {
        "420" | "420jpeg" => (VideoFormat::I420, Some("jpeg")),
        "420mpeg2" => (VideoFormat::I420, Some("mpeg2")),
        "420paldv" => (VideoFormat::I420, Some("dv")),
        "420p10" => (VideoFormat::I42010le, None),
        "422" => (VideoFormat::Y42b, None),
        "422p10" => (VideoFormat::I42210le, None),
        "444" => (VideoFormat::Y444, None),
        "444p10" => (VideoFormat::Y44410le, None),
        "mono" => (VideoFormat::Gray8, None),
        _ => {
            return Err(input(format!(
                "YUV4MPEG2 in {name} is not read; convert it with: ffmpeg -i IN -pix_fmt yuv420p OUT.y4m"
            )));
        }
    })
}

fn ratio(text: &str) -> Option<gst::Fraction> {
    let (n, d) = text.split_once(':')?;
    let (n, d): (i32, i32) = (n.parse().ok()?, d.parse().ok()?);
    (n >= 0 && d > 0).then(|| gst::Fraction::new(n, d))
}

impl<R: BufRead> Reader<R> {
    pub fn new(mut source: R) -> anyhow::Result<Self> {
        let head = line(&mut source)?.unwrap_or_default();
        let field = |tag: char| head.split_whitespace().skip(1).find_map(move |f| f.strip_prefix(tag));
        let size = |tag| field(tag).and_then(|f| f.parse::<u32>().ok()).filter(|n| (1..=16384).contains(n));
        let (width, height) = size('W').zip(size('H')).ok_or_else(|| input("YUV4MPEG2: the first line has no size"))?;
        let (format, site) = format(field('C').unwrap_or("420jpeg"))?;
        let rate = field('F').and_then(ratio).unwrap_or(gst::Fraction::new(30, 1));
        let aspect = field('A').and_then(ratio).filter(|a| a.numer() > 0).unwrap_or(gst::Fraction::new(1, 1));
        let mut info = gst_video::VideoInfo::builder(format, width, height).fps(rate).par(aspect);
        if let Some(site) = site {
            info = info.chroma_site(gst_video::VideoChromaSite::from_string(site));
        }
        let order = match field('I') {
            Some("t") => Some(gst_video::VideoFieldOrder::TopFieldFirst),
            Some("b") => Some(gst_video::VideoFieldOrder::BottomFieldFirst),
            _ => None,
        };
        if let Some(order) = order {
            info = info.interlace_mode(gst_video::VideoInterlaceMode::Interleaved).field_order(order);
        }
        let info = info.build().map_err(|e| input(format!("YUV4MPEG2: {e}")))?;
        Ok(Self { source, info, frames: 0 })
    }

    /// The pictures' format.
    pub fn info(&self) -> &gst_video::VideoInfo {
        &self.info
    }

    /// The next picture, with its times; `None` at the end.
    pub fn next(&mut self) -> anyhow::Result<Option<gst::Buffer>> {
        let Some(head) = line(&mut self.source)? else { return Ok(None) };
        ensure!(head.starts_with("FRAME"), input(format!("YUV4MPEG2: no FRAME where picture {} should begin", self.frames)));
        let mut buffer = gst::Buffer::with_size(self.info.size()).context("memory for a picture")?;
        let owned = buffer.get_mut().context("a new buffer is our own")?;
        {
            let mut frame = gst_video::VideoFrameRef::from_buffer_ref_writable(owned, &self.info).context("a picture")?;
            let all = self.info.format_info();
            for plane in 0..frame.n_planes() {
                let component = plane as u8;
                let row =
                    all.scale_width(component, self.info.width()) as usize * all.pixel_stride()[usize::from(component)] as usize;
                let rows = all.scale_height(component, self.info.height()) as usize;
                let stride = frame.plane_stride()[plane as usize] as usize;
                for to in frame.plane_data_mut(plane)?.chunks_mut(stride).take(rows) {
                    let read = self.source.read_exact(to.get_mut(..row).context("a plane of whole rows")?);
                    read.map_err(|_| input(format!("YUV4MPEG2: picture {} is cut short", self.frames)))?;
                }
            }
        }
        let rate = self.info.fps();
        if rate.numer() > 0 {
            let at = |n: u64| gst::ClockTime::SECOND.mul_div_floor(n * rate.denom() as u64, rate.numer() as u64);
            owned.set_pts(at(self.frames));
            owned.set_duration(at(self.frames + 1).zip(at(self.frames)).map(|(next, now)| next - now));
        }
        self.frames += 1;
        Ok(Some(buffer))
    }
}

/// The first line of a stream of I420 pictures with this format.
pub fn header(info: &gst_video::VideoInfo) -> String {
    let (rate, aspect) = (info.fps(), info.par());
    let chroma = if info.chroma_site() == gst_video::VideoChromaSite::MPEG2 { "420mpeg2" } else { "420jpeg" };
    let range = match info.colorimetry().range() {
        gst_video::VideoColorRange::Range0_255 => " XCOLORRANGE=FULL",
        gst_video::VideoColorRange::Range16_235 => " XCOLORRANGE=LIMITED",
        _ => "",
    };
    // a variable rate cannot be said; 30 is what readers assume
    let (n, d) = if rate.numer() > 0 { (rate.numer(), rate.denom()) } else { (30, 1) };
    format!(
        "YUV4MPEG2 W{} H{} F{n}:{d} Ip A{}:{} C{chroma}{range}\n",
        info.width(),
        info.height(),
        aspect.numer(),
        aspect.denom()
    )
}

/// A picture as the stream has it.
pub fn frame(picture: &Picture) -> Vec<u8> {
    [b"FRAME\n", picture.data.as_slice()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(head: &str, bytes: usize) -> Vec<u8> {
        let mut all = format!("{head}\nFRAME\n").into_bytes();
        all.extend((0..bytes).map(|i| i as u8));
        all
    }

    #[test]
    fn odd_sizes_are_read_row_by_row() {
        gst::init().expect("GStreamer starts");
        // 5x3: 15 of luma, 3x2 of each chroma
        let data = stream("YUV4MPEG2 W5 H3 F25:1 Ip A1:1 C420mpeg2", 15 + 12);
        let mut reader = Reader::new(data.as_slice()).expect("valid");
        let info = reader.info().clone();
        assert_eq!((info.width(), info.height(), info.fps()), (5, 3, gst::Fraction::new(25, 1)));
        let buffer = reader.next().expect("valid").expect("a picture");
        let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(&buffer, &info).expect("a picture");
        let picture = crate::report::original::copy(&frame).expect("I420");
        assert_eq!(picture.data, (0..27).collect::<Vec<u8>>());
        assert_eq!(super::frame(&picture), data[data.len() - 33..]);
        assert_eq!(header(&info), "YUV4MPEG2 W5 H3 F25:1 Ip A1:1 C420mpeg2 XCOLORRANGE=LIMITED\n");
        assert!(reader.next().expect("valid").is_none());
    }

    #[test]
    fn broken_streams_are_refused() {
        gst::init().expect("GStreamer starts");
        let bad = |data: &[u8]| Reader::new(data).and_then(|mut r| r.next().map(|_| ())).is_err();
        assert!(bad(b"YUV4MPEG2 W5\n"));
        assert!(bad(b"YUV4MPEG2 W99999 H99999\n"));
        assert!(bad(b"YUV4MPEG2 W5 H3 Cwhat\n"));
        assert!(bad(&stream("YUV4MPEG2 W5 H3", 20)));
        assert!(bad(b"YUV4MPEG2 W5 H3\nNOFRAME\n"));
        assert!(bad(&[b'x'; 10000]));
        assert!(!bad(b"YUV4MPEG2 W5 H3 F0:0\n"), "no picture, but valid");
    }
}
