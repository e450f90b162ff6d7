// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blocks of `fsq` and `vae` bundles: how many tokens each cell keeps, found with the graphs themselves.
//!
//! The graphs may run any number of times on a block; the context of the last run is committed when the block is done. The
//! decoder graph is loaded and run only where a search decodes pictures, or where the encoder graph reads its context.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::loss::{CellLosses, mse_of_psnr, psnr_of};
use super::super::setup::fixed;
use super::super::{LiveSettings, SearchMethod};
use super::coder::{BlockCoder, CodedBlock, Place, Spent};
use super::config::EncoderConfig;
use crate::bundle::{Bundle, SearchRule};
use crate::frame::Geometry;
use crate::rate::{RateControl, RateController};
use crate::runtime::{DecoderGraph, EncoderGraph, PictureOutput, RuntimeConfig, Tokens, TokensMut};
use crate::search::{FoundCounts, Official, Problem, exact, predict};
use crate::tokens::fixed::FixedCoder;
use crate::{Error, Result};

/// Counts at which `search=full` and `regression` sample a cell's loss, where there are more.
const SAMPLES: u32 = 100;
/// Bits of a block's header, and of a layer's length, checksum and counts: they leave less of a budget for tokens.
const HEADER_BITS: f64 = 64.0;
const LAYER_BITS: f64 = 32.0;

/// Which graphs have run on the block with `counts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ran {
    Nothing,
    Encoder,
    Both,
}

pub(super) struct FixedBlocks {
    bundle: Arc<Bundle>,
    /// Settings that put the decoder graph where the encoder graph is.
    runtime: RuntimeConfig,
    geometry: Geometry,
    graph: EncoderGraph,
    /// Loaded when it is needed first: it takes as much memory as the encoder graph.
    decoder: Option<DecoderGraph>,
    coder: FixedCoder,
    method: SearchMethod,
    /// Tokens of a cell in the layers that are coded.
    all: u32,
    /// Bits that a token takes in the stream.
    token_bits: f64,
    rate: RateController,
    measure: CellLosses,
    losses: Vec<f32>,
    counts: Vec<i32>,
    ran: Ran,
    /// The decoder graph has run on every block since the key block.
    in_step: bool,
    segments: Vec<Vec<u8>>,
    spent: Spent,
}

impl FixedBlocks {
    /// Loads the graphs.
    pub fn new(config: &EncoderConfig, geometry: Geometry) -> Result<Self> {
        let bundle = config.bundle.clone();
        let manifest = &bundle.manifest;
        let Some(token_bits) = manifest.bottleneck.token_bits() else {
            return Err(Error::Model(format!("bundle '{}' has no tokens of fixed width", manifest.name)));
        };
        let layers = (config.layers as usize).min(manifest.layers.len()).checked_sub(1);
        let mut decoder = None;
        let slot = &mut decoder;
        let graph = EncoderGraph::open_alone(&bundle, &geometry, &config.runtime, |runtime| {
            Ok(slot.insert(DecoderGraph::open_for(&bundle, &geometry, runtime, PictureOutput::Reconstruction)?))
        })?;
        let mut this = Self {
            runtime: graph.settings(&config.runtime),
            graph,
            decoder,
            coder: fixed(manifest, &geometry)?,
            method: config.search,
            all: layers.map_or(manifest.tokens_per_cell, |last| manifest.layers[last]),
            token_bits,
            rate: RateController::new(config.live),
            measure: CellLosses::new(geometry, manifest.block_length as usize),
            losses: vec![0.0; geometry.cells()],
            counts: vec![0; geometry.cells()],
            ran: Ran::Nothing,
            in_step: false,
            segments: vec![Vec::new(); manifest.layers.len()],
            spent: Spent::default(),
            geometry,
            bundle,
        };
        this.check(&config.live)?;
        this.load_decoder()?;
        Ok(this)
    }

    /// Loads the decoder graph if the settings need it.
    fn load_decoder(&mut self) -> Result<()> {
        if self.must_decode() && self.decoder.is_none() {
            self.decoder =
                Some(DecoderGraph::open_for(&self.bundle, &self.geometry, &self.runtime, PictureOutput::Reconstruction)?);
        }
        Ok(())
    }

    fn check(&self, live: &LiveSettings) -> Result<()> {
        let least = self.bundle.manifest.min_tokens;
        if (1..least).contains(&live.max_tokens) {
            return Err(Error::Settings(format!(
                "max-tokens {} is below the {least} that '{}' needs of every cell; set {least} or more, or 0 for all",
                live.max_tokens, self.bundle.manifest.name
            )));
        }
        if live.rate_control == RateControl::Quality
            && self.method == SearchMethod::Regression
            && !self.bundle.manifest.has_distortion
        {
            return Err(Error::Settings(format!(
                "search=regression needs a model that predicts its distortion, and '{}' does not; set search=binary or search=full, or export the bundle with a distortion head",
                self.bundle.manifest.name
            )));
        }
        if live.base_bitrate > 0 {
            return Err(Error::Settings(format!(
                "base-bitrate is for models with a quantiser, and '{}' has none",
                self.bundle.manifest.name
            )));
        }
        Ok(())
    }

