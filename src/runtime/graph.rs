// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a bundle's graphs have in common. Every input and output tensor is allocated when a graph opens; a run copies nothing but
//! pixels and tokens, and those only to and from a GPU, and the pixels of bands.

use std::ops::Range;

use ort::value::DynTensor;

use super::config::RuntimeConfig;
use super::contract::{Contract, Spec};
use super::session::{Named, buffer, values, values_mut};
use crate::bundle::{Bundle, Manifest};
use crate::{Error, Result};

/// What the encoder graph produced.
#[derive(Debug, Clone, Copy)]
pub enum Tokens<'a> {
    /// Latents, [cells, C] (nested).
    I16(&'a [i16]),
    /// Codebook indices, [cells, K] (fsq).
    I32(&'a [i32]),
    /// Latent vectors, [cells, K, D] (vae).
    F32(&'a [f32]),
}

/// The decoder graph's input; as [`Tokens`].
#[derive(Debug)]
pub enum TokensMut<'a> {
    /// Dequantised latents, of older bundles.
    I16(&'a mut [i16]),
    /// Dequantised latents, or codebook indices.
    I32(&'a mut [i32]),
    /// Latent vectors.
    F32(&'a mut [f32]),
}

/// Which output of the decoder graph is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PictureOutput {
    /// `frames`: 8 bits, to be shown.
    Frames,
    /// `reconstruction`, where the bundle has it (else `frames`): on the \[-1, 1\] scale before it was cut to 8 bits.
    Reconstruction,
}

pub(super) fn optional(on: bool, spec: &Spec) -> Result<Option<DynTensor>> {
    on.then(|| buffer(spec)).transpose()
}

/// Adds to an error which graph failed.
pub(super) fn of_graph(graph: &str, bundle: &Bundle, error: Error) -> Error {
    match error {
        Error::Model(m) => Error::Model(format!("the {graph} graph of bundle '{}' {m}", bundle.manifest.name)),
        other => other,
    }
}

/// Sets the input `rows`.
pub(super) fn set_rows(tensor: &mut DynTensor, rows: &Range<usize>) {
    for (value, row) in values_mut::<i64>(tensor).iter_mut().zip([rows.start, rows.end]) {
        *value = row as i64;
    }
}

/// Inputs that both graphs may have. A graph that lacks one has no values for it, and setting it does nothing.
pub struct Inputs {
    counts: Option<DynTensor>,
    position: DynTensor,
    motion: Option<DynTensor>,
    step: Option<DynTensor>,
    rows: Option<DynTensor>,
}

impl Inputs {
    /// Those of the bundle's manifest. `counts`, `step`: whether the graph takes these.
    pub(super) fn new(m: &Manifest, c: &Contract, counts: bool, step: bool) -> Result<Self> {
        Ok(Self {
            counts: optional(counts, &c.counts)?,
            position: buffer(&c.position)?,
            motion: optional(m.takes_motion, &c.motion)?,
            step: optional(step, &c.step)?,
            rows: None,
        })
    }

    /// Adds the rows of cells to decode.
    pub(super) fn with_rows(self, c: &Contract, rows: &Range<usize>) -> Result<Self> {
        let mut tensor = buffer(&c.rows)?;
        set_rows(&mut tensor, rows);
        Ok(Self { rows: Some(tensor), ..self })
    }

    pub(super) fn named(&self) -> impl Iterator<Item = Named<'_>> {
        let optional = [("counts", &self.counts), ("motion", &self.motion), ("step", &self.step), ("rows", &self.rows)];
        let optional = optional.into_iter().filter_map(|(name, t)| t.as_ref().map(|t| (name, t)));
        std::iter::once(("position", &self.position)).chain(optional)
    }

    pub(super) fn counts(&self) -> &[i32] {
        self.counts.as_ref().map(values).unwrap_or_default()
    }

    /// Tokens kept in each cell, \[cells\].
    pub fn counts_mut(&mut self) -> &mut [i32] {
        self.counts.as_mut().map(values_mut).unwrap_or_default()
    }

    pub(super) fn motion(&self) -> &[i32] {
        self.motion.as_ref().map(values).unwrap_or_default()
    }

    /// Motion planes [5, cells_y, cells_x].
    pub fn motion_mut(&mut self) -> &mut [i32] {
        self.motion.as_mut().map(values_mut).unwrap_or_default()
    }

    /// Quantiser step in pixel units.
    pub fn set_step(&mut self, step: f32) {
        if let Some(t) = &mut self.step {
            values_mut::<f32>(t).fill(step);
        }
    }

    /// Blocks since the key block.
    pub fn set_position(&mut self, position: i64) {
        values_mut::<i64>(&mut self.position).fill(position);
    }
}

/// Settings of a session: where bands have a thread each, runs need no others.
pub(super) fn session_config(m: &Manifest, config: &RuntimeConfig) -> RuntimeConfig {
    let threads = if m.band_halo.is_some() { 1 } else { config.threads };
    RuntimeConfig { threads, ..config.clone() }
}
