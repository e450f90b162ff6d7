// SPDX-License-Identifier: MIT OR Apache-2.0
//! Streams that are stored as media segments (docs/http.md): fetched one after the other, as many layers as fit the rate.

mod fetch;
mod rate;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use elastictok::bitstream::{Limits, MAX_MEDIA_INDEX_BYTES, MediaIndex, read_media_segment};
use gst::glib;
use gst::prelude::*;

use crate::failure::input;
use crate::input::{Input, check_file};
use fetch::Fetcher;
use rate::Chooser;
pub use rate::Rate;

/// Fetching pauses while so much is ahead of playback, in ns.
const AHEAD: u64 = 10_000_000_000;

/// Upper layers are given up where less than this is ahead of playback, in ns.
const SCARCE: u64 = 500_000_000;

/// What a feed and those who watch it share.
#[derive(Debug, Default)]
pub struct Progress {
    /// ns of playback that were handed to the pipeline.
    fed: AtomicU64,
    /// ns of playback that were shown.
    position: AtomicU64,
    ended: AtomicBool,
    stopped: AtomicBool,
    /// Layers of each media segment that was fetched.
    layers: Mutex<Vec<u8>>,
    /// Bits per second, as last measured.
    throughput: AtomicU64,
}

impl Progress {
    fn ahead(&self) -> u64 {
        self.fed.load(Ordering::Relaxed).saturating_sub(self.position.load(Ordering::Relaxed))
    }
}

/// A stream being fetched.
pub struct Feed {
    pub source: gst::Element,
    shared: Arc<Progress>,
    /// Playback waits for more.
    waits: AtomicBool,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
    }
}

impl Feed {
    /// To be called about ten times a second while `pipeline` plays: where nothing is left to show, it waits for more.
    pub fn tick(&self, pipeline: &gst::Pipeline) {
        if let Some(position) = pipeline.query_position::<gst::ClockTime>() {
            self.shared.position.store(position.nseconds(), Ordering::Relaxed);
        }
        let ended = self.shared.ended.load(Ordering::Relaxed);
        let (ahead, waits) = (self.shared.ahead(), self.waits.load(Ordering::Relaxed));
        let wait = !ended && ahead < if waits { SCARCE } else { SCARCE / 5 };
        if wait != waits {
            self.waits.store(wait, Ordering::Relaxed);
            let _ = pipeline.set_state(if wait { gst::State::Paused } else { gst::State::Playing });
        }
    }

    /// What was fetched: media segments by number of layers, and the throughput.
    pub fn summary(&self) -> String {
        let layers = self.shared.layers.lock().unwrap_or_else(|e| e.into_inner());
        let each: Vec<_> = layers.iter().map(u8::to_string).collect();
        let throughput = crate::text::bitrate(self.shared.throughput.load(Ordering::Relaxed) as f64 * 1e-3);
        format!("layers of each media segment: {}; throughput {throughput}", each.join(" "))
    }
}

/// The URL of a media index, where `from` is one: its name ends in `.json`.
pub fn url(from: &Input) -> anyhow::Result<Option<String>> {
    match from {
        Input::Url(url) => {
            let path = url.split(['?', '#']).next().unwrap_or(url);
            Ok(path.ends_with(".json").then(|| url.clone()))
        }
        Input::File(path) if path.extension().is_some_and(|e| e == "json") => {
            check_file(path)?;
            let absolute = std::path::absolute(path).map_err(|e| input(format!("cannot read {}: {e}", path.display())))?;
            Ok(Some(glib::filename_to_uri(absolute, None)?.to_string()))
        }
        _ => Ok(None),
    }
}

/// Gets the index at `url` and starts to fetch media segments, of up to `max_layers` layers (0 = all). The source gives them
/// as a byte stream.
pub fn feed(url: String, rate: Rate, max_layers: usize) -> anyhow::Result<Feed> {
    crate::pipeline::init()?;
    let mut fetcher = Fetcher::new(&url)?;
    let data = fetcher.get(&url, MAX_MEDIA_INDEX_BYTES as u64 + 1, |_| true)?;
    let index = MediaIndex::parse(&data, &Limits::default())?;
    let caps = gst::Caps::builder("video/x-elastictok").field("stream-format", "byte-stream").build();
    let source = gst_app::AppSrc::builder().caps(&caps).format(gst::Format::Bytes).block(true).max_bytes(1).build();
    let shared = Arc::new(Progress::default());
    let feed = Feed { source: source.clone().upcast(), shared: shared.clone(), waits: AtomicBool::new(false) };
    std::thread::Builder::new().name("etok-feed".into()).spawn(move || {
        let chooser = Chooser::new(rate, max_layers);
        if let Err(e) = push_all(&mut fetcher, &url, &index, chooser, &source, &shared) {
            // Before its pipeline starts, messages are lost.
            while source.current_state() == gst::State::Null && !shared.stopped.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
            }
            gst::element_error!(source, gst::ResourceError::Read, ("{e:#}"));
        }
        shared.ended.store(true, Ordering::Relaxed);
        let _ = source.end_of_stream();
    })?;
    Ok(feed)
}

fn push_all(
    fetcher: &mut Fetcher,
    base: &str,
    index: &MediaIndex,
    mut chooser: Chooser,
    source: &gst_app::AppSrc,
    shared: &Progress,
) -> anyhow::Result<()> {
    // A media segment's name was checked: it is a path below the index's folder, in plain characters.
    let path = base.find(['?', '#']).map_or(base, |end| &base[..end]);
    let folder = &path[..path.rfind('/').map_or(0, |slash| slash + 1)];
    let mut out = BytesMut::new();
    for entry in &index.segments {
        while shared.ahead() > AHEAD && !shared.stopped.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
        }
        if shared.stopped.load(Ordering::Relaxed) {
            return Ok(());
        }
        let uri = format!("{folder}{}", entry.uri);
        let (wanted, least) = (entry.bytes(chooser.layers(entry)), entry.bytes(1));
        let started = Instant::now();
        // The base layer is waited for; what else has come when playback runs dry is enough.
        let scarce = || !shared.layers.lock().unwrap_or_else(|e| e.into_inner()).is_empty() && shared.ahead() < SCARCE;
        let mut data =
            fetcher.get(&uri, wanted, |have| !shared.stopped.load(Ordering::Relaxed) && (have < least || !scarce()))?;
        chooser.measured(data.len() as u64, started.elapsed().as_secs_f64());
        shared.throughput.store(chooser.throughput().unwrap_or(0.0) as u64, Ordering::Relaxed);
        if shared.stopped.load(Ordering::Relaxed) {
            return Ok(());
        }
        if (data.len() as u64) < least {
            return Err(input(format!("{uri} has {} bytes, and its index says {} or more; make both again", data.len(), least)));
        }
        // Whole layers only, so that pictures do not change in the middle of a group.
        let whole = entry.layer_ends.iter().rev().copied().find(|&end| end <= data.len() as u64).unwrap_or(least);
        data.truncate(usize::try_from(whole).unwrap_or(usize::MAX));
        out.clear();
        let layers = read_media_segment(&data, &Limits::default(), &mut out)?;
        shared.layers.lock().unwrap_or_else(|e| e.into_inner()).push(layers as u8);
        if source.push_buffer(gst::Buffer::from_slice(out.split().freeze())).is_err() {
            return Ok(());
        }
        shared.fed.fetch_add(entry.duration_ns, Ordering::Relaxed);
    }
    Ok(())
}
