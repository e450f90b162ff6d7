# SPDX-License-Identifier: MIT OR Apache-2.0
"""Streams over real sockets: the RTSP and MoQ examples, and the pipelines of docs/streaming.md.

usage: /usr/bin/python3 streaming.py TARGET_DIRECTORY

TARGET_DIRECTORY is where cargo put a build of the plugin. What is not installed is named and skipped."""
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(sys.argv[1]).resolve()
TEMPORARY = tempfile.TemporaryDirectory()
os.environ |= {"GST_PLUGIN_PATH": str(TARGET), "GST_REGISTRY": TEMPORARY.name + "/registry.bin"}
SOURCE = "videotestsrc pattern=smpte is-live=true ! video/x-raw,width=160,height=96,framerate=30/1"
# Seconds after which something hangs.
TIMEOUT = 120

try:
    import gi

    gi.require_version("Gst", "1.0")
    from gi.repository import Gst
except (ImportError, ValueError) as error:
    print(f"skipped: Python knows no GStreamer ({error}); apt install python3-gi gir1.2-gstreamer-1.0")
    sys.exit(0)


class Skip(Exception):
    """What is missing."""


def receive(description: str, count: int, setup=lambda pipeline: None) -> list[int]:
    """Runs a pipeline until its sink `out` has so many buffers; their sizes."""
    pipeline = Gst.parse_launch(description)
    sizes, enough = [], threading.Event()

    def handoff(_sink, buffer, _pad) -> None:
        sizes.append(buffer.get_size())
        if len(sizes) >= count:
            enough.set()

    sink = pipeline.get_by_name("out")
    if sink is None:
        sink = Gst.ElementFactory.make("fakesink")
        pipeline.props.video_sink = sink
    sink.props.sync = False
    sink.props.signal_handoffs = True
    sink.connect("handoff", handoff)
    setup(pipeline)
    pipeline.set_state(Gst.State.PLAYING)
    end = time.monotonic() + TIMEOUT
    try:
        while not enough.wait(0.05):
            message = pipeline.get_bus().pop_filtered(Gst.MessageType.ERROR)
            assert message is None, message.parse_error()
            assert time.monotonic() < end, f"{len(sizes)} of {count} buffers from {description}"
    finally:
        pipeline.set_state(Gst.State.NULL)
    return sizes


class Started:
    """A program that runs until the test ends; its first line tells that it is ready."""

    def __init__(self, *command: str):
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def __enter__(self):
        return self.process.stdout.readline().strip()

    def __exit__(self, *_):
        self.process.terminate()
        assert self.process.wait(TIMEOUT) in (0, -15), f"exit code {self.process.returncode}"


def rtsp() -> None:
    with rtsp_server() as url:
        assert url.startswith("rtsp://127.0.0.1:"), url
        # A player that knows nothing of ElasticTok finds depayloader and decoder, and decodes.
        assert len(receive(f"playbin3 uri={url}", 30)) >= 30
        # Viewers at the same time, each at a rate of its own.
        rates = {}

        def view(query: str) -> None:
            sizes = receive(f"rtspsrc location={url}{query} latency=100 ! rtpelastictokdepay ! fakesink name=out", 45)
            rates[query] = sum(sizes) / len(sizes)

        viewers = [threading.Thread(target=view, args=(query,)) for query in ("", "?layers=1", "?layers=1", "?bitrate=1")]
        for viewer in viewers:
            viewer.start()
        for viewer in viewers:
            viewer.join()
        assert set(rates) == {"", "?layers=1", "?bitrate=1"}, f"a viewer got nothing: {rates}"
        assert rates["?layers=1"] < 0.9 * rates[""] and rates["?bitrate=1"] < 0.9 * rates[""], rates


def rtsp_server(source: str = SOURCE, *arguments: str) -> Started:
    try:
        gi.require_version("GstRtspServer", "1.0")
    except ValueError as error:
        raise Skip("gir1.2-gst-rtsp-server-1.0 is not installed") from error
    if not Gst.ElementFactory.find("rtpelastictokpay"):
        raise Skip("this build has no rtpelastictokpay")
    server = ROOT / "examples/rtsp_server/server.py"
    return Started("/usr/bin/python3", str(server), "--source", source, "--bitrate", "900", "--port", "0", *arguments)


