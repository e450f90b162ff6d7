// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two jobs at a time.

use crate::{Error, Result};

/// Runs two jobs, in parallel if there is a thread for the second.
#[derive(Debug)]
pub(crate) struct Pair(Option<rayon::ThreadPool>);

impl Pair {
    /// With one or two of `threads` threads. The second is called `name`.
    pub fn new(threads: usize, name: &'static str) -> Result<Self> {
        let second = || rayon::ThreadPoolBuilder::new().num_threads(1).thread_name(move |_| name.into()).build();
        let second = (threads > 1).then(second).transpose();
        Ok(Self(second.map_err(|e| Error::Runtime(format!("no thread {name}: {e}; set threads=1")))?))
    }

    /// One job after the other.
    pub fn single() -> Self {
        Self(None)
    }

    pub fn run(&self, first: impl FnOnce(), second: impl FnOnce() + Send) {
        match &self.0 {
            None => {
                first();
                second();
            }
            Some(thread) => thread.in_place_scope(|scope| {
                scope.spawn(|_| second());
                first();
            }),
        }
    }
}
