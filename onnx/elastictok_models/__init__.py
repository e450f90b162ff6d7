# SPDX-License-Identifier: MIT OR Apache-2.0
"""Models of ElasticTok for GStreamer: definition, training and export of the bundles that the Rust core runs."""
