// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where results go: never over an existing file unless asked, never over the input.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use crate::failure::{self, output, usage};

/// A place that was checked before work begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    Stdout,
    File { path: PathBuf, force: bool },
}

impl Destination {
    /// `path`, or standard output for `-`; refused where it exists and `force` is not set, and where it is one of `inputs`.
    pub fn new<'a>(path: &Path, force: bool, inputs: impl IntoIterator<Item = &'a Path>) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            if io::stdout().is_terminal() {
                return Err(usage(
                    "standard output is a terminal, which cannot show this; name a file, or send it to a program with |",
                ));
            }
            return Ok(Self::Stdout);
        }
        let shown = path.display();
        if path.is_dir() {
            return Err(output(format!("{shown} is a folder; name a file in it")));
        }
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !parent.is_dir() {
            return Err(output(format!("there is no folder {}; make it first: mkdir -p {0}", parent.display())));
        }
        if let Ok(own) = path.canonicalize() {
            if inputs.into_iter().any(|i| i.canonicalize().is_ok_and(|i| i == own)) {
                return Err(output(format!("{shown} is the input; choose another name for the output")));
            }
            // devices and pipes hold nothing that could be lost
            if own.is_file() && !force {
                return Err(output(format!("{shown} exists; add --force to replace it")));
            }
        }
        Ok(Self::File { path: path.to_owned(), force })
    }

    /// As messages name it.
    pub fn name(&self) -> String {
        match self {
            Self::Stdout => "standard output".into(),
            Self::File { path, .. } => path.display().to_string(),
        }
    }

    /// A writer that makes the file at the first byte: what fails before leaves nothing behind, and an old file as it was.
    pub fn writer(&self) -> Writer {
        Writer { destination: self.clone(), out: None }
    }

    fn open(&self) -> io::Result<Box<dyn Write + Send>> {
        match self {
            Self::Stdout => Ok(Box::new(io::stdout())),
            Self::File { path, force } => {
                let mut options = OpenOptions::new();
                options.write(true);
                // not by create(): between the check and now another program may have made a file here
                if *force || (path.exists() && !path.is_file()) {
                    options.create(true).truncate(true);
                } else {
                    options.create_new(true);
                }
                options.open(path).map(|file: File| Box::new(file) as Box<dyn Write + Send>)
            }
        }
    }
}

/// Writes to a [`Destination`].
pub struct Writer {
    destination: Destination,
    out: Option<BufWriter<Box<dyn Write + Send>>>,
}

impl Writer {
    pub fn write(&mut self, data: &[u8]) -> anyhow::Result<()> {
        self.try_write(data).map_err(|e| failure::writing(&self.destination.name(), &e))
    }

    fn try_write(&mut self, data: &[u8]) -> io::Result<()> {
        let out = match &mut self.out {
            Some(out) => out,
            none => none.insert(BufWriter::with_capacity(1 << 16, self.destination.open()?)),
        };
        out.write_all(data)?;
        // a reader at the other end waits for each block
        if self.destination == Destination::Stdout { out.flush() } else { Ok(()) }
    }

    /// To be called at the end: what is buffered may not fit on the disk.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        match &mut self.out {
            Some(out) => out.flush().map_err(|e| failure::writing(&self.destination.name(), &e)),
            None => Ok(()),
        }
    }
}

/// Prints to standard output; a reader that went away is no panic.
pub fn print(data: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(data).and_then(|()| out.flush()).map_err(|e| failure::writing("standard output", &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Exit, exit_of};

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("etok-output-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    #[test]
    fn files_are_replaced_only_with_force() {
        let path = scratch("old");
        std::fs::write(&path, "old").expect("writable");
        let refused = Destination::new(&path, false, []).expect_err("it exists");
        assert_eq!(exit_of(&refused), Exit::Output);
        let place = Destination::new(&path, true, []).expect("forced");
        let mut writer = place.writer();
        writer.finish().expect("nothing to do");
        assert_eq!(std::fs::read(&path).expect("there"), b"old", "no byte was written yet");
        writer.write(b"new").expect("writable");
        writer.finish().expect("writable");
        assert_eq!(std::fs::read(&path).expect("there"), b"new");
        assert!(Destination::new(&path, true, [path.as_path()]).is_err(), "the input itself");
        let _ = std::fs::remove_file(&path);
    }

    #[test]
    fn devices_need_no_force_and_folders_are_refused() {
        assert!(Destination::new(Path::new("/dev/null"), false, []).is_ok());
        assert!(Destination::new(&std::env::temp_dir(), true, []).is_err());
        assert!(Destination::new(Path::new("/nonexistent/folder/x"), true, []).is_err());
        if !io::stdout().is_terminal() {
            assert_eq!(Destination::new(Path::new("-"), false, []).expect("stdout"), Destination::Stdout);
        }
    }

    #[test]
    fn a_file_that_appears_meanwhile_is_kept() {
        let path = scratch("race");
        let place = Destination::new(&path, false, []).expect("free");
        std::fs::write(&path, "other").expect("writable");
        assert!(place.writer().write(b"x").is_err());
        assert_eq!(std::fs::read(&path).expect("there"), b"other");
        let _ = std::fs::remove_file(&path);
    }
}
