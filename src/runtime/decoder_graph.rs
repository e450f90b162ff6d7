// SPDX-License-Identifier: MIT OR Apache-2.0
//! The decoder graph: tokens to frames.

use std::ops::Range;
use std::time::Duration;

use ort::value::{DynTensor, TensorElementType as Type};

use super::bands::{Balance, Workers, copy_rows};
use super::config::{ExecutionProvider, RuntimeConfig};
use super::contract::{ContextSpec, Contract, Side, check_contexts, dimensions, reference};
use super::graph::{Inputs, PictureOutput, TokensMut, of_graph, session_config, set_rows};
use super::memory::{self, Reservation};
use super::provider::{Device, Model, OpenedSession, open, settled};
use super::session::{GraphSession, Handed, Named, buffer, context_buffer, copy, handed_buffers, values, values_mut};
use crate::Result;
use crate::bundle::{Bottleneck, Bundle, Graph};
use crate::frame::Geometry;

/// Prefix of the tensors that the encoder graph hands to the loop graph.
pub(super) const HANDED: &str = "loop.";

/// The decoder graph. On a processor with several threads it decodes bands at a time where the bundle permits that.
pub struct DecoderGraph {
    opened: OpenedSession,
    tokens: DynTensor,
    inputs: Inputs,
    picture: DynTensor,
    /// Of the loop graph: inputs that the encoder graph writes.
    handed: Vec<Handed>,
    runs: Runs,
    time: Duration,
}

/// How the graph runs.
enum Runs {
    /// On the whole picture.
    Whole(GraphSession),
    Bands(Bands),
}

/// Runs at a time, on a band each.
struct Bands {
    picture: Geometry,
    bands: Vec<Band>,
    balance: Balance,
    workers: Workers,
    /// The context.
    reference: (ContextSpec, DynTensor),
    /// Whether the graph predicts, and is not handed the prediction.
    predicts: bool,
}

struct Band {
    own: Range<usize>,
    graph: GraphSession,
    /// The graph's input.
    rows: DynTensor,
    frames: DynTensor,
}