    /// Whether counts are chosen by looking at decoded pictures.
    fn searches_pictures(&self) -> bool {
        match self.rate.live().rate_control {
            RateControl::Tokens => false,
            RateControl::Quality => self.method != SearchMethod::Regression,
            RateControl::Bitrate => self.method == SearchMethod::Full && self.counts.len() > 1,
        }
    }

    fn must_decode(&self) -> bool {
        self.searches_pictures() || self.graph.reads_decoder()
    }

    /// Tokens of the block for `counts`, in the coder.
    fn encode(&mut self, counts: impl Iterator<Item = u32>) -> Result<()> {
        let mut same = true;
        for (own, new) in self.counts.iter_mut().zip(counts) {
            let new = new as i32;
            same &= *own == new;
            *own = new;
        }
        if same && self.ran != Ran::Nothing {
            return Ok(());
        }
        let told = self.graph.inputs().counts_mut();
        let conditioned = !told.is_empty();
        if conditioned {
            told.copy_from_slice(&self.counts);
        }
        if conditioned || self.ran == Ran::Nothing {
            self.graph.run(self.decoder.as_mut())?;
        }
        let started = Instant::now();
        match self.graph.tokens() {
            Tokens::I32(indices) => self.coder.load_indices(indices, &self.counts)?,
            Tokens::F32(means) => self.coder.load_means(means, &self.counts)?,
            Tokens::I16(_) => return Err(Error::Model("an fsq or vae bundle's encoder gave i16 tokens".into())),
        }
        self.ran = Ran::Encoder;
        self.spent.token_time += started.elapsed();
        Ok(())
    }

    /// Decodes the tokens in the coder as a receiver of all of them does, and measures the cells' losses.
    fn decode(&mut self) -> Result<()> {
        if self.ran == Ran::Both {
            return Ok(());
        }
        let Some(decoder) = &mut self.decoder else {
            return Err(Error::Runtime("the decoder graph is not loaded".into()));
        };
        let started = Instant::now();
        let layers = self.coder.layers();
        match decoder.tokens_mut() {
            TokensMut::I32(indices) => self.coder.store_indices(layers, indices, &mut self.counts)?,
            TokensMut::F32(means) => self.coder.store_means(layers, means, &mut self.counts)?,
            TokensMut::I16(_) => return Err(Error::Model("an fsq or vae bundle's decoder takes i16 tokens".into())),
        }
        decoder.inputs().counts_mut().copy_from_slice(&self.counts);
        self.spent.token_time += started.elapsed();
        decoder.run()?;
        let started = Instant::now();
        let input = self.graph.frames();
        match decoder.reconstruction() {
            Some(picture) => self.measure.of_reconstruction(input, picture, &mut self.losses)?,
            None => self.measure.of_frames(input, decoder.frames(), &mut self.losses)?,
        }
        self.ran = Ran::Both;
        self.spent.token_time += started.elapsed();
        Ok(())
    }

    fn evaluate(&mut self, counts: &[u32], losses: &mut [f32]) -> Result<()> {
        self.encode(counts.iter().copied())?;
        self.decode()?;
        losses.copy_from_slice(&self.losses);
        Ok(())
    }

    /// Bounds and target of the search.
    fn problem(&self) -> Problem {
        let live = self.rate.live();
        let most = if live.max_tokens == 0 { self.all } else { self.all.min(live.max_tokens) };
        let least = self.bundle.manifest.min_tokens.max(live.min_tokens).min(most);
        let target = if live.target_mse > 0.0 { live.target_mse } else { mse_of_psnr(live.target_psnr) };
        Problem { cells: self.counts.len(), least, most, target: target as f32 }
    }

    /// Counts that `choose` makes of the layer boundaries and the losses predicted there, \[cells, L\].
    fn predict(&mut self, choose: impl FnOnce(&[u32], &[f32]) -> Result<Vec<u32>>) -> Result<FoundCounts> {
        // Predictions are the losses of prefixes of all tokens.
        self.encode(std::iter::repeat(self.bundle.manifest.tokens_per_cell))?;
        let manifest = &self.bundle.manifest;
        let none = || Error::Model(format!("bundle '{}' predicts no distortion", manifest.name));
        let counts = choose(&manifest.layers, self.graph.distortion().ok_or_else(none)?)?;
        Ok(FoundCounts { counts, evaluations: 0 })
    }

    /// Counts that meet the target.
    fn search_quality(&mut self) -> Result<FoundCounts> {
        let problem = self.problem();
        let cells = problem.cells;
        match (self.method, self.bundle.manifest.search) {
            (SearchMethod::Regression, _) => self.predict(|layers, d| predict::regression(&problem, layers, d, SAMPLES)),
            (SearchMethod::Binary, SearchRule::Exact) => exact::binary(&problem, &mut |c, l| self.evaluate(c, l)),
            (SearchMethod::Full, SearchRule::Exact) => exact::full(&problem, SAMPLES, &mut |c, l| self.evaluate(c, l)),
            (method, SearchRule::Official { default_prop, max_prop, n_interp }) => {
                let Problem { least, most, target: threshold, .. } = problem;
                let rule = Official { least: least.max(1), most, default_prop, max_prop, n_interp, threshold };
                let mut found = match method {
                    SearchMethod::Full => rule.linear(cells, &mut |c, l| self.evaluate(c, l))?,
                    _ => rule.binary(cells, &mut |c, l| self.evaluate(c, l))?,
                };
                found.counts.iter_mut().for_each(|n| *n = rule.kept(*n));
                Ok(found)
            }
        }
    }

