// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the core logs (which provider `auto` took, and why) and what ONNX Runtime logs go into GStreamer's debug log, category
//! `elastictok`. They come through a sink of the core's: the process's logger is left to the program, which may be linked with
//! the plugin.

use once_cell::sync::Lazy;

static CAT: Lazy<gst::DebugCategory> =
    Lazy::new(|| gst::DebugCategory::new("elastictok", gst::DebugColorFlags::empty(), Some("ElasticTok codec core")));

struct Forward;

fn level(level: log::Level) -> gst::DebugLevel {
    match level {
        log::Level::Error => gst::DebugLevel::Error,
        log::Level::Warn => gst::DebugLevel::Warning,
        log::Level::Info => gst::DebugLevel::Info,
        log::Level::Debug => gst::DebugLevel::Debug,
        log::Level::Trace => gst::DebugLevel::Trace,
    }
}

impl log::Log for Forward {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        level(metadata.level()) <= CAT.threshold()
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            gst::log_with_level!(CAT, level(record.level()), "{}", record.args());
        }
    }

    fn flush(&self) {}
}

/// Starts logging. If a program that is linked with the plugin has set a sink, that one stays.
pub fn forward() {
    // Else a list of the categories would not have it.
    Lazy::force(&CAT);
    elastictok::logging::set_sink(&Forward);
}
