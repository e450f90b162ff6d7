// SPDX-License-Identifier: MIT OR Apache-2.0
//! Thinning a stream to a bitrate: how many layers of each block pass.

use std::collections::VecDeque;

use super::block_header::RawHeader;
use super::limits::MAX_LAYERS;
use super::thin::prefixes;
use crate::Result;

/// Time over which the rate of blocks is a mean, and its grain, in seconds.
const WINDOW: f64 = 1.0;
const GRAIN: f64 = 1.0 / 16.0;
/// Multiple of the bitrate beyond which layers are given up, long before the queue is full.
const DOWN: f64 = 1.25;
/// What may wait at the bitrate, in seconds; a key block that adds layers leaves some of that to those after it.
const QUEUE: f64 = 1.0;
const KEY: f64 = 0.92;
/// Layers are added where no more would have waited had they passed before, in seconds, at this multiple of the bitrate.
const CALM: f64 = 0.5;
const CALM_RATE: f64 = 1.02;
/// How long a group is taken to be before one was seen whole, in seconds.
const USUAL_GROUP: f64 = 4.0;
/// Least time between two wishes for a key block, in seconds.
const WISHES: f64 = 2.0;
/// Longest silence that counts, in seconds: time stamps may jump.
const MAX_GAP: f64 = 10.0;

/// Bits of the first layer, the first two, ..; layers that a block does not have take none.
type Bits = [u64; MAX_LAYERS];

/// Bits within a part of the window, passed on or not.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    seconds: f64,
    inter: Bits,
    keys: u64,
    key: Bits,
}

impl Slot {
    fn add(&mut self, other: &Self, known: usize) {
        self.seconds += other.seconds;
        self.keys += other.keys;
        self.inter.iter_mut().zip(other.inter).take(known).for_each(|(a, b)| *a += b);
        self.key.iter_mut().zip(other.key).take(known).for_each(|(a, b)| *a += b);
    }

    fn subtract(&mut self, other: &Self, known: usize) {
        self.seconds -= other.seconds;
        self.keys -= other.keys;
        self.inter.iter_mut().zip(other.inter).take(known).for_each(|(a, b)| *a -= b);
        self.key.iter_mut().zip(other.key).take(known).for_each(|(a, b)| *a -= b);
    }

    /// Layers up to `after` are known now, those up to `before` were; no block so far had the others.
    fn widen(&mut self, before: usize, after: usize) {
        for bits in [&mut self.inter, &mut self.key] {
            let whole = bits[before - 1];
            bits[before..after].fill(whole);
        }
    }
}

/// The last second of blocks, and the last block however long it lasts.
#[derive(Debug, Clone, Default)]
struct Window {
    slots: VecDeque<Slot>,
    sum: Slot,
}

impl Window {
    fn push(&mut self, block: &Slot, known: usize) {
        self.sum.add(block, known);
        match self.slots.back_mut().filter(|slot| slot.seconds < GRAIN) {
            Some(slot) => slot.add(block, known),
            None => self.slots.push_back(*block),
        }
        while let Some(oldest) = self.slots.front().filter(|oldest| self.sum.seconds - oldest.seconds >= WINDOW) {
            self.sum.subtract(oldest, known);
            self.slots.pop_front();
        }
    }

    fn widen(&mut self, before: usize, after: usize) {
        self.slots.iter_mut().chain([&mut self.sum]).for_each(|slot| slot.widen(before, after));
    }
}

/// Cuts the blocks of one stream to a bitrate, a number of layers, or both. It needs no model: a block says where its layers end.
///
/// A rung, which is a number of layers, takes the mean of its inter blocks over the last second, and its key block spread over the
/// time to the next one. Where that is more than 1.25 times the bitrate, the highest rung that fits passes from this block on.
/// Layers come back at key blocks only, since until then the receiver's reference lacks them and upper layers would refine a
/// picture that it does not have. They come back where they take no more than the bitrate now, and had they passed all the time,
/// no more than half a second would wait in the queue below. So a rung far above the bitrate does not come and go.
///
/// What passes also fits a queue of one second that empties at the bitrate (a token bucket): in any `t` seconds no more passes
/// than the bitrate gives in `t + 1` seconds. Only first layers, which always pass, may exceed that; what of them does not fit is
/// forgotten.
#[derive(Debug, Clone, Default)]
pub struct Thinner {
    max_layers: usize,
    bitrate: f64,
    /// Layers that pass until the next key block; 0: nothing has come yet.
    layers: usize,
    /// Layers that the stream has shown.
    known: usize,
    window: Window,
    /// Seconds that what passed still takes at the bitrate, and that each rung would if it had passed.
    queue: f64,
    queues: [f64; MAX_LAYERS],
    /// The last key block's bits.
    key: Bits,
    /// Seconds since the last key block, and from the one before to it; `None`: there was none.
    since_key: Option<f64>,
    group: Option<f64>,
    /// Seconds since a key block was wished for.
    since_wish: Option<f64>,
    ends: Vec<usize>,
}

impl Thinner {
    /// Limits from the next block on: `max_layers` layers, `bitrate` bits per second; 0 = no limit.
    pub fn set_limits(&mut self, max_layers: usize, bitrate: f64) {
        (self.max_layers, self.bitrate) = (max_layers, bitrate);
    }

