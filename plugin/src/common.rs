// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the elements share: enums of properties, caps of a stream, and how core errors become GStreamer's.

use std::sync::{Mutex, MutexGuard};

use elastictok::bitstream::SequenceHeader;
use elastictok::runtime::{ExecutionProvider, RuntimeConfig};
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;

/// Media type of the streams.
pub const MEDIA_TYPE: &str = "video/x-elastictok";

/// Locks; a panic elsewhere does not make the element unusable, the base classes have noticed it by themselves.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Where the model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[enum_type(name = "GstElasticTokExecutionProvider")]
#[repr(i32)]
pub enum Provider {
    #[default]
    #[enum_value(name = "Auto: CUDA where it works, else the CPU", nick = "auto")]
    Auto,
    #[enum_value(name = "CPU", nick = "cpu")]
    Cpu,
    #[enum_value(name = "CUDA: NVIDIA GPU", nick = "cuda")]
    Cuda,
    #[enum_value(name = "TensorRT: NVIDIA GPU, engines are built at the first start", nick = "tensorrt")]
    Tensorrt,
}

/// The properties by which both codec elements choose and run a model.
#[derive(Debug, Clone)]
pub struct ModelSettings {
    pub model: String,
    pub provider: Provider,
    pub device_id: i32,
    pub threads: u32,
}

pub const DEFAULT_MODEL: &str = "builtin";

impl Default for ModelSettings {
    fn default() -> Self {
        Self { model: DEFAULT_MODEL.into(), provider: Provider::default(), device_id: 0, threads: 0 }
    }
}

impl ModelSettings {
    pub fn runtime(&self) -> RuntimeConfig {
        let provider = match self.provider {
            Provider::Auto => ExecutionProvider::Auto,
            Provider::Cpu => ExecutionProvider::Cpu,
            Provider::Cuda => ExecutionProvider::Cuda,
            Provider::Tensorrt => ExecutionProvider::TensorRt,
        };
        RuntimeConfig { provider, device_id: self.device_id, threads: self.threads as usize, ..Default::default() }
    }

    pub fn properties() -> Vec<glib::ParamSpec> {
        vec![
            glib::ParamSpecString::builder("model")
                .nick("Model")
                .blurb("Model bundle: \"builtin\", or the path of a bundle's directory")
                .default_value(DEFAULT_MODEL)
                .mutable_ready()
                .build(),
            glib::ParamSpecEnum::builder::<Provider>("execution-provider")
                .nick("Execution Provider")
                .blurb("Where the model runs; a provider asked for by name is never replaced by another")
                .mutable_ready()
                .build(),
            glib::ParamSpecInt::builder("device-id")
                .nick("Device ID")
                .blurb("Which GPU, counted from 0")
                .minimum(0)
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt::builder("threads")
                .nick("Threads")
                .blurb("Threads of the model on the CPU (0 = as many as processors, 4 at the most)")
                .maximum(256)
                .mutable_ready()
                .build(),
        ]
    }

    /// Sets a property of [`ModelSettings::properties`]; `false` if it is none of them.
    pub fn set(&mut self, name: &str, value: &glib::Value) -> bool {
        match name {
            "model" => {
                self.model = value.get::<Option<String>>().expect("type checked upstream").unwrap_or_else(|| DEFAULT_MODEL.into())
            }
            "execution-provider" => self.provider = value.get().expect("type checked upstream"),
            "device-id" => self.device_id = value.get().expect("type checked upstream"),
            "threads" => self.threads = value.get().expect("type checked upstream"),
            _ => return false,
        }
        true
    }

    pub fn get(&self, name: &str) -> Option<glib::Value> {
        Some(match name {
            "model" => self.model.to_value(),
            "execution-provider" => self.provider.to_value(),
            "device-id" => self.device_id.to_value(),
            "threads" => self.threads.to_value(),
            _ => return None,
        })
    }
}

/// The element message a core error becomes.
pub fn error_message(error: &elastictok::Error) -> gst::ErrorMessage {
    use elastictok::Error::*;
    match error {
        Malformed(_) | ContextLost(_) => gst::error_msg!(gst::StreamError::Decode, ("{error}")),
        Unsupported(_) | Limit(_) => gst::error_msg!(gst::StreamError::Format, ("{error}")),
        Model(_) => gst::error_msg!(gst::ResourceError::NotFound, ("{error}")),
        Runtime(_) => gst::error_msg!(gst::LibraryError::Init, ("{error}")),
        Settings(_) => gst::error_msg!(gst::LibraryError::Settings, ("{error}")),
        _ => gst::error_msg!(gst::CoreError::Failed, ("{error}")),
    }
}

/// Posts `message`, and makes of it what vfuncs return that can only refuse: without the post nobody would read the reason.
pub fn refuse<T: ElementImpl>(
    element: &T,
    category: &'static gst::DebugCategory,
    message: gst::ErrorMessage,
) -> gst::LoggableError {
    let error = gst::loggable_error!(*category, "{message}");
    element.post_error_message(message);
    error
}

