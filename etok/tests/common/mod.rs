// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests of the program share.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A folder that goes away with the test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("etok-test-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The program in this folder.
    pub fn command(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_etok"));
        command.current_dir(&self.0).args(args.split_whitespace()).env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY");
        command.stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &str) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs what must succeed; standard output as text.
    pub fn good(&self, args: &str) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "etok {args}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs what must fail with `code`; what it says. It never leaves `never` behind, nor tells of a fault of its own.
    pub fn bad(&self, args: &str, code: i32, never: &str) -> String {
        let output = self.run(args);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "etok {args}: {said}");
        assert!(said.starts_with("etok: ") || said.starts_with("error: "), "etok {args}: {said}");
        assert!(!said.contains("panicked") && !said.contains("fault of etok"), "etok {args}: {said}");
        assert!(never.is_empty() || !self.file(never).exists(), "etok {args} left {never}");
        said
    }

    /// What `etok info --json` says.
    pub fn info(&self, name: &str) -> serde_json::Value {
        let output = self.run(&format!("info {name} --json"));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A small clip of `frames` frames.
    pub fn clip(&self, name: &str, frames: u32, more: &str) {
        self.good(&format!("encode test:ball {name} --quiet --size 96x64 --max-frames {frames} {more}"));
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// Whether GStreamer has an element here.
pub fn has(element: &str) -> bool {
    gst::init().unwrap();
    gst::ElementFactory::find(element).is_some()
}

/// A page without the pictures in it, whose letters could spell anything.
pub fn without_pictures(page: &str) -> String {
    let mut parts = page.split("src=\"data:");
    let first = parts.next().unwrap_or_default().to_string();
    first + &parts.map(|part| part.split_once('"').map_or("", |(_, rest)| rest)).collect::<String>()
}
