// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any bytes as a block: parsing, times, thinning.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| elastictok::internals::fuzzing::block(data));
