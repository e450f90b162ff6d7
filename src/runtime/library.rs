// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finding `libonnxruntime` at run time, and the one environment of the process.
//!
//! Nothing links against it, so the plugin can be loaded and inspected without it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use once_cell::sync::OnceCell;
use ort::environment::Environment;
use ort::logging::LogLevel;

use super::places::{Places, in_directory, places, version_of};
use crate::logging::{self, ONNX_RUNTIME, tell};
use crate::{Error, Result};

static BESIDE: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Adds a directory that is searched after `ORT_DYLIB_PATH`: where the plugin itself lies. Call it before the first graph is
/// opened. A relative directory is resolved against the current working directory.
pub fn set_search_directory(directory: PathBuf) {
    *BESIDE.lock().unwrap_or_else(|e| e.into_inner()) = std::path::absolute(directory).ok();
}

/// The loaded library; it is never unloaded.
struct Library {
    path: PathBuf,
    environment: Environment,
}

fn failed(why: &str, looked: &[String]) -> Error {
    Error::Runtime(format!(
        "{why}. Looked for libonnxruntime.so in: {}. Install it with ./install-deps.sh at the top of the elastictok repository, or set ORT_DYLIB_PATH to a libonnxruntime.so of version 1.{} or later",
        looked.join(", "),
        ort::MINOR_VERSION
    ))
}

/// What is wrong with the library at `path`, in the user's terms.
fn reason(path: &Path, error: &ort::LoadDynamicError) -> String {
    let path = path.display();
    match error {
        ort::LoadDynamicError::Dlopen { error, .. } => format!("{path} does not load ({})", with_sources(error)),
        ort::LoadDynamicError::MissingApi { .. } => format!("{path} is not an ONNX Runtime: it has no OrtGetApiBase"),
        ort::LoadDynamicError::BadVersion { version_str, .. } => {
            format!("{path} is ONNX Runtime {version_str}, too old: 1.{} is needed", ort::MINOR_VERSION)
        }
        ort::LoadDynamicError::InvalidVersionString => format!("{path} is not an ONNX Runtime: it names no version"),
    }
}

/// An error and its cause: the loader's own message is in the source.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = e.source();
    }
    text
}

fn start(path: &Path) -> Result<Library, String> {
    let builder = ort::init_from(path).map_err(|e| reason(path, &e))?;
    let logger = |level: LogLevel, _: &str, _: &str, place: &str, message: &str| {
        // Its errors are returned as errors too, and failing to get a provider that was only tried is no error for the user.
        let level = match level {
            LogLevel::Verbose => log::Level::Trace,
            LogLevel::Info | LogLevel::Warning => log::Level::Debug,
            LogLevel::Error => log::Level::Warn,
            LogLevel::Fatal => log::Level::Error,
        };
        logging::write(level, ONNX_RUNTIME, format_args!("ONNX Runtime: {message} ({place})"));
    };
    let environment = builder
        .with_name("elastictok")
        .with_telemetry(false)
        .with_logger(Arc::new(logger))
        .build()
        .map_err(|e| format!("{} does not start ({e})", path.display()))?;
    // Below warnings it has much to say of every graph.
    let everything = logging::is_enabled(log::Level::Trace, ONNX_RUNTIME);
    environment.set_log_level(if everything { LogLevel::Verbose } else { LogLevel::Warning });
    let build = ort::info();
    tell!(Info, "ONNX Runtime from {} ({})", path.display(), build.strip_prefix("ORT Build Info: ").unwrap_or(build));
    Ok(Library { path: path.to_owned(), environment })
}

/// Tries only `ORT_DYLIB_PATH` where it is set: the user named it, so no other library replaces it. Otherwise takes the first
/// directory with a library that works; one that is too old or broken is passed over.
fn open() -> Result<Library> {
    if let Some(named) = std::env::var_os("ORT_DYLIB_PATH").filter(|p| !p.is_empty()) {
        let looked = [format!("ORT_DYLIB_PATH={}", named.display())];
        let named = PathBuf::from(named);
        if !named.is_absolute() {
            return Err(failed(
                &format!(
                    "ORT_DYLIB_PATH={} is a relative path, which depends on the working directory; set an absolute path",
                    named.display()
                ),
                &looked,
            ));
        }
        let path = if named.is_dir() { in_directory(&named) } else { named.is_file().then(|| named.clone()) };
        let path = path.ok_or_else(|| failed(&format!("there is no ONNX Runtime at {}", named.display()), &looked))?;
        return start(&path).map_err(|why| failed(&why, &looked));
    }
    let beside = BESIDE.lock().unwrap_or_else(|e| e.into_inner()).clone();
    let (mut looked, mut faults) = (Vec::new(), Vec::new());
    let Places { directories, passed_over } = places(beside.as_deref(), &|name| std::env::var_os(name));
    for variable in &passed_over {
        tell!(Warn, "{variable} is not an absolute path: no library is looked for there");
    }
    for directory in directories {
        looked.push(directory.display().to_string());
        let Some(path) = in_directory(&directory) else { continue };
        match start(&path) {
            Ok(library) => {
                for fault in faults {
                    tell!(Warn, "passed over: {fault}");
                }
                return Ok(library);
            }
            Err(fault) => faults.push(fault),
        }
    }
    looked.extend(passed_over.iter().map(|variable| format!("not in {variable}, which is not an absolute path")));
    let why = if faults.is_empty() { "libonnxruntime.so was not found".to_owned() } else { faults.join("; ") };
    Err(failed(&why, &looked))
}

fn library() -> Result<&'static Library> {
    static LIBRARY: OnceCell<Result<Library>> = OnceCell::new();
    LIBRARY.get_or_init(open).as_ref().map_err(Clone::clone)
}

/// The process's environment. The first result is kept: ONNX Runtime cannot be loaded twice.
pub(super) fn environment() -> Result<&'static Environment> {
    library().map(|l| &l.environment)
}

/// Whether the library in use is of version 1.`minor` or later; false where the name of its file does not tell.
pub(super) fn is_at_least(minor: u32) -> Result<bool> {
    Ok(version_of(path()?).is_some_and(|version| version.as_slice() >= [1, minor].as_slice()))
}

/// The library in use.
pub(super) fn path() -> Result<&'static Path> {
    library().map(|l| l.path.as_path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_says_where_and_how() {
        let message = failed("not found", &["a".into(), "b".into()]).to_string();
        for part in ["a, b", "./install-deps.sh", "ORT_DYLIB_PATH", "1.24 or later"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_version_that_is_too_old_is_named() {
        let error = ort::LoadDynamicError::BadVersion { version_str: "1.17.3".into(), path: "x".into() };
        let reason = reason(Path::new("/x/libonnxruntime.so"), &error);
        assert_eq!(reason, "/x/libonnxruntime.so is ONNX Runtime 1.17.3, too old: 1.24 is needed");
    }
}
