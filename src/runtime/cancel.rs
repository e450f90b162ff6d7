// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ending runs of graphs from another thread.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use ort::session::RunOptions;

use crate::{Error, Result};

/// Ends what an encoder or a decoder computes, from any thread and without waiting for it.
///
/// Give a clone of it to graphs with [`RuntimeConfig::canceller`](super::RuntimeConfig::canceller). From
/// [`cancel`](Self::cancel) until [`resume`](Self::resume) their runs fail with [`Error::Cancelled`]. A run in progress ends
/// after the graph node that it is at, and a search ends with the run that it is at.
#[derive(Clone, Default)]
pub struct Canceller(Arc<Shared>);

#[derive(Default)]
struct Shared {
    cancelled: AtomicBool,
    /// What ONNX Runtime looks at during runs. Made with the first graph: before that, its library may not be loaded.
    options: Mutex<Option<Arc<RunOptions>>>,
}

impl Canceller {
    /// Ends runs in progress and refuses further ones.
    pub fn cancel(&self) {
        let options = self.lock();
        self.0.cancelled.store(true, Ordering::SeqCst);
        // If this fails, the run in progress is the last one.
        let _ = options.as_ref().map(|options| options.terminate());
    }

    /// Permits runs again. After a cancelled block, encoder and decoder continue with a key block.
    pub fn resume(&self) {
        let options = self.lock();
        let _ = options.as_ref().map(|options| options.unterminate());
        self.0.cancelled.store(false, Ordering::SeqCst);
    }

    /// Whether runs are refused.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// The options that runs must have so that they can be ended.
    pub(super) fn options(&self) -> Result<Arc<RunOptions>> {
        let mut options = self.lock();
        if let Some(options) = &*options {
            return Ok(options.clone());
        }
        let failed = |e| Error::Runtime(format!("no options for runs: {e}"));
        let made = Arc::new(RunOptions::new().map_err(failed)?);
        if self.is_cancelled() {
            made.terminate().map_err(failed)?;
        }
        Ok(options.insert(made).clone())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<RunOptions>>> {
        self.0.options.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller").field("cancelled", &self.is_cancelled()).finish_non_exhaustive()
    }
}

/// Two are equal if they are clones of one.
impl PartialEq for Canceller {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Canceller {}
