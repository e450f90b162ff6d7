// SPDX-License-Identifier: MIT OR Apache-2.0
//! A line that says how far the work is, where someone looks at it.

use std::cell::Cell;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over media time, or a counter where its length is not known. Nothing is drawn where standard error is no terminal.
pub struct Progress {
    bar: ProgressBar,
    total: Cell<Option<f64>>,
    started: Instant,
    /// When the first work was done, and how much that was: loading a model before it says nothing of the pace.
    first: Cell<Option<(Instant, f64)>>,
}

impl Progress {
    /// `total`: seconds of media, where known.
    pub fn new(quiet: bool, total: Option<f64>) -> Self {
        let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(0) };
        let this = Self { bar, total: Cell::default(), started: Instant::now(), first: Cell::default() };
        this.bar.set_style(style("{spinner} {msg}"));
        this.set_total(total);
        this
    }

    /// Tells the length where it has become known.
    pub fn set_total(&self, total: Option<f64>) {
        if let (None, Some(total)) = (self.total.get(), total.filter(|t| *t > 0.0)) {
            self.total.set(Some(total));
            self.bar.set_length((total * 1000.0) as u64);
            self.bar.set_style(style("{bar:24} {percent:>3} %  {msg}"));
        }
    }

    pub fn total(&self) -> Option<f64> {
        self.total.get()
    }

    pub fn elapsed(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// `done`: seconds of media; `text`: figures, to which the time left is added.
    pub fn show(&self, done: f64, text: &str) {
        let (since, before) = self.first.get().unwrap_or((Instant::now(), done));
        self.first.set(Some((since, before)));
        let left = self.total.get().and_then(|total| left(since.elapsed(), done - before, total - before));
        let left = left.map_or(String::new(), |s| format!(", {} left", crate::text::duration(s)));
        self.bar.set_position((done * 1000.0) as u64);
        self.bar.set_message(format!("{text}{left}"));
    }

    /// How many of `n` things are done in a second, where they are what `done` is made of; `None` until more than the first are.
    pub fn pace(&self, n: u64, done: f64) -> Option<f64> {
        let (since, before) = self.first.get()?;
        let elapsed = since.elapsed().as_secs_f64();
        (done > before && elapsed > 0.0).then(|| n as f64 * (done - before) / done / elapsed)
    }

    /// A line above the bar.
    pub fn say(&self, line: &str) {
        if self.bar.is_hidden() { eprintln!("{line}") } else { self.bar.println(line) }
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━━ ")
}

/// Seconds still to go, once there is something to go by.
fn left(elapsed: Duration, done: f64, total: f64) -> Option<f64> {
    let elapsed = elapsed.as_secs_f64();
    (elapsed > 0.5 && done > 0.0 && done <= total).then(|| elapsed * (total - done) / done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_follows_the_pace() {
        assert_eq!(left(Duration::from_secs(2), 1.0, 4.0), Some(6.0));
        assert_eq!(left(Duration::from_millis(10), 1.0, 4.0), None, "too early to tell");
        assert_eq!(left(Duration::from_secs(2), 5.0, 4.0), None, "longer than it said");
    }
}
