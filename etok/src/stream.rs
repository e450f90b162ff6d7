// SPDX-License-Identifier: MIT OR Apache-2.0
//! ElasticTok streams in files, without GStreamer.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use elastictok::bitstream::{SequenceHeader, StreamReader, Unit, UnitKind};

use crate::failure::input;
use crate::input::check_file;

/// Bytes read at a time.
const CHUNK: usize = 1 << 16;
/// Bytes looked at before a file is said to be no stream: a unit may begin in the middle of a recording.
const LOOK: usize = 1 << 20;

fn no_stream(name: &str, front: &[u8]) -> anyhow::Error {
    let known: [(&[u8], &str); 3] =
        [(b"YUV4MPEG2", "raw video"), (&[0x1A, 0x45, 0xDF, 0xA3], "Matroska or WebM"), (b"RIFF", "AVI or WAV")];
    let found = known.iter().find(|(magic, _)| front.starts_with(magic)).map(|k| k.1);
    let found = found.or_else(|| (front.get(4..8) == Some(b"ftyp")).then_some("MP4 or QuickTime"));
    match found {
        Some(what) => input(format!("{name} is {what}, not an ElasticTok stream; encode it first: etok encode {name} OUT.etok")),
        None => input(format!("{name} is not an ElasticTok stream")),
    }
}

/// The first header of a file; files that are not there or hold no stream are refused. `None`: it is a pipe or a device, which
/// cannot be looked into.
pub fn header(path: &Path) -> anyhow::Result<Option<SequenceHeader>> {
    check_file(path)?;
    if !path.is_file() {
        return Ok(None);
    }
    let shown = path.display().to_string();
    let mut reader = StreamReader::default();
    let mut front = Vec::new();
    // most begin with it; what was joined midway, or is damaged at its front, does not
    for look in [CHUNK, LOOK] {
        front.clear();
        let file = File::open(path).map_err(|e| input(format!("cannot read {shown}: {e}")))?;
        file.take(look as u64).read_to_end(&mut front).map_err(|e| input(format!("cannot read {shown}: {e}")))?;
        reader.flush();
        reader.push(&front);
        reader.end();
        while let Some(unit) = reader.next_unit() {
            if unit.kind == UnitKind::Sequence {
                return Ok(Some(SequenceHeader::parse(&unit.payload)?));
            }
        }
    }
    Err(no_stream(&shown, &front))
}

/// A stream being read, from a file or standard input.
pub struct Units {
    source: Box<dyn Read>,
    name: String,
    reader: StreamReader,
    chunk: Vec<u8>,
    ended: bool,
    bytes: u64,
}

impl Units {
    /// Opens `path`, or standard input for `-`.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let (source, name): (Box<dyn Read>, _) = if path == Path::new("-") {
            (Box::new(io::stdin()), "standard input".into())
        } else {
            header(path)?;
            let name = path.display().to_string();
            (Box::new(File::open(path).map_err(|e| input(format!("cannot read {name}: {e}")))?), name)
        };
        Ok(Self { source, name, reader: StreamReader::default(), chunk: vec![0; CHUNK], ended: false, bytes: 0 })
    }

    /// As messages name it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes at the end that belong to no unit; to be asked once there is no next one.
    pub fn rest(&self) -> u64 {
        self.reader.skipped()
    }

    /// The error where nothing at all was found.
    pub fn nothing(&self) -> anyhow::Error {
        if self.bytes == 0 { input(format!("{} is empty", self.name)) } else { no_stream(&self.name, &[]) }
    }

    /// The next unit; `None` at the end.
    pub fn next(&mut self) -> anyhow::Result<Option<Unit>> {
        loop {
            if let Some(unit) = self.reader.next_unit() {
                return Ok(Some(unit));
            }
            if self.ended {
                return Ok(None);
            }
            let n = self.source.read(&mut self.chunk).map_err(|e| input(format!("cannot read {}: {e}", self.name)))?;
            self.bytes += n as u64;
            if n == 0 {
                self.ended = true;
                self.reader.end();
            } else {
                self.reader.push(&self.chunk[..n]);
            }
        }
    }
}
