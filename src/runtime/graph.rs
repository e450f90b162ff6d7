// SPDX-License-Identifier: MIT OR Apache-2.0
//! A bundle's graphs. Every input and output tensor is allocated when a graph opens; a run copies nothing but pixels and
//! tokens, and those only to and from a GPU.

use std::time::Duration;

use ort::value::{DynTensor, TensorElementType as Type};

use super::config::{ExecutionProvider, RuntimeConfig};
use super::contract::{Contract, Side, Spec, check_contexts, check_handed, check_shared, dimensions};
use super::memory::{self, Reservation};
use super::provider::{Device, Model, OpenedSession, open, settled};
use super::session::{GraphSession, Handed, Named, buffer, copy, values, values_mut};
use crate::bundle::{Bottleneck, Bundle};
use crate::frame::Geometry;
use crate::pair::Pair;
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

fn optional(on: bool, spec: &Spec) -> Result<Option<DynTensor>> {
    on.then(|| buffer(spec)).transpose()
}

/// Adds to an error which graph failed.
fn of_graph(graph: &str, bundle: &Bundle, error: Error) -> Error {
    match error {
        Error::Model(m) => Error::Model(format!("the {graph} graph of bundle '{}' {m}", bundle.manifest.name)),
        other => other,
    }
}

/// Inputs that both graphs may have.
struct Inputs {
    counts: Option<DynTensor>,
    position: DynTensor,
    motion: Option<DynTensor>,
    step: Option<DynTensor>,
}

impl Inputs {
    fn named(&self) -> impl Iterator<Item = Named<'_>> {
        let optional = [("counts", &self.counts), ("motion", &self.motion), ("step", &self.step)];
        let optional = optional.into_iter().filter_map(|(name, t)| t.as_ref().map(|t| (name, t)));
        std::iter::once(("position", &self.position)).chain(optional)
    }

    fn counts_mut(&mut self) -> &mut [i32] {
        self.counts.as_mut().map(values_mut).unwrap_or_default()
    }

    fn motion_mut(&mut self) -> &mut [i32] {
        self.motion.as_mut().map(values_mut).unwrap_or_default()
    }

    fn set_step(&mut self, step: f32) {
        if let Some(t) = &mut self.step {
            values_mut::<f32>(t).fill(step);
        }
    }

    fn set_position(&mut self, position: i64) {
        values_mut::<i64>(&mut self.position).fill(position);
    }
}

/// Prefix of the tensors that the encoder graph hands to the loop graph.
const HANDED: &str = "loop.";

/// The decoder graph: tokens to frames.
pub struct DecoderGraph {
    graph: GraphSession,
    tokens: DynTensor,
    inputs: Inputs,
    picture: DynTensor,
    /// Of the loop graph: inputs that the encoder graph writes.
    handed: Vec<Handed>,
}

impl DecoderGraph {
    /// Loads the bundle's decoder before the pictures' size is known; `None` where the session depends on that.
    pub(crate) fn load_ahead(bundle: &Bundle, config: &RuntimeConfig) -> Result<Option<OpenedSession>> {
        let (exact, config) = (bundle.manifest.exact, settled(config)?);
        if !exact || config.provider != ExecutionProvider::Cpu {
            return Ok(None);
        }
        let model = Model { graph: &bundle.decoder, dimensions: &[], exact };
        open(model, &config, None).map(Some).map_err(|e| of_graph("decoder", bundle, e))
    }

    /// Opens the bundle's decoder for pictures of `geometry`.
    pub fn open(bundle: &Bundle, geometry: &Geometry, config: &RuntimeConfig) -> Result<Self> {
        Self::open_for(bundle, geometry, config, PictureOutput::Frames)
    }

    /// As [`open`](Self::open), with what [`load_ahead`](Self::load_ahead) gave for the same bundle and settings.
    pub(crate) fn open_loaded(
        loaded: Option<OpenedSession>,
        bundle: &Bundle,
        geometry: &Geometry,
        config: &RuntimeConfig,
    ) -> Result<Self> {
        Self::load(("decoder", &bundle.decoder), bundle, geometry, config, PictureOutput::Frames, loaded)
    }

    /// As [`open`](Self::open), with the `picture` that is wanted.
    pub fn open_for(bundle: &Bundle, geometry: &Geometry, config: &RuntimeConfig, picture: PictureOutput) -> Result<Self> {
        Self::load(("decoder", &bundle.decoder), bundle, geometry, config, picture, None)
    }

