#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Installs what is missing and runs all tests: Rust core, elements, pipelines, and the models' graphs. Official models are tested
# against the parity fixtures in $ELASTICTOK_FIXTURES (default: ../shared/fixtures/official) where these are, else against our own.
set -eu
cd "$(dirname "$0")/.."
./install-deps.sh --test
cargo test --workspace
echo "onnx/: graphs against their definition, official models against the fixtures"
(cd onnx && ../.cache/venv/bin/python -m pytest -q -rs tests)
