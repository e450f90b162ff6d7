// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sessions on the provider that was asked for.
//!
//! CUDA and TensorRT have not been run on a GPU yet. Only their errors are tested.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ort::AsPointer;
use ort::ep::{self, ExecutionProvider as _};
use ort::session::builder::{AutoDevicePolicy, GraphOptimizationLevel};
use ort::session::{IoBinding, RunOptions, Session};

use super::config::{ExecutionProvider, RuntimeConfig, processors};
use super::library::{environment, is_at_least, path};
use crate::bundle::Graph;
use crate::logging::tell;
use crate::{Error, Result};

/// ONNX Runtime 1.26 is the first that can be told how long its threads spin.
const SPIN_DURATION: u32 = 26;
/// How long a thread waits for the next operator before it sleeps.
const SPIN_MICROSECONDS: &str = "20";

/// Where a session really runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Device {
    Cpu,
    Cuda,
    TensorRt,
}

impl Device {
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
        }
    }

    /// `config`, asking for this device by name.
    pub fn settings(self, config: &RuntimeConfig) -> RuntimeConfig {
        let provider = match self {
            Self::Cpu => ExecutionProvider::Cpu,
            Self::Cuda => ExecutionProvider::Cuda,
            Self::TensorRt => ExecutionProvider::TensorRt,
        };
        RuntimeConfig { provider, ..config.clone() }
    }

    /// Contexts live in the memory of a GPU.
    pub fn is_gpu(self) -> bool {
        self != Self::Cpu
    }

    /// The library of ONNX Runtime that this device needs, and what that library needs.
    fn needs(self) -> (&'static str, &'static str) {
        match self {
            Self::Cpu => ("", ""),
            Self::Cuda => ("libonnxruntime_providers_cuda.so", "CUDA and cuDNN"),
            Self::TensorRt => ("libonnxruntime_providers_tensorrt.so", "TensorRT, CUDA and cuDNN"),
        }
    }
}

/// A session and where it runs. Clones have the same session.
#[derive(Clone)]
pub(crate) struct OpenedSession {
    session: Arc<Session>,
    /// Held during runs on a GPU.
    one_run: Arc<Mutex<()>>,
    pub(super) device: Device,
}

impl OpenedSession {
    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// Runs the graph on a binding of the session that has a tensor for each output. On a CPU other bindings may run at the same time.
    #[allow(unsafe_code, reason = "ort permits one run of a session at a time, for the sake of providers that do")]
    pub(super) fn run(&self, binding: &mut IoBinding, options: Option<&RunOptions>) -> ort::Result<()> {
        let _one = self.device.is_gpu().then(|| self.one_run.lock().unwrap_or_else(PoisonError::into_inner));
        let options = options.map_or(std::ptr::null(), |options| options.ptr());
        // SAFETY: session, options and binding outlive the call. The binding is borrowed for this run alone. A session may have several runs
        // at a time where its provider permits that (`ConcurrentRunSupported`): the CPU's does, and runs on a GPU wait for the lock. The
        // status is taken once, by the function that frees it.
        unsafe {
            let status = (ort::api().RunWithBinding)(self.session.ptr().cast_mut(), options, binding.ptr());
            ort::Error::result_from_status(status)
        }
    }
}

/// Where TensorRT keeps its engines. Engines are code, so others must not be able to write to this directory.
fn engine_cache(config: &RuntimeConfig, variable: &dyn Fn(&str) -> Option<PathBuf>) -> Result<PathBuf> {
    let user = || {
        let cache = variable("XDG_CACHE_HOME").filter(|p| p.is_absolute());
        cache.or_else(|| variable("HOME").filter(|p| p.is_absolute()).map(|h| h.join(".cache"))).map(|c| c.join("elastictok"))
    };
    let directory = config.cache_dir.clone().or_else(user).ok_or_else(|| {
        Error::Settings(
            "TensorRT needs a directory for its engines: set XDG_CACHE_HOME or HOME, or RuntimeConfig::cache_dir".into(),
        )
    })?;
    std::fs::create_dir_all(&directory).map_err(|e| {
        Error::Runtime(format!(
            "cannot make the TensorRT engine cache {}: {e}; set XDG_CACHE_HOME to a directory that can be written",
            directory.display()
        ))
    })?;
    Ok(directory)
}

