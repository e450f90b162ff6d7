// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any bytes as a byte stream: the same units however it is cut.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| elastictok::internals::fuzzing::stream(data));
