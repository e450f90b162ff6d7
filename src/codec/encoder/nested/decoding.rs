// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decodes what was coded, for the next block to be predicted from, on a thread of its own where there are two: the packet goes out and
//! the next frames come in meanwhile.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::loops::{Loops, Part};
use crate::{Error, Result};

/// A block that was decoded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decoded {
    /// Of luma, as receivers of most layers have it.
    pub psnr: f64,
    /// When it was done, and the time that graphs took.
    pub at: Instant,
    pub runtime: Duration,
}

/// Decodes what was loaded into `loops`, and makes it the reference.
fn decode(loops: &mut Loops, part: Part) -> Result<Decoded> {
    let runtime = loops.decode(part)?;
    let psnr = loops.psnr(part);
    loops.commit(part);
    Ok(Decoded { psnr, at: Instant::now(), runtime })
}

/// The loops of an encoder, which are here or with the thread that decodes.
pub(super) struct Decoding {
    loops: Option<Box<Loops>>,
    decoded: Option<Result<Decoded>>,
    thread: Option<DecodingThread>,
}

impl Decoding {
    /// With one of `threads` threads, or beside the caller if there are more.
    pub fn new(loops: Loops, threads: usize) -> Result<Self> {
        let thread = (threads > 1).then(DecodingThread::new).transpose()?;
        Ok(Self { loops: Some(Box::new(loops)), decoded: None, thread })
    }

    /// The loops, after what they decode.
    pub fn loops(&mut self) -> Result<&mut Loops> {
        let ended = || Error::Runtime("the thread that decodes has ended; this is a bug".into());
        if let (None, Some(thread)) = (&self.loops, &self.thread)
            && let Ok((loops, decoded)) = thread.done.recv()
        {
            (self.loops, self.decoded) = (Some(loops), Some(decoded));
        }
        self.loops.as_deref_mut().ok_or_else(ended)
    }

    /// Begins to decode what was loaded into the loops of `part`.
    pub fn start(&mut self, part: Part) -> Result<()> {
        self.loops()?;
        let Some(mut loops) = self.loops.take() else { return Ok(()) };
        match self.thread.as_ref().and_then(|thread| thread.jobs.as_ref()) {
            // It cannot have ended, unless by a panic, which shows when the loops are asked for.
            Some(jobs) => drop(jobs.send((loops, part))),
            None => {
                self.decoded = Some(decode(&mut loops, part));
                self.loops = Some(loops);
            }
        }
        Ok(())
    }

    /// Whether the thread may be at work.
    pub fn is_busy(&self) -> bool {
        self.loops.is_none()
    }

    /// Waits for what was begun; gives it once.
    pub fn finish(&mut self) -> Result<Option<Decoded>> {
        self.loops()?;
        self.decoded.take().transpose()
    }
}

type Job = (Box<Loops>, Part);
type Done = (Box<Loops>, Result<Decoded>);

/// A thread that decodes one block at a time. Its end is waited for.
struct DecodingThread {
    /// `None` when it is to end.
    jobs: Option<SyncSender<Job>>,
    done: Receiver<Done>,
    handle: Option<JoinHandle<()>>,
}

impl DecodingThread {
    fn new() -> Result<Self> {
        let (jobs, taken) = sync_channel::<Job>(1);
        let (give, done) = sync_channel(1);
        let work = move || {
            for (mut loops, part) in taken {
                let decoded = decode(&mut loops, part);
                if give.send((loops, decoded)).is_err() {
                    break;
                }
            }
        };
        let handle = std::thread::Builder::new().name("elastictok-decoding".into()).spawn(work);
        let handle = handle.map_err(|e| Error::Runtime(format!("no thread for decoding: {e}; set threads=1")))?;
        Ok(Self { jobs: Some(jobs), done, handle: Some(handle) })
    }
}

impl Drop for DecodingThread {
    fn drop(&mut self) {
        drop(self.jobs.take());
        let _ = self.handle.take().map(JoinHandle::join);
    }
}
