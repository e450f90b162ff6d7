// SPDX-License-Identifier: MIT OR Apache-2.0
//! The decoder's graph, which is loaded and opened on threads of their own.

use std::sync::Arc;
use std::thread::JoinHandle;

use crate::bundle::Bundle;
use crate::frame::Geometry;
use crate::logging::tell;
use crate::runtime::{DecoderGraph, OpenedSession, RuntimeConfig};
use crate::{Error, Result};

/// Work on a thread of its own. No thread is left in ONNX Runtime when its user is gone, as the process may end then.
struct Work<T>(Option<JoinHandle<Result<T>>>);

impl<T: Send + 'static> Work<T> {
    fn begin(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<Self> {
        let thread = std::thread::Builder::new().name("elastictok-open".into()).spawn(work);
        Ok(Self(Some(thread.map_err(|e| Error::Runtime(format!("no thread to open the decoder's graph on: {e}")))?)))
    }

    fn wait(mut self) -> Result<T> {
        let done = self.0.take().map(JoinHandle::join);
        done.and_then(std::result::Result::ok)
            .unwrap_or_else(|| Err(Error::Runtime("opening the decoder's graph panicked".into())))
    }
}

impl<T> Drop for Work<T> {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            let _ = thread.join();
        }
    }
}

/// The decoder graph of a bundle, which is being loaded before a stream is known: see [`Decoder::open_ahead`](super::Decoder::open_ahead).
pub struct GraphAhead {
    bundle: Arc<Bundle>,
    runtime: RuntimeConfig,
    session: Work<Option<OpenedSession>>,
}

impl GraphAhead {
    /// Begins to load ONNX Runtime and the graph on a thread of its own. Graphs of bundles that are not exact, and those on GPUs, wait for
    /// the pictures' size.
    pub fn begin(bundle: Arc<Bundle>, runtime: RuntimeConfig) -> Result<Self> {
        let session = {
            let (bundle, runtime) = (bundle.clone(), runtime.clone());
            Work::begin(move || DecoderGraph::load_ahead(&bundle, &runtime))?
        };
        Ok(Self { bundle, runtime, session })
    }
}

/// What opens a graph.
pub(super) struct Source {
    pub bundle: Arc<Bundle>,
    pub geometry: Geometry,
    pub runtime: RuntimeConfig,
}

impl Source {
    fn open(&self, ahead: Option<GraphAhead>) -> Result<DecoderGraph> {
        let Self { bundle, geometry, runtime } = self;
        let ahead = ahead.filter(|a| a.bundle.fingerprint == bundle.fingerprint && a.runtime == *runtime);
        let loaded = ahead.map(|ahead| ahead.session.wait()).transpose()?.flatten();
        let graph = DecoderGraph::open_loaded(loaded, bundle, geometry, runtime)?;
        tell!(Info, "{}x{} is decoded on {}", geometry.width, geometry.height, graph.provider());
        Ok(graph)
    }
}

/// A graph, or the work that opens it.
#[derive(Default)]
pub(super) struct Opening {
    work: Option<Work<DecoderGraph>>,
    graph: Option<DecoderGraph>,
}

impl Opening {
    /// Begins to open the graph, unless that was done before.
    pub fn begin(&mut self, source: &Arc<Source>, ahead: Option<GraphAhead>) -> Result<()> {
        if self.work.is_none() && self.graph.is_none() {
            let source = source.clone();
            self.work = Some(Work::begin(move || source.open(ahead))?);
        }
        Ok(())
    }

    /// The graph, once it is open. After an error it can be begun again.
    pub fn wait(&mut self) -> Result<&mut DecoderGraph> {
        if let Some(work) = self.work.take() {
            self.graph = Some(work.wait()?);
        }
        self.graph.as_mut().ok_or_else(|| Error::Runtime("the decoder's graph was not opened".into()))
    }

    /// The graph, if it was waited for.
    pub fn graph(&self) -> Option<&DecoderGraph> {
        self.graph.as_ref()
    }
}
