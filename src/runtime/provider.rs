// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sessions on the provider that was asked for.

use std::path::PathBuf;

use ort::ep;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;

use super::library::environment;
use super::{ExecutionProvider, RuntimeConfig};
use crate::{Error, Result};

/// A session and where it runs.
pub(super) struct Opened {
    pub session: Session,
    pub provider: &'static str,
    /// Contexts live on this CUDA device.
    pub cuda: bool,
}

fn cache(config: &RuntimeConfig) -> Result<PathBuf> {
    let directory = config.cache_dir.clone().unwrap_or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
        cache
            .or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache")))
            .unwrap_or_else(std::env::temp_dir)
            .join("elastictok")
    });
    std::fs::create_dir_all(&directory)
        .map_err(|e| Error::Runtime(format!("cannot make the TensorRT engine cache {}: {e}", directory.display())))?;
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
    let cache = cache(config)?.display().to_string();
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

fn open_on(provider: ExecutionProvider, graph: &[u8], dimensions: &[(&str, usize)], config: &RuntimeConfig) -> Result<Opened> {
    let environment = environment()?;
    let failed = |e: ort::Error| Error::Runtime(format!("the graph does not load: {e}"));
    let mut builder = Session::builder(environment).map_err(failed)?;
    let threads = config.thread_count();
    let options = |e: ort::Error<_>| Error::Runtime(format!("session options: {e}"));
    builder = builder.with_intra_threads(threads).map_err(options)?;
    builder = builder.with_inter_threads(1).map_err(options)?;
    // Spinning threads would take the processors from the pipeline's other elements.
    builder = builder.with_intra_op_spinning(false).map_err(options)?;
    builder = builder.with_inter_op_spinning(false).map_err(options)?;
    builder = builder.with_optimization_level(GraphOptimizationLevel::All).map_err(options)?;
    for (name, size) in dimensions {
        let size = i64::try_from(*size).map_err(|_| Error::Limit(format!("dimension {name} is too large")))?;
        builder = builder.with_dimension_override(name, size).map_err(|e| Error::Runtime(format!("dimension {name}: {e}")))?;
    }
    let (list, name, library) = match provider {
        ExecutionProvider::Cpu | ExecutionProvider::Auto => (vec![], "cpu", ""),
        ExecutionProvider::Cuda => {
            (vec![cuda(config)], "cuda", "libonnxruntime_providers_cuda.so with CUDA and cuDNN (the onnxruntime-gpu package)")
        }
        ExecutionProvider::TensorRt => (
            vec![tensorrt(config)?, cuda(config)],
            "tensorrt",
            "libonnxruntime_providers_tensorrt.so with TensorRT, CUDA and cuDNN (the onnxruntime-gpu package)",
        ),
    };
    if !list.is_empty() {
        builder = builder.with_execution_providers(list).map_err(|e| {
            Error::Runtime(format!(
                "execution-provider={name} is not available on device {}: it needs {library}. ONNX Runtime says: {e}",
                config.device_id
            ))
        })?;
    }
    let session = builder.commit_from_memory(graph).map_err(failed)?;
    Ok(Opened { session, provider: name, cuda: !library.is_empty() })
}

/// Opens a graph; a provider asked for by name is never replaced by another.
pub(super) fn open(graph: &[u8], dimensions: &[(&str, usize)], config: &RuntimeConfig) -> Result<Opened> {
    if config.provider != ExecutionProvider::Auto {
        return open_on(config.provider, graph, dimensions, config);
    }
    environment()?;
    match open_on(ExecutionProvider::Cuda, graph, dimensions, config) {
        Ok(opened) => {
            log::info!("execution-provider=auto: CUDA device {}", config.device_id);
            Ok(opened)
        }
        Err(why) => {
            log::info!("execution-provider=auto: CPU with {} threads, because {why}", config.thread_count());
            open_on(ExecutionProvider::Cpu, graph, dimensions, config)
        }
    }
}
