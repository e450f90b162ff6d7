// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bytes that pin the format: a change here is a new version of the format.
