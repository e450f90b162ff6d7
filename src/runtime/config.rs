// SPDX-License-Identifier: MIT OR Apache-2.0
//! Settings of sessions.

use std::path::PathBuf;

use super::Canceller;

/// Where graphs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExecutionProvider {
    /// CUDA where it works, else the CPU; the log says which and why. TensorRT builds engines for minutes at the first start,
    /// so it is used only when asked for by name.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU through CUDA.
    Cuda,
    /// An NVIDIA GPU through TensorRT.
    TensorRt,
}

/// How sessions are made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuntimeConfig {
    /// Where graphs run.
    pub provider: ExecutionProvider,
    /// Which GPU, counted from 0.
    pub device_id: i32,
    /// Threads of a graph on the CPU; 0 = as many as there are processors, 4 at most.
    pub threads: usize,
    /// Half precision where the provider offers it (TensorRT).
    pub fp16: bool,
    /// Where TensorRT keeps engines; `None` = `elastictok` in the user's cache directory.
    pub cache_dir: Option<PathBuf>,
    /// Ends runs from another thread; `None` = they cannot be ended.
    pub canceller: Option<Canceller>,
}

impl RuntimeConfig {
    /// Threads that the settings stand for, 1 or more.
    pub(crate) fn thread_count(&self) -> usize {
        if self.threads > 0 {
            return self.threads;
        }
        processors().min(4)
    }
}

/// Processors that this process may use.
pub(super) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
