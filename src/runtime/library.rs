// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finding `libonnxruntime` at run time, and the one environment of the process.
//!
//! Nothing links against it, so the plugin loads (and is inspected) without it.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use once_cell::sync::OnceCell;
use ort::environment::Environment;

use crate::{Error, Result};

/// Oldest ONNX Runtime that is accepted: 1.24.
const OLDEST: u32 = 24;
/// Where distributions keep shared libraries; `ld.so` itself is asked last.
const SYSTEM: [&str; 6] = [
    "/usr/local/lib",
    "/usr/lib",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/local/lib/x86_64-linux-gnu",
];

static BESIDE: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Adds a directory that is searched after `ORT_DYLIB_PATH`: where the plugin itself lies. To be called before the first
/// graph is opened.
pub fn set_search_directory(directory: PathBuf) {
    *BESIDE.lock().unwrap_or_else(|e| e.into_inner()) = Some(directory);
}

/// Where `install-deps.sh` puts the library.
fn installed() -> Option<PathBuf> {
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let data = data.or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".local/share")));
    data.map(|d| d.join("elastictok/onnxruntime"))
}

/// The library in `directory`: the plain name first, else the newest versioned one.
fn in_directory(directory: &Path) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(directory)
        .ok()?
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| {
            p.file_name()
                .and_then(|n| n.to_str())
                .is_some_and(|n| n == "libonnxruntime.so" || n.starts_with("libonnxruntime.so.") || n == "libonnxruntime.dylib")
        })
        .collect();
    found.sort_by_key(|p| (p.extension().is_some_and(|e| e == "so"), p.clone()));
    found.pop()
}

fn failed(why: &str, looked: &[String]) -> Error {
    Error::Runtime(format!(
        "{why}. Looked in: {}. Install it with ./install-deps.sh of this project, or set ORT_DYLIB_PATH to a libonnxruntime.so of version 1.{OLDEST} or later",
        looked.join(", ")
    ))
}

/// The library's path, and everything that was looked at.
fn locate() -> (Option<PathBuf>, Vec<String>) {
    let mut looked = Vec::new();
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|p| !p.is_empty()) {
        let path = PathBuf::from(path);
        looked.push(format!("ORT_DYLIB_PATH={}", path.display()));
        // Named by the user: no other is taken in its place.
        return (path.is_file().then_some(path), looked);
    }
    let beside = BESIDE.lock().unwrap_or_else(|e| e.into_inner()).clone();
    for directory in beside.into_iter().chain(SYSTEM.iter().map(PathBuf::from)).chain(installed()) {
        looked.push(directory.display().to_string());
        if let Some(path) = in_directory(&directory) {
            return (Some(path), looked);
        }
    }
    (None, looked)
}

fn open() -> Result<Environment> {
    let (path, looked) = locate();
    let path = path.ok_or_else(|| failed("libonnxruntime.so was not found", &looked))?;
    let builder = ort::init_from(&path)
        .map_err(|e| failed(&format!("{} is not a usable ONNX Runtime ({e:?})", path.display()), &looked))?;
    let version = ort::info().lines().find_map(|l| l.strip_prefix("ORT Build Info: ").map(str::to_owned)).unwrap_or_default();
    let minor = ort_version(&path);
    if minor.is_some_and(|m| m < OLDEST) {
        return Err(failed(&format!("{} is ONNX Runtime 1.{}, too old", path.display(), minor.unwrap_or_default()), &looked));
    }
    log::info!("ONNX Runtime from {} {version}", path.display());
    builder
        .with_name("elastictok")
        .with_telemetry(false)
        .build()
        .map_err(|e| failed(&format!("{} could not be started ({e})", path.display()), &looked))
}

/// Minor version from a versioned file name, links followed.
fn ort_version(path: &Path) -> Option<u32> {
    let real = std::fs::canonicalize(path).ok()?;
    let name = real.file_name()?.to_str()?.to_owned();
    name.strip_prefix("libonnxruntime.so.1.")?.split('.').next()?.parse().ok()
}

/// The process's environment. The first outcome stays: ONNX Runtime cannot be loaded twice.
pub(super) fn environment() -> Result<&'static Environment> {
    static ENVIRONMENT: OnceCell<Result<Environment>> = OnceCell::new();
    ENVIRONMENT.get_or_init(open).as_ref().map_err(Clone::clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_name_wins_and_strangers_are_ignored() {
        let dir = std::env::temp_dir().join(format!("elastictok-library-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("writable");
        assert_eq!(in_directory(&dir), None);
        for name in ["libonnxruntime_providers_shared.so", "libonnxruntime.so.1.30.0", "readme"] {
            std::fs::write(dir.join(name), b"").expect("writable");
        }
        assert_eq!(in_directory(&dir), Some(dir.join("libonnxruntime.so.1.30.0")));
        assert_eq!(ort_version(&dir.join("libonnxruntime.so.1.30.0")), Some(30));
        std::fs::write(dir.join("libonnxruntime.so"), b"").expect("writable");
        assert_eq!(in_directory(&dir), Some(dir.join("libonnxruntime.so")));
        std::fs::remove_dir_all(&dir).expect("removable");
    }

    #[test]
    fn the_message_says_where_and_how() {
        let message = failed("not found", &["a".into(), "b".into()]).to_string();
        assert!(message.contains("a, b") && message.contains("install-deps.sh") && message.contains("ORT_DYLIB_PATH"));
    }
}
