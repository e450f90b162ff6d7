// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads for several coding loops: side by side, one thread each where there are as many loops as threads, they scale better than one
//! after the other with all threads each.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// Threads on which loops run; without any they run one after the other.
#[derive(Debug)]
pub(super) struct Crew {
    pool: Option<rayon::ThreadPool>,
    /// Threads that the graphs of a loop use.
    pub threads_each: usize,
}

impl Crew {
    /// `threads` for at most `loops` loops.
    pub fn new(threads: usize, loops: usize) -> Result<Self> {
        let members = threads.min(loops);
        if members < 2 {
            return Ok(Self { pool: None, threads_each: threads });
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(members).thread_name(|_| "elastictok-loop".into()).build();
        let pool = pool.map_err(|e| Error::Runtime(format!("no threads for the coding loops: {e}; set threads=1")))?;
        Ok(Self { pool: Some(pool), threads_each: threads / members })
    }

    /// Does all jobs, in any order, and waits for them. Returns the time that passed as a share of the time of all jobs together, or one of
    /// their errors.
    pub fn each<T: Send>(&self, jobs: impl Iterator<Item = T>, work: impl Fn(T) -> Result<()> + Sync) -> Result<f64> {
        let started = Instant::now();
        let busy = Mutex::new(Ok(Duration::ZERO));
        let work = |job: T| {
            let started = Instant::now();
            let done = work(job);
            let mut busy = busy.lock().unwrap_or_else(PoisonError::into_inner);
            match (done, &mut *busy) {
                (Ok(()), Ok(sum)) => *sum += started.elapsed(),
                (Ok(()), Err(_)) => {}
                (Err(error), busy) => *busy = Err(error),
            }
        };
        match &self.pool {
            None => jobs.for_each(work),
            Some(pool) => pool.in_place_scope(|scope| {
                let work = &work;
                jobs.for_each(|job| scope.spawn(move |_| work(job)));
            }),
        }
        let busy = busy.into_inner().unwrap_or_else(PoisonError::into_inner)?;
        Ok(if busy.is_zero() { 1.0 } else { started.elapsed().div_duration_f64(busy) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    #[test]
    fn every_job_is_done_and_errors_come_back() {
        for (threads, loops, each) in [(1, 4, 1), (2, 1, 2), (2, 4, 1), (4, 2, 2), (3, 2, 1)] {
            let crew = Crew::new(threads, loops).expect("threads");
            assert_eq!(crew.threads_each, each);
            let sum = AtomicU32::new(0);
            crew.each([1, 2, 4, 8].into_iter(), |n| {
                sum.fetch_add(n, Relaxed);
                Ok(())
            })
            .expect("all succeed");
            assert_eq!(sum.into_inner(), 15);
            let error = crew.each(0..3, |n| if n == 1 { Err(Error::Runtime("one".into())) } else { Ok(()) });
            assert!(error.is_err_and(|e| e.to_string().contains("one")));
        }
    }
}