def viewer(url: str, settings: str = "") -> str:
    return f"rtspsrc name=source location={url} latency=200 {settings} ! rtpelastictokdepay name=depay ! elastictokdec ! fakesink name=out"


def rtsp_loss() -> None:
    """One packet in twenty is lost on the way to a viewer, and comes again; the SDP tells it how much RTCP it may send."""
    found, seen, described = [], [0], []

    def lose(_pad, info) -> Gst.PadProbeReturn:
        # Bit 7 and 6 are the version; payload types of RTCP packets are 72 to 76 without the marker.
        ok, data = info.get_buffer().map(Gst.MapFlags.READ)
        media = ok and not 72 <= data.data[1] & 0x7F <= 76
        info.get_buffer().unmap(data)
        seen[0] += media
        return Gst.PadProbeReturn.DROP if media and seen[0] % 20 == 7 else Gst.PadProbeReturn.OK

    def setup(pipeline) -> None:
        def added(_pipeline, _bin, element) -> None:
            factory = element.get_factory()
            if factory and factory.get_name() == "udpsrc":
                element.get_static_pad("src").add_probe(Gst.PadProbeType.BUFFER, lose)
            if factory and factory.get_name() == "rtpjitterbuffer":
                found.append(element)

        gi.require_version("GstSdp", "1.0")
        from gi.repository import GstSdp  # noqa: F401 (teaches the signal its type)

        pipeline.connect("deep-element-added", added)
        pipeline.get_by_name("source").connect("on-sdp", lambda _, sdp: described.append(sdp.as_text()))

    with rtsp_server() as url:
        assert len(receive(viewer(url, "protocols=udp"), 150, setup)) >= 150
    assert "b=AS:900" in described[0], described
    repaired = max(buffer.get_property("stats").get_value("rtx-success-count") for buffer in found)
    assert repaired > 0, f"nothing came again of {seen[0]} packets"


def rtsp_viewers() -> None:
    """Viewers whose network stands still, and viewers that vanish, hold nobody up; the server forgets them."""
    with rtsp_server() as url:
        stalled = Gst.parse_launch(viewer(url, "protocols=tcp"))
        blocked = threading.Event()

        def block(_pad, _info) -> Gst.PadProbeReturn:
            blocked.set()
            return Gst.PadProbeReturn.OK

        stalled.get_by_name("depay").get_static_pad("src").add_probe(Gst.PadProbeType.BLOCK | Gst.PadProbeType.BUFFER, block)
        stalled.set_state(Gst.State.PLAYING)
        try:
            assert blocked.wait(TIMEOUT), "no block for the viewer that is to stall"
            for protocol in ("tcp", "udp"):
                program = ["gst-launch-1.0", "-q", *viewer(url, f"protocols={protocol}").replace("fakesink name=out", "fdsink").split()]
                gone = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                assert gone.stdout.read(1), "no picture for the viewer that is to vanish"
                gone.kill()
                gone.wait(TIMEOUT)
                assert len(receive(viewer(url, f"protocols={protocol}"), 60)) >= 60
        finally:
            stalled.set_state(Gst.State.NULL)


def rtsp_file() -> None:
    """A file is served at its pace, and the server ends with it."""
    file = TEMPORARY.name + "/video.y4m"
    made = Gst.parse_launch(
        f"videotestsrc num-buffers=300 pattern=ball ! video/x-raw,width=160,height=96,framerate=30/1 ! y4menc ! filesink location={file}")
    made.set_state(Gst.State.PLAYING)
    end = made.get_bus().timed_pop_filtered(TIMEOUT * Gst.SECOND, Gst.MessageType.EOS | Gst.MessageType.ERROR)
    made.set_state(Gst.State.NULL)
    assert end is not None and end.type == Gst.MessageType.EOS, end and end.parse_error()
    server = rtsp_server(file)
    with server as url:
        assert len(receive(viewer(url), 60)) >= 60
        assert server.process.wait(TIMEOUT) == 0


