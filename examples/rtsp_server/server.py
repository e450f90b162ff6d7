#!/usr/bin/python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""An RTSP server: one camera or file, one encoder, and every viewer at a rate of its own.

The encoder runs once. Each viewer has a thinner of its own, which cuts upper layers off, so no viewer costs a decoder or an
encoder. The URL says what a viewer gets:

    rtsp://HOST:8554/video                all layers
    rtsp://HOST:8554/video?bitrate=300    as many layers as fit in 300 kbit/s
    rtsp://HOST:8554/video?layers=1       the base layer

usage: server.py [--source camera | FILE | ELEMENTS] [--bitrate KBPS] [--key-int-max FRAMES] [--address A] [--port PORT]

Needs: apt install python3-gi gir1.2-gst-rtsp-server-1.0
"""
import argparse
import pathlib
import signal
import sys
import threading
import urllib.parse

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
gi.require_version("GstVideo", "1.0")
from gi.repository import GLib, Gst, GstApp, GstRtsp, GstRtspServer, GstVideo  # noqa: E402

# Bytes that wait for a viewer's media to play. What is more is dropped, and the viewer goes on at the next key block.
WAITING = 1 << 20
# The least ns between two key blocks that viewers ask for.
KEY_INTERVAL = 200 * Gst.MSECOND
# Packets are kept so long for viewers that ask for them again.
RETRANSMISSION = 500 * Gst.MSECOND


class Encoder:
    """Encodes once and hands each block to all viewers."""

    def __init__(self, source: str, bitrate: int, key_int_max: int):
        self.pipeline = Gst.parse_launch(
            f"{source} ! videoconvert ! queue max-size-buffers=2 leaky=downstream"
            f" ! elastictokenc name=encoder rate-control=bitrate bitrate={bitrate} key-int-max={key_int_max}"
            " ! video/x-elastictok,stream-format=packetized ! appsink name=blocks sync=false emit-signals=true"
        )
        self.bitrate = bitrate
        self.encoder = self.pipeline.get_by_name("encoder")
        self.viewers: list[Viewer] = []
        self.lock = threading.Lock()
        self.last_key = 0
        self.pipeline.get_by_name("blocks").connect("new-sample", self.block)

    def block(self, sink) -> Gst.FlowReturn:
        sample = sink.pull_sample()
        with self.lock:
            viewers = list(self.viewers)
        for viewer in viewers:
            viewer.push(sample)
        return Gst.FlowReturn.OK

    def key(self) -> None:
        """Asks for a key block, once for all who ask at about the same time."""
        now = self.pipeline.get_pipeline_clock().get_time()
        with self.lock:
            if now - self.last_key < KEY_INTERVAL:
                return
            self.last_key = now
        self.encoder.send_event(GstVideo.video_event_new_upstream_force_key_unit(Gst.CLOCK_TIME_NONE, True, 0))

    def add(self, viewer) -> None:
        with self.lock:
            self.viewers.append(viewer)

    def remove(self, viewer) -> None:
        with self.lock:
            self.viewers.remove(viewer)


class Viewer:
    """The source of one viewer's media."""

    def __init__(self, encoder: Encoder, media):
        self.encoder = encoder
        self.media = media
        self.source = media.get_element().get_by_name("blocks")
        self.waits_for_key = True
        self.source.get_static_pad("src").add_probe(Gst.PadProbeType.EVENT_UPSTREAM, self.event)
        media.connect("unprepared", lambda _: encoder.remove(self))
        encoder.add(self)

    def push(self, sample) -> None:
        buffer = sample.get_buffer()
        base = self.source.get_base_time()
        if base == 0 or self.source.get_current_level_bytes() > WAITING:
            # It does not run yet, or its network stands still.
            self.waits_for_key = True
            return
        if self.waits_for_key and buffer.has_flags(Gst.BufferFlags.DELTA_UNIT):
            self.encoder.key()
            return
        self.waits_for_key = False
        # The bytes are shared, the time is the viewer's: both pipelines run by one clock, from different base times.
        copy = buffer.copy()
        copy.pts = max(0, buffer.pts + self.encoder.pipeline.get_base_time() - base)
        copy.dts = Gst.CLOCK_TIME_NONE
        if self.source.props.caps is None or not self.source.props.caps.is_equal(sample.get_caps()):
            self.source.props.caps = sample.get_caps()
        self.source.push_buffer(copy)

    def event(self, _pad, info) -> Gst.PadProbeReturn:
        if GstVideo.video_event_is_force_key_unit(info.get_event()):
            # A viewer lost its context: RTCP's PLI or FIR.
            self.encoder.key()
            return Gst.PadProbeReturn.DROP
        return Gst.PadProbeReturn.OK


