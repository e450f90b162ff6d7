// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rate control: which quantiser the next block gets.
//!
//! A controller never sees pixels or tokens. Before a block it proposes a quantiser. Where the block's bits or quality are
//! estimated it may propose another one. After the block it learns the real bits and quality.

use crate::{Error, Result};

/// What is held constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RateControl {
    /// The quality: `target_psnr` on average over the stream.
    #[default]
    Quality,
    /// The bitrate: `bitrate`, through a leaky bucket of one second.
    Bitrate,
    /// The count of tokens of every cell: `tokens`.
    Tokens,
}

/// Settings that may change while a stream is coded; effective from the next block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LiveSettings {
    /// What is held constant.
    pub rate_control: RateControl,
    /// Quality to hold in dB, 20..=60: PSNR of luma, or for RGB bundles of all samples.
    pub target_psnr: f64,
    /// Quality to hold as a mean squared error of samples on the \[-1, 1\] scale, above 0 to 4, for `fsq` and `vae` bundles;
    /// 0 = use `target_psnr`.
    pub target_mse: f64,
    /// Bitrate to hold in kbit/s, 1..=2_000_000.
    pub bitrate: u32,
    /// Bitrate of layer 0 to hold besides, in kbit/s, as far as quantisers reach; 0 = none, up to 2_000_000. For models with a quantiser.
    pub base_bitrate: u32,
    /// Count of tokens of every cell; 0 = all.
    pub tokens: u32,
    /// Tokens with an index below this are kept whatever they cost.
    pub min_tokens: u32,
    /// Tokens with an index from this on are never sent; 0 = no limit.
    pub max_tokens: u32,
}

impl Default for LiveSettings {
    fn default() -> Self {
        Self {
            rate_control: RateControl::Quality,
            target_psnr: 36.0,
            target_mse: 0.0,
            bitrate: 2048,
            base_bitrate: 0,
            tokens: 0,
            min_tokens: 0,
            max_tokens: 0,
        }
    }
}

impl LiveSettings {
    /// Checks ranges.
    pub fn validate(&self) -> Result<()> {
        if !(20.0..=60.0).contains(&self.target_psnr) {
            return Err(Error::Settings(format!("target-psnr {} is outside 20 to 60 dB", self.target_psnr)));
        }
        if !(0.0..=4.0).contains(&self.target_mse) {
            return Err(Error::Settings(format!("target-mse {} is outside 0 to 4", self.target_mse)));
        }
        if !(1..=2_000_000).contains(&self.bitrate) {
            return Err(Error::Settings(format!("bitrate {} is outside 1 to 2000000 kbit/s", self.bitrate)));
        }
        if self.base_bitrate > 2_000_000 {
            return Err(Error::Settings(format!("base-bitrate {} is outside 0 to 2000000 kbit/s", self.base_bitrate)));
        }
        if self.max_tokens > 0 && self.min_tokens > self.max_tokens {
            return Err(Error::Settings(format!("min-tokens {} is above max-tokens {}", self.min_tokens, self.max_tokens)));
        }
        Ok(())
    }
}

