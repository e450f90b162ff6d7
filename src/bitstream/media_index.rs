// SPDX-License-Identifier: MIT OR Apache-2.0
//! The index of a stream that is stored as media segments: which files there are, how long each lasts, and where its layers end.
//!
//! `docs/http.md` is the specification.

use serde::{Deserialize, Serialize};

use super::limits::{Limits, MAX_LAYERS};
use super::media::MAX_MEDIA_SEGMENT_BYTES;
use crate::{Error, Result};

/// Value of the field `format`.
const FORMAT: &str = "elastictok-media-index";

const VERSION: u32 = 1;

/// The most bytes of an index that readers take.
pub const MAX_MEDIA_INDEX_BYTES: usize = 16 << 20;

/// Times stay exact in JSON readers whose numbers are f64.
const MAX_DURATION: u64 = 1 << 53;

/// The most bytes of a media segment's name.
const MAX_URI_BYTES: usize = 1024;

/// A stream that is stored as media segments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaIndex {
    format: String,
    version: u32,
    /// Width in pixels, of the first media segment.
    pub width: u32,
    /// Height in pixels, of the first media segment.
    pub height: u32,
    /// Frames per second as a fraction; (0, 1) is a variable rate.
    pub framerate: (u32, u32),
    /// In the order of playback.
    pub segments: Vec<MediaSegmentEntry>,
}

/// A media segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaSegmentEntry {
    /// Where it is, from the index's own folder: `/` between folders, and in names A-Z, a-z, 0-9, `.`, `_` and `-`.
    pub uri: String,
    /// From its first frame to that of the next media segment, in ns.
    pub duration_ns: u64,
    /// Where each layer ends, in bytes from its start: the last one is its length.
    pub layer_ends: Vec<u64>,
}

impl MediaSegmentEntry {
    /// Bytes of the first `layers` layers, or of all that there are.
    pub fn bytes(&self, layers: usize) -> u64 {
        self.layer_ends.get(layers.max(1) - 1).or(self.layer_ends.last()).copied().unwrap_or(0)
    }

    fn check(&self) -> Result<(), &'static str> {
        let name = |part: &str| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        if self.uri.len() > MAX_URI_BYTES || !self.uri.split('/').all(name) {
            return Err("the name of a media segment is not a path below the index");
        }
        if self.duration_ns > MAX_DURATION {
            return Err("a duration is out of range");
        }
        if !(1..=MAX_LAYERS).contains(&self.layer_ends.len()) {
            return Err("a media segment has no layer, or more than 32");
        }
        if self.layer_ends[0] == 0 || !self.layer_ends.is_sorted_by(|a, b| a < b) {
            return Err("the ends of layers do not rise");
        }
        match self.layer_ends.last() {
            Some(&end) if end <= MAX_MEDIA_SEGMENT_BYTES as u64 => Ok(()),
            _ => Err("a media segment is too long"),
        }
    }
}

impl MediaIndex {
    /// An index without media segments yet.
    pub fn new(width: u32, height: u32, framerate: (u32, u32)) -> Self {
        Self { format: FORMAT.into(), version: VERSION, width, height, framerate, segments: Vec::new() }
    }

    /// Reads and checks an index, within `limits` for the size of pictures.
    pub fn parse(data: &[u8], limits: &Limits) -> Result<Self> {
        if data.len() > MAX_MEDIA_INDEX_BYTES {
            return Err(Error::Limit(format!("media index of {} bytes, at most {MAX_MEDIA_INDEX_BYTES} allowed", data.len())));
        }
        #[derive(Deserialize)]
        struct Front {
            format: String,
            version: u32,
        }
        let front: Front = serde_json::from_slice(data).map_err(|e| malformed(&format!("it is none: {e}")))?;
        if front.format != FORMAT {
            return Err(malformed("its format is another one"));
        }
        if front.version != VERSION {
            let version = front.version;
            return Err(Error::Unsupported(format!(
                "media index of version {version}, this build reads {VERSION}; use a newer build"
            )));
        }
        let index: Self = serde_json::from_slice(data).map_err(|e| malformed(&e.to_string()))?;
        limits.check_size(index.width, index.height)?;
        if index.framerate.1 == 0 {
            return Err(malformed("the framerate is no fraction"));
        }
        if index.segments.is_empty() {
            return Err(malformed("it names no media segment"));
        }
        index.segments.iter().try_for_each(MediaSegmentEntry::check).map_err(malformed)?;
        Ok(index)
    }

    /// The index as JSON, a media segment a line.
    pub fn to_json(&self) -> String {
        let line = |entry: &MediaSegmentEntry| serde_json::to_string(entry).unwrap_or_default();
        let (width, height, (num, den)) = (self.width, self.height, self.framerate);
        let segments: Vec<_> = self.segments.iter().map(|entry| format!("    {}", line(entry))).collect();
        format!(
            "{{\n  \"format\": \"{FORMAT}\", \"version\": {VERSION},\n  \"width\": {width}, \"height\": {height}, \"framerate\": [{num}, {den}],\n  \"segments\": [\n{}\n  ]\n}}\n",
            segments.join(",\n")
        )
    }

    /// The most layers of a media segment.
    pub fn layers(&self) -> usize {
        self.segments.iter().map(|entry| entry.layer_ends.len()).max().unwrap_or(0)
    }

    /// Bits per second of the first `layers` layers, on average over the stream; `None` where nothing says how long it lasts.
    pub fn bitrate(&self, layers: usize) -> Option<f64> {
        let seconds: f64 = self.segments.iter().map(|entry| entry.duration_ns as f64 * 1e-9).sum();
        let bytes: f64 = self.segments.iter().map(|entry| entry.bytes(layers) as f64).sum();
        (seconds > 0.0).then(|| bytes * 8.0 / seconds)
    }
}

fn malformed(what: &str) -> Error {
    Error::Malformed(format!("media index: {what}; make it again with etok segment"))
}