/// Colorimetry of a header that says nothing of it.
pub const UNKNOWN_COLORIMETRY: [u8; 4] = [0, 2, 2, 2];

/// GStreamer's colorimetry as a stream's header has it: range, then H.273 matrix, transfer and primaries.
pub fn colorimetry_to_header(c: gst_video::VideoColorimetry) -> [u8; 4] {
    let range = match c.range() {
        gst_video::VideoColorRange::Range0_255 => 1,
        gst_video::VideoColorRange::Range16_235 => 2,
        _ => 0,
    };
    [range, c.matrix().to_iso() as u8, c.transfer().to_iso() as u8, c.primaries().to_iso() as u8]
}

pub fn colorimetry_from_header([range, matrix, transfer, primaries]: [u8; 4]) -> gst_video::VideoColorimetry {
    let range = match range {
        1 => gst_video::VideoColorRange::Range0_255,
        2 => gst_video::VideoColorRange::Range16_235,
        _ => gst_video::VideoColorRange::Unknown,
    };
    gst_video::VideoColorimetry::new(
        range,
        gst_video::VideoColorMatrix::from_iso(matrix.into()),
        gst_video::VideoTransferFunction::from_iso(transfer.into()),
        gst_video::VideoColorPrimaries::from_iso(primaries.into()),
    )
}

/// Chroma sites in the order of the header's code points.
const CHROMA_SITES: [&str; 7] = ["", "mpeg2", "jpeg", "cosited", "v-cosited", "", ""];

pub fn chroma_site_to_header(site: &str) -> u8 {
    CHROMA_SITES.iter().skip(1).position(|s| !s.is_empty() && *s == site).map_or(0, |i| i as u8 + 1)
}

pub fn chroma_site_from_header(site: u8) -> Option<&'static str> {
    CHROMA_SITES.get(usize::from(site)).copied().filter(|s| !s.is_empty())
}

fn fraction((n, d): (u32, u32)) -> gst::Fraction {
    // Out of an i32's range there is no such video; the header's check keeps denominators above zero.
    gst::Fraction::new(i32::try_from(n).unwrap_or(i32::MAX), i32::try_from(d).unwrap_or(i32::MAX).max(1))
}

pub fn unsigned(f: gst::Fraction) -> (u32, u32) {
    (f.numer().max(0) as u32, f.denom().max(1) as u32)
}

/// Caps of a stream with this header, without stream-format and codec_data.
pub fn stream_caps(header: &SequenceHeader) -> gst::caps::Builder<gst::caps::NoFeature> {
    let mut caps = gst::Caps::builder(MEDIA_TYPE)
        .field("width", header.width as i32)
        .field("height", header.height as i32)
        .field("framerate", fraction(header.framerate))
        .field("pixel-aspect-ratio", fraction(header.pixel_aspect_ratio));
    if header.colorimetry != UNKNOWN_COLORIMETRY {
        caps = caps.field("colorimetry", colorimetry_from_header(header.colorimetry).to_string());
    }
    if let Some(site) = chroma_site_from_header(header.chroma_site) {
        caps = caps.field("chroma-site", site);
    }
    caps
}

/// The stream's raw video.
pub fn video_info(header: &SequenceHeader) -> Result<gst_video::VideoInfo, glib::BoolError> {
    let format = match header.pixel_format {
        elastictok::bitstream::PixelFormat::I420 => gst_video::VideoFormat::I420,
        elastictok::bitstream::PixelFormat::Rgb => gst_video::VideoFormat::Rgb,
    };
    let mut info = gst_video::VideoInfo::builder(format, header.width, header.height)
        .fps(fraction(header.framerate))
        .par(fraction(header.pixel_aspect_ratio));
    let colorimetry = colorimetry_from_header(header.colorimetry);
    if header.colorimetry != UNKNOWN_COLORIMETRY {
        info = info.colorimetry(&colorimetry);
    }
    if let Some(site) = chroma_site_from_header(header.chroma_site).map(gst_video::VideoChromaSite::from_string) {
        info = info.chroma_site(site);
    }
    info.build()
}

/// Whether caps say something else than the header; what, if so.
pub fn contradiction(caps: &gst::StructureRef, header: &SequenceHeader) -> Option<String> {
    let sizes = [("width", header.width), ("height", header.height)];
    let size = sizes.into_iter().find_map(|(name, of_header)| {
        let of_caps = caps.get::<i32>(name).ok()?;
        (i64::from(of_caps) != i64::from(of_header))
            .then(|| format!("caps say {name} {of_caps}, the stream's header says {of_header}"))
    });
    size.or_else(|| {
        let of_caps = caps.get::<gst::Fraction>("framerate").ok()?;
        (of_caps != fraction(header.framerate))
            .then(|| format!("caps say framerate {of_caps}, the stream's header says {}", fraction(header.framerate)))
    })
}
