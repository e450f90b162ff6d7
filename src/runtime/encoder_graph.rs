// SPDX-License-Identifier: MIT OR Apache-2.0
//! The encoder graph: frames to tokens, given what the decoder has.

use std::ops::Range;
use std::time::Duration;

use ort::value::{DynTensor, TensorElementType as Type};

use super::bands::{Workers, equal_bands, placed};
use super::config::{ExecutionProvider, RuntimeConfig};
use super::contract::{Contract, Side, check_contexts, check_handed, check_rows, check_shared, dimensions};
use super::decoder_graph::{DecoderGraph, HANDED};
use super::graph::{Inputs, Tokens, of_graph, optional, session_config, set_rows};
use super::memory::{self, Reservation};
use super::provider::{Device, Model, OpenedSession, open, settled};
use super::session::{GraphSession, Handed, buffer, part_buffer, values, values_mut};
use crate::bundle::Bundle;
use crate::frame::Geometry;
use crate::pair::Pair;
use crate::{Error, Result};

/// The encoder graph: frames to tokens, given what the decoder has.
pub struct EncoderGraph {
    runs: Runs,
    frames: DynTensor,
    inputs: Inputs,
    tokens: DynTensor,
    distortion: Option<DynTensor>,
    reads_decoder: bool,
    opened: OpenedSession,
    time: Duration,
}

/// How the graph runs.
enum Runs {
    /// On the whole picture.
    Whole(GraphSession),
    /// On bands at a time, whose cells take the same time.
    Bands(Workers, Vec<Band>),
}

/// A run on some rows of cells, and what it gives of these.
struct Band {
    graph: GraphSession,
    tokens: DynTensor,
    distortion: Option<DynTensor>,
    handed: Vec<DynTensor>,
}

/// A part of the picture's tensors, and the band's that it is copied from.
enum Copying<'a> {
    Tokens(&'a mut [i16], &'a [i16]),
    Others(&'a mut [f32], &'a [f32]),
}

impl EncoderGraph {
    /// Loads the bundle's encoder. It reads the contexts of `decoder`, which must be of the same bundle and geometry, and
    /// writes the `loop.*` tensors that `decoder` reads.
    pub fn open(bundle: &Bundle, geometry: &Geometry, config: &RuntimeConfig, decoder: &mut DecoderGraph) -> Result<Self> {
        let opened = Self::load(bundle, geometry, config, Some(decoder.device()))?;
        let must_write = decoder.is_handed();
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
        let must_write = decoder.is_handed();
        Ok((Self::with(encoder, bundle, geometry, config, must_write, |_| Ok(&mut decoder))?, decoder))
    }

    /// As [`open_with_loop`](Self::open_with_loop), for another loop in the sessions of this graph and its `decoder`. What they hold beside the tensors of the loops is held once. Bundle, geometry and settings are the same.
    pub fn open_beside(
        &self,
        decoder: &DecoderGraph,
        bundle: &Bundle,
        geometry: &Geometry,
        config: &RuntimeConfig,
    ) -> Result<(Self, DecoderGraph)> {
        let config = &self.opened.device.settings(config);
        let mut other = DecoderGraph::open_loop(bundle, geometry, config, Some(decoder.opened()))?;
        let must_write = other.is_handed();
        Ok((Self::with(self.opened.clone(), bundle, geometry, config, must_write, |_| Ok(&mut other))?, other))
    }

