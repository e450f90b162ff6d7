// SPDX-License-Identifier: MIT OR Apache-2.0
//! A bundle's two graphs with their buffers bound once.
//!
//! Every input and output tensor is allocated when the graph opens. A context has two tensors that swap roles: a run reads
//! one and writes the other, and committing the run is flipping an index. For each combination of roles there is a binding
//! made beforehand, so a run allocates nothing here and copies nothing but pixels and tokens.

use std::time::{Duration, Instant};

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::IoBinding;
use ort::session::Session;
use ort::value::TensorElementType as Type;
use ort::value::{DynTensor, Outlet};

use super::RuntimeConfig;
use super::provider::{Opened, open};
use crate::bundle::{Bottleneck, Bundle, Manifest};
use crate::frame::{Geometry, PixelFormat};
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

/// What the decoder graph is to read; as [`Tokens`].
#[derive(Debug)]
pub enum TokensMut<'a> {
    /// Dequantised latents.
    I16(&'a mut [i16]),
    /// Codebook indices.
    I32(&'a mut [i32]),
    /// Latent vectors.
    F32(&'a mut [f32]),
}

/// Suffix of a context's output name: ONNX wants inputs and outputs of a graph to differ.
const NEXT: &str = ".next";

fn runtime(what: &str) -> impl Fn(ort::Error) -> Error + '_ {
    move |e| Error::Runtime(format!("{what}: {e}"))
}

/// A named tensor with its expected type and shape.
struct Spec {
    name: &'static str,
    ty: Type,
    shape: Vec<i64>,
}

struct Contract {
    frames: Spec,
    tokens: Spec,
    counts: Spec,
    position: Spec,
    motion: Spec,
    step: Spec,
    distortion: Spec,
}

impl Contract {
    fn new(m: &Manifest, g: &Geometry) -> Self {
        let spec = |name, ty, shape: &[usize]| Spec { name, ty, shape: shape.iter().map(|&d| d as i64).collect() };
        let (t, cells, k) = (m.block_length as usize, g.cells(), m.tokens_per_cell as usize);
        let frames = match g.format {
            PixelFormat::I420 => spec("frames", Type::Uint8, &[t, g.aligned_height * 3 / 2, g.aligned_width]),
            PixelFormat::Rgb => spec("frames", Type::Uint8, &[t, g.aligned_height, g.aligned_width, 3]),
        };
        let tokens = match &m.bottleneck {
            Bottleneck::Fsq { .. } => spec("tokens", Type::Int32, &[cells, k]),
            Bottleneck::Vae { dimensions, .. } => spec("tokens", Type::Float32, &[cells, k, *dimensions as usize]),
            Bottleneck::Nested { positions, .. } => spec("tokens", Type::Int16, &[cells, positions.len()]),
        };
        Self {
            frames,
            tokens,
            counts: spec("counts", Type::Int32, &[cells]),
            position: spec("position", Type::Int64, &[]),
            motion: spec("motion", Type::Int32, &[3, g.cells_y, g.cells_x]),
            step: spec("step", Type::Float32, &[]),
            distortion: spec("distortion", Type::Float32, &[cells, m.layers.len()]),
        }
    }
}

fn dimensions(g: &Geometry) -> Vec<(&'static str, usize)> {
    vec![
        ("width", g.aligned_width),
        ("height", g.aligned_height),
        ("frame_rows", g.aligned_height * 3 / 2),
        ("cells", g.cells()),
        ("cells_x", g.cells_x),
        ("cells_y", g.cells_y),
    ]
}

/// Checks that `outlets` are exactly the `wanted` ones plus contexts; returns the contexts.
fn check(
    graph: &str,
    side: &str,
    outlets: &[Outlet],
    wanted: &[&Spec],
    prefixes: &[&str],
) -> Result<Vec<(String, Type, Vec<i64>)>> {
    let wrong = |m: String| {
        Err(Error::Model(format!("{graph} graph: {m}; the bundle breaks the contract of docs/architecture.md, export it again")))
    };
    let mut contexts = Vec::new();
    for spec in wanted {
        if !outlets.iter().any(|o| o.name() == spec.name) {
            return wrong(format!("{side} '{}' is missing", spec.name));
        }
    }
    for outlet in outlets {
        let name = outlet.name();
        let (Some(ty), Some(shape)) = (outlet.dtype().tensor_type(), outlet.dtype().tensor_shape()) else {
            return wrong(format!("{side} '{name}' is not a tensor"));
        };
        let shape: Vec<i64> = shape.iter().copied().collect();
        if let Some(spec) = wanted.iter().find(|s| s.name == name) {
            if ty != spec.ty {
                return wrong(format!("{side} '{name}' is {ty:?}, not {:?}", spec.ty));
            }
            // Outputs may keep symbolic dimensions; their real shape is checked by the bound tensor.
            let fits = shape.len() == spec.shape.len()
                && shape.iter().zip(&spec.shape).all(|(&a, &b)| a == b || (a < 0 && side == "output"));
            if !fits {
                return wrong(format!("{side} '{name}' has shape {shape:?}, not {:?}", spec.shape));
            }
        } else if prefixes.iter().any(|p| name.starts_with(p)) {
            contexts.push((name.to_owned(), ty, shape));
        } else {
            return wrong(format!("{side} '{name}' is not in the contract"));
        }
    }
    Ok(contexts)
}

fn element_bytes(ty: Type) -> Option<usize> {
    Some(match ty {
        Type::Uint8 | Type::Int8 => 1,
        Type::Float16 | Type::Int16 => 2,
        Type::Float32 | Type::Int32 => 4,
        Type::Int64 => 8,
        _ => return None,
    })
}

fn host(ty: Type, shape: &[i64]) -> Result<DynTensor> {
    let mut tensor =
        DynTensor::new(&Allocator::default(), ty, shape.to_vec()).map_err(runtime("no memory for a graph's buffer"))?;
    zero(&mut tensor, ty)?;
    Ok(tensor)
}

fn zero(tensor: &mut DynTensor, ty: Type) -> Result<()> {
    macro_rules! fill {
        ($($t:ident => $r:ty),*) => {
            match ty {
                $(Type::$t => tensor.try_extract_tensor_mut::<$r>().map_err(runtime("context"))?.1.fill(<$r>::default()),)*
                _ => return Err(Error::Model(format!("a context of type {ty:?} is not supported; use u8, i32, i64, f16 or f32"))),
            }
        };
    }
    fill!(Uint8 => u8, Int8 => i8, Int16 => i16, Int32 => i32, Int64 => i64, Float32 => f32, Float16 => half::f16);
    Ok(())
}

/// One recurrent tensor: two places that swap roles.
struct Context {
    name: String,
    ty: Type,
    slots: [DynTensor; 2],
}

impl Context {
    fn reset(&mut self, current: usize, cuda: bool) -> Result<()> {
        if !cuda {
            return zero(&mut self.slots[current], self.ty);
        }
        let shape: Vec<i64> = self.slots[current].shape().iter().copied().collect();
        let zeros = host(self.ty, &shape)?;
        zeros.copy_into(&mut self.slots[current]).map_err(runtime("cannot clear a context on the GPU"))
    }
}

fn contexts(
    session: &Session,
    inputs: Vec<(String, Type, Vec<i64>)>,
    outputs: &[(String, Type, Vec<i64>)],
    cuda: Option<i32>,
) -> Result<Vec<Context>> {
    let broken =
        |m: String| Error::Model(format!("{m}; the bundle breaks the contract of docs/architecture.md, export it again"));
    if inputs.len() != outputs.len() {
        return Err(broken(format!("{} contexts go in and {} come out", inputs.len(), outputs.len())));
    }
    let mut made = Vec::new();
    for (name, ty, shape) in inputs {
        let out = outputs
            .iter()
            .find(|o| o.0 == format!("{name}{NEXT}"))
            .ok_or_else(|| broken(format!("context '{name}' has no output '{name}{NEXT}'")))?;
        let same = out.1 == ty && out.2.len() == shape.len() && out.2.iter().zip(&shape).all(|(&a, &b)| a == b || a < 0);
        if !same {
            return Err(broken(format!("context '{name}' is {ty:?} {shape:?} as input and {:?} {:?} as output", out.1, out.2)));
        }
        let bytes =
            shape.iter().try_fold(element_bytes(ty).unwrap_or(0) as i64, |n, &d| if d > 0 { n.checked_mul(d) } else { None });
        if !bytes.is_some_and(|b| (1..=8 << 30).contains(&b)) {
            return Err(broken(format!("context '{name}' of {ty:?} {shape:?} has no usable size")));
        }
        let slot = || -> Result<DynTensor> {
            match cuda {
                None => host(ty, &shape),
                Some(device) => {
                    let memory = MemoryInfo::new(AllocationDevice::CUDA, device, AllocatorType::Device, MemoryType::Default)
                        .map_err(runtime("GPU memory"))?;
                    let allocator = Allocator::new(session, memory).map_err(runtime("GPU memory"))?;
                    DynTensor::new(&allocator, ty, shape.clone()).map_err(runtime("no GPU memory for a context"))
                }
            }
        };
        let mut context = Context { name, ty, slots: [slot()?, slot()?] };
        for current in 0..2 {
            context.reset(current, cuda.is_some())?;
        }
        made.push(context);
    }
    Ok(made)
}

/// What both graphs share.
struct Graph {
    session: Session,
    provider: &'static str,
    cuda: bool,
    /// Indexed by the current slot of the own contexts, then of the other graph's.
    bindings: Vec<IoBinding>,
    contexts: Vec<Context>,
    current: usize,
    time: Duration,
}

impl Graph {
    fn run(&mut self, binding: usize) -> Result<()> {
        let started = Instant::now();
        self.session.run_binding(&self.bindings[binding]).map_err(runtime("running the graph failed"))?;
        self.time += started.elapsed();
        Ok(())
    }

    fn reset(&mut self) -> Result<()> {
        for context in &mut self.contexts {
            context.reset(self.current, self.cuda)?;
        }
        Ok(())
    }

    /// A binding of `fixed` inputs and `outputs`, own contexts with slot `current` as input, and `extra` inputs.
    fn bind(
        &mut self,
        inputs: &[(&str, &DynTensor)],
        outputs: &mut [(&str, &mut DynTensor)],
        current: usize,
        extra: &[(&str, &DynTensor)],
    ) -> Result<()> {
        let failed = runtime("binding a graph's buffers failed");
        let mut binding = self.session.create_binding().map_err(&failed)?;
        for (name, tensor) in inputs.iter().chain(extra) {
            binding.bind_input(*name, tensor).map_err(&failed)?;
        }
        for (name, tensor) in outputs {
            binding.bind_output(*name, &mut **tensor).map_err(&failed)?;
        }
        for context in &mut self.contexts {
            binding.bind_input(context.name.as_str(), &context.slots[current]).map_err(&failed)?;
            let next = format!("{}{NEXT}", context.name);
            binding.bind_output(next, &mut context.slots[1 - current]).map_err(&failed)?;
        }
        self.bindings.push(binding);
        Ok(())
    }
}

fn extract<'a, T: ort::value::PrimitiveTensorElementType + 'a>(tensor: &'a DynTensor) -> &'a [T] {
    tensor.try_extract_tensor::<T>().map(|(_, data)| data).unwrap_or_default()
}

fn extract_mut<'a, T: ort::value::PrimitiveTensorElementType + 'a>(tensor: &'a mut DynTensor) -> &'a mut [T] {
    tensor.try_extract_tensor_mut::<T>().map(|(_, data)| data).unwrap_or_default()
}

/// The decoder graph: tokens to frames.
pub struct DecoderGraph {
    graph: Graph,
    tokens: DynTensor,
    counts: DynTensor,
    position: DynTensor,
    motion: Option<DynTensor>,
    step: Option<DynTensor>,
    frames: DynTensor,
}

impl DecoderGraph {
    /// Loads the bundle's decoder for pictures of `geometry`.
    pub fn open(bundle: &Bundle, geometry: &Geometry, config: &RuntimeConfig) -> Result<Self> {
        let (m, c) = (&bundle.manifest, Contract::new(&bundle.manifest, geometry));
        let Opened { session, provider, cuda } = open(&bundle.decoder, &dimensions(geometry), config)?;
        let mut wanted = vec![&c.tokens, &c.counts, &c.position];
        wanted.extend(m.takes_motion.then_some(&c.motion));
        wanted.extend(m.takes_step.then_some(&c.step));
        let inputs = check("decoder", "input", session.inputs(), &wanted, &["dec."])?;
        let outputs = check("decoder", "output", session.outputs(), &[&c.frames], &["dec."])?;
        let contexts = contexts(&session, inputs, &outputs, cuda.then_some(config.device_id))?;
        let make = |s: &Spec| host(s.ty, &s.shape);
        let optional = |on: bool, s: &Spec| on.then(|| make(s)).transpose();
        let mut this = Self {
            tokens: make(&c.tokens)?,
            counts: make(&c.counts)?,
            position: make(&c.position)?,
            motion: optional(m.takes_motion, &c.motion)?,
            step: optional(m.takes_step, &c.step)?,
            frames: make(&c.frames)?,
            graph: Graph { session, provider, cuda, bindings: Vec::new(), contexts, current: 0, time: Duration::ZERO },
        };
        for current in 0..2 {
            let mut inputs = vec![("tokens", &this.tokens), ("counts", &this.counts), ("position", &this.position)];
            inputs.extend(this.motion.as_ref().map(|t| ("motion", t)));
            inputs.extend(this.step.as_ref().map(|t| ("step", t)));
            this.graph.bind(&inputs, &mut [("frames", &mut this.frames)], current, &[])?;
        }
        Ok(this)
    }

    /// The tokens to decode.
    pub fn tokens_mut(&mut self) -> TokensMut<'_> {
        match *self.tokens.data_type() {
            Type::Int16 => TokensMut::I16(extract_mut(&mut self.tokens)),
            Type::Int32 => TokensMut::I32(extract_mut(&mut self.tokens)),
            _ => TokensMut::F32(extract_mut(&mut self.tokens)),
        }
    }

    /// Tokens kept in each cell, [cells].
    pub fn counts_mut(&mut self) -> &mut [i32] {
        extract_mut(&mut self.counts)
    }

    /// Motion planes [3, cells_y, cells_x]; empty if the model takes none.
    pub fn motion_mut(&mut self) -> &mut [i32] {
        self.motion.as_mut().map(extract_mut).unwrap_or_default()
    }

    /// Quantiser step in pixel units.
    pub fn set_step(&mut self, step: f32) {
        if let Some(t) = &mut self.step {
            extract_mut::<f32>(t).fill(step);
        }
    }

    /// Blocks since the key block.
    pub fn set_position(&mut self, position: i64) {
        extract_mut::<i64>(&mut self.position).fill(position);
    }

    /// Decodes. The context stays as it was until [`DecoderGraph::commit`].
    pub fn run(&mut self) -> Result<()> {
        self.graph.run(self.graph.current)
    }

    /// T aligned frames of the last run.
    pub fn frames(&self) -> &[u8] {
        extract(&self.frames)
    }

    /// Makes the last run's context the current one.
    pub fn commit(&mut self) {
        self.graph.current = 1 - self.graph.current;
    }

    /// Clears the context: a key block follows.
    pub fn reset(&mut self) -> Result<()> {
        self.graph.reset()
    }

    /// Where it runs: `cpu`, `cuda` or `tensorrt`.
    pub fn provider(&self) -> &'static str {
        self.graph.provider
    }

    /// Time spent in ONNX Runtime so far.
    pub fn run_time(&self) -> Duration {
        self.graph.time
    }
}

/// The encoder graph: frames to tokens, given what the decoder has.
pub struct EncoderGraph {
    graph: Graph,
    frames: DynTensor,
    counts: Option<DynTensor>,
    position: DynTensor,
    motion: Option<DynTensor>,
    step: Option<DynTensor>,
    tokens: DynTensor,
    distortion: Option<DynTensor>,
}

impl EncoderGraph {
    /// Loads the bundle's encoder; it reads the context of `decoder`, which must be of the same bundle and geometry.
    pub fn open(bundle: &Bundle, geometry: &Geometry, config: &RuntimeConfig, decoder: &DecoderGraph) -> Result<Self> {
        let (m, c) = (&bundle.manifest, Contract::new(&bundle.manifest, geometry));
        let Opened { session, provider, cuda } = open(&bundle.encoder, &dimensions(geometry), config)?;
        let takes = |name: &str| session.inputs().iter().any(|i| i.name() == name);
        let (takes_step, takes_motion) = (takes("step"), m.takes_motion);
        let mut wanted = vec![&c.frames, &c.position];
        wanted.extend(m.count_conditioned.then_some(&c.counts));
        wanted.extend(takes_motion.then_some(&c.motion));
        wanted.extend(takes_step.then_some(&c.step));
        let inputs = check("encoder", "input", session.inputs(), &wanted, &["enc.", "dec."])?;
        let (shared, own): (Vec<_>, Vec<_>) = inputs.into_iter().partition(|i| i.0.starts_with("dec."));
        for (name, ty, shape) in &shared {
            let theirs = decoder.graph.contexts.iter().find(|x| x.name == *name);
            if !theirs.is_some_and(|x| x.ty == *ty && x.slots[0].shape().iter().eq(shape.iter())) {
                return Err(Error::Model(format!(
                    "encoder graph: input '{name}' is no context of the decoder graph with the same type and shape; export the bundle again"
                )));
            }
        }
        let mut out = vec![&c.tokens];
        out.extend(m.has_distortion.then_some(&c.distortion));
        let outputs = check("encoder", "output", session.outputs(), &out, &["enc."])?;
        let contexts = contexts(&session, own, &outputs, cuda.then_some(config.device_id))?;
        let make = |s: &Spec| host(s.ty, &s.shape);
        let optional = |on: bool, s: &Spec| on.then(|| make(s)).transpose();
        let mut this = Self {
            frames: make(&c.frames)?,
            counts: optional(m.count_conditioned, &c.counts)?,
            position: make(&c.position)?,
            motion: optional(takes_motion, &c.motion)?,
            step: optional(takes_step, &c.step)?,
            tokens: make(&c.tokens)?,
            distortion: optional(m.has_distortion, &c.distortion)?,
            graph: Graph { session, provider, cuda, bindings: Vec::new(), contexts, current: 0, time: Duration::ZERO },
        };
        for current in 0..2 {
            for theirs in 0..2 {
                let mut inputs = vec![("frames", &this.frames), ("position", &this.position)];
                inputs.extend(this.counts.as_ref().map(|t| ("counts", t)));
                inputs.extend(this.motion.as_ref().map(|t| ("motion", t)));
                inputs.extend(this.step.as_ref().map(|t| ("step", t)));
                let mut outputs = vec![("tokens", &mut this.tokens)];
                outputs.extend(this.distortion.as_mut().map(|t| ("distortion", t)));
                let find = |name: &str| decoder.graph.contexts.iter().find(|x| x.name == name);
                let extra: Vec<_> =
                    shared.iter().filter_map(|s| find(&s.0)).map(|x| (x.name.as_str(), &x.slots[theirs])).collect();
                this.graph.bind(&inputs, &mut outputs, current, &extra)?;
            }
        }
        Ok(this)
    }

    /// T aligned frames to encode.
    pub fn frames_mut(&mut self) -> &mut [u8] {
        extract_mut(&mut self.frames)
    }

    /// The frames to encode, as they were loaded.
    pub fn frames(&self) -> &[u8] {
        extract(&self.frames)
    }

    /// Counts the graph is conditioned on, [cells]; empty if it is not.
    pub fn counts_mut(&mut self) -> &mut [i32] {
        self.counts.as_mut().map(extract_mut).unwrap_or_default()
    }

    /// Motion planes [3, cells_y, cells_x]; empty if the model takes none.
    pub fn motion_mut(&mut self) -> &mut [i32] {
        self.motion.as_mut().map(extract_mut).unwrap_or_default()
    }

    /// Quantiser step in pixel units, where the graph takes it.
    pub fn set_step(&mut self, step: f32) {
        if let Some(t) = &mut self.step {
            extract_mut::<f32>(t).fill(step);
        }
    }

    /// Blocks since the key block.
    pub fn set_position(&mut self, position: i64) {
        extract_mut::<i64>(&mut self.position).fill(position);
    }

    /// Encodes against the current context of `decoder`.
    pub fn run(&mut self, decoder: &DecoderGraph) -> Result<()> {
        self.graph.run(2 * self.graph.current + decoder.graph.current)
    }

    /// The last run's tokens.
    pub fn tokens(&self) -> Tokens<'_> {
        match *self.tokens.data_type() {
            Type::Int16 => Tokens::I16(extract(&self.tokens)),
            Type::Int32 => Tokens::I32(extract(&self.tokens)),
            _ => Tokens::F32(extract(&self.tokens)),
        }
    }

    /// The last run's predicted squared error of each cell at each layer, [cells, layers].
    pub fn distortion(&self) -> Option<&[f32]> {
        self.distortion.as_ref().map(extract)
    }

    /// Makes the last run's own context the current one.
    pub fn commit(&mut self) {
        self.graph.current = 1 - self.graph.current;
    }

    /// Clears the own context: a key block follows.
    pub fn reset(&mut self) -> Result<()> {
        self.graph.reset()
    }

    /// Where it runs: `cpu`, `cuda` or `tensorrt`.
    pub fn provider(&self) -> &'static str {
        self.graph.provider
    }

    /// Time spent in ONNX Runtime so far.
    pub fn run_time(&self) -> Duration {
        self.graph.time
    }
}
