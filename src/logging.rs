// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the core's messages go, and ONNX Runtime's with them: to the program's logger, as the crate `log` has it, or to a
//! sink of the core's own. A library must not take a program's only logger for itself, and so a plugin sets a sink.

use std::fmt;

use log::{Level, Log, Metadata, Record};
use once_cell::sync::OnceCell;

/// Target of the messages that come from ONNX Runtime; those of the core have targets that begin with `elastictok`.
pub const ONNX_RUNTIME: &str = "onnxruntime";

static SINK: OnceCell<&'static dyn Log> = OnceCell::new();

/// Sends all messages of the core to `sink` in place of the program's logger, at every level that it enables. To be called
/// before the first graph is opened; the first sink stays, and `false` says that there is one already.
pub fn set_sink(sink: &'static dyn Log) -> bool {
    SINK.set(sink).is_ok()
}

/// Whether anybody reads messages of this level and target.
pub(crate) fn is_enabled(level: Level, target: &str) -> bool {
    let metadata = Metadata::builder().level(level).target(target).build();
    match SINK.get() {
        Some(sink) => sink.enabled(&metadata),
        None => level <= log::max_level() && log::logger().enabled(&metadata),
    }
}

/// See [`tell!`].
pub(crate) fn write(level: Level, target: &str, message: fmt::Arguments<'_>) {
    if !is_enabled(level, target) {
        return;
    }
    let record = Record::builder().level(level).target(target).args(message).build();
    match SINK.get() {
        Some(sink) => sink.log(&record),
        None => log::logger().log(&record),
    }
}

/// Logs a message of the core: `tell!(Warn, "format", ...)`.
macro_rules! tell {
    ($level:ident, $($message:tt)+) => {
        $crate::logging::write(log::Level::$level, module_path!(), format_args!($($message)+))
    };
}

pub(crate) use tell;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Sink(Mutex<Vec<(Level, String, String)>>);

    impl Log for Sink {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.level() <= Level::Warn
        }

        fn log(&self, record: &Record<'_>) {
            let line = (record.level(), record.target().to_owned(), record.args().to_string());
            self.0.lock().expect("no test panicked").push(line);
        }

        fn flush(&self) {}
    }

    #[test]
    fn messages_reach_the_sink_without_a_logger_of_the_process() {
        let sink: &'static Sink = Box::leak(Box::default());
        assert!(set_sink(sink));
        assert!(!set_sink(sink), "the first one stays");
        tell!(Warn, "a {}", "warning");
        tell!(Info, "not enabled");
        write(Level::Error, ONNX_RUNTIME, format_args!("an error"));
        let lines = sink.0.lock().expect("no test panicked");
        let ours = |(_, _, text): &&(Level, String, String)| text == "a warning" || text == "not enabled" || text == "an error";
        let lines: Vec<_> = lines.iter().filter(ours).cloned().collect();
        assert_eq!(
            lines,
            [
                (Level::Warn, module_path!().to_owned(), "a warning".to_owned()),
                (Level::Error, ONNX_RUNTIME.to_owned(), "an error".to_owned())
            ]
        );
        assert_eq!(log::max_level(), log::LevelFilter::Off, "the program's logger is left alone");
    }
}