    fn load(bundle: &Bundle, geometry: &Geometry, config: &RuntimeConfig, like: Option<Device>) -> Result<OpenedSession> {
        let model = Model { graph: &bundle.encoder, dimensions: &dimensions(geometry), exact: bundle.manifest.exact };
        open(model, &session_config(&bundle.manifest, config), like).map_err(|e| of_graph("encoder", bundle, e))
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
        let session = opened.session();
        let inputs = Side { graph: "encoder", side: "input", outlets: session.inputs(), dimensions };
        let outputs = Side { graph: "encoder", side: "output", outlets: session.outputs(), dimensions };
        // An encoder that leaves quantisation to the core does not need the step.
        let takes_step = m.takes_step && inputs.has("step");
        let mut wanted = vec![&c.frames, &c.position];
        wanted.extend(m.count_conditioned.then_some(&c.counts));
        wanted.extend(m.takes_motion.then_some(&c.motion));
        wanted.extend(takes_step.then_some(&c.step));
        wanted.extend(m.band_halo.map(|_| &c.rows));
        let (shared, own): (Vec<_>, Vec<_>) =
            inputs.check(&wanted, &["enc.", "dec."])?.into_iter().partition(|i| i.name.starts_with("dec."));
        let mut given = vec![&c.tokens];
        given.extend(m.has_distortion.then_some(&c.distortion));
        let (handed, next): (Vec<_>, Vec<_>) =
            outputs.check(&given, &["enc.", HANDED])?.into_iter().partition(|o| o.name.starts_with(HANDED));
        check_contexts("encoder", &own, &next)?;
        let reads_decoder = !shared.is_empty();
        let mut decoder = (reads_decoder || writes_decoder).then(|| decoder(&opened.device.settings(config))).transpose()?;
        let (contexts, taken) = match &mut decoder {
            Some(decoder) => decoder.seen_by_encoder(),
            None => (Vec::new(), &mut [][..]),
        };
        check_handed(&taken.iter().map(|h| &h.spec).collect::<Vec<_>>(), &handed)?;
        check_shared(&shared, &contexts.iter().map(|x| x.0).collect::<Vec<_>>())?;
        let memory = memory::needed(m, geometry, memory::ENCODING, &own, &[&c.tokens, &c.tokens, &c.frames]);
        let memory = (!opened.device.is_gpu()).then(|| Reservation::new(memory, geometry)).transpose()?;
        let mut this = Self {
            frames: buffer(&c.frames)?,
            inputs: Inputs::new(m, &c, m.count_conditioned, takes_step)?,
            tokens: buffer(&c.tokens)?,
            distortion: optional(m.has_distortion, &c.distortion)?,
            reads_decoder,
            runs: Runs::Bands(Workers::new(1)?, Vec::new()),
            opened,
            time: Duration::ZERO,
        };
        let contexts = contexts.into_iter().filter(|(spec, _)| shared.iter().any(|s| s.name == spec.name));
        let contexts: Vec<_> = contexts.map(|(spec, slots)| (spec.name.as_str(), slots)).collect();
        if m.band_halo.is_some() && !this.opened.device.is_gpu() && config.thread_count() > 1 {
            check_rows(&own, taken.iter().map(|h| &h.spec), geometry.cells())?;
            this.open_bands(&c, geometry, config, memory, &contexts, taken)?;
        } else {
            if m.band_halo.is_some() {
                this.inputs = this.inputs.with_rows(&c, &(0..geometry.cells_y))?;
            }
            this.open_whole(GraphSession::new(this.opened.clone(), own, config, memory)?, &contexts, taken)?;
        }
        Ok(this)
    }

    /// `contexts`: those of the decoder that are read, with both slots; `taken`: what the loop graph takes.
    fn open_whole(&mut self, mut graph: GraphSession, contexts: &[(&str, [&DynTensor; 2])], taken: &mut [Handed]) -> Result<()> {
        for current in 0..2 {
            for theirs in 0..self.decoder_slots() {
                let inputs = self.inputs.named().chain([("frames", &self.frames)]);
                let outputs = self.distortion.as_mut().map(|t| ("distortion", t));
                let outputs = [("tokens", &mut self.tokens)].into_iter().chain(outputs);
                let outputs = outputs.chain(taken.iter_mut().map(|h| (h.spec.name.as_str(), &mut h.tensor)));
                let read: Vec<_> = contexts.iter().map(|(name, slots)| (*name, slots[theirs])).collect();
                graph.bind(inputs, outputs, current, &read)?;
            }
        }
        self.runs = Runs::Whole(graph);
        Ok(())
    }