impl Bands {
    /// Opens a run for each thread, which reads the graph's inputs: `given`, and what the encoder graph handed over, `read`.
    fn open(
        &mut self,
        opened: &OpenedSession,
        c: &Contract,
        config: &RuntimeConfig,
        mut memory: Option<Reservation>,
        given: &[Named<'_>],
        read: &[(&str, &DynTensor)],
    ) -> Result<()> {
        let (spec, reference) = &self.reference;
        let read = [read, &[(spec.name.as_str(), reference)]].concat();
        for _ in 0..config.thread_count() {
            let (rows, mut frames) = (buffer(&c.rows)?, buffer(&c.frames)?);
            let mut graph = GraphSession::new(opened.clone(), Vec::new(), config, memory.take())?;
            let inputs = given.iter().copied().chain([(c.rows.name, &rows)]);
            graph.bind(inputs, [(c.frames.name, &mut frames)].into_iter(), 0, &read)?;
            self.bands.push(Band { own: 0..0, graph, rows, frames });
        }
        Ok(())
    }

    fn run(&mut self, inputs: &Inputs, picture: &mut [u8]) -> Result<Duration> {
        let Self { picture: geometry, bands, balance, workers, predicts, .. } = self;
        balance.weigh(geometry, inputs.counts(), inputs.motion(), *predicts);
        balance.place(bands.iter_mut().map(|band| &mut band.own));
        workers.each(bands.iter_mut().filter(|band| !band.own.is_empty()), |band| {
            let rows = balance.with_halo(&band.own);
            set_rows(&mut band.rows, &rows);
            // the inputs are in host memory, where the binding has them
            band.graph.run(0, std::iter::empty())
        })?;
        for band in bands.iter().filter(|band| !band.own.is_empty()) {
            let n = geometry.frame_bytes();
            for (from, to) in values::<u8>(&band.frames).chunks_exact(n).zip(picture.chunks_exact_mut(n)) {
                copy_rows(geometry, &band.own, from, to);
            }
        }
        let ran = bands.iter().filter(|band| !band.own.is_empty());
        Ok(ran.map(|band| band.graph.last_run()).max().unwrap_or_default())
    }
}

impl DecoderGraph {
    /// Loads the bundle's decoder before the pictures' size is known; `None` where the session depends on that.
    pub(crate) fn load_ahead(bundle: &Bundle, config: &RuntimeConfig) -> Result<Option<OpenedSession>> {
        let (exact, config) = (bundle.manifest.exact, settled(config)?);
        if !exact || config.provider != ExecutionProvider::Cpu {
            return Ok(None);
        }
        let model = Model { graph: &bundle.decoder, dimensions: &[], exact };
        let config = session_config(&bundle.manifest, &config);
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
    pub(super) fn open_loop(
        bundle: &Bundle,
        geometry: &Geometry,
        config: &RuntimeConfig,
        loaded: Option<OpenedSession>,
    ) -> Result<Self> {
        // TensorRT tunes graph by graph: only the decoder's own engine is sure to give the decoder's picture.
        let graph = bundle.loop_graph.as_ref().filter(|_| config.provider != ExecutionProvider::TensorRt);
        let named = graph.map_or(("decoder", &bundle.decoder), |graph| ("loop", graph));
        Self::load(named, bundle, geometry, config, PictureOutput::Frames, loaded)
    }

    fn load(
        (name, graph): (&'static str, &Graph),
        bundle: &Bundle,
        geometry: &Geometry,
        config: &RuntimeConfig,
        picture: PictureOutput,
        loaded: Option<OpenedSession>,
    ) -> Result<Self> {
        let (m, mut c) = (&bundle.manifest, Contract::new(&bundle.manifest, geometry));
        let dimensions = &dimensions(geometry);
        let model = Model { graph, dimensions, exact: m.exact };
        let open = || open(model, &session_config(m, config), None).map_err(|e| of_graph(name, bundle, e));
        let opened = loaded.map_or_else(open, Ok)?;
        let session = opened.session();
        let inputs = Side { graph: name, side: "input", outlets: session.inputs(), dimensions };
        if matches!(m.bottleneck, Bottleneck::Nested { .. }) && inputs.is(c.taken.name, Type::Int16) {
            c.taken.ty = Type::Int16; // bundles exported by 0.1 and before
        }
        let mut wanted = vec![&c.taken, &c.counts, &c.position];
        wanted.extend(m.takes_motion.then_some(&c.motion));
        wanted.extend(m.takes_step.then_some(&c.step));
        wanted.extend(m.band_halo.map(|_| &c.rows));
        let outputs = Side { graph: name, side: "output", outlets: session.outputs(), dimensions };
        let prefixes: &[&str] = if name == "loop" { &["dec.", HANDED] } else { &["dec."] };
        let (handed, contexts): (Vec<_>, Vec<_>) =
            inputs.check(&wanted, prefixes)?.into_iter().partition(|i| i.name.starts_with(HANDED));
        let mut given = vec![&c.frames];
        given.extend(m.has_reconstruction.then_some(&c.reconstruction));
        check_contexts(name, &contexts, &outputs.check(&given, &["dec."])?)?;
        let reference = m.band_halo.map(|_| reference(name, &contexts, &c.frames)).transpose()?;
        let reconstruct = picture == PictureOutput::Reconstruction && m.has_reconstruction;
        let picture = if reconstruct { &c.reconstruction } else { &c.frames };
        let memory = memory::needed(m, geometry, memory::DECODING, &contexts, &[&c.taken, &c.taken, picture]);
        let memory = (!opened.device.is_gpu()).then(|| Reservation::new(memory, geometry)).transpose()?;
        let (tokens, inputs) = (buffer(&c.taken)?, Inputs::new(m, &c, true, m.takes_step)?);
        let (mut frames, handed) = (buffer(picture)?, handed_buffers(&opened, handed, config.device_id)?);
        let predicts = handed.is_empty();
        let read: Vec<_> = handed.iter().map(|h| (h.spec.name.as_str(), &h.tensor)).collect();
        let (inputs, runs) = match m.band_halo.zip(reference) {
            Some((halo, reference)) if !opened.device.is_gpu() && config.thread_count() > 1 => {
                let given: Vec<_> = inputs.named().chain([("tokens", &tokens)]).collect();
                let mut bands = Bands {
                    picture: *geometry,
                    bands: Vec::new(),
                    balance: Balance::new(geometry, halo as usize),
                    workers: Workers::new(config.thread_count())?,
                    reference: (reference.clone(), context_buffer(&reference)?),
                    predicts,
                };
                bands.open(&opened, &c, config, memory, &given, &read)?;
                (inputs, Runs::Bands(bands))
            }
            rows => {
                let inputs = if rows.is_some() { inputs.with_rows(&c, &(0..geometry.cells_y))? } else { inputs };
                let mut graph = GraphSession::new(opened.clone(), contexts, config, memory)?;
                for current in 0..2 {
                    let inputs = inputs.named().chain([("tokens", &tokens)]);
                    graph.bind(inputs, [(picture.name, &mut frames)].into_iter(), current, &read)?;
                }
                (inputs, Runs::Whole(graph))
            }
        };
        Ok(Self { opened, tokens, inputs, picture: frames, handed, runs, time: Duration::ZERO })
    }

    /// The tokens to decode.
    pub fn tokens_mut(&mut self) -> TokensMut<'_> {
        match *self.tokens.data_type() {
            Type::Int16 => TokensMut::I16(values_mut(&mut self.tokens)),
            Type::Int32 => TokensMut::I32(values_mut(&mut self.tokens)),
            _ => TokensMut::F32(values_mut(&mut self.tokens)),
        }
    }

    /// The inputs that both graphs have.
    pub fn inputs(&mut self) -> &mut Inputs {
        &mut self.inputs
    }

    /// Takes what the encoder graph handed to `other`, a graph of the same kind; both are in host memory.
    pub fn take_handed(&mut self, other: &Self) -> Result<()> {
        self.handed.iter_mut().zip(&other.handed).try_for_each(|(own, other)| copy(&mut own.tensor, &other.tensor))
    }

    /// Decodes. The context stays as it was until [`DecoderGraph::commit`].
    pub fn run(&mut self) -> Result<()> {
        self.time += match &mut self.runs {
            Runs::Whole(graph) => {
                graph.run(graph.current(), self.inputs.named().chain([("tokens", &self.tokens)]))?;
                graph.last_run()
            }
            Runs::Bands(bands) => bands.run(&self.inputs, values_mut(&mut self.picture))?,
        };
        Ok(())
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
        match &mut self.runs {
            Runs::Whole(graph) => graph.commit(),
            Runs::Bands(Bands { reference: (_, reference), .. }) => {
                let (frames, reference) = (values::<u8>(&self.picture), values_mut::<u8>(reference));
                reference.copy_from_slice(&frames[frames.len() - reference.len()..]);
            }
        }
    }

    /// Clears the context: a key block follows.
    pub fn reset(&mut self) -> Result<()> {
        match &mut self.runs {
            Runs::Whole(graph) => graph.reset(),
            Runs::Bands(Bands { reference: (_, reference), .. }) => {
                values_mut::<u8>(reference).fill(0);
                Ok(())
            }
        }
    }

    /// Where it runs: `cpu`, `cuda` or `tensorrt`.
    pub fn provider(&self) -> &'static str {
        self.device().name()
    }