    /// The decoder of an encoder's loop: the bundle's loop graph, where it has one.
    fn open_loop(bundle: &Bundle, geometry: &Geometry, config: &RuntimeConfig, loaded: Option<OpenedSession>) -> Result<Self> {
        // TensorRT tunes graph by graph: only the decoder's own engine is sure to give the decoder's picture.
        let graph = bundle.loop_graph.as_ref().filter(|_| config.provider != ExecutionProvider::TensorRt);
        let named = graph.map_or(("decoder", &bundle.decoder), |graph| ("loop", graph));
        Self::load(named, bundle, geometry, config, PictureOutput::Frames, loaded)
    }

    fn load(
        (name, graph): (&'static str, &crate::bundle::Graph),
        bundle: &Bundle,
        geometry: &Geometry,
        config: &RuntimeConfig,
        picture: PictureOutput,
        loaded: Option<OpenedSession>,
    ) -> Result<Self> {
        let (m, mut c) = (&bundle.manifest, Contract::new(&bundle.manifest, geometry));
        let dimensions = &dimensions(geometry);
        let model = Model { graph, dimensions, exact: m.exact };
        let opened = loaded.map_or_else(|| open(model, config, None).map_err(|e| of_graph(name, bundle, e)), Ok)?;
        let same = opened.clone();
        let session = same.session();
        let inputs = Side { graph: name, side: "input", outlets: session.inputs(), dimensions };
        if matches!(m.bottleneck, Bottleneck::Nested { .. }) && inputs.is(c.taken.name, Type::Int16) {
            c.taken.ty = Type::Int16; // bundles exported by 0.1 and before
        }
        let mut wanted = vec![&c.taken, &c.counts, &c.position];
        wanted.extend(m.takes_motion.then_some(&c.motion));
        wanted.extend(m.takes_step.then_some(&c.step));
        let outputs = Side { graph: name, side: "output", outlets: session.outputs(), dimensions };
        let prefixes: &[&str] = if name == "loop" { &["dec.", HANDED] } else { &["dec."] };
        let (handed, contexts): (Vec<_>, Vec<_>) =
            inputs.check(&wanted, prefixes)?.into_iter().partition(|i| i.name.starts_with(HANDED));
        let mut given = vec![&c.frames];
        given.extend(m.has_reconstruction.then_some(&c.reconstruction));
        check_contexts(name, &contexts, &outputs.check(&given, &["dec."])?)?;
        drop(session);
        let reconstruct = picture == PictureOutput::Reconstruction && m.has_reconstruction;
        let picture = if reconstruct { &c.reconstruction } else { &c.frames };
        let memory = memory::needed(m, geometry, memory::DECODING, &contexts, &[&c.taken, &c.taken, picture]);
        let memory = (!opened.device.is_gpu()).then(|| Reservation::new(memory, geometry)).transpose()?;
        let graph = GraphSession::new(opened, contexts, config, memory)?;
        let mut this = Self {
            tokens: buffer(&c.taken)?,
            inputs: Inputs {
                counts: Some(buffer(&c.counts)?),
                position: buffer(&c.position)?,
                motion: optional(m.takes_motion, &c.motion)?,
                step: optional(m.takes_step, &c.step)?,
            },
            picture: buffer(picture)?,
            handed: graph.buffers(handed, config.device_id)?,
            graph,
        };
        for current in 0..2 {
            let inputs = this.inputs.named().chain([("tokens", &this.tokens)]);
            let handed: Vec<_> = this.handed.iter().map(|h| (h.spec.name.as_str(), &h.tensor)).collect();
            this.graph.bind(inputs, [(picture.name, &mut this.picture)].into_iter(), current, &handed)?;
        }
        Ok(this)
    }

    /// The tokens to decode.
    pub fn tokens_mut(&mut self) -> TokensMut<'_> {
        match *self.tokens.data_type() {
            Type::Int16 => TokensMut::I16(values_mut(&mut self.tokens)),
            Type::Int32 => TokensMut::I32(values_mut(&mut self.tokens)),
            _ => TokensMut::F32(values_mut(&mut self.tokens)),
        }
    }

    /// Tokens kept in each cell, \[cells\].
    pub fn counts_mut(&mut self) -> &mut [i32] {
        self.inputs.counts_mut()
    }