    fn open_bands(
        &mut self,
        c: &Contract,
        geometry: &Geometry,
        config: &RuntimeConfig,
        mut memory: Option<Reservation>,
        contexts: &[(&str, [&DynTensor; 2])],
        taken: &[Handed],
    ) -> Result<()> {
        let read: Vec<_> = contexts.iter().map(|(name, slots)| (*name, slots[0])).collect();
        let own = equal_bands(geometry, config.thread_count());
        let workers = Workers::new(own.len())?;
        let open = |rows: Range<usize>| {
            let cells = (rows.len() * geometry.cells_x) as i64;
            let part = |ty: Type, shape: &[i64]| part_buffer(ty, shape, cells);
            let mut tensor = buffer(&c.rows)?;
            set_rows(&mut tensor, &rows);
            let mut band = Band {
                graph: GraphSession::new(self.opened.clone(), Vec::new(), config, memory.take())?,
                tokens: part(c.tokens.ty, &c.tokens.shape)?,
                distortion: self.distortion.as_ref().map(|_| part(c.distortion.ty, &c.distortion.shape)).transpose()?,
                handed: taken.iter().map(|h| part(h.spec.ty, &h.spec.shape)).collect::<Result<_>>()?,
            };
            let inputs = self.inputs.named().chain([("frames", &self.frames), (c.rows.name, &tensor)]);
            let outputs = [("tokens", &mut band.tokens)].into_iter();
            let outputs = outputs.chain(band.distortion.as_mut().map(|t| ("distortion", t)));
            let names = taken.iter().map(|h| h.spec.name.as_str());
            let outputs = outputs.chain(names.zip(&mut band.handed));
            band.graph.bind(inputs, outputs, 0, &read)?;
            Ok(band)
        };
        let bands = own.map(open).collect::<Result<_>>()?;
        self.runs = Runs::Bands(workers, bands);
        Ok(())
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

    /// The inputs that both graphs have.
    pub fn inputs(&mut self) -> &mut Inputs {
        &mut self.inputs
    }

    /// Encodes against the current context of `decoder`, the one that the graph was opened with; a graph that does not
    /// [read](Self::reads_decoder) it needs none. The own context stays as it was until [`EncoderGraph::commit`].
    pub fn run<'d>(&mut self, decoder: impl Into<Option<&'d mut DecoderGraph>>) -> Result<()> {
        let decoder = decoder.into();
        if self.reads_decoder && decoder.is_none() {
            return Err(Error::Runtime("the encoder graph was run without the decoder whose context it reads".into()));
        }
        let slots = self.decoder_slots();
        match &mut self.runs {
            Runs::Whole(graph) => {
                let theirs = decoder.filter(|_| slots > 1).map_or(0, |decoder| decoder.current());
                let inputs = self.inputs.named().chain([("frames", &self.frames)]);
                graph.run(slots * graph.current() + theirs, inputs)?;
                self.time += graph.last_run();
            }
            Runs::Bands(workers, bands) => {
                // the inputs are in host memory, where the bindings have them
                workers.each(bands.iter_mut(), |band| band.graph.run(0, std::iter::empty()))?;
                self.time += bands.iter().map(|band| band.graph.last_run()).max().unwrap_or_default();
                let bands = &*bands;
                let tokens = placed(values_mut(&mut self.tokens), bands.iter().map(|band| values(&band.tokens)));
                let distortion = self.distortion.iter_mut().flat_map(|whole| {
                    placed(values_mut(whole), bands.iter().filter_map(|band| band.distortion.as_ref().map(values)))
                });
                let handed = decoder.into_iter().flat_map(DecoderGraph::handed_mut).enumerate();
                let handed = handed.flat_map(|(number, whole)| {
                    placed(values_mut(&mut whole.tensor), bands.iter().map(move |band| values(&band.handed[number])))
                });
                let others = handed.chain(distortion).map(|(place, part)| Copying::Others(place, part));
                let copied = others.chain(tokens.map(|(place, part)| Copying::Tokens(place, part)));
                workers.each(copied, |copying| {
                    match copying {
                        Copying::Tokens(place, part) => place.copy_from_slice(part),
                        Copying::Others(place, part) => place.copy_from_slice(part),
                    }
                    Ok(())
                })?;
            }
        }
        Ok(())
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
        !self.opened.device.is_gpu()
            && match &self.runs {
                Runs::Whole(graph) => graph.contexts().is_empty(),
                Runs::Bands(..) => true,
            }
    }

    /// Whether the graph reads the decoder's context: the decoder must then run for every block.
    pub fn reads_decoder(&self) -> bool {
        self.reads_decoder
    }

    /// Makes the last run's own context the current one.
    pub fn commit(&mut self) {
        if let Runs::Whole(graph) = &mut self.runs {
            graph.commit();
        }
    }

    /// Clears the own context: a key block follows.
    pub fn reset(&mut self) -> Result<()> {
        match &mut self.runs {
            Runs::Whole(graph) => graph.reset(),
            Runs::Bands(..) => Ok(()),
        }
    }

    /// Settings that put another graph where this one runs.
    pub fn settings(&self, config: &RuntimeConfig) -> RuntimeConfig {
        self.opened.device.settings(config)
    }

    /// Where it runs: `cpu`, `cuda` or `tensorrt`.
    pub fn provider(&self) -> &'static str {
        self.opened.device.name()
    }

    /// Time spent in ONNX Runtime so far.
    pub fn run_time(&self) -> Duration {
        self.time
    }
}
