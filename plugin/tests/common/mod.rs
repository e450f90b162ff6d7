// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the element tests share.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::sync::Once;

use gst::prelude::*;
use gst_video::prelude::*;

pub fn init() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        gst::init().unwrap();
        gstelastictok::plugin_register_static().unwrap();
    });
}

/// A pipeline that is stopped whatever happens.
pub struct Pipeline(pub gst::Pipeline);

impl Drop for Pipeline {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}

impl Pipeline {
    pub fn new(description: &str) -> Self {
        init();
        Self(gst::parse::launch(description).unwrap().downcast().unwrap())
    }
}

pub fn raw_caps(format: &str, width: i32, height: i32, rate: (i32, i32)) -> gst::Caps {
    init();
    gst::Caps::builder("video/x-raw")
        .field("format", format)
        .field("width", width)
        .field("height", height)
        .field("framerate", gst::Fraction::new(rate.0, rate.1))
        .field("pixel-aspect-ratio", gst::Fraction::new(4, 3))
        .field("colorimetry", "bt709")
        .build()
}

/// A harness around one element with properties, or several that are linked.
pub fn harness(description: &str) -> gst_check::Harness {
    init();
    let element: gst::Element = if description.contains('!') {
        gst::parse::bin_from_description(description, true).unwrap().upcast()
    } else {
        gst::parse::launch(description).unwrap()
    };
    gst_check::Harness::with_element(&element, Some("sink"), Some("src"))
}

pub fn stream_caps(form: &str) -> gst::Caps {
    gst::Caps::builder("video/x-elastictok").field("stream-format", form).build()
}

/// A picture of a moving gradient with a square in it.
pub fn picture(caps: &gst::Caps, n: u64) -> gst::Buffer {
    let info = gst_video::VideoInfo::from_caps(caps).unwrap();
    let mut buffer = gst::Buffer::with_size(info.size()).unwrap();
    {
        let mut frame = gst_video::VideoFrameRef::from_buffer_ref_writable(buffer.get_mut().unwrap(), &info).unwrap();
        for p in 0..frame.n_planes() {
            let stride = frame.plane_stride()[p as usize] as usize;
            for (i, byte) in frame.plane_data_mut(p).unwrap().iter_mut().enumerate() {
                let (y, x) = ((i / stride) as u64, (i % stride) as u64);
                let inside = (y + n) % 64 < 20 && (x + 2 * n) % 64 < 24;
                *byte = (60 + (x + n) % 97 + y / 2 % 50 + if inside { 60 } else { 0 }) as u8;
            }
        }
    }
    buffer
}

/// Time stamps as a source of `rate` makes them.
pub fn stamp(buffer: &mut gst::Buffer, n: u64, rate: (i32, i32)) {
    let at = |n: u64| gst::ClockTime::from_nseconds(n * 1_000_000_000 * rate.1 as u64 / rate.0 as u64);
    let buffer = buffer.get_mut().unwrap();
    buffer.set_pts(at(n));
    buffer.set_duration(at(n + 1) - at(n));
}

/// An encoder with caps set, one thread.
pub fn encoder(caps: &gst::Caps, out: &str, settings: &str) -> gst_check::Harness {
    let mut h = harness(&format!("elastictokenc execution-provider=cpu threads=1 {settings}"));
    h.set_sink_caps(stream_caps(out));
    h.set_src_caps(caps.clone());
    h
}

/// Encodes `n` regular frames; all packets, after EOS.
pub fn encode(caps: &gst::Caps, out: &str, settings: &str, n: u64, rate: (i32, i32)) -> (gst::Caps, Vec<gst::Buffer>) {
    let mut h = encoder(caps, out, settings);
    for i in 0..n {
        let mut buffer = picture(caps, i);
        stamp(&mut buffer, i, rate);
        h.push(buffer).unwrap();
    }
    h.push_event(gst::event::Eos::new());
    let packets = drain(&mut h);
    let caps = h.sinkpad().unwrap().current_caps().unwrap();
    (caps, packets)
}

pub fn drain(h: &mut gst_check::Harness) -> Vec<gst::Buffer> {
    std::iter::from_fn(|| h.try_pull()).collect()
}

/// A decoder fed with `packets`; what comes out.
pub fn decode(caps: &gst::Caps, packets: impl IntoIterator<Item = gst::Buffer>) -> Vec<gst::Buffer> {
    let mut h = decoder(caps);
    for packet in packets {
        h.push(packet).unwrap();
    }
    h.push_event(gst::event::Eos::new());
    drain(&mut h)
}

/// A decoder, with a parser before it where the stream is not packetized.
pub fn decoder(caps: &gst::Caps) -> gst_check::Harness {
    let packets = caps.structure(0).unwrap().get::<&str>("stream-format") == Ok("packetized");
    let parser = if packets { "" } else { "elastictokparse ! " };
    let mut h = harness(&format!("{parser}elastictokdec execution-provider=cpu threads=1"));
    h.set_src_caps(caps.clone());
    h
}

pub fn luma_psnr(caps: &gst::Caps, a: &gst::Buffer, b: &gst::Buffer) -> f64 {
    let info = gst_video::VideoInfo::from_caps(caps).unwrap();
    let (a, b) = (a.map_readable().unwrap(), b.map_readable().unwrap());
    let (w, h, stride) = (info.width() as usize, info.height() as usize, info.stride()[0] as usize);
    let mut sum = 0.0;
    for y in 0..h {
        for x in 0..w {
            let d = f64::from(a[y * stride + x]) - f64::from(b[y * stride + x]);
            sum += d * d;
        }
    }
    elastictok::codec::psnr(sum / (w * h) as f64)
}