    /// Time spent in ONNX Runtime so far.
    pub fn run_time(&self) -> Duration {
        self.time
    }

    pub(super) fn device(&self) -> Device {
        self.opened.device
    }

    /// The session, for another graph with buffers of its own.
    pub(super) fn opened(&self) -> OpenedSession {
        self.opened.clone()
    }

    /// Whether the encoder graph hands it anything.
    pub(super) fn is_handed(&self) -> bool {
        !self.handed.is_empty()
    }

    /// What the encoder graph hands over.
    pub(super) fn handed_mut(&mut self) -> &mut [Handed] {
        &mut self.handed
    }

    /// The slot of contexts that the next run reads.
    pub(super) fn current(&self) -> usize {
        match &self.runs {
            Runs::Whole(graph) => graph.current(),
            Runs::Bands(_) => 0,
        }
    }

    /// What the encoder graph reads and writes: contexts, with both slots, and what it hands over.
    pub(super) fn seen_by_encoder(&mut self) -> (Vec<(&ContextSpec, [&DynTensor; 2])>, &mut [Handed]) {
        let contexts = match &self.runs {
            Runs::Whole(graph) => graph.contexts().iter().map(|x| (&x.spec, x.slots.each_ref())).collect(),
            Runs::Bands(Bands { reference: (spec, tensor), .. }) => vec![(spec, [tensor; 2])],
        };
        (contexts, &mut self.handed)
    }
}
