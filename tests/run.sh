#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Installs what is missing and runs all tests: Rust core, elements, pipelines, and the models' graphs. Official models are tested
# against the parity fixtures in $ELASTICTOK_FIXTURES (default: ../shared/fixtures/official) where these are. The last lines say what
# did not run.
set -eu
cd "$(dirname "$0")/.."
./install-deps.sh --test
fixtures=${ELASTICTOK_FIXTURES:-../shared/fixtures/official}
ignored=
missing=
if [ -d "$fixtures" ]; then
    # Official checkpoints become bundles here, for the Rust tests to run.
    ELASTICTOK_FIXTURES=$(cd "$fixtures" && pwd)
    ELASTICTOK_FIXTURE_BUNDLES=$(mktemp -d)
    export ELASTICTOK_FIXTURES ELASTICTOK_FIXTURE_BUNDLES
    trap 'rm -rf "$ELASTICTOK_FIXTURE_BUNDLES"' EXIT
    for config in "$ELASTICTOK_FIXTURES"/*/config.json; do
        case=$(dirname "$config")
        (cd onnx && ../.cache/venv/bin/python -m elastictok_models import-official "$case/params" --config-json "$config" \
            --out "$ELASTICTOK_FIXTURE_BUNDLES/$(basename "$case")")
    done
    ignored=--include-ignored
else
    missing="the official fixtures are not in $fixtures; set ELASTICTOK_FIXTURES"
fi
cargo test --workspace -- $ignored
echo "README.md: its commands"
# as the tests have it built: of the same features, so nothing is compiled again
cargo build --workspace --all-targets --quiet
python3 tests/readme.py "${CARGO_TARGET_DIR:-target}/debug"
echo "streams over sockets: RTSP, MoQ, TCP, SRT"
/usr/bin/python3 tests/streaming.py "${CARGO_TARGET_DIR:-target}/debug"
echo "onnx/: graphs against their definition, official models against the fixtures"
(cd onnx && ../.cache/venv/bin/python -m pytest -q -rs tests)
if [ "$missing" ]; then
    echo "did not run, because $missing:"
    cargo test --workspace --quiet -- --ignored --list 2>/dev/null | sed -n 's/^\(.*\): test$/    \1/p'
    echo "    and those that pytest lists above as SKIPPED"
fi