fn cuda(config: &RuntimeConfig) -> ep::ExecutionProviderDispatch {
    ep::CUDA::default()
        .with_device_id(config.device_id)
        .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
        .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
        .with_tf32(false)
        .build()
        .error_on_failure()
}

fn tensorrt(config: &RuntimeConfig) -> Result<ep::ExecutionProviderDispatch> {
    let cache = engine_cache(config, &|name| std::env::var_os(name).map(PathBuf::from))?.display().to_string();
    Ok(ep::TensorRT::default()
        .with_device_id(config.device_id)
        .with_fp16(config.fp16)
        .with_engine_cache(true)
        .with_engine_cache_path(&cache)
        .with_timing_cache(true)
        .with_timing_cache_path(&cache)
        .build()
        .error_on_failure())
}

/// Why the ONNX Runtime in use does not have `device`, as far as can be told without trying.
fn missing(device: Device) -> Result<Option<String>> {
    environment()?;
    let built_in = match device {
        Device::Cpu => Ok(true),
        Device::Cuda => ep::CUDA::is_available(),
        Device::TensorRt => ep::TensorRT::is_available(),
    };
    let built_in = built_in.map_err(|e| Error::Runtime(format!("ONNX Runtime does not list its providers: {e}")))?;
    let (runtime, (library, _)) = (path()?, device.needs());
    if !built_in {
        return Ok(Some(format!("{} was built without it, so there is no {library}", runtime.display())));
    }
    let beside = runtime.parent().unwrap_or(Path::new("/")).join(library);
    Ok((device.is_gpu() && !beside.is_file()).then(|| format!("{} is missing", beside.display())))
}

fn unavailable(device: Device, config: &RuntimeConfig, why: &str) -> Error {
    let (library, others) = device.needs();
    Error::Runtime(format!(
        "execution-provider={} cannot be used on device {}: {why}. It needs {library} (of the PyPI package onnxruntime-gpu) beside libonnxruntime.so, and {others} where the system's loader finds them; or use execution-provider=auto",
        device.name(),
        config.device_id
    ))
}

/// Checks what can be known without a graph: that there is an ONNX Runtime, and that it has the provider asked for by name.
pub(super) fn check(config: &RuntimeConfig) -> Result<()> {
    environment()?;
    let device = match config.provider {
        ExecutionProvider::Auto | ExecutionProvider::Cpu => return Ok(()),
        ExecutionProvider::Cuda => Device::Cuda,
        ExecutionProvider::TensorRt => Device::TensorRt,
    };
    missing(device)?.map_or(Ok(()), |why| Err(unavailable(device, config, &why)))
}

/// A graph to open.
#[derive(Clone, Copy)]
pub(super) struct Model<'a> {
    pub graph: &'a Graph,
    /// Sizes of named dimensions. Sessions of exact bundles on a CPU leave them open, and serve pictures of any size.
    pub dimensions: &'a [(&'static str, usize)],
    /// It is of an exact bundle.
    pub exact: bool,
}

/// Optimisers that find nothing in the graphs of exact bundles: fusions of what these may not have, and cleaning that the exporter has
/// done. Looking for it takes an eighth of the time in which a graph opens.
const IDLE_OPTIMISERS: &str = "GeluFusionL1;GeluFusionL2;FastGeluFusion;QuickGeluFusion;BiasGeluFusion;SwiGluFusion;LayerNormFusionL1;\
    LayerNormFusionL2;SimplifiedLayerNormFusion;SkipLayerNormFusion;BiasSkipLayerNormFusion;EmbedLayerNormFusion;AttentionFusion;\
    GroupQueryAttentionFusion;GroupQueryAttentionPreNormFusion;GqaValueLayoutTransformer;BiasSoftmaxFusion;BiasDropoutFusion;\
    MatMulNBitsFusion;DQMatMulNBitsFusion;MatMulNBitsMlpFusion;MatMulNBitsQkvFusion;MatMulNBitsQLoRAFusion;LabelEncoderFusion;\
    CommonSubexpressionElimination;ConstantSharing;CastChainElimination;RemoveDuplicateCastTransformer;TransposeOptimizer;\
    QDQPropagationTransformer;WeightBiasQuantization;EnsureUniqueDQForNodeUnit;DoubleQDQPairsRemover";

