// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any bytes as a media segment and as a media index.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| elastictok::internals::fuzzing::media(data));
