// SPDX-License-Identifier: MIT OR Apache-2.0
//! A coding loop: the encoder graph, and the decoder graph that keeps the reference which receivers have.

use std::time::Duration;

use super::super::config::EncoderConfig;
use super::analyse::Analysis;
use crate::frame::Geometry;
use crate::runtime::{DecoderGraph, EncoderGraph, Tokens, TokensMut};
use crate::tokens::{ChosenBlock, FilledCells};
use crate::{Error, Result};

/// The reference of receivers of some number of layers, and the residual that they lack.
///
/// A block goes through [`transform`](Self::transform), [`load`](Self::load) and [`decode`](Self::decode) (again for every candidate) and
/// [`commit`](Self::commit).
pub(super) struct CodingLoop {
    graph: EncoderGraph,
    decoder: DecoderGraph,
    /// Of the latents in the loop graph's input.
    filled: FilledCells,
    /// Tokens of each cell as loaded, \[cells\].
    counts: Vec<i32>,
}

impl CodingLoop {
    pub fn open(config: &EncoderConfig, geometry: &Geometry) -> Result<Self> {
        EncoderGraph::open_with_loop(&config.bundle, geometry, &config.runtime).map(|graphs| Self::new(graphs, geometry))
    }

    /// Another loop in the same sessions: only one of them can run at a time.
    pub fn open_beside(&self, config: &EncoderConfig, geometry: &Geometry) -> Result<Self> {
        let graphs = self.graph.open_beside(&self.decoder, &config.bundle, geometry, &config.runtime);
        graphs.map(|graphs| Self::new(graphs, geometry))
    }

    fn new((graph, decoder): (EncoderGraph, DecoderGraph), geometry: &Geometry) -> Self {
        Self { graph, decoder, filled: FilledCells::default(), counts: vec![0; geometry.cells()] }
    }

    /// T aligned frames that are coded.
    pub fn frames(&self) -> &[u8] {
        self.graph.frames()
    }

    pub fn frames_mut(&mut self) -> &mut [u8] {
        self.graph.frames_mut()
    }

    /// The frames of the block last decoded; between blocks the last of them is the reference.
    pub fn reconstruction(&self) -> &[u8] {
        self.decoder.frames()
    }

    /// Tokens of each cell of the block last loaded, \[cells\].
    pub fn counts(&self) -> &[i32] {
        &self.counts
    }

    /// The encoder graph's prediction of luma errors for the step it was told, \[cells\].
    pub fn distortion(&self) -> Option<&[f32]> {
        self.graph.distortion()
    }

    /// Coefficients of the block last transformed, \[cells, C\] in the graph's order, in units of 1/scale.
    pub fn latents(&self) -> Result<&[i16]> {
        match self.graph.tokens() {
            Tokens::I16(latents) => Ok(latents),
            _ => Err(Error::Model("a nested bundle's encoder gave no i16 latents; export the bundle again".into())),
        }
    }

    /// Forgets the reference: a key block follows.
    pub fn reset(&mut self) -> Result<()> {
        self.decoder.reset()?;
        self.graph.reset()
    }

    /// Predicts `frames`, T aligned ones, from the reference and transforms the residual. `step`: the proposed quantiser step in pixel
    /// units.
    pub fn transform(&mut self, frames: &[u8], analysis: &Analysis, motion: &[i32], step: f32) -> Result<()> {
        let position = i64::from(analysis.position);
        self.frames_mut().copy_from_slice(frames);
        self.graph.inputs().motion_mut().copy_from_slice(motion);
        self.decoder.inputs().motion_mut().copy_from_slice(motion);
        self.graph.inputs().set_position(position);
        self.decoder.inputs().set_position(position);
        self.graph.inputs().set_step(step);
        self.graph.run(&mut self.decoder)
    }

    /// Whether [`transform_like`](Self::transform_like) does.
    pub fn is_plain(&self) -> bool {
        self.graph.is_plain()
    }

    /// As [`transform`](Self::transform) of a key block which `other` has transformed: without a reference the graph would give the same
    /// again. The latents stay in `other`.
    pub fn transform_like(&mut self, other: &Self, analysis: &Analysis, motion: &[i32]) -> Result<()> {
        self.decoder.inputs().motion_mut().copy_from_slice(motion);
        self.decoder.inputs().set_position(i64::from(analysis.position));
        self.decoder.take_handed(&other.decoder)
    }

    /// Loads the first `layers` layers of `block`. `step`: that of the last of these layers in pixel units; `motion`: `None` in a key block.
    pub fn load(&mut self, block: ChosenBlock<'_>, layers: usize, motion: Option<&[i32]>, step: f32) -> Result<()> {
        let (filled, counts) = (&mut self.filled, &mut self.counts);
        match self.decoder.tokens_mut() {
            TokensMut::I32(latents) => block.dequantise(layers, motion, latents, filled, counts)?,
            TokensMut::I16(latents) => block.dequantise(layers, motion, latents, filled, counts)?,
            TokensMut::F32(_) => {}
        }
        self.decoder.inputs().counts_mut().copy_from_slice(&self.counts);
        self.decoder.inputs().set_step(step);
        Ok(())
    }

    /// Decodes what was loaded, without committing.
    pub fn decode(&mut self) -> Result<()> {
        self.decoder.run()
    }

    /// Makes the block last decoded the reference of the next one.
    pub fn commit(&mut self) {
        self.decoder.commit();
        self.graph.commit();
    }

    pub fn provider(&self) -> &'static str {
        self.graph.provider()
    }

    /// Time spent in ONNX Runtime so far.
    pub fn run_time(&self) -> Duration {
        self.graph.run_time() + self.decoder.run_time()
    }
}