fn open_on(device: Device, model: Model<'_>, config: &RuntimeConfig) -> Result<OpenedSession> {
    let Model { graph, dimensions, exact } = model;
    let environment = environment()?;
    if let Some(why) = missing(device)? {
        return Err(unavailable(device, config, &why));
    }
    let options = |e: ort::Error<_>| Error::Runtime(format!("session options: {e}"));
    let mut builder = Session::builder(environment).map_err(|e| Error::Runtime(format!("session options: {e}")))?;
    // Without this, newer runtimes may choose a device of their own.
    builder = builder.with_auto_device(AutoDevicePolicy::PreferCPU).map_err(options)?;
    builder = builder.with_intra_threads(config.thread_count()).map_err(options)?;
    builder = builder.with_inter_threads(1).map_err(options)?;
    // Threads that spin for long would take the processors from the pipeline's other elements, and from each other where there are
    // more of them than processors. But waking one takes longer than many operators do.
    let spins = is_at_least(SPIN_DURATION)? && config.thread_count() <= processors();
    builder = builder.with_intra_op_spinning(spins).map_err(options)?;
    if spins {
        builder = builder.with_config_entry("session.intra_op.spin_duration_us", SPIN_MICROSECONDS).map_err(options)?;
    }
    builder = builder.with_inter_op_spinning(false).map_err(options)?;
    builder = builder.with_optimization_level(GraphOptimizationLevel::All).map_err(options)?;
    // A plan of the first run's memory stays allocated as a whole, beside what tensors of other sizes take later: graphs with lists of
    // cells then hold nearly twice what they use.
    builder = builder.with_memory_pattern(false).map_err(options)?;
    if exact {
        builder = builder.with_disabled_optimizers(IDLE_OPTIMISERS).map_err(options)?;
    }
    // Graphs of exact bundles run as fast with open sizes on a CPU, and open in less time.
    for (name, size) in dimensions.iter().filter(|_| !exact || device.is_gpu()) {
        let size = i64::try_from(*size).map_err(|_| Error::Limit(format!("dimension {name} is too large")))?;
        builder = builder.with_dimension_override(name, size).map_err(|e| Error::Runtime(format!("dimension {name}: {e}")))?;
    }
    let providers = match device {
        Device::Cpu => vec![],
        Device::Cuda => vec![cuda(config)],
        // What TensorRT cannot run is left to CUDA.
        Device::TensorRt => vec![tensorrt(config)?, cuda(config)],
    };
    if device.is_gpu() {
        builder = builder
            .with_execution_providers(providers)
            .map_err(|e| unavailable(device, config, &format!("ONNX Runtime says: {e}")))?;
    }
    let session = match graph {
        Graph::Memory(bytes) => builder.commit_from_memory(bytes),
        // Only the runtime knows where the weights beside it are used, and may map instead of read them.
        Graph::File(path) => builder.commit_from_file(path),
    };
    let session = session.map_err(|e| match device {
        Device::Cpu => Error::Model(format!("does not load: {e}; export the bundle again")),
        _ => unavailable(device, config, &format!("the graph does not load there: {e}")),
    })?;
    Ok(OpenedSession { session: Arc::new(session), one_run: Arc::default(), device })
}

/// `config`, asking for the CPU by name where that is all that `auto` can have.
pub(super) fn settled(config: &RuntimeConfig) -> Result<RuntimeConfig> {
    let nothing_else = match config.provider {
        ExecutionProvider::Auto => missing(Device::Cuda)?,
        _ => None,
    };
    let Some(why) = nothing_else else { return Ok(config.clone()) };
    tell_cpu(config, &unavailable(Device::Cuda, config, &why));
    Ok(Device::Cpu.settings(config))
}

fn tell_cpu(config: &RuntimeConfig, why: &Error) {
    tell!(Info, "execution-provider=auto takes the CPU, {} threads, because {why}", config.thread_count());
}