/// Coarsest quantiser that is used. Above it pictures get worse, and streams of scenes that are partly still get larger.
pub const COARSEST: u8 = 72;
/// Coarsest mean of inter blocks with constant quality. Anything coarser costs more bits than it saves: later blocks mend it, and go on
/// doing so. Blocks that others are predicted from stay finer by as much as elsewhere: where little is coded they save most.
const COARSEST_MEAN: f64 = 69.0;
/// Mean excess of quality in dB from which on a target counts as below what pays.
const ABOVE_TARGET: f64 = 0.5;
/// Quantiser of the constant-tokens mode, a step of four grey levels: the counts decide on quality.
const TOKENS_QUANTISER: f64 = 24.0;
/// Key blocks are quantised finer than the others by this much (a factor of 0.5 in step), since later blocks are predicted
/// from them.
pub const KEY_OFFSET: f64 = 8.0;
/// With constant quality, every fourth block after a key block is quantised finer than the mean and the others coarser, since
/// the next blocks are predicted from it.
const CASCADE: [f64; 4] = [3.0, -1.0, -1.0, -1.0];
/// The first key block aims above the target by this much, in dB: the inter blocks after it, quantised coarser, then start
/// near the target and not below it.
const FIRST_KEY_MARGIN: f64 = 2.0;
/// Share of the mean shortfall that one block corrects: slow, because even quality is worth more than an exact mean.
const CORRECTION: f64 = 0.06;
/// Bits fall by a factor of two over this many quantiser indices.
const INDICES_PER_HALVING: f64 = 6.5;
/// PSNR falls by one dB over this many quantiser indices.
const INDICES_PER_DB: f64 = 1.9;
/// Time over which the bitrate holds, in seconds.
const WINDOW: f64 = 1.0;
/// Largest share of the time since the last key block, or of the window, that a key block may take beyond its own.
const KEY_SHARE: f64 = 0.25;
/// Most debt, in windows: a debt that could not be avoided is not paid back in full.
const MOST_OWED: f64 = 4.0;
/// Time in seconds after which a bitrate that the coarsest blocks exceed is known to be out of reach.
const PATIENCE: f64 = 2.0;
/// Largest step of the quantiser between inter blocks.
const MOST_CHANGE: f64 = 8.0;

/// Chooses quantisers; see the module's documentation.
#[derive(Debug)]
pub struct RateController {
    live: LiveSettings,
    /// Expected duration of the current block, in seconds.
    block_seconds: f64,
    /// Time since the last key block began, in seconds.
    key_seconds: f64,
    /// Bits and seconds of the last blocks in sequence that were as small as possible.
    starved: (f64, f64),
    /// Quantiser of inter blocks; fractional, so that slow corrections add up.
    quantiser: f64,
    started: bool,
    /// Place of the next block in the cascade: blocks since the key block.
    since_key: usize,
    /// Bits sent beyond what the rate allows so far; negative = saved up.
    excess: f64,
    /// Mean excess of quality over the target in dB, recent blocks; negative = it falls short.
    excess_psnr: f64,
    /// Gain of the loop filter over the estimated quality in dB, recent blocks.
    filter_gain: f64,
}

impl RateController {
    /// A controller at the beginning of a stream.
    pub fn new(live: LiveSettings) -> Self {
        Self {
            live,
            block_seconds: 1.0 / 15.0,
            key_seconds: WINDOW,
            starved: (0.0, 0.0),
            quantiser: 32.0,
            started: false,
            since_key: 0,
            excess: 0.0,
            excess_psnr: 0.0,
            filter_gain: 0.3,
        }
    }

    /// Begins the next block, `elapsed` seconds after the start of the one before; it is expected to last `seconds`.
    pub fn begin(&mut self, elapsed: f64, seconds: f64) {
        if self.started {
            // The block before was counted with its expected duration.
            self.leak(elapsed - self.block_seconds);
        }
        self.key_seconds = (self.key_seconds + elapsed).min(WINDOW);
        self.block_seconds = seconds;
    }

    /// New settings, from the next block on.
    pub fn set_live(&mut self, live: LiveSettings) {
        if live.rate_control != self.live.rate_control || live.bitrate != self.live.bitrate {
            self.excess = 0.0;
            self.starved = (0.0, 0.0);
        }
        self.quantiser += (self.live.target_psnr - live.target_psnr)
            * INDICES_PER_DB
            * f64::from(u8::from(live.rate_control == RateControl::Quality));
        self.live = live;
    }

    /// Bits per second.
    fn bits_per_second(&self) -> f64 {
        f64::from(self.live.bitrate) * 1000.0
    }

    /// Lets the bucket leak for `seconds`, which may be negative.
    fn leak(&mut self, seconds: f64) {
        let window = self.bits_per_second() * WINDOW;
        self.excess = (self.excess - self.bits_per_second() * seconds).clamp(-window, MOST_OWED * window);
    }

    /// The least bitrate that the last seconds could be coded at, in kbit/s, where it is above the one to hold.
    pub fn least_bitrate(&self) -> Option<f64> {
        let (bits, seconds) = self.starved;
        let rate = self.bits_per_second();
        let out_of_reach = seconds >= PATIENCE && self.excess > rate * WINDOW && bits > rate * seconds;
        out_of_reach.then(|| bits / seconds / 1000.0)
    }

