// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any bytes as a sequence header: to caps, to raw video, and back.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gstelastictok::fuzzing::header(data));
