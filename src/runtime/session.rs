// SPDX-License-Identifier: MIT OR Apache-2.0
//! A session with its buffers bound once.
//!
//! A context has two tensors that swap roles: a run reads one and writes the other, and committing the run is flipping an
//! index. A binding is made in advance for each combination of roles.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, RunOptions, Session};
use ort::value::{DynTensor, PrimitiveTensorElementType, TensorElementType as Type};

use super::RuntimeConfig;
use super::cancel::Canceller;
use super::contract::{ContextSpec, NEXT, Spec};
use super::memory::Reservation;
use super::provider::{Device, OpenedSession};
use crate::{Error, Result};

/// The tensors of a graph in host memory, by name.
pub(super) type Named<'a> = (&'static str, &'a DynTensor);

fn runtime(what: &str) -> impl Fn(ort::Error) -> Error + '_ {
    move |e| Error::Runtime(format!("{what}: {e}"))
}

/// A tensor of zeros in host memory.
fn host(ty: Type, shape: &[i64]) -> Result<DynTensor> {
    let mut tensor =
        DynTensor::new(&Allocator::default(), ty, shape.to_vec()).map_err(runtime("no memory for a graph's buffer"))?;
    zero(&mut tensor)?;
    Ok(tensor)
}

/// A tensor of zeros of the type and shape of `spec`.
pub(super) fn buffer(spec: &Spec) -> Result<DynTensor> {
    host(spec.ty, &spec.shape)
}

/// As [`buffer`], of a context.
pub(super) fn context_buffer(spec: &ContextSpec) -> Result<DynTensor> {
    host(spec.ty, &spec.shape)
}

/// As [`buffer`], of the rows for `cells` of those that a tensor has.
pub(super) fn part_buffer(ty: Type, shape: &[i64], cells: i64) -> Result<DynTensor> {
    let rest = shape.get(1..).unwrap_or_default();
    host(ty, &[&[cells], rest].concat())
}

/// Calls a function with the Rust type of a tensor's elements.
macro_rules! typed {
    ($tensor:expr, $function:ident($($argument:expr),*)) => {
        match *$tensor.data_type() {
            Type::Uint8 => $function::<u8>($($argument),*),
            Type::Int8 => $function::<i8>($($argument),*),
            Type::Int16 => $function::<i16>($($argument),*),
            Type::Int32 => $function::<i32>($($argument),*),
            Type::Int64 => $function::<i64>($($argument),*),
            Type::Float32 => $function::<f32>($($argument),*),
            Type::Float16 => $function::<half::f16>($($argument),*),
            ty => return Err(Error::Model(format!("a buffer of type {ty} is not supported; use u8, i8, i16, i32, i64, f16 or f32"))),
        }
    };
}

fn zero(tensor: &mut DynTensor) -> Result<()> {
    fn fill<T: PrimitiveTensorElementType + Default + Clone>(tensor: &mut DynTensor) {
        values_mut::<T>(tensor).fill(T::default());
    }
    typed!(tensor, fill(tensor));
    Ok(())
}

/// Copies a tensor in host memory to another one of its type and shape.
pub(super) fn copy(to: &mut DynTensor, from: &DynTensor) -> Result<()> {
    fn all<T: PrimitiveTensorElementType + Copy>(to: &mut DynTensor, from: &DynTensor) {
        values_mut::<T>(to).copy_from_slice(values(from));
    }
    typed!(from, all(to, from));
    Ok(())
}

/// The values of a tensor in host memory whose type is known to be `T`.
pub(super) fn values<T: PrimitiveTensorElementType>(tensor: &DynTensor) -> &[T] {
    tensor.try_extract_tensor::<T>().map(|(_, data)| data).unwrap_or_default()
}

/// As [`values`].
pub(super) fn values_mut<T: PrimitiveTensorElementType>(tensor: &mut DynTensor) -> &mut [T] {
    tensor.try_extract_tensor_mut::<T>().map(|(_, data)| data).unwrap_or_default()
}

fn on_gpu(session: &Session, spec: &ContextSpec, device_id: i32) -> Result<DynTensor> {
    let no_memory = runtime("no GPU memory for a graph's buffer");
    let memory = MemoryInfo::new(AllocationDevice::CUDA, device_id, AllocatorType::Device, MemoryType::Default);
    let allocator = Allocator::new(session, memory.map_err(&no_memory)?).map_err(&no_memory)?;
    DynTensor::new(&allocator, spec.ty, spec.shape.clone()).map_err(no_memory)
}

/// A tensor that one graph writes and another one reads, on the device of both.
pub(super) struct Handed {
    pub spec: ContextSpec,
    pub tensor: DynTensor,
}

/// Buffers of the given specifications where `opened` runs.
pub(super) fn handed_buffers(opened: &OpenedSession, specs: Vec<ContextSpec>, device_id: i32) -> Result<Vec<Handed>> {
    let one = |spec: ContextSpec| {
        let tensor = if opened.device.is_gpu() { on_gpu(opened.session(), &spec, device_id)? } else { context_buffer(&spec)? };
        Ok(Handed { spec, tensor })
    };
    specs.into_iter().map(one).collect()
}