    /// The blocks that follow do not continue those before, as after a seek. What they take is still known.
    pub fn restart(&mut self) {
        self.since_key = None;
        self.queue = 0.0;
    }

    /// Layers that pass now, of those that the stream has shown so far.
    pub fn layers(&self) -> usize {
        self.layers.min(self.known)
    }

    /// Whether a key block now would let more layers pass. It is wished for once, then not for two seconds.
    pub fn wants_key(&mut self) -> bool {
        let wants = self.layers < self.most(|layers| self.adds(layers)).min(self.known)
            && self.since_wish.is_none_or(|since| since >= WISHES);
        if wants {
            self.since_wish = Some(0.0);
        }
        wants
    }

    /// The part of `block` that passes, a prefix of it; `since`: seconds since the block before. At least the first layer passes,
    /// whatever the bitrate. [`Malformed`](crate::Error::Malformed): the block's header or first segment is broken.
    pub fn cut<'a>(&mut self, block: &'a [u8], since: f64) -> Result<&'a [u8]> {
        let header = RawHeader::read(block)?;
        prefixes(block, header.len, &mut self.ends)?;
        let since = since.clamp(0.0, MAX_GAP);
        self.since_key = self.since_key.map(|seconds| seconds + since);
        self.since_wish = self.since_wish.map(|seconds| seconds + since);
        if self.ends.len() > self.known {
            if self.known > 0 {
                self.window.widen(self.known, self.ends.len());
                let whole = self.key[self.known - 1];
                self.key[self.known..self.ends.len()].fill(whole);
                let queue = self.queues[self.known - 1];
                self.queues[self.known..self.ends.len()].fill(queue);
            }
            self.known = self.ends.len();
        }
        let last = self.ends.len() - 1;
        let mut bits: Bits = [0; MAX_LAYERS];
        bits[..self.known].iter_mut().enumerate().for_each(|(i, bits)| *bits = self.ends[i.min(last)] as u64 * 8);
        let mut slot = Slot { seconds: since, keys: header.key().into(), ..Slot::default() };
        if header.key() {
            slot.key = bits;
            self.group = self.since_key.replace(0.0).or(self.group);
            self.key = bits;
        } else {
            slot.inter = bits;
        }
        self.window.push(&slot, self.known);
        self.queue = (self.queue - since).max(0.0);
        let fits = |layers: usize, share: f64| self.rate(layers) <= share * self.bitrate && self.waits(bits[layers - 1]) <= QUEUE;
        let stays = self.layers.min(self.most(|layers| fits(layers, DOWN)));
        let fit = self.most(|layers| fits(layers, 1.0));
        self.layers = match (self.layers, header.key()) {
            (0, false) => fit,
            (passing, _) if passing > stays => fit,
            (passing, false) => passing,
            (passing, true) => passing.max(self.most(|layers| self.adds(layers))),
        };
        let passes = self.layers.min(self.ends.len());
        self.count(&bits, passes, since);
        Ok(&block[..self.ends[passes - 1]])
    }

    /// The queues after a block of which `passes` layers passed.
    fn count(&mut self, bits: &Bits, passes: usize, since: f64) {
        if self.bitrate == 0.0 {
            (self.queue, self.queues) = (0.0, [0.0; MAX_LAYERS]);
            return;
        }
        self.queue = self.waits(bits[passes - 1]).min(QUEUE);
        let rungs = self.queues[..self.known].iter_mut().zip(bits);
        rungs.for_each(|(queue, bits)| *queue = ((*queue - since * CALM_RATE).max(0.0) + *bits as f64 / self.bitrate).min(QUEUE));
    }

    /// Seconds until this many more bits are gone.
    fn waits(&self, bits: u64) -> f64 {
        self.queue + bits as f64 / self.bitrate
    }

    /// Whether a key block may add layers up to `layers`.
    fn adds(&self, layers: usize) -> bool {
        self.rate(layers) <= self.bitrate && self.queues[layers - 1] <= CALM && self.waits(self.key[layers - 1]) <= KEY
    }

    /// Bits per second that `layers` layers take.
    fn rate(&self, layers: usize) -> f64 {
        let sum = &self.window.sum;
        let group = self.group.unwrap_or(USUAL_GROUP).max(self.since_key.unwrap_or_default());
        // A mean of key blocks, where there are several in a second.
        let key = if sum.keys > 1 { sum.key[layers - 1] as f64 / sum.keys as f64 } else { self.key[layers - 1] as f64 };
        sum.inter[layers - 1] as f64 / sum.seconds.max(WINDOW) + key / group.max(GRAIN)
    }

    /// The most layers that fit, [`MAX_LAYERS`] where all known ones do, at least 1.
    fn most(&self, fits: impl Fn(usize) -> bool) -> usize {
        // A block of fewer layers than the stream has must not hold back those that follow.
        let most = match (1..=self.known).rev().find(|&layers| self.bitrate == 0.0 || fits(layers)).unwrap_or(1) {
            all if all == self.known => MAX_LAYERS,
            most => most,
        };
        if self.max_layers > 0 { most.min(self.max_layers) } else { most }
    }
}
