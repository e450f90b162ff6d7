# SPDX-License-Identifier: MIT OR Apache-2.0
"""Builds the plugin with cargo for meson: CARGO SOURCE BUILD PROFILE OUTPUT DEPFILE."""
import pathlib
import shutil
import subprocess
import sys

cargo, source, build, profile, output, depfile = sys.argv[1:]
target = pathlib.Path(build) / "target"
subprocess.run([cargo, "build", "--package", "gst-plugin-elastictok", "--lib", "--profile", profile,
                "--manifest-path", str(pathlib.Path(source) / "Cargo.toml"), "--target-dir", str(target)], check=True)
built = target / ("debug" if profile == "dev" else profile) / "libgstelastictok.so"
shutil.copy2(built, output)
# cargo's own list of what the library was made from, under the name meson knows it by
sources = built.with_suffix(".d").read_text().split(":", 1)[1]
pathlib.Path(depfile).write_text(f"{output}:{sources}")
