// SPDX-License-Identifier: MIT OR Apache-2.0
//! What trains the tables of nested bundles: dumps of latents, statistics of entropy contexts, fitting.
//!
//! The programs are in `src/bin/`: `codec` encodes and decodes files and writes dumps, `collect_tables` trains `tables.bin`,
//! `truncate` gives training its receivers of fewer layers, `motion_report` measures the motion search.

pub mod collect;
pub mod dump;
pub mod train;
