# shellcheck shell=sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# For the other examples: `. examples/env.sh` installs what is missing, builds the plugin and shows it to GStreamer.
# shellcheck disable=SC2086 # DEPS: none, or one option
./install-deps.sh ${DEPS:-}
cargo build --release --package gst-plugin-elastictok
GST_PLUGIN_PATH=${CARGO_TARGET_DIR:-$PWD/target}/release${GST_PLUGIN_PATH:+:$GST_PLUGIN_PATH}
export GST_PLUGIN_PATH