def moq() -> None:
    python = pathlib.Path(os.environ.get("ELASTICTOK_MOQ_VENV", ROOT / ".cache/moq")) / "bin/python"
    if not python.exists():
        raise Skip("the MoQ example is not installed; examples/moq/run.sh relay --help installs its pinned wheels")
    example = [str(python), str(ROOT / "examples/moq/elastictok_moq.py")]
    with Started(*example, "relay", "--bind", "127.0.0.1:0") as url:
        publish = [*example, "publish", "--insecure", "--url", url, "--source", SOURCE, "--bitrate", "900"]
        publisher = subprocess.Popen([*publish, "--key-int-max", "20"], cwd=ROOT)
        try:
            watch = [*example, "watch", "--insecure", "--url", url, "--sink", "fakesink", "--blocks", "30", "--wait", "30"]
            watch = {n: subprocess.Popen([*watch, "--layers", str(n)], stdout=subprocess.PIPE, text=True, cwd=ROOT) for n in (1, 2)}
            reports = {n: json.loads(viewer.communicate(timeout=TIMEOUT)[0]) for n, viewer in watch.items()}
        finally:
            publisher.terminate()
            publisher.wait(TIMEOUT)
        for layers, report in reports.items():
            assert len(report["layers"]) == layers and all(layer["objects"] >= 15 for layer in report["layers"]), report
            assert sum(report["blocks_by_layers"].values()) >= 30, report
        assert reports[1]["blocks_by_layers"].keys() == {"1"} and "2" in reports[2]["blocks_by_layers"], reports
        per_block = {n: report["bytes"] / sum(report["blocks_by_layers"].values()) for n, report in reports.items()}
        assert per_block[1] < 0.9 * per_block[2], reports


def pipe(sender: str, receiver: str, listens: str) -> None:
    """Sends a live stream of bytes through a socket, and decodes it at the other end."""
    sending = Gst.parse_launch(
        f"{SOURCE} ! elastictokenc key-int-max=30 ! elastictokthin max-layers=1 ! elastictokparse"
        f" ! video/x-elastictok,stream-format=byte-stream ! {sender}"
    )
    receiving = f"{receiver} ! elastictokparse ! elastictokdec ! fakesink name=out"
    try:
        if listens == "sender":
            sending.set_state(Gst.State.PLAYING)
            time.sleep(1)
            assert len(receive(receiving, 30)) >= 30
        else:
            assert len(receive(receiving, 30, lambda _: threading.Timer(1, sending.set_state, [Gst.State.PLAYING]).start())) >= 30
        error = sending.get_bus().pop_filtered(Gst.MessageType.ERROR)
        assert listens == "receiver" or error is None, error and error.parse_error()
    finally:
        sending.set_state(Gst.State.NULL)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def tcp() -> None:
    port = free_port()
    sender = f"tcpserversink host=127.0.0.1 port={port} recover-policy=keyframe sync-method=latest-keyframe"
    pipe(sender, f"tcpclientsrc host=127.0.0.1 port={port}", "sender")
    port = free_port()
    pipe(f"tcpclientsink host=127.0.0.1 port={port}", f"tcpserversrc host=127.0.0.1 port={port}", "receiver")


def srt() -> None:
    if not Gst.ElementFactory.find("srtsink"):
        raise Skip("GStreamer has no srtsink; apt install gstreamer1.0-plugins-bad")
    port = free_port()
    sender = f'srtsink uri="srt://127.0.0.1:{port}?mode=listener" wait-for-connection=false'
    pipe(sender, f'srtsrc uri="srt://127.0.0.1:{port}?mode=caller"', "sender")


def main() -> int:
    Gst.init(None)
    if not Gst.ElementFactory.find("elastictokenc"):
        return print(f"{TARGET} holds no plugin; cargo build --workspace makes one", file=sys.stderr) or 1
    only = sys.argv[2:]
    for test in (rtsp, rtsp_loss, rtsp_viewers, rtsp_file, moq, tcp, srt):
        if only and test.__name__ not in only:
            continue
        try:
            test()
            print(f"{test.__name__}: passed")
        except Skip as why:
            print(f"{test.__name__}: skipped: {why}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
