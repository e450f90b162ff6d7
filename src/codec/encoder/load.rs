// SPDX-License-Identifier: MIT OR Apache-2.0
//! Load: how many upper layers an encoder leaves out that cannot keep up with a live source.
//!
//! A layer is shed where blocks are late one after another and coding is what takes the time. The next one follows only if
//! the delay does not shrink meanwhile. Layers come back one at a time, where coding leaves room for one more, after a time that
//! doubles with each one that had to be shed again. All times are those of the video, so the same measurements give the same
//! decisions whatever machine looks at them.

/// Share of the time from block to block that coding takes at the least where leaving out layers can help. Below it, blocks are late
/// for another reason, such as a source that is late itself.
const HELPS: f64 = 0.5;
/// Largest share of that time that coding may be expected to take with a layer more.
const ROOM: f64 = 0.8;
/// Seconds and blocks that are late in a row before a layer is shed: a key block, or a scheduler's whim, is no overload.
const PATIENCE: f64 = 0.25;
const LATE_BLOCKS: u32 = 2;
/// Seconds after which a shed layer shows in the delay, and by what share it must have shrunk.
const SETTLE: f64 = 0.5;
const SHRINKS: f64 = 0.1;
/// Seconds without a late block before a layer comes back: at first and at the most.
const FIRST_CALM: f64 = 4.0;
const MOST_CALM: f64 = 64.0;
/// A layer that has to be shed again within so many seconds came back too early.
const PROBATION: f64 = 10.0;
/// Seconds over which the share of coding is a mean.
const MEAN: f64 = 0.5;

/// What a live pipeline shows of a block that was coded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// How much later than it may be the block was ready, in seconds; negative: it was ready before.
    pub late: f64,
    /// How long it took to code, in seconds.
    pub coding: f64,
    /// Time from one block to the next, in seconds, above 0.
    pub span: f64,
}

/// What to do from the next block on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Leave out one layer more.
    Shed,
    /// Leave out one layer less.
    Restore,
}

/// Decides how many layers are left out.
#[derive(Debug)]
pub(super) struct LoadControl {
    /// Layers left out.
    shed: usize,
    /// Mean share of the time that coding takes; `None` before the first block.
    busy: Option<f64>,
    /// Late blocks in a row, and their seconds.
    late_blocks: u32,
    late_for: f64,
    /// Seconds in a row without a late block.
    calm: f64,
    /// The delay when it was last looked at, and how long ago.
    looked: (f64, f64),
    /// Seconds since a layer came back.
    since_restore: f64,
    /// Seconds of calm before a layer comes back.
    wait: f64,
}

impl Default for LoadControl {
    fn default() -> Self {
        Self {
            shed: 0,
            busy: None,
            late_blocks: 0,
            late_for: 0.0,
            calm: 0.0,
            looked: (0.0, 0.0),
            since_restore: f64::INFINITY,
            wait: FIRST_CALM,
        }
    }
}

impl LoadControl {
    /// Layers that are left out.
    pub fn shed(&self) -> usize {
        self.shed
    }

