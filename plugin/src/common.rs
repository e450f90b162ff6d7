// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the elements share: properties, caps of a stream, and core errors as GStreamer's.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};

use elastictok::bitstream::{DEFAULT_MAX_PIXELS, Limits};
use elastictok::runtime::{Canceller, ExecutionProvider, RuntimeConfig};
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;

pub use crate::caps::{
    UNKNOWN_COLORIMETRY, block_rate, chroma_site_to_header, colorimetry_to_header, contradiction, stream_caps, unsigned,
    video_info,
};

/// Media type of the streams.
pub const MEDIA_TYPE: &str = "video/x-elastictok";

/// Encoding name of the streams in RTP, and its clock rate: `docs/rtp.md`.
pub const RTP_ENCODING_NAME: &str = "ELASTICTOK";
pub const RTP_CLOCK_RATE: u32 = 90_000;

/// Locks. A panic elsewhere does not make the element unusable, since the base classes handle it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/**
 * GstElasticTokExecutionProvider:
 * @auto: CUDA where it works, else the CPU
 * @cpu: the CPU
 * @cuda: an NVIDIA GPU
 * @tensorrt: an NVIDIA GPU, with engines that are built at the first start
 *
 * Where the model runs.
 *
 * Since: 0.1.0
 */
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
    /// The settings for the core. `canceller` ends runs when the element is flushed or stopped.
    pub fn runtime(&self, canceller: &Canceller) -> RuntimeConfig {
        let provider = match self.provider {
            Provider::Auto => ExecutionProvider::Auto,
            Provider::Cpu => ExecutionProvider::Cpu,
            Provider::Cuda => ExecutionProvider::Cuda,
            Provider::Tensorrt => ExecutionProvider::TensorRt,
        };
        RuntimeConfig {
            provider,
            device_id: self.device_id,
            threads: self.threads as usize,
            canceller: Some(canceller.clone()),
            ..Default::default()
        }
    }

    /**
     * GstElasticTokEnc:model:
     *
     * The model bundle: `builtin`, or the path of a bundle's directory. It decides which raw formats the encoder takes, how many
     * frames a block has and how many layers. A decoder needs the bundle that the stream was made with.
     *
     * Since: 0.1.0
     */
    /**
     * GstElasticTokDec:model:
     *
     * The model bundle, which must be the one that the stream was made with. With `builtin`, a stream of any builtin bundle is
     * decoded; another one is refused with an error that says so.
     *
     * Since: 0.1.0
     */
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
                .blurb("Threads of the model on the CPU (0 = one for each processor, at most 4)")
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

/// The property `max-pixels` of the elements that read streams.
#[derive(Debug)]
pub struct MaxPixels(AtomicU32);

impl Default for MaxPixels {
    fn default() -> Self {
        Self(AtomicU32::new(DEFAULT_MAX_PIXELS))
    }
}

impl MaxPixels {
    pub const NAME: &'static str = "max-pixels";

    pub fn property() -> glib::ParamSpec {
        glib::ParamSpecUInt::builder(Self::NAME)
            .nick("Maximum Pixels")
            .blurb(
                "Largest picture to accept, in pixels (width times height). A stream of larger pictures is an error, and no memory is \
                 taken for it (0 = all that the format allows). Effective from the next sequence header",
            )
            .maximum(Limits::FORMAT.max_pixels)
            .default_value(DEFAULT_MAX_PIXELS)
            .mutable_playing()
            .build()
    }

    pub fn set(&self, value: &glib::Value) {
        self.0.store(value.get().expect("type checked upstream"), Ordering::Relaxed);
    }

    pub fn get(&self) -> glib::Value {
        self.0.load(Ordering::Relaxed).to_value()
    }

    /// Limits for a stream.
    pub fn limits(&self) -> Limits {
        Limits::with_max_pixels(self.0.load(Ordering::Relaxed))
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

/// Ends the runs of a flush: `event` came to `pad`, whose streaming thread may be in one. `canceller` is to be resumed where the
/// base class flushes.
pub fn end_runs(canceller: &Canceller, pad: &gst::Pad, event: &gst::Event) {
    // An inactive pad gets no flush-stop; its next start resumes.
    if event.type_() == gst::EventType::FlushStart && pad.is_active() {
        canceller.cancel();
    }
}

/// Posts `message`, and turns it into the error of a vfunc that can only refuse: without the message nobody would learn the
/// reason.
pub fn refuse<T: ElementImpl>(
    element: &T,
    category: &'static gst::DebugCategory,
    message: gst::ErrorMessage,
) -> gst::LoggableError {
    let error = gst::loggable_error!(*category, "{message}");
    element.post_error_message(message);
    error
}

/// Rates of layers as `stats` have them, in whole bit/s.
pub(crate) fn bitrates(rates: &[f64]) -> gst::Array {
    gst::Array::new(rates.iter().map(|&rate| rate.round() as u64))
}
