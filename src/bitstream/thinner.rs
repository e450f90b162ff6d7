// SPDX-License-Identifier: MIT OR Apache-2.0
//! Thinning a stream to a bitrate: how many layers of each block pass.

use super::block_header::RawHeader;
use super::limits::MAX_LAYERS;
use super::thin;
use crate::Result;

/// How much may pass beyond the bitrate, as seconds of that bitrate.
const WINDOW: f64 = 1.0;
/// Least time over which the rate of groups is a mean, in seconds: a few blocks say little.
const MEAN: f64 = 3.0;
/// Most that passes beyond the bitrate before a layer is given up, and how much more after each one, as shares of the window: the
/// bits that still come after one layer was given up must not cost another one at once.
const DEBT: f64 = 1.0;
const MORE_DEBT: f64 = 0.125;
/// How long a group is taken to be before one was measured, in seconds: the usual distance of key blocks.
const USUAL_GROUP: f64 = 8.0;
/// Seconds' worth of bits that the first key block may take, when nothing is known of what follows it.
const FIRST_KEY: f64 = 2.0;
/// How far a group may be above the bitrate while little is owed: to keep a layer, and to add one. Groups differ a little, and
/// should not lose a layer because of that.
const STAY: f64 = 0.08;
const COME: f64 = 0.02;
/// Longest silence that counts, in seconds: time stamps may jump.
const MAX_GAP: f64 = 10.0;

/// Bits of the first layer, the first two, ..; layers that a block does not have take none.
type Bits = [f64; MAX_LAYERS];

/// The blocks from one key block to the next: what all their layers take, passed on or not.
#[derive(Debug, Clone, Copy)]
struct Group {
    seconds: f64,
    bits: Bits,
    /// Of these, the key block's; `None`: the group was joined after it.
    key: Option<Bits>,
    /// Most bits beyond the bitrate at any time, and those now, had nothing else passed.
    peak: Bits,
    beyond: Bits,
}

impl Group {
    const EMPTY: Self =
        Self { seconds: 0.0, bits: [0.0; MAX_LAYERS], key: None, peak: [0.0; MAX_LAYERS], beyond: [0.0; MAX_LAYERS] };

    /// Counts a block that comes when `drained` bits could have passed since the last one.
    fn add(&mut self, bits: &Bits, drained: f64) {
        for (i, b) in bits.iter().enumerate() {
            self.bits[i] += b;
            self.beyond[i] = (self.beyond[i] - drained).max(0.0) + b;
            self.peak[i] = self.peak[i].max(self.beyond[i]);
        }
    }

    /// Bits per second of `layers` layers.
    fn rate(&self, layers: usize) -> f64 {
        self.bits[layers - 1] / self.seconds.max(1e-3)
    }

    /// The same, had the group lasted `seconds` and gone on as it was. Only once there is a block after the key block.
    fn rate_over(&self, seconds: f64, layers: usize) -> f64 {
        let key = self.key.map_or(0.0, |k| k[layers - 1]);
        (self.bits[layers - 1] - key) / self.seconds.max(1e-3) + key / seconds
    }

    /// This group, and as much of those before as makes a mean.
    fn after(mut self, before: Option<&Self>) -> Self {
        if let Some(before) = before {
            let share = ((MEAN - self.seconds) / before.seconds.max(1e-3)).clamp(0.0, 1.0);
            self.seconds += share * before.seconds;
            self.bits.iter_mut().zip(&before.bits).for_each(|(a, b)| *a += share * b);
        }
        self
    }
}

/// By what share a rate measured over this many seconds may exceed the limit before it counts: single blocks take several times
/// the mean.
fn doubt(seconds: f64) -> f64 {
    if seconds < MEAN { (0.2 / seconds.max(1e-3)).min(3.0) } else { 0.0 }
}

/// Cuts the blocks of one stream to a bitrate, a number of layers, or both. It needs no model: a block says where its layers end.
///
/// At a key block it chooses the most layers whose rate over the last whole group was within the bitrate, so the bits of a key
/// block are spread over its group. In the first group it goes by the blocks that have come so far. It gives up layers at any
/// block once about a second's worth of bits has passed beyond the bitrate. It takes layers back at key blocks only: until then
/// the receiver's reference lacks them, and upper layers would refine a picture that it does not have.
#[derive(Debug, Clone)]
pub struct Thinner {
    max_layers: usize,
    bitrate: f64,
    /// Layers that pass until the next key block; 0: nothing has come yet.
    layers: usize,
    /// Layers that the stream has shown.
    known: usize,
    running: Group,
    last: Option<Group>,
    /// Recent bits per second, without key blocks.
    recent: Bits,
    /// Bits passed beyond the bitrate.
    owed: f64,
    /// Bits of the running group's key block as it passed, and over how many seconds they are spread.
    burst: f64,
    spread: f64,
    /// Bits beyond the bitrate, and what is left of `burst`, before layers are given up.
    debt: f64,
    /// What was owed when the group began.
    carried: f64,
    /// A limit was raised and no key block has come since.
    raised: bool,
    /// Seconds since a key block was wished for.
    wished: f64,
    sizes: Vec<usize>,
}

