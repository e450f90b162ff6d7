// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any bytes as the payloads of a block whose checksums hold: tokens, motion and counts, without a graph.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| elastictok::internals::fuzzing::segments(data));
