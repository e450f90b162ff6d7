// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any bytes as RTP payloads, and as a block on its way into them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| elastictok::internals::fuzzing::rtp(data));