impl Default for Thinner {
    fn default() -> Self {
        Self {
            max_layers: 0,
            bitrate: 0.0,
            layers: 0,
            known: 0,
            running: Group::EMPTY,
            last: None,
            recent: [0.0; MAX_LAYERS],
            owed: 0.0,
            burst: 0.0,
            spread: USUAL_GROUP,
            debt: 0.0,
            carried: 0.0,
            raised: false,
            wished: MAX_GAP,
            sizes: Vec::new(),
        }
    }
}

impl Thinner {
    /// Limits from the next block on: `max_layers` layers, `bitrate` bits per second; 0 = no limit.
    pub fn set_limits(&mut self, max_layers: usize, bitrate: f64) {
        if (max_layers, bitrate) == (self.max_layers, self.bitrate) {
            return;
        }
        let unlimited = |x: f64| if x == 0.0 { f64::INFINITY } else { x };
        let more = |new: f64, old: f64| unlimited(new) > unlimited(old);
        self.raised |= more(max_layers as f64, self.max_layers as f64) || more(bitrate, self.bitrate);
        let lowered = more(self.bitrate, bitrate);
        if bitrate != self.bitrate {
            // they were counted for another bitrate
            (self.running.peak, self.running.beyond) = (Group::EMPTY.peak, Group::EMPTY.beyond);
            if let Some(last) = &mut self.last {
                last.peak = Group::EMPTY.peak;
            }
        }
        (self.max_layers, self.bitrate) = (max_layers, bitrate);
        if lowered {
            // what passed under the old limit is not held against the new one
            (self.owed, self.burst) = (self.owed.min(bitrate * WINDOW / 2.0), 0.0);
            if let Some(last) = &self.last {
                self.layers = self.layers.min(self.most_within(|n| last.rate(n), bitrate));
            }
        }
        self.debt = bitrate * WINDOW * DEBT;
    }

    /// The blocks that follow do not continue those before, as after a seek. What groups take is still known.
    pub fn restart(&mut self) {
        self.running = Group::EMPTY;
        (self.owed, self.burst) = (0.0, 0.0);
    }

    /// Layers that pass now, of those that the stream has shown so far.
    pub fn layers(&self) -> usize {
        self.layers.min(self.known)
    }

    /// Whether a key block now would let more layers pass: a limit was raised, or layers were given up long ago that would fit.
    /// Asks once, then not before some seconds have passed.
    pub fn wants_key(&mut self) -> bool {
        let most = if self.max_layers == 0 { self.known } else { self.max_layers.min(self.known) };
        if self.layers >= most || self.wished < MAX_GAP || !(self.raised || self.running.seconds >= MAX_GAP) {
            return false;
        }
        let spread = if self.raised { USUAL_GROUP } else { MAX_GAP };
        let rate = |group: &Group| group.rate_over(spread, self.layers + 1).max(self.recent[self.layers]);
        let fits = self.bitrate == 0.0 || self.running.seconds > 0.0 && rate(&self.running) <= self.bitrate;
        if fits {
            (self.wished, self.raised) = (0.0, false);
        }
        fits
    }

