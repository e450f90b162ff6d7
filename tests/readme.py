# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs the commands of README.md, with generated video in place of cameras and files, and no screen.

usage: readme.py TARGET_DIRECTORY

TARGET_DIRECTORY is where cargo put a build of the workspace with its examples, such as target/debug. A command that this script
does not know how to run is a failure, so a new one needs a rule here. Those that install or build are only checked to name
files that are there; .ci/run and packaging/ run them."""
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(sys.argv[1]).resolve()
VIDEO = "video/x-raw,width=160,height=96,framerate=15/1"
CAMERA = f"videotestsrc pattern=ball num-buffers=30 ! {VIDEO}"
TIMEOUT = 180
# Commands that change the machine or take minutes: what they name must exist.
NOT_RUN = ("examples/quickstart.sh", "tests/run.sh", "packaging/deb.sh", "sudo", "meson", "cargo install", "cargo cinstall")


def commands(text: str) -> list[str]:
    """Commands in indented blocks and in table cells, lines that end in a backslash joined."""
    found, line = [], ""
    for raw in text.splitlines():
        if raw.startswith("    ") and raw.strip():
            line += raw.strip()
            if line.endswith("\\"):
                line = line[:-1]
                continue
            found.append(line)
            line = ""
        elif raw.startswith("|"):
            found += re.findall(r"`(etok [^`]*)`", raw)
    return found


def runnable(command: str) -> str:
    """The command with what a test machine lacks replaced."""
    command = re.sub(r"^cargo run --release -p gst-plugin-elastictok --example (\w+) --", f"{TARGET}/examples/\\1", command)
    command = re.sub(r"^etok ", f"{TARGET}/etok ", command)
    command = command.replace("v4l2src", CAMERA).replace("encode camera", f"encode test:ball --size 160x96 --max-frames 30")
    command = command.replace("model=BUNDLE", f"model={ROOT}/tests/bundles/fsq")
    if "udpsrc" in command:
        # A receiver over UDP never sees an end.
        return command.replace("autovideosink", "fakesink num-buffers=10")
    if "/etok play" in command:
        return command + " --sink fakesink"
    if "/etok encode" in command or "/etok thin" in command or "/etok decode" in command:
        return command + " --force"
    return command.replace("autovideosink", "fakesink")


def waits(command: str) -> bool:
    """Whether the command is a receiver, which the next one sends to."""
    return "tcpserversrc" in command or "udpsrc" in command


def wait_for(command: str) -> None:
    """Waits until the receiver listens on its port. To connect and see would take the one sender's place."""
    port = int(re.search(r"port=(\d+)", command)[1])
    tables = [pathlib.Path("/proc/net") / name for name in ("tcp", "tcp6", "udp", "udp6")]
    for _ in range(TIMEOUT * 10):
        lines = [line.split() for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
        # Listening (0A) over TCP, or bound (07) over UDP.
        if any(line[1].endswith(f":{port:04X}") and line[3] in ("0A", "07") for line in lines):
            return
        time.sleep(0.1)
    sys.exit(f"does not listen: {command}")


def run_all(text: str, folder: pathlib.Path) -> int:
    env = os.environ | {"GST_PLUGIN_PATH": str(TARGET), "GST_REGISTRY": str(folder / "registry.bin"), "NO_COLOR": "1"}
    launch = lambda c: subprocess.Popen(["sh", "-ec", c], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    make = lambda c: subprocess.run(["sh", "-ec", c], cwd=folder, env=env, check=True, timeout=TIMEOUT, stdout=subprocess.DEVNULL)
    make(f"gst-launch-1.0 -q videotestsrc pattern=ball num-buffers=30 ! {VIDEO} ! x264enc ! mp4mux ! filesink location=in.mp4")
    make("gst-launch-1.0 -q videotestsrc num-buffers=1 ! video/x-raw,width=64,height=48 ! pngenc ! filesink location=photo.png")
    ran, receiver = 0, None
    for command in commands(text):
        if command.startswith(NOT_RUN):
            name = shlex.split(command)[0]
            assert "/" not in name or (ROOT / name).is_file(), f"no such file: {name}"
            continue
        assert command.startswith(("etok ", "gst-launch-1.0 ", "cargo run ")), f"no rule to run this: {command}"
        process = launch(runnable(command))
        if waits(command):
            receiver = (command, process)
            wait_for(command)
            continue
        pairs = [(command, process)] + ([receiver] if receiver else [])
        receiver = None
        for said, process in pairs:
            try:
                output = process.communicate(timeout=TIMEOUT)[0]
            except subprocess.TimeoutExpired:
                process.kill()
                sys.exit(f"did not end in {TIMEOUT} s: {said}\n{process.communicate()[0]}")
            if process.returncode:
                sys.exit(f"exit status {process.returncode}: {said}\n{output}")
            ran += 1
    for name in ("out.etok", "thin.etok", "camera.etok", "photo.etok", "again.etok", "report.html", "out.mp4"):
        assert (folder / name).stat().st_size > 100, name
    assert (folder / "again.etok").read_bytes() == (folder / "out.etok").read_bytes(), "tokens make the same stream again"
    return ran


def main():
    folder = pathlib.Path(tempfile.mkdtemp())
    try:
        ran = run_all((ROOT / "README.md").read_text(), folder)
    finally:
        shutil.rmtree(folder)
    assert ran > 15, f"only {ran} commands found in README.md"
    print(f"README.md: {ran} commands ran")


if __name__ == "__main__":
    main()