    /// Motion planes [5, cells_y, cells_x]; empty if the model takes none.
    pub fn motion_mut(&mut self) -> &mut [i32] {
        self.inputs.motion_mut()
    }

    /// Quantiser step in pixel units.
    pub fn set_step(&mut self, step: f32) {
        self.inputs.set_step(step);
    }

    /// Blocks since the key block.
    pub fn set_position(&mut self, position: i64) {
        self.inputs.set_position(position);
    }

    /// Takes what the encoder graph handed to `other`, a graph of the same kind; both are in host memory.
    pub fn take_handed(&mut self, other: &Self) -> Result<()> {
        self.handed.iter_mut().zip(&other.handed).try_for_each(|(own, other)| copy(&mut own.tensor, &other.tensor))
    }

    /// Decodes. The context stays as it was until [`DecoderGraph::commit`].
    pub fn run(&mut self) -> Result<()> {
        let inputs = self.inputs.named().chain([("tokens", &self.tokens)]);
        self.graph.run(self.graph.current(), inputs)
    }

    /// T aligned frames of the last run; empty if the graph was opened for the reconstruction.
    pub fn frames(&self) -> &[u8] {
        values(&self.picture)
    }

    /// The last run's reconstruction, \[T, height, width, 3\], if the graph was opened for it and has it.
    pub fn reconstruction(&self) -> Option<&[f32]> {
        (*self.picture.data_type() == Type::Float32).then(|| values(&self.picture))
    }

    /// Makes the last run's context the current one.
    pub fn commit(&mut self) {
        self.graph.commit();
    }

    /// Clears the context: a key block follows.
    pub fn reset(&mut self) -> Result<()> {
        self.graph.reset()
    }

    /// Where it runs: `cpu`, `cuda` or `tensorrt`.
    pub fn provider(&self) -> &'static str {
        self.graph.device().name()
    }

    /// Time spent in ONNX Runtime so far.
    pub fn run_time(&self) -> Duration {
        self.graph.time()
    }
}

/// The encoder graph: frames to tokens, given what the decoder has.
pub struct EncoderGraph {
    graph: GraphSession,
    frames: DynTensor,
    inputs: Inputs,
    tokens: DynTensor,
    distortion: Option<DynTensor>,
    reads_decoder: bool,
}

impl EncoderGraph {
    /// Loads the bundle's encoder. It reads the contexts of `decoder`, which must be of the same bundle and geometry, and
    /// writes the `loop.*` tensors that `decoder` reads.
    pub fn open(bundle: &Bundle, geometry: &Geometry, config: &RuntimeConfig, decoder: &mut DecoderGraph) -> Result<Self> {
        let device = decoder.graph.device();
        let opened = Self::load(bundle, geometry, config, Some(device))?;
        let must_write = !decoder.handed.is_empty();
        Self::with(opened, bundle, geometry, config, must_write, |_| Ok(decoder))
    }

    /// Loads the bundle's encoder and the decoder of its loop, which may read what this encoder graph has computed: it must only run
    /// after it, on the same block. Both are loaded at a time if there is a thread for each.
    pub fn open_with_loop(bundle: &Bundle, geometry: &Geometry, config: &RuntimeConfig) -> Result<(Self, DecoderGraph)> {
        let config = &settled(config)?;
        if config.provider != ExecutionProvider::Cpu {
            // The encoder graph goes where the decoder could.
            let mut decoder = DecoderGraph::open_loop(bundle, geometry, config, None)?;
            return Ok((Self::open(bundle, geometry, config, &mut decoder)?, decoder));
        }
        let not_yet = || Error::Runtime("the graph was not loaded".into());
        let (mut decoder, mut encoder) = (Err(not_yet()), Err(not_yet()));
        Pair::new(config.thread_count(), "elastictok-loading")?.run(
            || decoder = DecoderGraph::open_loop(bundle, geometry, config, None),
            || encoder = Self::load(bundle, geometry, config, None),
        );
        let (mut decoder, encoder) = (decoder?, encoder?);
        let must_write = !decoder.handed.is_empty();
        Ok((Self::with(encoder, bundle, geometry, config, must_write, |_| Ok(&mut decoder))?, decoder))
    }

