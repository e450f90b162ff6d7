// SPDX-License-Identifier: MIT OR Apache-2.0
//! `tables.bin` of a bundle: how every entropy context starts and adapts, the classes of coefficients, and the biases of
//! reconstruction.

use super::{Context, MAX_HISTORY};
use crate::{Error, Result};

const MAGIC: [u8; 4] = *b"ETKT";
const VERSION: u8 = 1;
const HEADER: usize = 12;
const MAX_CONTEXTS: usize = u16::MAX as usize;
const MAX_CLASSES: usize = 1 << 15;
const MAX_BIASES: usize = 1 << 12;

/// Memories are stored as an index into this list (bits coded).
pub const HISTORIES: [u16; 21] = [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, MAX_HISTORY];

/// How a context begins every segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextInit {
    /// Probability of a zero bit in 1/65536, at least 1.
    pub zero: u16,
    /// Index into the list of memories 0, 1, 2, 3, 4, 6, 8, .. 768, 1023: what the table's probability is worth.
    pub confidence: u8,
    /// Index into the same list: the longest memory.
    pub limit: u8,
}

impl Default for ContextInit {
    fn default() -> Self {
        Self { zero: 1 << 15, confidence: 1, limit: 14 }
    }
}

/// The static tables of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    init: Vec<ContextInit>,
    classes: Vec<u8>,
    biases: Vec<u8>,
}

impl Tables {
    /// Untrained tables: `contexts` even probabilities, default classes, no bias. For bundles without tables, and to start
    /// training.
    pub fn flat(contexts: usize) -> Self {
        Self { init: vec![ContextInit::default(); contexts], classes: Vec::new(), biases: Vec::new() }
    }

    /// Tables from their parts: `classes` has one entry per coefficient or is empty, `biases` are in 1/256 of an interval.
    pub fn from_parts(init: Vec<ContextInit>, classes: Vec<u8>, biases: Vec<u8>) -> Result<Self> {
        Self { init, classes, biases }.validated()
    }

    fn validated(self) -> Result<Self> {
        let bad = |what: &str| Err(Error::Model(format!("tables.bin: {what}; export the bundle's tables again")));
        if self.init.len() > MAX_CONTEXTS || self.classes.len() > MAX_CLASSES || self.biases.len() > MAX_BIASES {
            return bad("more entries than any bundle needs");
        }
        let known = |index: u8| usize::from(index) < HISTORIES.len();
        if self.init.iter().any(|c| c.zero == 0 || !known(c.confidence) || !known(c.limit) || c.limit == 0) {
            return bad("a context has probability 0 or an unknown memory");
        }
        Ok(self)
    }

    /// Reads `tables.bin`.
    pub fn parse(data: &[u8]) -> Result<Self> {
        let bad = |what: String| Error::Model(format!("tables.bin: {what}; export the bundle's tables again"));
        let header = data.get(..HEADER).ok_or_else(|| bad(format!("{} bytes are too few", data.len())))?;
        if header[..4] != MAGIC {
            return Err(bad("not a table file".into()));
        }
        if header[4] != VERSION {
            return Err(Error::Unsupported(format!("tables.bin has version {}, this build reads {VERSION}", header[4])));
        }
        let size = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
        let (contexts, classes, biases) = (size(6), size(8), size(10));
        let expected = HEADER + 4 * contexts + classes + biases;
        if data.len() != expected {
            return Err(bad(format!("{} bytes where its header says {expected}", data.len())));
        }
        let (init, rest) = data[HEADER..].split_at(4 * contexts);
        let (classes, biases) = rest.split_at(classes);
        let init = init
            .chunks_exact(4)
            .map(|c| ContextInit { zero: u16::from_le_bytes([c[0], c[1]]), confidence: c[2], limit: c[3] })
            .collect();
        Self::from_parts(init, classes.to_vec(), biases.to_vec())
    }

    /// The bytes of `tables.bin`; equal tables have equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + 4 * self.init.len() + self.classes.len() + self.biases.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, 0]);
        for n in [self.init.len(), self.classes.len(), self.biases.len()] {
            out.extend_from_slice(&(n as u16).to_le_bytes());
        }
        for c in &self.init {
            out.extend_from_slice(&c.zero.to_le_bytes());
            out.extend_from_slice(&[c.confidence, c.limit]);
        }
        out.extend_from_slice(&self.classes);
        out.extend_from_slice(&self.biases);
        out
    }

    /// Number of contexts.
    pub fn len(&self) -> usize {
        self.init.len()
    }

    /// Whether there are no contexts at all.
    pub fn is_empty(&self) -> bool {
        self.init.is_empty()
    }

    /// The contexts as each segment starts with them.
    pub fn contexts(&self) -> impl Iterator<Item = Context> + '_ {
        let history = |index: u8| HISTORIES[usize::from(index)];
        self.init.iter().map(move |c| Context::new(c.zero, history(c.confidence), history(c.limit)))
    }

    /// How each context starts.
    pub fn init(&self) -> &[ContextInit] {
        &self.init
    }

    /// Class of every coefficient in token order; empty: the default classes.
    pub fn classes(&self) -> &[u8] {
        &self.classes
    }

    /// Reconstruction biases in 1/256 of the remaining interval; missing ones are 0.
    pub fn biases(&self) -> &[u8] {
        &self.biases
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn some() -> Tables {
        let init = (1..40).map(|i| ContextInit { zero: i * 1000, confidence: (i % 20) as u8, limit: 20 }).collect();
        Tables::from_parts(init, vec![1, 2, 3], vec![7; 5]).expect("valid")
    }

    #[test]
    fn bytes_round_trip() {
        assert_eq!(Tables::parse(&some().to_bytes()).expect("parses"), some());
        assert_eq!(some().to_bytes(), some().to_bytes());
    }

    #[test]
    fn wrong_files_are_refused() {
        let good = some().to_bytes();
        for cut in [0, 3, 11, good.len() - 1] {
            assert!(matches!(Tables::parse(&good[..cut]), Err(Error::Model(_))));
        }
        let mut newer = good.clone();
        newer[4] = 9;
        assert!(matches!(Tables::parse(&newer), Err(Error::Unsupported(_))));
        let mut zero = good.clone();
        zero[HEADER..HEADER + 2].fill(0);
        assert!(matches!(Tables::parse(&zero), Err(Error::Model(_))));
        let mut memory = good;
        memory[HEADER + 3] = 21;
        assert!(matches!(Tables::parse(&memory), Err(Error::Model(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail(data in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Tables::parse(&data);
        }
    }
}
