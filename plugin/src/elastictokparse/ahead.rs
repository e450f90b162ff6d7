// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is read ahead of a file that is pushed.

use std::time::{Duration, Instant};

/// Most bytes that are kept.
const MOST: u64 = 8 << 20;
/// Longest time of reading ahead, so that a slow source does not delay the first picture further.
pub const BUDGET: Duration = Duration::from_millis(500);

/// What has been read.
#[derive(Debug)]
pub struct Ahead {
    pub size: u64,
    pub bytes: Vec<u8>,
    pub since: Option<Instant>,
    pub done: bool,
}

impl Ahead {
    pub fn add(&mut self, buffer: &gst::BufferRef) {
        self.since.get_or_insert_with(Instant::now);
        if let Ok(map) = buffer.map_readable() {
            self.bytes.extend_from_slice(&map);
        }
    }

    pub fn is_enough(&self) -> bool {
        self.bytes.len() as u64 >= self.size.min(MOST) || self.since.is_some_and(|since| since.elapsed() > BUDGET)
    }
}
