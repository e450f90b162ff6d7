// SPDX-License-Identifier: MIT OR Apache-2.0
//! The coding loops of a stream: that of receivers of all layers, and those of receivers of fewer.

use std::time::Duration;

use super::super::super::quality::{luma_mse, psnr};
use super::super::config::EncoderConfig;
use super::analyse::Analysis;
use super::coding_loop::CodingLoop;
use super::crew::Crew;
use crate::Result;
use crate::frame::Geometry;
use crate::tokens::ChosenBlock;

/// The loops that take part in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Base-layer loops, fewest layers first.
    pub base: usize,
    /// The loop of receivers of all layers.
    pub finest: bool,
}

impl Part {
    pub const FINEST: Self = Self { base: 0, finest: true };

    /// Of a block of which `coded` of `depth` layers are coded.
    pub fn of(drift_free: bool, coded: usize, depth: usize) -> Self {
        Self { base: if drift_free { coded.min(depth - 1) } else { 0 }, finest: coded == depth }
    }
}

/// All loops of an encoder.
pub(super) struct Loops {
    /// The loop of receivers of all layers.
    pub finest: CodingLoop,
    /// The base-layer loops, fewest layers first: as many as blocks needed so far, none where receivers may drift.
    base: Vec<CodingLoop>,
    crew: Crew,
    config: EncoderConfig,
    geometry: Geometry,
}

impl Loops {
    /// Opens the loop of receivers of all layers, of at most `loops` on so many `threads`.
    pub fn open(config: &EncoderConfig, geometry: &Geometry, threads: usize, loops: usize) -> Result<Self> {
        let crew = Crew::new(threads, loops)?;
        let mut config = config.clone();
        config.runtime.threads = crew.threads_each;
        Ok(Self { finest: CodingLoop::open(&config, geometry)?, base: Vec::new(), crew, config, geometry: *geometry })
    }

    /// The loops of `part`, fewest layers first.
    pub fn of(&self, part: Part) -> impl Iterator<Item = &CodingLoop> {
        self.base.iter().take(part.base).chain(part.finest.then_some(&self.finest))
    }

    /// The loop of receivers of `layers` layers, where there is one of fewer than all.
    pub fn base(&self, layers: usize) -> Option<&CodingLoop> {
        self.base.get(layers.checked_sub(1)?)
    }

    /// The loop of `part` whose receivers have most layers.
    fn best(&self, part: Part) -> &CodingLoop {
        self.of(part).last().unwrap_or(&self.finest)
    }

    /// Does `work` in each loop of `part`, given with its layers, `None` for that of all. Returns the time for which graphs ran.
    fn each(&mut self, part: Part, work: impl Fn(Option<usize>, &mut CodingLoop) -> Result<()> + Sync) -> Result<Duration> {
        let before = self.run_time();
        let Self { finest, base, crew, .. } = self;
        let loops = (1..).zip(base.iter_mut().take(part.base)).chain(part.finest.then_some((0, finest)));
        let share = crew.each(loops, |number, one| work((number > 0).then_some(number), one))?;
        Ok((self.run_time() - before).mul_f64(share))
    }

    /// Time that the loops' graphs have taken so far, all together.
    fn run_time(&self) -> Duration {
        self.base.iter().chain([&self.finest]).map(CodingLoop::run_time).sum()
    }

    /// Predicts and transforms `frames`, T aligned ones. Returns the time for which graphs ran, as [`transform_base`](Self::transform_base)
    /// and [`decode`](Self::decode) do.
    pub fn transform(&mut self, part: Part, frames: &[u8], analysis: &Analysis, motion: &[i32], step: f32) -> Result<Duration> {
        if !part.finest {
            // Pictures are compared with them.
            self.finest.frames_mut().copy_from_slice(frames);
        }
        self.each(part, |_, one| one.transform(frames, analysis, motion, step))
    }

    /// Transforms a key block, which the loop of all layers has transformed, in `loops` base-layer loops. Those that are missing are opened.
    pub fn transform_base(
        &mut self,
        loops: usize,
        frames: &[u8],
        analysis: &Analysis,
        motion: &[i32],
        step: f32,
    ) -> Result<Duration> {
        let (config, geometry) = (&self.config, &self.geometry);
        // The first loop of a member opens the sessions for all.
        let first = self.base.len() + 1..=loops.min(self.crew.members - 1);
        let mut opened: Vec<Option<CodingLoop>> = first.clone().map(|_| None).collect();
        self.crew.each(first.zip(&mut opened), |_, new| {
            *new = Some(CodingLoop::open(config, geometry)?);
            Ok(())
        })?;
        self.base.extend(opened.into_iter().flatten());
        for number in self.base.len() + 1..=loops {
            let first = self.crew.member(number).checked_sub(1).map_or(&self.finest, |base| &self.base[base]);
            self.base.push(first.open_beside(config, geometry)?);
        }
        let (finest, base) = (&self.finest, &mut self.base[..loops]);
        base.iter_mut().try_for_each(CodingLoop::reset)?;
        if finest.is_plain() {
            base.iter_mut().try_for_each(|base| base.transform_like(finest, analysis, motion))?;
            return Ok(Duration::ZERO);
        }
        self.transform(Part { base: loops, finest: false }, frames, analysis, motion, step)
    }

    /// Loads `block` into the loops of `part`. `read`: the layers that a receiver of so many reads, `None` where it has all; `step`: of
    /// the last of some layers, in pixel units; `motion`: `None` in a key block.
    pub fn load(
        &mut self,
        part: Part,
        block: ChosenBlock<'_>,
        motion: Option<&[i32]>,
        read: impl Fn(Option<usize>) -> usize + Sync,
        step: impl Fn(usize) -> f32 + Sync,
    ) -> Result<()> {
        let load = |layers, one: &mut CodingLoop| {
            let layers = read(layers);
            one.load(block, layers, motion, step(layers))
        };
        self.each(part, load).map(drop)
    }

    /// Decodes what was loaded.
    pub fn decode(&mut self, part: Part) -> Result<Duration> {
        self.each(part, |_, one| one.decode())
    }

    /// Makes the block that was decoded the reference of the next one.
    pub fn commit(&mut self, part: Part) {
        self.base.iter_mut().take(part.base).chain(part.finest.then_some(&mut self.finest)).for_each(CodingLoop::commit);
    }

    /// Tokens of each cell as receivers of most layers have loaded them, \[cells\].
    pub fn counts(&self, part: Part) -> &[i32] {
        self.best(part).counts()
    }

    /// Luma PSNR of the picture that receivers of most layers have.
    pub fn psnr(&self, part: Part) -> f64 {
        let n = self.geometry.frame_bytes();
        let frames = self.best(part).reconstruction().chunks_exact(n).zip(self.finest.frames().chunks_exact(n));
        let mse: f64 = frames.clone().map(|(a, b)| luma_mse(&self.geometry, a, b)).sum();
        psnr(mse / frames.len() as f64)
    }
}