    /// Counts within the budget; no cell has fewer than the least count, even where the budget has no room for it.
    fn within_bitrate(&mut self) -> Result<u32> {
        let problem = self.problem();
        let bits = self.rate.budget(false) - HEADER_BITS - LAYER_BITS * self.coder.layers() as f64;
        let tokens = (bits / self.token_bits).max(0.0) as u64;
        if problem.cells > 1 {
            let found = match self.method {
                SearchMethod::Full => Some(exact::within_budget(&problem, SAMPLES, tokens, &mut |c, l| self.evaluate(c, l))?),
                SearchMethod::Regression if self.bundle.manifest.has_distortion => {
                    Some(self.predict(|layers, d| predict::within_budget(&problem, layers, d, SAMPLES, tokens))?)
                }
                _ => None,
            };
            if let Some(found) = found {
                self.encode(found.counts.into_iter())?;
                return Ok(found.evaluations);
            }
        }
        let each = u32::try_from(tokens / problem.cells as u64).unwrap_or(u32::MAX).clamp(problem.least, problem.most);
        self.encode(std::iter::repeat(each))?;
        Ok(0)
    }

    /// Chooses counts; the encoder graph has run with them. Returns the candidates evaluated.
    fn choose(&mut self) -> Result<u32> {
        let live = *self.rate.live();
        match live.rate_control {
            RateControl::Tokens => {
                let most = self.problem().most;
                let n = if live.tokens == 0 { most } else { live.tokens.min(most) };
                self.encode(std::iter::repeat(n))?;
                Ok(0)
            }
            RateControl::Bitrate => self.within_bitrate(),
            RateControl::Quality => {
                let found = self.search_quality()?;
                self.encode(found.counts.into_iter())?;
                Ok(found.evaluations)
            }
        }
    }

    fn run_time(&self) -> Duration {
        self.graph.run_time() + self.decoder.as_ref().map_or(Duration::ZERO, DecoderGraph::run_time)
    }
}

impl BlockCoder for FixedBlocks {
    fn frames_mut(&mut self) -> &mut [u8] {
        self.graph.frames_mut()
    }

    fn set_live(&mut self, live: LiveSettings) -> Result<()> {
        self.check(&live)?;
        self.rate.set_live(live);
        Ok(())
    }

    fn restart(&mut self, live: LiveSettings) -> Result<()> {
        self.check(&live)?;
        self.rate = RateController::new(live);
        self.in_step = false;
        self.spent = Spent::default();
        self.load_decoder()
    }

    fn least_bitrate(&self) -> Option<f64> {
        self.rate.least_bitrate()
    }

    fn above_target(&self) -> bool {
        false
    }

    fn code(&mut self, place: Place) -> Result<CodedBlock> {
        // Where the decoder graph was idle, its context is out of date.
        let key = place.must_be_key || (self.must_decode() && !self.in_step);
        let position = if key { 0 } else { place.position };
        self.rate.begin(place.span.elapsed, place.span.seconds);
        self.load_decoder()?;
        let before = self.run_time();
        self.ran = Ran::Nothing;
        self.graph.inputs().set_position(i64::from(position));
        if key {
            self.graph.reset()?;
        }
        if let Some(decoder) = &mut self.decoder {
            decoder.inputs().set_position(i64::from(position));
            if key {
                decoder.reset()?;
            }
        }
        self.in_step |= key;
        let evaluations = self.choose()?;
        if self.must_decode() {
            self.decode()?;
            if let Some(decoder) = &mut self.decoder {
                decoder.commit();
            }
        } else {
            self.in_step = false;
        }
        self.graph.commit();
        self.spent.runtime_time += self.run_time() - before;
        let started = Instant::now();
        for (layer, segment) in self.segments.iter_mut().enumerate() {
            segment.clear();
            self.coder.write_segment(layer, segment)?;
        }
        self.spent.token_time += started.elapsed();
        let psnr = (self.ran == Ran::Both).then(|| psnr_of(&self.losses));
        Ok(CodedBlock { key, psnr, evaluations, ..CodedBlock::default() })
    }

    fn segments(&self) -> &[Vec<u8>] {
        &self.segments
    }

    fn counts(&self) -> &[i32] {
        &self.counts
    }

    fn learn(&mut self, _: &CodedBlock, bits: f64) {
        let least = self.problem().least;
        let all_least = self.counts.iter().all(|&n| n as u32 <= least);
        self.rate.spend(bits, self.rate.live().rate_control == RateControl::Bitrate && all_least);
    }

    fn spent(&self) -> Spent {
        self.spent
    }

    fn provider(&self) -> &'static str {
        self.graph.provider()
    }
}
