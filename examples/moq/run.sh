#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Media over QUIC in one command: a relay, a publisher, and a viewer of one layer less than there are. Or a part of it alone.
#
# usage: examples/moq/run.sh [demo | relay | publish | watch] [OPTION ...]
#   examples/moq/run.sh                                  all in one
#   examples/moq/run.sh publish --url https://HOST:4443  and --help for all options
# Environment: VENV (where the pinned wheels are installed, default .cache/moq)
set -eu
cd "$(dirname "$0")/../.."
venv=${VENV:-.cache/moq}
if [ ! -x "$venv/bin/python" ]; then
    # GStreamer's Python modules are the system's.
    /usr/bin/python3 -m venv --system-site-packages "$venv"
    "$venv/bin/pip" install --quiet --requirement examples/moq/requirements.txt
fi
if [ -z "${GST_PLUGIN_PATH:-}" ]; then
    . examples/env.sh
fi
exec "$venv/bin/python" examples/moq/elastictok_moq.py "${@:-demo}"
