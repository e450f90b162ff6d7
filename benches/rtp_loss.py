#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""What packet loss does to RTP streams of elastictokenc and of x264enc, over sockets of this machine: pictures shown, longest
freeze, PSNR, each with no help, retransmission (RFC 4588), forward error correction (RFC 5109), and both.

usage: rtp_loss.py [--frames N] [--rate FPS] [--bitrate KBIT] [--seeds N] [--losses LIST] [--means LIST] [--out TABLE.md] [CLIP.y4m]
Without a clip, the generated scene at 352x288. Both ends are rtpbin with the profile AVPF; the receiver asks for key frames, the
one-way delay is 20 ms, the jitter buffer 200 ms with retransmission and 50 ms without. Packets are lost by a seeded generator, those
of RTCP never. Every session runs in real time; the seeds of a line run side by side, and qos=false keeps a busy machine from shedding
layers. Needs PyGObject, which Debian has as python3-gi and gir1.2-gst-plugins-base-1.0."""
import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import y4m

sys.path.append("/usr/lib/python3/dist-packages")
import gi  # noqa: E402

gi.require_version("Gst", "1.0")
gi.require_version("GstRtp", "1.0")
from gi.repository import Gst, GstRtp  # noqa: E402

MEDIA, RTX, FEC = 96, 97, 122
# rtpulpfecdec wants to know it from the caps.
SSRC = 0x45544F4B
DELAY_MS = 20
# The jitter buffer's latency, with retransmission and without. The former is enough for the last packet of a block, whose loss shows
# with the next block. Without it, waiting longer than packets are out of order only puts off the request for a key frame.
REPAIR_MS, BUFFER_MS = 200, 50
AVPF = 3
CODECS = {
    "elastictok": {
        "encoder": "elastictokenc name=enc threads=1 qos=false rate-control=bitrate bitrate={bitrate} key-int-max={key} {extra} ! rtpelastictokpay",
        "decoder": "rtpelastictokdepay name=depay ! elastictokdec threads=1",
        "encoding": "ELASTICTOK",
        # As many as the base layer has packets, which comes to a fifth of the bits.
        "fec": {"percentage": 0, "percentage_important": 100},
    },
    "x264": {
        "encoder": "x264enc name=enc speed-preset=veryfast tune=zerolatency bitrate={bitrate} key-int-max={key} "
        "! rtph264pay config-interval=-1 aggregate-mode=zero-latency mtu=1200",
        "decoder": "rtph264depay name=depay request-keyframe=true wait-for-keyframe=true ! avdec_h264 output-corrupt=false max-threads=1",
        "encoding": "H264",
        "fec": {"percentage": 20, "percentage_important": 20},
    },
}


@dataclass
class Loss:
    """Packets lost: each by itself with `rate`, or in bursts of `burst` packets in the mean (Gilbert's model)."""

    rate: float
    burst: float = 1

    def __str__(self):
        return f"{self.rate:.0%}" + (f", bursts of {self.burst:g}" if self.burst > 1 else "")

    def generator(self, seed):
        """Says of one packet after the other whether it is lost."""
        rng, lost = random.Random(seed), False
        while True:
            if self.burst == 1:
                yield rng.random() < self.rate
            else:
                stay, start = 1 - 1 / self.burst, self.rate / (1 - self.rate) / self.burst
                lost = rng.random() < (stay if lost else start)
                yield lost


@dataclass
class Result:
    """shown: indices of the pictures shown; mse: of what is on the screen, for each picture sent."""

    shown: list = field(default_factory=list)
    mse: list = field(default_factory=list)
    kbits: float = 0
    requests: int = 0
    stats: str = ""

    def freeze(self, frames):
        """The longest time without a new picture beyond the usual one, in pictures."""
        at = [-1, *self.shown, frames]
        return max(b - a - 1 for a, b in zip(at, at[1:]))

    def psnr(self):
        return 10 * np.log10(255 ** 2 / np.mean(self.mse))


def first_buffer(info):
    return info.get_buffer_list().get(0) if info.type & Gst.PadProbeType.BUFFER_LIST else info.get_buffer()


def make(factory, **properties):
    element = Gst.ElementFactory.make(factory)
    if element is None:
        sys.exit(f"there is no element {factory}; install the GStreamer plugins, and set GST_PLUGIN_PATH to ElasticTok's")
    for name, value in properties.items():
        element.set_property(name.replace("_", "-"), value)
    return element


def aux(factory, **properties):
    """What rtpbin wants of an element for retransmission: a bin whose pads are named after the session."""
    def build(_rtpbin, session):
        element, outer = make(factory, **properties), Gst.Bin.new(None)
        outer.add(element)
        for name in ("sink", "src"):
            outer.add_pad(Gst.GhostPad.new(f"{name}_{session}", element.get_static_pad(name)))
        return outer

    return build


class Session:
    """A sender and a receiver, from `play` to `result`."""

    def __init__(self, clip, codec, means, loss, seed, args):
        self.args, self.result, self.offset, self.pictures, self.bytes = args, Result(), None, [], 0
        self.codec = CODECS[codec]
        encoder = self.codec["encoder"].format(bitrate=args.bitrate, key=args.key, extra=args.encoder)
        self.receiver = self.build_receiver(means)
        self.sender = self.build_sender(clip, encoder, means)
        for pipeline in (self.receiver, self.sender):
            pipeline.set_state(Gst.State.READY)
        connect = (("out", self.receiver, "in"), ("rtcp", self.receiver, "rtcp"))
        for sink, pipeline, source in connect:
            self.sender.get_by_name(sink).set_property("port", pipeline.get_by_name(source).get_property("port"))
        self.receiver.get_by_name("back").set_property("port", self.sender.get_by_name("back").get_property("port"))
        self.lost = loss.generator(seed)
        self.probe(self.receiver, "in", "src", Gst.PadProbeType.BUFFER, lambda _, __: next(self.lost))
        self.probe(self.sender, "out", "sink", Gst.PadProbeType.BUFFER | Gst.PadProbeType.BUFFER_LIST, self.on_sent)
        self.probe(self.sender, "enc", "src", Gst.PadProbeType.EVENT_UPSTREAM, self.on_event)

    def build_receiver(self, means):
        """The receiver but for its decoder. rtpbin asks for its helpers when it gets its pads."""
        pipeline = Gst.parse_launch(
            f"udpsrc name=in port=0 reuse=false ! netsim name=delay delay-probability=1 min-delay={DELAY_MS} max-delay={DELAY_MS} "
            "udpsrc name=rtcp port=0 reuse=false "
            "udpsink name=back host=127.0.0.1 sync=false async=false")
        latency = REPAIR_MS if "rtx" in means else BUFFER_MS
        rtp = make("rtpbin", name="rtp", rtp_profile=AVPF, latency=latency, do_lost=True, do_retransmission="rtx" in means)
        pipeline.add(rtp)
        rtp.connect("request-pt-map", self.pt_map)
        rtp.connect("pad-added", self.on_pad)
        if "rtx" in means:
            rtp.connect("request-aux-receiver", aux("rtprtxreceive", payload_type_map=self.rtx_map()))
        if "fec" in means:
            rtp.connect("new-storage", lambda _, storage, __: storage.set_property("size-time", 500_000_000))
            rtp.connect("request-fec-decoder", self.fec_decoder)
        pipeline.get_by_name("delay").link_pads("src", rtp, "recv_rtp_sink_0")
        pipeline.get_by_name("rtcp").link_pads("src", rtp, "recv_rtcp_sink_0")
        rtp.link_pads("send_rtcp_src_0", pipeline.get_by_name("back"), "sink")
        # RTCP, and requests for retransmission with it, may take a twentieth of this. Told nothing, a receiver takes it for 64 kbit/s.
        rtp.emit("get-internal-session", 0).set_property("bandwidth", self.args.bitrate * 1000)
        return pipeline

    def build_sender(self, clip, encoder, means):
        """The sender."""
        pipeline = Gst.parse_launch(
            f"filesrc location={clip} ! y4mdec ! clocksync ! queue max-size-buffers=8 max-size-bytes=0 "
            f"! {encoder} name=pay pt={MEDIA} ssrc={SSRC} timestamp-offset=0 "
            "udpsink name=out host=127.0.0.1 sync=false async=false udpsink name=rtcp host=127.0.0.1 sync=false async=false "
            f"udpsrc name=back port=0 reuse=false ! netsim name=delay delay-probability=1 min-delay={DELAY_MS} max-delay={DELAY_MS}")
        rtp = make("rtpbin", name="rtp", rtp_profile=AVPF)
        pipeline.add(rtp)
        if "rtx" in means:
            rtp.connect("request-aux-sender", aux("rtprtxsend", payload_type_map=self.rtx_map(), max_size_time=1000))
        if "fec" in means:
            rtp.connect("request-fec-encoder", lambda *_: make("rtpulpfecenc", pt=FEC, **self.codec["fec"]))
        pipeline.get_by_name("pay").link_pads("src", rtp, "send_rtp_sink_0")
        rtp.link_pads("send_rtp_src_0", pipeline.get_by_name("out"), "sink")
        rtp.link_pads("send_rtcp_src_0", pipeline.get_by_name("rtcp"), "sink")
        pipeline.get_by_name("delay").link_pads("src", rtp, "recv_rtcp_sink_0")
        return pipeline

    @staticmethod
    def probe(pipeline, element, pad, kind, function):
        """Calls `function`; drops what it returns True for."""
        drop = {True: Gst.PadProbeReturn.DROP}
        call = lambda pad, info: drop.get(function(pad, info), Gst.PadProbeReturn.OK)  # noqa: E731
        pipeline.get_by_name(element).get_static_pad(pad).add_probe(kind, call)

    @staticmethod
    def rtx_map():
        return Gst.Structure.from_string(f"application/x-rtp-pt-map, {MEDIA}=(uint){RTX}")[0]

    def pt_map(self, _rtpbin, _session, pt):
        name = {MEDIA: self.codec["encoding"], RTX: f"RTX,apt=(int){MEDIA}", FEC: "ULPFEC"}.get(pt)
        ssrc = "" if pt == RTX else f",ssrc=(uint){SSRC}"
        return name and Gst.Caps.from_string(
            f"application/x-rtp,media=video,clock-rate=90000,payload={pt}{ssrc},rtcp-fb-nack-pli=true,rtcp-fb-nack=true,"
            f"encoding-name={name}")

    @staticmethod
    def fec_decoder(rtpbin, session):
        return make("rtpulpfecdec", pt=FEC, storage=rtpbin.emit("get-internal-storage", session))

    def on_pad(self, _rtpbin, pad):
        if not pad.get_name().startswith("recv_rtp_src_"):
            return
        if not pad.get_name().endswith(f"_{MEDIA}"):
            # Packets that have done their work in the storage of the FEC decoder.
            sink = make("fakesink", sync=False, **{"async": False})
            self.receiver.add(sink)
            sink.sync_state_with_parent()
            pad.link(sink.get_static_pad("sink"))
            return
        chain = Gst.parse_bin_from_description(
            self.codec["decoder"] + " ! videoconvert ! video/x-raw,format=I420 ! fakesink name=out sync=false async=false", True)
        self.receiver.add(chain)
        self.probe(chain, "depay", "sink", Gst.PadProbeType.BUFFER | Gst.PadProbeType.BUFFER_LIST, self.on_packet)
        self.probe(chain, "out", "sink", Gst.PadProbeType.BUFFER, self.on_picture)
        self.depay = chain.get_by_name("depay")
        chain.sync_state_with_parent()
        pad.link(chain.get_static_pad("sink"))

    def on_packet(self, _pad, info):
        buffer = first_buffer(info)
        ok, rtp = GstRtp.RTPBuffer.map(buffer, Gst.MapFlags.READ)
        if ok:
            # The receiver's time of the sender's time 0.
            if buffer.pts != Gst.CLOCK_TIME_NONE:
                self.offset = buffer.pts / 1e9 - rtp.get_timestamp() / 90000
            rtp.unmap()
        return False

    def on_picture(self, _pad, info):
        buffer = info.get_buffer()
        if buffer.get_flags() & Gst.BufferFlags.CORRUPTED:
            return False
        ok, data = buffer.map(Gst.MapFlags.READ)
        if ok:
            index = round((buffer.pts / 1e9 - self.offset) * self.args.rate)
            self.pictures.append((index, bytes(data.data[:self.args.luma])))
            buffer.unmap(data)
        return False

    def on_sent(self, _pad, info):
        of_list = info.type & Gst.PadProbeType.BUFFER_LIST
        self.bytes += info.get_buffer_list().calculate_size() if of_list else info.get_buffer().get_size()
        return False

    def on_event(self, _pad, info):
        structure = info.get_event().get_structure()
        self.result.requests += structure is not None and structure.get_name() == "GstForceKeyUnit"
        return False

    def play(self):
        for pipeline in (self.receiver, self.sender):
            pipeline.set_state(Gst.State.PLAYING)

    def finish(self, frames):
        """Waits for the end; what came."""
        self.wait_for_end()
        time.sleep(1.5)
        error = self.receiver.get_bus().timed_pop_filtered(0, Gst.MessageType.ERROR)
        if error is not None:
            sys.exit(f"the receiver failed: {error.parse_error()}")
        result, shown = self.result, {i: p for i, p in self.pictures if 0 <= i < len(frames)}
        if self.depay.find_property("block-stats"):
            result.stats = self.depay.get_property("block-stats").to_string()
        for pipeline in (self.sender, self.receiver):
            pipeline.set_state(Gst.State.NULL)
        result.shown = sorted(shown)
        result.kbits = self.bytes * 8 / 1000 / (self.args.frames / self.args.rate)
        on_screen = np.full(self.args.luma, 16, np.uint8)
        for index, frame in enumerate(frames):
            if index in shown:
                on_screen = np.frombuffer(shown[index], np.uint8)
            d = on_screen.astype(np.int32) - frame[:self.args.luma]
            result.mse.append(float(np.mean(d * d)))
        return result

    def wait_for_end(self):
        """Waits for the end of the encoder's stream. The pipeline has none: sources of RTCP never end."""
        pad = self.sender.get_by_name("pay").get_static_pad("src")
        limit = time.monotonic() + self.args.frames / self.args.rate * 3 + 30
        while pad.get_sticky_event(Gst.EventType.EOS, 0) is None:
            message = self.sender.get_bus().timed_pop_filtered(50 * Gst.MSECOND, Gst.MessageType.ERROR)
            if message is not None or time.monotonic() > limit:
                sys.exit(f"the sender failed: {message.parse_error() if message else 'no end'}")


def scene(args, folder):
    path = Path(folder) / "scene.y4m"
    here = Path(__file__).resolve().parent
    subprocess.run([sys.executable, here / "scene.py", "--frames", str(args.frames), "--size", "352x288", path], check=True)
    return path


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("clip", nargs="?", type=Path)
    p.add_argument("--frames", type=int, default=300)
    p.add_argument("--rate", type=int, default=15, help="frames per second at which the clip is sent")
    p.add_argument("--bitrate", type=int, default=400, help="kbit/s of either encoder")
    p.add_argument("--key", type=int, default=60, help="frames from key frame to key frame")
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--losses", default="0,0.01,0.03,0.05,0.1,0.03x5", help="rates; RATExN in bursts of N")
    p.add_argument("--means", default="none,rtx,fec,rtx+fec")
    p.add_argument("--codecs", default="elastictok,x264")
    p.add_argument("--encoder", default="", help="further properties for elastictokenc")
    p.add_argument("--out", type=Path)
    p.add_argument("-v", "--verbose", action="store_true")
    args = p.parse_args()
    Gst.init(None)
    with tempfile.TemporaryDirectory() as folder:
        clip = args.clip or scene(args, folder)
        video = y4m.read(clip)
        frames = list(video.frames[:args.frames])
        args.luma = video.format.luma
        timed = Path(folder) / "timed.y4m"
        with y4m.Writer(timed, y4m.Format(video.format.width, video.format.height, (args.rate, 1))) as writer:
            for frame in frames:
                writer.write(frame)
        args.frames = len(frames)
        lines = ["| loss | means | codec | shown | longest freeze, s | PSNR, dB | key requests | kbit/s |",
                 "| --- | --- | --- | --- | --- | --- | --- | --- |"]
        print("\n".join(lines), flush=True)
        for text in args.losses.split(","):
            rate, _, burst = text.partition("x")
            loss = Loss(float(rate), float(burst or 1))
            for means in args.means.split(","):
                cells = [(codec, seed) for codec in args.codecs.split(",") for seed in range(args.seeds if loss.rate else 1)]
                sessions = [(codec, Session(timed, codec, means, loss, seed, args)) for codec, seed in cells]
                for _, session in sessions:
                    session.play()
                results = {}
                for codec, session in sessions:
                    results.setdefault(codec, []).append(session.finish(frames))
                for codec, rs in results.items():
                    mean = lambda f: statistics.mean(map(f, rs))  # noqa: E731
                    lines.append(
                        f"| {loss} | {means} | {codec} | {mean(lambda r: len(r.shown)):.0f} of {len(frames)} | "
                        f"{max(r.freeze(len(frames)) for r in rs) / args.rate:.1f} | {mean(Result.psnr):.1f} | "
                        f"{mean(lambda r: r.requests):.0f} | {mean(lambda r: r.kbits):.0f} |")
                    print(lines[-1], flush=True)
                    if args.verbose:
                        print(*(r.stats for r in rs if r.stats), sep="\n", file=sys.stderr)
        if args.out:
            args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