    /// Whether the quality is above the target because coarser blocks would not cost fewer bits.
    pub fn above_target(&self) -> bool {
        self.live.rate_control == RateControl::Quality && self.quantiser >= COARSEST_MEAN && self.excess_psnr > ABOVE_TARGET
    }

    /// Settings in force.
    pub fn live(&self) -> &LiveSettings {
        &self.live
    }

    /// The coarsest mean of inter blocks.
    fn coarsest(&self) -> f64 {
        match self.live.rate_control {
            RateControl::Quality => COARSEST_MEAN,
            _ => f64::from(COARSEST),
        }
    }

    fn limit(&self, quantiser: f64, key: bool) -> u8 {
        let coarsest = match self.live.rate_control {
            RateControl::Quality => self.coarsest() - self.refinement(key),
            _ => self.coarsest(),
        };
        quantiser.round().clamp(0.0, coarsest) as u8
    }

    /// By how much the next block is quantised finer than the mean of inter blocks.
    fn refinement(&self, key: bool) -> f64 {
        match self.live.rate_control {
            _ if key => KEY_OFFSET,
            RateControl::Quality => CASCADE[self.since_key % CASCADE.len()],
            _ => 0.0,
        }
    }

    /// Quantiser to try first.
    pub fn propose(&self, key: bool) -> u8 {
        match self.live.rate_control {
            RateControl::Tokens => self.limit(TOKENS_QUANTISER, key),
            _ => self.limit(self.quantiser - self.refinement(key), key),
        }
    }

    /// Bits that the next block should have with constant bitrate; `key`: it may take the share of a key block.
    pub fn budget(&self, key: bool) -> f64 {
        let rate = self.bits_per_second();
        let share = rate * self.block_seconds;
        // A debt is paid back over half a window, savings are spent over a whole one.
        let blocks = (WINDOW / self.block_seconds).max(1.0);
        let correction = if self.excess > 0.0 { self.excess / (0.5 * blocks) } else { self.excess / blocks };
        // Frequent key blocks cannot each take the share of a rare one.
        let extra = if key { KEY_SHARE * rate * self.key_seconds } else { 0.0 };
        (share - correction + extra).max(0.2 * share)
    }

    /// A better quantiser according to the estimate of a trial, if there is one. `bits` and `psnr` (luma, before the loop
    /// filter) are estimates for `tried`.
    pub fn reconsider(&self, key: bool, tried: u8, bits: f64, psnr: f64) -> Option<u8> {
        let other = match self.live.rate_control {
            RateControl::Tokens => return None,
            RateControl::Bitrate => {
                let ratio = (bits.max(1.0) / self.budget(key)).log2();
                // Inter blocks may stray by a fifth: smooth quality is worth more than exact blocks.
                let tolerance = if key {
                    0.2
                } else if ratio > 0.6 {
                    0.1
                } else {
                    0.3
                };
                let change = if ratio.abs() < tolerance { 0.0 } else { ratio * INDICES_PER_HALVING };
                f64::from(tried) + if key { change } else { change.clamp(-3.0, MOST_CHANGE) }
            }
            RateControl::Quality => {
                let off = psnr + self.filter_gain - self.live.target_psnr;
                if !self.started {
                    f64::from(tried) + (off - FIRST_KEY_MARGIN) * INDICES_PER_DB
                } else if off.abs() > 2.5 && !key {
                    // a new scene: follow at once, but not all the way
                    f64::from(tried) + 0.6 * off * INDICES_PER_DB
                } else {
                    return None;
                }
            }
        };
        let other = self.limit(other, key);
        (other != tried).then_some(other)
    }

    /// Takes the bits of a block out of the bucket; for codecs without a quantiser, instead of [`learn`](Self::learn).
    /// `least`: it cannot be any smaller.
    pub fn spend(&mut self, bits: f64, least: bool) {
        let window = self.bits_per_second() * WINDOW;
        let excess = self.excess + bits - self.bits_per_second() * self.block_seconds;
        self.excess = excess.clamp(-window, MOST_OWED * window);
        let (before, seconds) = self.starved;
        self.starved = if least { (before + bits, seconds + self.block_seconds) } else { (0.0, 0.0) };
        self.started = true;
    }