    /// Learns of a block of which `coded` layers were coded, where up to `most` could be left out.
    pub fn note(&mut self, load: Load, coded: usize, most: usize) -> Option<Change> {
        let Load { late, coding, span } = load;
        if !(span > 0.0 && span.is_finite() && late.is_finite() && coding.is_finite()) {
            return None;
        }
        let share = coding / span;
        let busy = self.busy.map_or(share, |mean| mean + (span / MEAN).min(1.0) * (share - mean));
        self.busy = Some(busy);
        self.since_restore += span;
        self.looked.1 += span;
        if late <= 0.0 {
            (self.late_blocks, self.late_for) = (0, 0.0);
            self.calm += span;
            let more = (coded + 1) as f64 / coded.max(1) as f64;
            let restores = self.shed > 0 && self.calm >= self.wait && busy * more <= ROOM;
            return restores.then(|| {
                (self.shed, self.calm, self.since_restore) = (self.shed - 1, 0.0, 0.0);
                Change::Restore
            });
        }
        self.calm = 0.0;
        self.late_blocks += 1;
        self.late_for += span;
        let overdue = self.late_for >= PATIENCE && self.late_blocks >= LATE_BLOCKS;
        if !overdue || busy < HELPS || self.shed >= most {
            return None;
        }
        if self.shed > 0 && self.late_for > self.looked.1 {
            // What was shed last may still show.
            let (before, ago) = self.looked;
            if ago < SETTLE {
                return None;
            }
            self.looked = (late, 0.0);
            if late <= before * (1.0 - SHRINKS) {
                return None;
            }
        }
        let again = self.since_restore < PROBATION;
        self.wait = if again { (self.wait * 2.0).min(MOST_CALM) } else { FIRST_CALM };
        self.since_restore = f64::INFINITY;
        self.looked = (late, 0.0);
        self.shed += 1;
        Some(Change::Shed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: f64 = 1.0 / 15.0;

    /// An encoder whose layers take `cost` seconds each, behind a queue of blocks that come every `SPAN`. A block may be ready
    /// one `SPAN` after it came.
    struct Machine {
        control: LoadControl,
        layers: usize,
        /// Seconds by which the encoder is behind.
        behind: f64,
        /// When layers were shed and restored, in seconds.
        log: Vec<(f64, Change)>,
        now: f64,
    }

    impl Machine {
        fn new(layers: usize) -> Self {
            Self { control: LoadControl::default(), layers, behind: 0.0, log: Vec::new(), now: 0.0 }
        }

        fn coded(&self) -> usize {
            self.layers - self.control.shed()
        }

        fn run(&mut self, seconds: f64, cost: impl Fn(usize) -> f64) {
            let end = self.now + seconds;
            for n in 0.. {
                if self.now >= end {
                    return;
                }
                let coding = cost(n) * self.coded() as f64;
                let ready = self.behind + coding;
                let load = Load { late: ready - SPAN, coding, span: SPAN };
                if let Some(change) = self.control.note(load, self.coded(), self.layers - 1) {
                    self.log.push((self.now, change));
                }
                self.behind = (ready - SPAN).max(0.0);
                self.now += SPAN;
            }
        }

        fn count(&self, change: Change) -> usize {
            self.log.iter().filter(|c| c.1 == change).count()
        }
    }

    #[test]
    fn an_encoder_that_keeps_up_sheds_nothing() {
        let mut m = Machine::new(4);
        // Every thirtieth block is a key block that takes three times as long.
        m.run(60.0, |n| SPAN * if n % 30 == 0 { 0.45 } else { 0.15 });
        assert_eq!(m.log, []);
    }

    #[test]
    fn as_many_layers_go_as_must_and_no_more() {
        for (cost, left) in [(0.3, 3), (0.45, 2), (0.9, 1), (3.0, 1)] {
            let mut m = Machine::new(4);
            m.run(30.0, |_| SPAN * cost);
            assert_eq!(m.coded(), left, "{cost}: {:?}", m.log);
            assert_eq!(m.count(Change::Restore), 0, "no room for one more at {cost}");
            assert!(m.log[0].0 < 1.0, "at once: {:?}", m.log);
        }
    }

    #[test]
    fn layers_come_back_when_the_load_is_gone() {
        let mut m = Machine::new(4);
        m.run(5.0, |_| SPAN * 0.9);
        assert_eq!(m.coded(), 1);
        m.run(30.0, |_| SPAN * 0.1);
        assert_eq!(m.coded(), 4);
        let back: Vec<_> = m.log.iter().filter(|c| c.1 == Change::Restore).map(|c| c.0).collect();
        assert!(back.windows(2).all(|w| w[1] - w[0] >= FIRST_CALM - SPAN), "one at a time: {back:?}");
    }

    #[test]
    fn a_machine_at_its_limit_does_not_flap() {
        let mut m = Machine::new(4);
        // The mean leaves room for a third layer; bursts that come with it do not.
        for _ in 0..60 {
            m.run(6.0, |_| SPAN * 0.2);
            m.run(4.0, |_| SPAN * 0.45);
        }
        let restores = m.count(Change::Restore);
        assert!((1..30).contains(&restores), "{restores} times in ten minutes: {:?}", m.log);
        let minute = |c: &(f64, Change)| c.1 == Change::Restore && c.0 < 300.0;
        assert!(m.log.iter().filter(|c| minute(c)).count() >= restores / 2, "less and less often: {:?}", m.log);
    }

    #[test]
    fn a_late_source_is_no_reason_to_shed() {
        let mut control = LoadControl::default();
        for _ in 0..1000 {
            assert_eq!(control.note(Load { late: 5.0, coding: 0.2 * SPAN, span: SPAN }, 4, 3), None);
        }
    }

    #[test]
    fn what_cannot_be_shed_is_not_and_nonsense_changes_nothing() {
        let mut control = LoadControl::default();
        let load = Load { late: 9.0, coding: SPAN * 2.0, span: SPAN };
        for _ in 0..100 {
            assert_eq!(control.note(load, 1, 0), None);
        }
        for bad in [f64::NAN, f64::INFINITY, 0.0, -1.0] {
            assert_eq!(LoadControl::default().note(Load { span: bad, ..load }, 4, 3), None);
        }
        assert_eq!(control.shed(), 0);
    }

    #[test]
    fn a_pause_of_the_machine_costs_one_layer_at_most() {
        let mut m = Machine::new(4);
        m.run(10.0, |_| SPAN * 0.15);
        m.behind = 1.0;
        m.run(20.0, |_| SPAN * 0.15);
        assert!(m.count(Change::Shed) <= 1 && m.coded() == 4, "{:?}", m.log);
    }
}