/// Opens a graph; a provider asked for by name is never replaced by another. `like` is where the other graph of the bundle
/// runs: `auto` then takes the same device, because the two share contexts.
pub(super) fn open(model: Model<'_>, config: &RuntimeConfig, like: Option<Device>) -> Result<OpenedSession> {
    let device = match (config.provider, like) {
        (ExecutionProvider::Cpu, _) => Device::Cpu,
        (ExecutionProvider::Cuda, _) => Device::Cuda,
        (ExecutionProvider::TensorRt, _) => Device::TensorRt,
        (ExecutionProvider::Auto, Some(device)) => device,
        (ExecutionProvider::Auto, None) => match open_on(Device::Cuda, model, config) {
            Ok(opened) => {
                tell!(Info, "execution-provider=auto takes CUDA device {}", config.device_id);
                return Ok(opened);
            }
            Err(why) => {
                // Without a runtime there is no CPU either.
                environment()?;
                tell_cpu(config, &why);
                Device::Cpu
            }
        },
    };
    open_on(device, model, config)
}

#[cfg(test)]
mod tests {
    use super::super::contract::dimensions;
    use super::*;
    use crate::bundle::Bundle;

    #[test]
    fn idle_optimisers_change_nothing_in_the_builtin_graphs() {
        let bundle = Bundle::builtin().expect("valid");
        assert!(bundle.manifest.exact);
        let dimensions = dimensions(&bundle.geometry(64, 48).expect("size"));
        for (name, graph) in
            [("encoder", Some(&bundle.encoder)), ("decoder", Some(&bundle.decoder)), ("loop", bundle.loop_graph.as_ref())]
        {
            let Some(Graph::Memory(bytes)) = graph else { panic!("{name}") };
            let optimised = |disabled: &str| {
                let path = std::env::temp_dir().join(format!("elastictok-{name}-{}-{}.onnx", std::process::id(), disabled.len()));
                let mut builder = Session::builder(environment().expect("ONNX Runtime")).expect("options");
                builder = builder.with_intra_threads(1).expect("options");
                builder = builder.with_optimization_level(GraphOptimizationLevel::All).expect("options");
                builder = builder.with_optimized_model_path(&path).expect("options");
                builder = builder.with_disabled_optimizers(disabled).expect("options");
                for (name, size) in dimensions {
                    builder = builder.with_dimension_override(name, size as i64).expect("options");
                }
                builder.commit_from_memory(bytes).expect("loads");
                let written = std::fs::read(&path).expect("written");
                std::fs::remove_file(&path).expect("removable");
                written
            };
            assert!(
                optimised(IDLE_OPTIMISERS) == optimised(""),
                "{name}: an optimiser has something to do now; take it off the list"
            );
        }
    }

    #[test]
    fn engines_go_to_the_users_cache_and_nowhere_shared() {
        let base = std::env::temp_dir().join(format!("elastictok-engines-{}", std::process::id()));
        let config = RuntimeConfig::default();
        let cache = engine_cache(&config, &|name| (name == "XDG_CACHE_HOME").then(|| base.join("xdg"))).expect("writable");
        assert_eq!(cache, base.join("xdg/elastictok"));
        let cache = engine_cache(&config, &|name| (name == "HOME").then(|| base.join("home"))).expect("writable");
        assert_eq!(cache, base.join("home/.cache/elastictok"));
        assert!(cache.is_dir());
        let named = RuntimeConfig { cache_dir: Some(base.join("named")), ..Default::default() };
        assert_eq!(engine_cache(&named, &|_| None).expect("writable"), base.join("named"));
        assert!(matches!(engine_cache(&config, &|_| None), Err(Error::Settings(m)) if m.contains("XDG_CACHE_HOME")));
        std::fs::write(base.join("file"), "").expect("writable");
        let blocked = RuntimeConfig { cache_dir: Some(base.join("file/engines")), ..Default::default() };
        assert!(matches!(engine_cache(&blocked, &|_| None), Err(Error::Runtime(m)) if m.contains("file/engines")));
        std::fs::remove_dir_all(&base).expect("removable");
    }

    #[test]
    fn a_gpu_error_names_library_package_and_way_out() {
        let config = RuntimeConfig { device_id: 3, ..Default::default() };
        let message = unavailable(Device::TensorRt, &config, "libnvinfer.so.10: cannot open").to_string();
        for part in ["tensorrt", "device 3", "libnvinfer.so.10", "providers_tensorrt.so", "onnxruntime-gpu", "auto"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
