// SPDX-License-Identifier: MIT OR Apache-2.0
//! When to ask the sender for a key block: at once, then again while none comes.

use std::time::{Duration, Instant};

/// A request without result is repeated after this long, as in WebRTC receivers.
const INTERVAL: Duration = Duration::from_millis(200);

/// Limits how often a key block is asked for while blocks are dropped.
///
/// Call [`due`](Self::due) for every block that is dropped, send [`event`](Self::event) upstream where it says so, holding
/// no lock, and call [`fulfilled`](Self::fulfilled) when a key block is there.
#[derive(Debug, Clone, Default)]
pub struct KeyRequest {
    asked: Option<Instant>,
}

impl KeyRequest {
    /// Whether a request must be sent at `now`; it then counts as sent.
    pub fn due(&mut self, now: Instant) -> bool {
        let due = self.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= INTERVAL);
        if due {
            self.asked = Some(now);
        }
        due
    }

    /// A key block has come: after the next loss one is requested at once.
    pub fn fulfilled(&mut self) {
        self.asked = None;
    }

    /// The request: a key block as soon as possible, with a sequence header before it.
    pub fn event() -> gst::Event {
        gst_video::UpstreamForceKeyUnitEvent::builder().all_headers(true).build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_repeated_until_a_key_block_comes() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut request = KeyRequest::default();
        let sent: Vec<_> = (0..=1000).step_by(10).filter(|&ms| request.due(at(ms))).collect();
        assert_eq!(sent, [0, 200, 400, 600, 800, 1000]);
        request.fulfilled();
        assert!(request.due(at(1010)), "a new loss does not wait");
        assert!(!request.due(at(1005)), "a time before the last request is no reason to ask");
    }
}