/// One recurrent tensor: two slots that swap roles.
pub(super) struct GraphContext {
    pub spec: ContextSpec,
    pub slots: [DynTensor; 2],
    /// Zeros to copy from, where the slots are on a GPU.
    zeros: Option<DynTensor>,
}

impl GraphContext {
    fn new(session: &Session, spec: ContextSpec, device: Device, device_id: i32) -> Result<Self> {
        if !device.is_gpu() {
            let slots = [host(spec.ty, &spec.shape)?, host(spec.ty, &spec.shape)?];
            return Ok(Self { spec, slots, zeros: None });
        }
        let slot = || on_gpu(session, &spec, device_id);
        let (slots, zeros) = ([slot()?, slot()?], Some(host(spec.ty, &spec.shape)?));
        let mut context = Self { spec, slots, zeros };
        context.reset(0)?;
        context.reset(1)?;
        Ok(context)
    }

    fn reset(&mut self, slot: usize) -> Result<()> {
        match &self.zeros {
            None => zero(&mut self.slots[slot]),
            Some(zeros) => zeros.copy_into(&mut self.slots[slot]).map_err(runtime("cannot clear a context on the GPU")),
        }
    }
}

/// A session with its bindings and contexts.
pub(super) struct GraphSession {
    opened: OpenedSession,
    /// In the order in which [`GraphSession::bind`] was called.
    bindings: Vec<IoBinding>,
    contexts: Vec<GraphContext>,
    current: usize,
    last_run: Duration,
    /// Until the first run; `None` on a GPU.
    memory: Option<Reservation>,
    cancel: Option<(Canceller, Arc<RunOptions>)>,
}

impl GraphSession {
    /// `memory`: what is reserved for it in host memory.
    pub fn new(
        opened: OpenedSession,
        contexts: Vec<ContextSpec>,
        config: &RuntimeConfig,
        memory: Option<Reservation>,
    ) -> Result<Self> {
        let context = |spec| GraphContext::new(opened.session(), spec, opened.device, config.device_id);
        let contexts = contexts.into_iter().map(context).collect::<Result<_>>()?;
        let cancel = config.canceller.as_ref().map(|c| Ok::<_, Error>((c.clone(), c.options()?))).transpose()?;
        Ok(Self { opened, bindings: Vec::new(), contexts, current: 0, last_run: Duration::ZERO, memory, cancel })
    }

    pub fn contexts(&self) -> &[GraphContext] {
        &self.contexts
    }

    /// The slot that the next run reads.
    pub fn current(&self) -> usize {
        self.current
    }

    /// How long the last run took.
    pub fn last_run(&self) -> Duration {
        self.last_run
    }

    /// Adds a binding of `inputs` and `outputs`, own contexts read from slot `current`, and the `shared` ones of another graph.
    pub fn bind<'a>(
        &mut self,
        inputs: impl Iterator<Item = Named<'a>>,
        outputs: impl Iterator<Item = (&'a str, &'a mut DynTensor)>,
        current: usize,
        shared: &[(&str, &DynTensor)],
    ) -> Result<()> {
        let failed = runtime("binding a graph's buffers failed");
        let mut binding = self.opened.session().create_binding().map_err(&failed)?;
        for (name, tensor) in inputs {
            binding.bind_input(name, tensor).map_err(&failed)?;
        }
        for (name, tensor) in shared {
            binding.bind_input(*name, tensor).map_err(&failed)?;
        }
        for (name, tensor) in outputs {
            binding.bind_output(name, tensor).map_err(&failed)?;
        }
        for context in &mut self.contexts {
            let name = &context.spec.name;
            binding.bind_input(name.as_str(), &context.slots[current]).map_err(&failed)?;
            binding.bind_output(format!("{name}{NEXT}"), &mut context.slots[1 - current]).map_err(&failed)?;
        }
        self.bindings.push(binding);
        Ok(())
    }

    /// Runs on the given binding. `inputs` are the ones in host memory, which it was bound to.
    pub fn run<'a>(&mut self, binding: usize, inputs: impl Iterator<Item = Named<'a>>) -> Result<()> {
        if self.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let started = Instant::now();
        let binding = self.bindings.get_mut(binding).ok_or_else(|| Error::Runtime("the graph has no such binding".into()))?;
        if self.opened.device.is_gpu() {
            // Binding copies host memory to a GPU, so it is repeated for inputs that may have changed.
            for (name, tensor) in inputs {
                binding.bind_input(name, tensor).map_err(runtime("copying to the GPU failed"))?;
            }
        }
        match self.opened.run(binding, self.cancel.as_ref().map(|(_, options)| &**options)) {
            Err(_) if self.is_cancelled() => return Err(Error::Cancelled),
            run => run.map_err(runtime("running the graph failed"))?,
        }
        self.last_run = started.elapsed();
        self.memory = None;
        Ok(())
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(|(canceller, _)| canceller.is_cancelled())
    }

    /// Makes the last run's contexts the current ones.
    pub fn commit(&mut self) {
        self.current = 1 - self.current;
    }

    pub fn reset(&mut self) -> Result<()> {
        let current = self.current;
        self.contexts.iter_mut().try_for_each(|c| c.reset(current))
    }
}
