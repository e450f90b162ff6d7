#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Installs what is missing and runs all tests: Rust core, elements, pipelines, and the models' graphs. Official models are tested
# against the parity fixtures in $ELASTICTOK_FIXTURES (default: ../shared/fixtures/official) where these are, else against our own.
set -eu
cd "$(dirname "$0")/.."
./install-deps.sh --test
# Official checkpoints become bundles here, for the Rust tests to run.
fixtures=${ELASTICTOK_FIXTURES:-../shared/fixtures/official}
if [ -d "$fixtures" ]; then
    ELASTICTOK_FIXTURES=$(cd "$fixtures" && pwd)
    ELASTICTOK_FIXTURE_BUNDLES=$(mktemp -d)
    export ELASTICTOK_FIXTURES ELASTICTOK_FIXTURE_BUNDLES
    trap 'rm -rf "$ELASTICTOK_FIXTURE_BUNDLES"' EXIT
    for case in fsq_single fsq_multi vae_single vae_multi vae_fullsize binary_search; do
        (cd onnx && ../.cache/venv/bin/python -m elastictok_models import-official "$ELASTICTOK_FIXTURES/$case/params" \
            --config-json "$ELASTICTOK_FIXTURES/$case/config.json" --out "$ELASTICTOK_FIXTURE_BUNDLES/$case")
    done
fi
cargo test --workspace
echo "onnx/: graphs against their definition, official models against the fixtures"
(cd onnx && ../.cache/venv/bin/python -m pytest -q -rs tests)
