#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Installs what is missing and runs all tests: Rust core, elements, pipelines, and the model's graphs.
set -eu
cd "$(dirname "$0")/.."
./install-deps.sh --test
cargo test --workspace
echo "onnx/: graphs against their definition"
(cd onnx && ../.cache/venv/bin/python -m pytest -q -rs tests)
