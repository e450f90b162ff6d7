// SPDX-License-Identifier: MIT OR Apache-2.0
//! The decoder's graph, which opens on a thread of its own.

use std::sync::Arc;
use std::thread::JoinHandle;

use crate::bundle::Bundle;
use crate::frame::Geometry;
use crate::logging::tell;
use crate::runtime::{DecoderGraph, RuntimeConfig};
use crate::{Error, Result};

/// What opens a graph.
pub(super) struct Source {
    pub bundle: Arc<Bundle>,
    pub geometry: Geometry,
    pub runtime: RuntimeConfig,
}

impl Source {
    fn open(&self) -> Result<DecoderGraph> {
        let Self { bundle, geometry, runtime } = self;
        let graph = DecoderGraph::open(bundle, geometry, runtime)?;
        tell!(Info, "{}x{} is decoded on {}", geometry.width, geometry.height, graph.provider());
        Ok(graph)
    }
}

/// A graph, or the thread that opens it.
#[derive(Default)]
pub(super) struct Opening {
    thread: Option<JoinHandle<Result<DecoderGraph>>>,
    graph: Option<DecoderGraph>,
}

impl Opening {
    /// Begins to open the graph, unless that was done before.
    pub fn begin(&mut self, source: &Arc<Source>) -> Result<()> {
        if self.thread.is_none() && self.graph.is_none() {
            let source = source.clone();
            let thread = std::thread::Builder::new().name("elastictok-open".into()).spawn(move || source.open());
            self.thread = Some(thread.map_err(|e| Error::Runtime(format!("no thread to open the decoder's graph on: {e}")))?);
        }
        Ok(())
    }

    /// The graph, once it is open. After an error it can be begun again.
    pub fn wait(&mut self) -> Result<&mut DecoderGraph> {
        if let Some(thread) = self.thread.take() {
            let opened = thread.join().map_err(|_| Error::Runtime("opening the decoder's graph failed: a panic".into()))?;
            self.graph = Some(opened?);
        }
        self.graph.as_mut().ok_or_else(|| Error::Runtime("the decoder's graph was not opened".into()))
    }

    /// The graph, if it was waited for.
    pub fn graph(&self) -> Option<&DecoderGraph> {
        self.graph.as_ref()
    }
}

impl Drop for Opening {
    /// No thread is left in ONNX Runtime when its user is gone: the process may end then.
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