    /// As [`open_with_loop`](Self::open_with_loop), for another loop in the sessions of this graph and its `decoder`, which take one run at
    /// a time. What they hold beside the tensors of the loops is held once. Bundle, geometry and settings are the same.
    pub fn open_beside(
        &self,
        decoder: &DecoderGraph,
        bundle: &Bundle,
        geometry: &Geometry,
        config: &RuntimeConfig,
    ) -> Result<(Self, DecoderGraph)> {
        let config = &self.graph.device().settings(config);
        let mut other = DecoderGraph::open_loop(bundle, geometry, config, Some(decoder.graph.opened()))?;
        let must_write = !other.handed.is_empty();
        Ok((Self::with(self.graph.opened(), bundle, geometry, config, must_write, |_| Ok(&mut other))?, other))
    }

    fn load(bundle: &Bundle, geometry: &Geometry, config: &RuntimeConfig, like: Option<Device>) -> Result<OpenedSession> {
        let model = Model { graph: &bundle.encoder, dimensions: &dimensions(geometry), exact: bundle.manifest.exact };
        open(model, config, like).map_err(|e| of_graph("encoder", bundle, e))
    }

    /// Loads the bundle's encoder, and the decoder only if its contexts are read. `decoder` is then called with the settings
    /// that put it on the same device.
    pub fn open_alone<'d>(
        bundle: &Bundle,
        geometry: &Geometry,
        config: &RuntimeConfig,
        decoder: impl FnOnce(&RuntimeConfig) -> Result<&'d mut DecoderGraph>,
    ) -> Result<Self> {
        let opened = Self::load(bundle, geometry, config, None)?;
        Self::with(opened, bundle, geometry, config, false, decoder)
    }

    fn with<'d>(
        opened: OpenedSession,
        bundle: &Bundle,
        geometry: &Geometry,
        config: &RuntimeConfig,
        writes_decoder: bool,
        decoder: impl FnOnce(&RuntimeConfig) -> Result<&'d mut DecoderGraph>,
    ) -> Result<Self> {
        let (m, c) = (&bundle.manifest, Contract::new(&bundle.manifest, geometry));
        let dimensions = &dimensions(geometry);
        let same = opened.clone();
        let session = same.session();
        let inputs = Side { graph: "encoder", side: "input", outlets: session.inputs(), dimensions };
        let outputs = Side { graph: "encoder", side: "output", outlets: session.outputs(), dimensions };
        // An encoder that leaves quantisation to the core does not need the step.
        let takes_step = m.takes_step && inputs.has("step");
        let mut wanted = vec![&c.frames, &c.position];
        wanted.extend(m.count_conditioned.then_some(&c.counts));
        wanted.extend(m.takes_motion.then_some(&c.motion));
        wanted.extend(takes_step.then_some(&c.step));
        let (shared, own): (Vec<_>, Vec<_>) =
            inputs.check(&wanted, &["enc.", "dec."])?.into_iter().partition(|i| i.name.starts_with("dec."));
        let mut given = vec![&c.tokens];
        given.extend(m.has_distortion.then_some(&c.distortion));
        let (handed, next): (Vec<_>, Vec<_>) =
            outputs.check(&given, &["enc.", HANDED])?.into_iter().partition(|o| o.name.starts_with(HANDED));
        check_contexts("encoder", &own, &next)?;
        drop(session);
        let reads_decoder = !shared.is_empty();
        let mut decoder = (reads_decoder || writes_decoder).then(|| decoder(&opened.device.settings(config))).transpose()?;
        let (contexts, taken) = match &mut decoder {
            Some(d) => (d.graph.contexts(), &mut d.handed[..]),
            None => (&[][..], &mut [][..]),
        };
        check_handed(&taken.iter().map(|h| &h.spec).collect::<Vec<_>>(), &handed)?;
        check_shared(&shared, &contexts.iter().map(|x| &x.spec).collect::<Vec<_>>())?;
        let memory = memory::needed(m, geometry, memory::ENCODING, &own, &[&c.tokens, &c.tokens, &c.frames]);
        let memory = (!opened.device.is_gpu()).then(|| Reservation::new(memory, geometry)).transpose()?;
        let mut this = Self {
            frames: buffer(&c.frames)?,
            inputs: Inputs {
                counts: optional(m.count_conditioned, &c.counts)?,
                position: buffer(&c.position)?,
                motion: optional(m.takes_motion, &c.motion)?,
                step: optional(takes_step, &c.step)?,
            },
            tokens: buffer(&c.tokens)?,
            distortion: optional(m.has_distortion, &c.distortion)?,
            reads_decoder,
            graph: GraphSession::new(opened, own, config, memory)?,
        };
        for current in 0..2 {
            for theirs in 0..this.decoder_slots() {
                let inputs = this.inputs.named().chain([("frames", &this.frames)]);
                let outputs = this.distortion.as_mut().map(|t| ("distortion", t));
                let outputs = [("tokens", &mut this.tokens)].into_iter().chain(outputs);
                let outputs = outputs.chain(taken.iter_mut().map(|h| (h.spec.name.as_str(), &mut h.tensor)));
                let contexts = contexts.iter().filter(|x| shared.iter().any(|s| s.name == x.spec.name));
                let read: Vec<_> = contexts.map(|x| (x.spec.name.as_str(), &x.slots[theirs])).collect();
                this.graph.bind(inputs, outputs, current, &read)?;
            }
        }
        Ok(this)
    }

    /// Slots of the decoder's context that the graph may read.
    fn decoder_slots(&self) -> usize {
        if self.reads_decoder { 2 } else { 1 }
    }

    /// T aligned frames to encode.
    pub fn frames_mut(&mut self) -> &mut [u8] {
        values_mut(&mut self.frames)
    }

    /// The frames to encode, as they were loaded.
    pub fn frames(&self) -> &[u8] {
        values(&self.frames)
    }

    /// Counts the graph is conditioned on, \[cells\]; empty if it is not.
    pub fn counts_mut(&mut self) -> &mut [i32] {
        self.inputs.counts_mut()
    }

    /// Motion planes [5, cells_y, cells_x]; empty if the model takes none.
    pub fn motion_mut(&mut self) -> &mut [i32] {
        self.inputs.motion_mut()
    }

    /// Quantiser step in pixel units, where the graph takes it.
    pub fn set_step(&mut self, step: f32) {
        self.inputs.set_step(step);
    }

    /// Blocks since the key block.
    pub fn set_position(&mut self, position: i64) {
        self.inputs.set_position(position);
    }

    /// Encodes against the current context of `decoder`, the one that the graph was opened with; a graph that does not
    /// [read](Self::reads_decoder) it needs none. The own context stays as it was until [`EncoderGraph::commit`].
    pub fn run<'d>(&mut self, decoder: impl Into<Option<&'d DecoderGraph>>) -> Result<()> {
        let theirs = match decoder.into() {
            Some(decoder) if self.reads_decoder => decoder.graph.current(),
            None if self.reads_decoder => {
                return Err(Error::Runtime("the encoder graph was run without the decoder whose context it reads".into()));
            }
            _ => 0,
        };
        let inputs = self.inputs.named().chain([("frames", &self.frames)]);
        self.graph.run(self.decoder_slots() * self.graph.current() + theirs, inputs)
    }

    /// The last run's tokens.
    pub fn tokens(&self) -> Tokens<'_> {
        match *self.tokens.data_type() {
            Type::Int16 => Tokens::I16(values(&self.tokens)),
            Type::Int32 => Tokens::I32(values(&self.tokens)),
            _ => Tokens::F32(values(&self.tokens)),
        }
    }

    /// The last run's predicted squared error of each cell at each layer, [cells, layers].
    pub fn distortion(&self) -> Option<&[f32]> {
        self.distortion.as_ref().map(values)
    }

    /// Whether equal inputs and decoders give equal outputs, which are in host memory: there is no context of the graph's own.
    pub fn is_plain(&self) -> bool {
        self.graph.contexts().is_empty() && !self.graph.device().is_gpu()
    }

    /// Whether the graph reads the decoder's context: the decoder must then run for every block.
    pub fn reads_decoder(&self) -> bool {
        self.reads_decoder
    }

    /// Makes the last run's own context the current one.
    pub fn commit(&mut self) {
        self.graph.commit();
    }

    /// Clears the own context: a key block follows.
    pub fn reset(&mut self) -> Result<()> {
        self.graph.reset()
    }

    /// Settings that put another graph where this one runs.
    pub fn settings(&self, config: &RuntimeConfig) -> RuntimeConfig {
        self.graph.device().settings(config)
    }

    /// Where it runs: `cpu`, `cuda` or `tensorrt`.
    pub fn provider(&self) -> &'static str {
        self.graph.device().name()
    }

    /// Time spent in ONNX Runtime so far.
    pub fn run_time(&self) -> Duration {
        self.graph.time()
    }
}
