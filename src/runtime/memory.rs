// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks that a model fits in memory. Where it does not, the system would kill the process instead of refusing the
//! allocation.
//!
//! Graphs take most of their memory in the first run, so the system reports too much as free before it. What each instance
//! asked for therefore counts as taken until it has run.

use std::sync::{Mutex, PoisonError};

use super::available::available;
use super::contract::{ContextSpec, Spec};
use crate::bundle::{Bottleneck, Manifest};
use crate::frame::Geometry;
use crate::{Error, Result};

/// Bytes for each pixel that decoding takes with a nested bundle, graph and coder. At 3840x2160 the builtin one takes
/// 105, and with the encoder's 210.
pub(super) const DECODING: u64 = 150;
/// The same for an encoder's own graph and its searches, in addition.
pub(super) const ENCODING: u64 = 110;

/// Host memory that a graph takes on pictures of `geometry`: `pixel` bytes for each pixel with a nested bundle; with others,
/// each context twice and the tensors of `specs`, which are most of it.
pub(super) fn needed(m: &Manifest, g: &Geometry, pixel: u64, contexts: &[ContextSpec], specs: &[&Spec]) -> u64 {
    let sum = |all: &mut dyn Iterator<Item = Option<u64>>| all.map(|n| n.unwrap_or(u64::MAX)).fold(0, u64::saturating_add);
    let contexts = sum(&mut contexts.iter().map(ContextSpec::bytes)).saturating_mul(2);
    let tensors = sum(&mut specs.iter().map(|s| s.bytes()));
    match m.bottleneck {
        Bottleneck::Nested { .. } => contexts.max(pixel * g.aligned_width as u64 * g.aligned_height as u64),
        Bottleneck::Fsq { .. } | Bottleneck::Vae { .. } => contexts.saturating_add(tensors),
    }
}

/// Bytes that instances have asked for and not used yet.
struct Ledger(Mutex<u64>);

static LEDGER: Ledger = Ledger(Mutex::new(0));

impl Ledger {
    /// Counts `bytes` as taken if they fit into what is `free`, which is asked for under the lock, so that no other instance
    /// can come between.
    fn reserve(&'static self, bytes: u64, g: &Geometry, free: impl FnOnce() -> Option<u64>) -> Result<Reservation> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(free) = free().filter(|free| bytes > free.saturating_sub(*taken)) {
            let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
            let others = match *taken {
                0 => String::new(),
                taken => format!(", of which other instances in this process have asked for {:.1} GiB", gib(taken)),
            };
            return Err(Error::Limit(format!(
                "the model needs about {:.1} GiB for pictures of {}x{}, and {:.1} GiB of memory are free{others}; scale the video down (videoscale), or use a bundle with less context",
                gib(bytes),
                g.width,
                g.height,
                gib(free)
            )));
        }
        *taken = taken.saturating_add(bytes);
        Ok(Reservation { ledger: self, bytes })
    }
}

/// Memory that an instance will take.
pub(super) struct Reservation {
    ledger: &'static Ledger,
    bytes: u64,
}

impl Reservation {
    /// Reserves `bytes` for pictures of `geometry`, if that much is free.
    pub fn new(bytes: u64, geometry: &Geometry) -> Result<Self> {
        LEDGER.reserve(bytes, geometry, available)
    }

    /// The memory is in use: from now on the system counts it.
    fn settle(&mut self) {
        let mut taken = self.ledger.0.lock().unwrap_or_else(PoisonError::into_inner);
        *taken = taken.saturating_sub(std::mem::take(&mut self.bytes));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.settle();
    }
}

#[cfg(test)]
mod tests {
    use ort::value::TensorElementType as Type;

    use super::*;
    use crate::bundle::Bundle;

    fn context(shape: &[i64]) -> ContextSpec {
        ContextSpec { name: "enc.key".into(), ty: Type::Float32, shape: shape.to_vec() }
    }

    /// Why `bytes` of `free` are refused, if they are.
    fn refusal(bytes: u64, free: u64) -> Option<String> {
        static OWN: Ledger = Ledger(Mutex::new(0));
        let geometry = Bundle::builtin().expect("valid").geometry(8192, 8192).expect("size");
        OWN.reserve(bytes, &geometry, || Some(free)).err().map(|e| e.to_string())
    }

    #[test]
    fn contexts_count_twice_and_tensors_once() {
        let builtin = Bundle::builtin().expect("valid");
        let geometry = builtin.geometry(64, 64).expect("size");
        let mut manifest = builtin.manifest.clone();
        let two = [context(&[40, 8, 16384, 128]), context(&[40, 8, 16384, 128])];
        assert_eq!(two[0].bytes(), Some(4 * 40 * 8 * 16384 * 128));
        let ten = 10 << 30;
        assert_eq!(needed(&manifest, &geometry, 200, &two, &[]), ten, "more than the pixels");
        assert_eq!(needed(&manifest, &geometry, 200, &[], &[]), 200 * 64 * 64);
        manifest.bottleneck = Bottleneck::Fsq { levels: vec![8] };
        let frames = Spec { name: "frames", ty: Type::Uint8, shape: vec![4, 64, 64, 3] };
        assert_eq!(needed(&manifest, &geometry, 200, &two, &[&frames, &frames]), ten + 2 * 4 * 64 * 64 * 3);
        assert_eq!(needed(&manifest, &geometry, 200, &[context(&[i64::MAX, 9])], &[]), u64::MAX);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_numbers() {
        assert_eq!(refusal(10 << 30, 11 << 30), None);
        let error = refusal(10 << 30, 4 << 30).expect("10 GiB in 4");
        for part in ["10.0 GiB", "8192x8192", "4.0 GiB", "videoscale"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(refusal(u64::MAX, u64::MAX - 1).is_some());
    }

    #[test]
    fn what_others_have_asked_for_is_not_free() {
        static OWN: Ledger = Ledger(Mutex::new(0));
        let geometry = Bundle::builtin().expect("valid").geometry(4096, 2304).expect("size");
        let reserve = |gib: u64| OWN.reserve(gib << 30, &geometry, || Some(10 << 30));
        let mut first = reserve(6).expect("fits");
        let error = reserve(6).err().expect("12 GiB in 10").to_string();
        assert!(error.contains("other instances") && error.contains("6.0 GiB"), "{error}");
        let second = reserve(4).expect("just fits");
        assert!(reserve(1).is_err());
        drop(second);
        first.settle();
        // the system's number has it now
        let third = OWN.reserve(4 << 30, &geometry, || Some(4 << 30)).expect("fits");
        drop((first, third));
        assert_eq!(*OWN.0.lock().expect("no panic"), 0);
    }
}
