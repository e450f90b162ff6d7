// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads for several coding loops: side by side, one thread each where there are as many loops as threads, they scale better than one
//! after the other with all threads each.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// Threads on which loops run; without any they run one after the other. Loops belong to members, one for each thread.
#[derive(Debug)]
pub(super) struct Crew {
    pool: Option<rayon::ThreadPool>,
    /// Loops that run at a time.
    pub members: usize,
    /// Threads that the graphs of a loop use.
    pub threads_each: usize,
}

impl Crew {
    /// `threads` for at most `loops` loops.
    pub fn new(threads: usize, loops: usize) -> Result<Self> {
        let members = threads.min(loops);
        if members < 2 {
            return Ok(Self { pool: None, members: 1, threads_each: threads });
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(members).thread_name(|_| "elastictok-loop".into()).build();
        let pool = pool.map_err(|e| Error::Runtime(format!("no threads for the coding loops: {e}; set threads=1")))?;
        Ok(Self { pool: Some(pool), members, threads_each: threads / members })
    }

    /// The member that loop `number` belongs to. Number 0 is the loop of all layers, which takes longest, so of three members and more one has
    /// nothing else. The first loop of a member has its number.
    pub fn member(&self, number: usize) -> usize {
        match self.members {
            1 => 0,
            2 => number % 2,
            _ if number == 0 => 0,
            members => 1 + (number - 1) % (members - 1),
        }
    }

    /// Does the jobs of loops, given with their numbers, and waits for them. Those of a member are done one after the other. Returns the
    /// time that passed as a share of the time of all jobs together, or one of their errors.
    pub fn each<T: Send>(
        &self,
        jobs: impl Iterator<Item = (usize, T)>,
        work: impl Fn(usize, T) -> Result<()> + Sync,
    ) -> Result<f64> {
        let started = Instant::now();
        let busy = Mutex::new(Ok(Duration::ZERO));
        let work = |(number, job): (usize, T)| {
            let started = Instant::now();
            let done = work(number, job);
            let mut busy = busy.lock().unwrap_or_else(PoisonError::into_inner);
            match (done, &mut *busy) {
                (Ok(()), Ok(sum)) => *sum += started.elapsed(),
                (Ok(()), Err(_)) => {}
                (Err(error), busy) => *busy = Err(error),
            }
        };
        match &self.pool {
            None => jobs.for_each(work),
            Some(pool) => {
                let mut of_members: Vec<Vec<(usize, T)>> = (0..self.members).map(|_| Vec::new()).collect();
                jobs.for_each(|job| of_members[self.member(job.0)].push(job));
                let work = &work;
                pool.in_place_scope(|scope| {
                    for jobs in of_members.into_iter().filter(|jobs| !jobs.is_empty()) {
                        scope.spawn(move |_| jobs.into_iter().for_each(work));
                    }
                });
            }
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
            crew.each([1, 2, 4, 8].into_iter().enumerate(), |number, n| {
                assert_eq!(n, 1 << number);
                sum.fetch_add(n, Relaxed);
                Ok(())
            })
            .expect("all succeed");
            assert_eq!(sum.into_inner(), 15);
            for number in 0..5 {
                assert!(crew.member(number) < crew.members);
                assert!(number >= crew.members || crew.member(number) == number, "a member's first loop has its number");
            }
            let error = crew.each((0..3).zip(0..3), |_, n| if n == 1 { Err(Error::Runtime("one".into())) } else { Ok(()) });
            assert!(error.is_err_and(|e| e.to_string().contains("one")));
        }
    }
}