    /// Learns the result of a block: `bits` in all, luma PSNR as estimated before decoding and as measured after it.
    pub fn learn(&mut self, key: bool, used: u8, bits: f64, estimated_psnr: f64, psnr: f64) {
        let inter = f64::from(used) + self.refinement(key);
        self.since_key = if key { 1 } else { self.since_key + 1 };
        if key {
            self.key_seconds = 0.0;
        }
        self.filter_gain += 0.2 * ((psnr - estimated_psnr).clamp(-3.0, 3.0) - self.filter_gain);
        match self.live.rate_control {
            RateControl::Tokens => {}
            RateControl::Bitrate => {
                let rate = self.bits_per_second();
                let started = self.started;
                self.spend(bits, used >= COARSEST);
                self.quantiser = if started && key { 0.5 * (self.quantiser + inter) } else { inter };
                // steer against the bucket, so that its fill settles
                self.quantiser += (self.excess / (rate * WINDOW)).clamp(-1.0, 1.0);
            }
            RateControl::Quality => {
                if !self.started || (inter - self.quantiser).abs() > 2.0 {
                    self.quantiser = inter;
                }
                // A key block's better picture is not an error to correct.
                if !key {
                    let off = psnr - self.live.target_psnr;
                    self.excess_psnr += 0.25 * (off - self.excess_psnr);
                    self.quantiser += CORRECTION * self.excess_psnr * INDICES_PER_DB;
                }
            }
        }
        self.quantiser = self.quantiser.clamp(0.0, self.coarsest());
        self.started = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A codec whose bits and quality follow simple laws, with content of varying difficulty.
    fn simulate(controller: &mut RateController, blocks: usize, difficulty: impl Fn(usize) -> f64) -> Vec<(f64, f64)> {
        simulate_keys(controller, blocks, 120, 1.0 / 15.0, difficulty)
    }

    /// Blocks of `seconds`, every `keys`-th a key block.
    fn simulate_keys(
        controller: &mut RateController,
        blocks: usize,
        keys: usize,
        seconds: f64,
        difficulty: impl Fn(usize) -> f64,
    ) -> Vec<(f64, f64)> {
        let result = |q: u8, d: f64, key: bool| {
            (4e5 * d * 2f64.powf(-f64::from(q) / 6.0) * if key { 6.0 } else { 1.0 }, 52.0 - f64::from(q) * 0.5 - d.log2())
        };
        (0..blocks)
            .map(|i| {
                let (key, d) = (i % keys == 0, difficulty(i));
                controller.begin(if i == 0 { 0.0 } else { seconds }, seconds);
                let mut q = controller.propose(key);
                for _ in 0..2 {
                    let (bits, psnr) = result(q, d, key);
                    match controller.reconsider(key, q, bits * 1.05, psnr - 0.4) {
                        Some(other) => q = other,
                        None => break,
                    }
                }
                let (bits, psnr) = result(q, d, key);
                controller.learn(key, q, bits, psnr - 0.4, psnr);
                (bits, psnr)
            })
            .collect()
    }

    #[test]
    fn the_bitrate_is_met_and_follows_a_step() {
        for kbits in [100u32, 500, 3000] {
            let live = LiveSettings { rate_control: RateControl::Bitrate, bitrate: kbits, ..Default::default() };
            let mut c = RateController::new(live);
            let made = simulate(&mut c, 300, |i| if i % 50 < 25 { 1.0 } else { 2.0 });
            let rate = made.iter().map(|b| b.0).sum::<f64>() / (300.0 / 15.0) / 1000.0;
            assert!((rate / f64::from(kbits) - 1.0).abs() < 0.1, "{rate} for {kbits}");
            c.set_live(LiveSettings { bitrate: kbits / 2, ..live });
            let after = simulate(&mut c, 90, |_| 1.0);
            // the first block is key; from the eighth block on, the new rate holds
            let rate = after[8..].iter().map(|b| b.0).sum::<f64>() / (82.0 / 15.0) / 1000.0;
            assert!((rate / f64::from(kbits / 2) - 1.0).abs() < 0.25, "{rate} for {}", kbits / 2);
        }
    }

    fn kbits(made: &[(f64, f64)], seconds: f64) -> f64 {
        made.iter().map(|b| b.0).sum::<f64>() / seconds / 1000.0
    }

    #[test]
    fn the_bitrate_holds_for_blocks_of_any_duration_and_for_many_keys() {
        let live = LiveSettings { rate_control: RateControl::Bitrate, bitrate: 400, ..Default::default() };
        for (seconds, keys) in [(1.0 / 30.0, 120), (0.2, 120), (0.4, 120), (1.0 / 15.0, 1), (1.0 / 15.0, 2), (0.4, 1)] {
            let blocks = (10.0 / seconds) as usize;
            let made = simulate_keys(&mut RateController::new(live), blocks, keys, seconds, |_| 1.0);
            let rate = kbits(&made, 10.0);
            assert!((rate / 400.0 - 1.0).abs() < 0.1, "{rate} for blocks of {seconds} s, every {keys}. key");
        }
    }

    #[test]
    fn what_really_elapsed_counts() {
        let live = LiveSettings { rate_control: RateControl::Bitrate, bitrate: 400, ..Default::default() };
        let mut c = RateController::new(live);
        let mut bits = 0.0;
        for i in 0..100 {
            // Expected to be short, and longer in fact.
            c.begin(if i == 0 { 0.0 } else { 0.1 }, 0.05);
            let made = c.budget(false);
            bits += made;
            c.learn(i == 0, 30, made, 36.0, 36.0);
        }
        assert!((bits / 400e3 / 10.0 - 1.0).abs() < 0.1, "{bits} bits in 10 s");
    }

    #[test]
    fn a_bitrate_out_of_reach_is_known_with_the_least_there_is() {
        let run = |bitrate| {
            let live = LiveSettings { rate_control: RateControl::Bitrate, bitrate, ..Default::default() };
            let mut c = RateController::new(live);
            let rate = kbits(&simulate(&mut c, 150, |_| 100.0), 10.0);
            (rate, c.least_bitrate(), c)
        };
        let (rate, least, mut c) = run(20);
        let least = least.expect("20 kbit/s cannot be");
        assert!(rate > 30.0 && (least / rate - 1.0).abs() < 0.2, "{rate} {least}");
        c.set_live(LiveSettings { bitrate: 2000, ..*c.live() });
        assert_eq!(c.least_bitrate(), None);
        assert_eq!(run(2000).1, None);
    }

    #[test]
    fn targets_below_what_pays_are_one() {
        let quiet = |target_psnr| {
            let mut c = RateController::new(LiveSettings { target_psnr, ..LiveSettings::default() });
            let blocks = simulate(&mut c, 100, |_| 0.001);
            (blocks, c.above_target())
        };
        let (lowest, above) = quiet(20.0);
        assert!(above && lowest == quiet(24.0).0, "below what pays, the target changes nothing");
        let (normal, above) = quiet(40.0);
        assert!(!above && normal != lowest);
    }

    #[test]
    fn the_quality_is_met_on_average() {
        for target in [30.0, 36.0, 42.0] {
            let live = LiveSettings { target_psnr: target, ..Default::default() };
            let mut c = RateController::new(live);
            let made = simulate(&mut c, 240, |i| if i < 120 { 1.0 } else { 4.0 });
            let inter: Vec<f64> = made.iter().enumerate().filter(|(i, _)| i % 120 > 10).map(|(_, b)| b.1).collect();
            let mean = inter.iter().sum::<f64>() / inter.len() as f64;
            assert!((mean - target).abs() < 0.5, "{mean} for {target}");
        }
    }

    #[test]
    fn wrong_settings_name_themselves() {
        let wrong = |l: LiveSettings| l.validate().expect_err("wrong").to_string();
        assert!(wrong(LiveSettings { target_psnr: 10.0, ..Default::default() }).contains("target-psnr"));
        assert!(wrong(LiveSettings { target_mse: -0.1, ..Default::default() }).contains("target-mse"));
        assert!(wrong(LiveSettings { bitrate: 0, ..Default::default() }).contains("bitrate"));
        assert!(wrong(LiveSettings { min_tokens: 5, max_tokens: 4, ..Default::default() }).contains("min-tokens"));
    }
}