class Factory(GstRtspServer.RTSPMediaFactory):
    """Makes a viewer's media: a thinner and a payloader, fed by the encoder."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder
        self.set_shared(False)
        # AVPF alone: where AVP is offered too, viewers choose it, and then neither NACK nor PLI is sent.
        self.set_profiles(GstRtsp.RTSPProfile.AVPF)
        self.set_retransmission_time(RETRANSMISSION)
        self.set_do_retransmission(True)
        self.set_suspend_mode(GstRtspServer.RTSPSuspendMode.NONE)
        self.connect("media-configure", lambda _, media: Viewer(self.encoder, media))

    def do_gen_key(self, url) -> None:
        return None

    def do_create_element(self, url):
        query = urllib.parse.parse_qs(url.query or "")
        number = lambda name: next((int(v) for v in query.get(name, []) if v.isdecimal() and int(v) <= 2_000_000), 0)
        bitrate = number("bitrate")
        # It becomes the SDP's b=AS. A viewer that is not told takes it for 64 kbit/s, and asks for lost packets too seldom.
        most = 1000 * min(bitrate or self.encoder.bitrate, self.encoder.bitrate)
        return Gst.parse_launch(
            f"( appsrc name=blocks is-live=true format=time max-bytes={2 * WAITING}"
            f" ! taginject tags=maximum-bitrate=(uint){most}"
            f" ! elastictokthin bitrate={bitrate} max-layers={min(number('layers'), 32)}"
            " ! rtpelastictokpay name=pay0 pt=96 )"
        )


def elements(source: str) -> str:
    """`source` in gst-launch's words."""
    if source == "camera":
        return "v4l2src ! decodebin"
    if "!" in source or Gst.ElementFactory.find(source.split()[0]):
        return source
    if not pathlib.Path(source).is_file():
        sys.exit(f"there is no file {source}; name one, 'camera', or elements such as 'videotestsrc is-live=true'")
    return f'filesrc location="{source}" ! decodebin ! identity sync=true'


def main() -> int:
    parser = argparse.ArgumentParser(description="One encoder, and every viewer at a rate of its own.")
    parser.add_argument("--source", default="camera", help="'camera' (default), a file, or elements in gst-launch's words")
    parser.add_argument("--bitrate", type=int, default=2000, help="kbit/s that are encoded, the most that a viewer gets")
    parser.add_argument("--key-int-max", type=int, default=240, help="most frames between key blocks")
    parser.add_argument("--address", default="127.0.0.1", help="address to listen at; 0.0.0.0 for the whole network")
    parser.add_argument("--port", default="8554")
    args = parser.parse_args()
    Gst.init(None)
    for name in ("elastictokenc", "rtpelastictokpay"):
        if not Gst.ElementFactory.find(name):
            return print(f"GStreamer has no {name}: set GST_PLUGIN_PATH to the plugin's folder", file=sys.stderr) or 4
    encoder = Encoder(elements(args.source), args.bitrate, args.key_int_max)
    server = GstRtspServer.RTSPServer(address=args.address, service=args.port)
    server.get_mount_points().add_factory("/video", Factory(encoder))
    server.connect("client-connected", lambda _, client: client.connect("play-request", lambda *_: encoder.key()))
    if not server.attach(None):
        return print(f"cannot listen at {args.address}:{args.port}; choose another --port", file=sys.stderr) or 5
    loop = GLib.MainLoop()
    failed = []

    def message(_bus, message) -> None:
        if message.type == Gst.MessageType.ERROR:
            failed.append(message.parse_error()[0].message)
        if message.type in (Gst.MessageType.ERROR, Gst.MessageType.EOS):
            loop.quit()

    bus = encoder.pipeline.get_bus()
    bus.add_signal_watch()
    bus.connect("message", message)
    encoder.pipeline.set_state(Gst.State.PLAYING)
    GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGINT, loop.quit)
    GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGTERM, loop.quit)
    print(f"rtsp://{args.address}:{server.get_bound_port()}/video", flush=True)
    loop.run()
    encoder.pipeline.set_state(Gst.State.NULL)
    print(*failed, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