    /// The part of `block` that passes, a prefix of it; `since`: seconds since the block before. At least the first layer passes,
    /// whatever the bitrate. [`Malformed`](crate::Error::Malformed): the block's header or first segment is broken.
    pub fn cut<'a>(&mut self, block: &'a [u8], since: f64) -> Result<&'a [u8]> {
        let key = RawHeader::read(block)?.key();
        let bits = self.measure(block)?;
        let since = since.clamp(0.0, MAX_GAP);
        self.running.seconds += since;
        self.wished += since;
        self.owed = (self.owed - self.bitrate * since).max(0.0);
        if key {
            self.begin_group(&bits);
        }
        self.running.add(&bits, self.bitrate * since);
        if !key && since > 0.0 {
            let weight = since / self.running.seconds.clamp(since, WINDOW.max(since));
            self.recent.iter_mut().zip(&bits).for_each(|(mean, b)| *mean += weight * (b / since - *mean));
        }
        if self.layers == 0 {
            self.layers = MAX_LAYERS;
        }
        if self.max_layers > 0 {
            self.layers = self.layers.min(self.max_layers);
        }
        if key {
            self.burst = if self.bitrate > 0.0 { bits[self.layers - 1] } else { 0.0 };
            self.owed += self.burst;
        } else if self.bitrate > 0.0 {
            if self.last.is_none() {
                self.judge_first_group();
            }
            self.hold(&bits);
        }
        thin(block, self.layers)
    }

    /// Chooses the layers of the group that begins with a key block of this many bits.
    fn begin_group(&mut self, key: &Bits) {
        let ended = std::mem::replace(&mut self.running, Group { key: Some(*key), ..Group::EMPTY });
        let (before, bitrate) = (self.layers, self.bitrate);
        if ended.key.is_some() {
            self.last = Some(ended.after(self.last.as_ref()));
        }
        self.layers = if let Some(last) = self.last {
            self.spread = last.seconds;
            let much = self.owed > bitrate * WINDOW;
            let repaid = if much { (self.owed - bitrate * WINDOW) / last.seconds.max(WINDOW) } else { 0.0 };
            // groups of a block or two have no other occasion to give up layers
            let rate = |n| if much && ended.key.is_some() { last.rate(n).max(ended.rate(n)) } else { last.rate(n) };
            let doubt = if much { 0.0 } else { doubt(last.seconds) };
            let fit = self.most_within(rate, (bitrate - repaid) * (1.0 + doubt));
            let similar = |n: usize, share: f64| {
                let excess = last.rate(n.clamp(1, self.known)) - bitrate;
                excess <= bitrate * share && self.owed + excess * last.seconds <= bitrate * WINDOW / 2.0
            };
            let next = if fit + 1 >= self.known { MAX_LAYERS } else { fit + 1 };
            match () {
                () if before > fit && similar(before, STAY) => before,
                () if next > fit && similar(next, COME) => next,
                () => fit,
            }
        } else if ended.seconds >= WINDOW {
            // joined after its key block: taken to have had one like this
            self.most_within(|n| ended.rate_over(USUAL_GROUP, n) + key[n - 1] / USUAL_GROUP, bitrate)
        } else {
            self.most_within(|n| key[n - 1], bitrate * FIRST_KEY)
        };
        self.debt = (bitrate * WINDOW * DEBT).max(self.owed + bitrate * WINDOW * MORE_DEBT);
        self.carried = self.owed;
        self.raised = false;
    }

    /// Gives up layers of the stream's first group that will not fit. The more of the group has come, the less doubt is allowed.
    fn judge_first_group(&mut self) {
        let group = self.running;
        if group.seconds > 0.0 {
            let limit = self.bitrate * (1.0 + doubt(group.seconds));
            self.layers = self.layers.min(self.most_within(|n| group.rate_over(f64::INFINITY, n), limit));
        }
    }

    /// Gives up layers where too much has passed, and counts the bits of the block that pass.
    fn hold(&mut self, bits: &Bits) {
        let burst = self.burst * (1.0 - self.running.seconds / self.spread).max(0.0);
        // a group like the last one may be uneven as that was, for it was within the bitrate as a whole
        let known = |layers: usize| self.last.map_or(0.0, |last| last.peak[layers - 1] * (1.0 + STAY) + self.carried);
        while self.layers > 1 && self.owed + bits[self.layers - 1] > (self.debt + burst).max(known(self.layers)) {
            let below = self.layers.min(self.known.max(2)) - 1;
            self.layers = below.min(self.most_within(|n| self.recent[n - 1], self.bitrate));
            self.debt += self.bitrate * WINDOW * MORE_DEBT;
        }
        self.owed += bits[self.layers - 1];
    }

    /// The most layers of `rate` within `limit`, [`MAX_LAYERS`] where all known ones are, at least 1.
    fn most_within(&self, rate: impl Fn(usize) -> f64, limit: f64) -> usize {
        if self.bitrate == 0.0 {
            return MAX_LAYERS;
        }
        // a block of fewer layers than the stream has must not hold back those that follow
        let n = (1..=self.known).rev().find(|n| rate(*n) <= limit).unwrap_or(1);
        if n == self.known { MAX_LAYERS } else { n }
    }

    /// Bits of the block cut to every count of layers.
    fn measure(&mut self, block: &[u8]) -> Result<Bits> {
        self.sizes.clear();
        let whole = thin(block, MAX_LAYERS)?.len();
        for layers in 1..=MAX_LAYERS {
            self.sizes.push(thin(block, layers)?.len());
            if self.sizes[layers - 1] == whole {
                break;
            }
        }
        self.known = self.known.max(self.sizes.len());
        Ok(std::array::from_fn(|i| self.sizes[i.min(self.sizes.len() - 1)] as f64 * 8.0))
    }
}
