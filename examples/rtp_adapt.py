#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""A sender that follows its network: transport-wide feedback (TWCC) from rtpbin drives the encoder's bitrate, or that of a thinner
behind an encoder that serves other receivers too. The network is a relay of this program: a link of limited rate with a queue of
300 ms that changes from 2000 to 300 to 1000 kbit/s. Plots what was asked, sent and received, and the PSNR of what is shown.

usage: rtp_adapt.py [--drive encoder|thinner] [--rates LIST] [--seconds N] [--plot OUT.png] CLIP.y4m
The clip is sent at --fps frames per second and repeated. Needs NumPy, matplotlib and PyGObject (Debian: python3-gi,
gir1.2-gst-plugins-base-1.0); the estimator is a plain one: a real service takes rtpgccbwe of gst-plugins-rs in its place."""
import argparse
import collections
import heapq
import itertools
import socket
import sys
import threading
import time
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

sys.path += [str(Path(__file__).resolve().parent.parent / "benches"), "/usr/lib/python3/dist-packages"]
import gi  # noqa: E402
import y4m  # noqa: E402

gi.require_version("Gst", "1.0")
gi.require_version("GstRtp", "1.0")
from gi.repository import Gst, GstRtp  # noqa: E402

TWCC = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
CAPS = f"application/x-rtp,media=video,clock-rate=90000,encoding-name=ELASTICTOK,payload=96,rtcp-fb-nack-pli=true,extmap-1=(string)\"{TWCC}\""
INTERVAL = 0.25


class Link(threading.Thread):
    """A link with a rate in kbit/s, a queue that drops what would wait longer than 0.3 s, and 20 ms of delay."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.to, self.rate, self.free, self.passed = ("127.0.0.1", port), 1e6, 0.0, 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]

    def run(self):
        waiting, count = [], itertools.count()
        while True:
            self.socket.settimeout(max(waiting[0][0] - time.monotonic(), 0.0005) if waiting else 0.1)
            try:
                data = self.socket.recv(65536)
            except (TimeoutError, BlockingIOError):
                data = None
            now = time.monotonic()
            if data and self.free - now < 0.3:
                self.free = max(self.free, now) + len(data) * 8 / 1000 / self.rate
                heapq.heappush(waiting, (self.free + 0.02, next(count), data))
            while waiting and waiting[0][0] <= now:
                data = heapq.heappop(waiting)[2]
                self.passed += len(data)
                self.socket.sendto(data, self.to)


class Estimator:
    """Bandwidth in kbit/s from what rtpsession says of the packets of the last feedback: it falls to what arrives where packets are
    lost or their delay grows, and else rises by 25 % a second, no further than `reach` times what was sent. An encoder sends nearly
    what it is asked to, a thinner that lacks a layer far less: there the estimate has to rise to the next layer unproven. After a
    fall it waits for three seconds."""

    def __init__(self, start, reach):
        self.rate, self.reach, self.growth, self.wait = start, reach, collections.deque(maxlen=4), 0.0

    def update(self, stats):
        get = lambda name: stats.get_value(name) if stats.has_field(name) else 0  # noqa: E731
        received, sent = get("bitrate-recv") / 1000, get("bitrate-sent") / 1000
        if not received:
            return
        self.growth.append(get("avg-delta-of-delta") / 1e6)
        overuse = np.mean(self.growth) > 6
        if get("packet-loss-pct") > 5 or overuse:
            self.rate, self.wait = min(self.rate, 0.85 * received), 3.0
        elif self.wait > 0:
            self.wait -= INTERVAL
        else:
            self.rate = min(self.rate * (1 + 0.25 * INTERVAL), max(self.reach * sent, self.rate))
        self.rate = min(max(self.rate, 100), 3000)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("clip", type=Path)
    p.add_argument("--drive", choices=("encoder", "thinner"), default="encoder")
    p.add_argument("--rates", default="2000,300,1000")
    p.add_argument("--seconds", type=float, default=15, help="of each rate")
    p.add_argument("--fps", type=int, default=15)
    p.add_argument("--plot", type=Path)
    args = p.parse_args()
    Gst.init(None)
    video = y4m.read(args.clip)
    form, steps = video.format, [float(rate) for rate in args.rates.split(",")]
    thinner = "! elastictokthin name=drive request-key-unit=true " if args.drive == "thinner" else ""
    name = "enc" if args.drive == "encoder" else "drive"
    # Key blocks bring lost upper layers back. Where the encoder does not follow, they are larger than the queue of a slow link: there
    # they are made when they are asked for.
    key_int_max = 30 if args.drive == "encoder" else 300
    receiver = Gst.parse_launch(
        f"rtpbin name=rtp latency=400 rtp-profile=avpf udpsrc name=in port=0 reuse=false caps=\"{CAPS.replace(chr(34), chr(92) + chr(34))}\" "
        "! rtp.recv_rtp_sink_0 rtp. ! rtpelastictokdepay name=depay ! elastictokdec ! fakesink name=out sync=false async=false "
        "udpsrc name=rtcp port=0 reuse=false ! rtp.recv_rtcp_sink_0 rtp.send_rtcp_src_0 ! udpsink name=back host=127.0.0.1 sync=false async=false")
    sender = Gst.parse_launch(
        "rtpbin name=rtp rtp-profile=avpf appsrc name=in is-live=true format=time block=true max-bytes=0 max-buffers=4 "
        f"caps=video/x-raw,format=I420,width={form.width},height={form.height},framerate={args.fps}/1 ! clocksync "
        f"! elastictokenc name=enc rate-control=bitrate bitrate={int(steps[0])} key-int-max={key_int_max} "
        f"{thinner}! rtpelastictokpay name=pay timestamp-offset=0 ! rtp.send_rtp_sink_0 "
        "rtp.send_rtp_src_0 ! udpsink name=out host=127.0.0.1 sync=false async=false "
        "rtp.send_rtcp_src_0 ! udpsink name=rtcp host=127.0.0.1 sync=false async=false udpsrc name=back port=0 reuse=false ! rtp.recv_rtcp_sink_0")
    extension = GstRtp.RTPHeaderExtension.create_from_uri(TWCC)
    extension.set_id(1)
    sender.get_by_name("pay").emit("add-extension", extension)
    for pipeline in (receiver, sender):
        pipeline.set_state(Gst.State.READY)
    port = lambda pipeline, source: pipeline.get_by_name(source).get_property("port")  # noqa: E731
    link = Link(port(receiver, "in"))
    link.rate = steps[0]
    link.start()
    sender.get_by_name("out").set_property("port", link.port)
    sender.get_by_name("rtcp").set_property("port", port(receiver, "rtcp"))
    receiver.get_by_name("back").set_property("port", port(sender, "back"))

    shown, offset, sent = {}, [None], [0]

    def on_packet(_pad, info):
        buffer = info.get_buffer_list().get(0) if info.type & Gst.PadProbeType.BUFFER_LIST else info.get_buffer()
        ok, rtp = GstRtp.RTPBuffer.map(buffer, Gst.MapFlags.READ)
        if ok:
            offset[0] = buffer.pts / 1e9 - rtp.get_timestamp() / 90000
            rtp.unmap()
        return Gst.PadProbeReturn.OK

    def on_picture(_pad, info):
        buffer = info.get_buffer()
        ok, data = buffer.map(Gst.MapFlags.READ)
        if ok:
            n = round((buffer.pts / 1e9 - offset[0]) * args.fps)
            d = np.frombuffer(data.data[:form.luma], np.uint8).astype(np.int32) - video.frames[n % len(video.frames)][:form.luma]
            shown[n] = 10 * np.log10(255 ** 2 / max(float(np.mean(d * d)), 1e-9))
            buffer.unmap(data)
        return Gst.PadProbeReturn.OK

    def on_sent(_pad, info):
        sent[0] += info.get_buffer_list().calculate_size() if info.type & Gst.PadProbeType.BUFFER_LIST else info.get_buffer().get_size()
        return Gst.PadProbeReturn.OK

    data = Gst.PadProbeType.BUFFER | Gst.PadProbeType.BUFFER_LIST
    receiver.get_by_name("depay").get_static_pad("sink").add_probe(data, on_packet)
    receiver.get_by_name("out").get_static_pad("sink").add_probe(data, on_picture)
    sender.get_by_name("out").get_static_pad("sink").add_probe(data, on_sent)
    for pipeline in (receiver, sender):
        pipeline.set_state(Gst.State.PLAYING)
    total = args.seconds * len(steps)

    def feed():
        source = sender.get_by_name("in")
        for n in range(int(total * args.fps)):
            buffer = Gst.Buffer.new_wrapped(video.frames[n % len(video.frames)].tobytes())
            buffer.pts, buffer.duration = n * Gst.SECOND // args.fps, Gst.SECOND // args.fps
            source.emit("push-buffer", buffer)

    threading.Thread(target=feed, daemon=True).start()
    session = sender.get_by_name("rtp").emit("get-session", 0)
    estimator, begun, rows, before = Estimator(steps[0] / 2, 1.5 if args.drive == "encoder" else 10), time.monotonic(), [], (0, 0)
    while (at := time.monotonic() - begun) < total:
        time.sleep(INTERVAL)
        link.rate = steps[min(int(at / args.seconds), len(steps) - 1)]
        stats = session.get_property("twcc-stats")
        if stats is not None:
            estimator.update(stats)
        sender.get_by_name(name).set_property("bitrate", int(estimator.rate))
        for pipeline in (sender, receiver):
            error = pipeline.get_bus().timed_pop_filtered(0, Gst.MessageType.ERROR)
            if error is not None:
                sys.exit(f"{error.parse_error()}")
        now = (sent[0], link.passed)
        rows.append((at, link.rate, estimator.rate, *((b - a) * 8 / 1000 / INTERVAL for a, b in zip(before, now))))
        before = now
    time.sleep(1)
    blocks = receiver.get_by_name("depay").get_property("block-stats").to_string()
    for pipeline in (sender, receiver):
        pipeline.set_state(Gst.State.NULL)

    rows = np.array(rows)
    print(f"drive {args.drive}; {blocks}")
    print("| link, kbit/s | asked | sent | passed | pictures shown | PSNR, dB |\n| --- | --- | --- | --- | --- | --- |")
    for k, rate in enumerate(steps):
        # The first third is the change.
        inside = (rows[:, 0] >= (k + 1 / 3) * args.seconds) & (rows[:, 0] < (k + 1) * args.seconds)
        frames = range(int(k * args.seconds * args.fps), int((k + 1) * args.seconds * args.fps))
        quality = [shown[n] for n in frames if n in shown]
        asked, went, passed = rows[inside][:, 2:5].mean(0)
        print(f"| {rate:.0f} | {asked:.0f} | {went:.0f} | {passed:.0f} | {len(quality)} of {len(frames)} | {np.mean(quality or [np.nan]):.1f} |")
    if args.plot:
        figure, (rates, psnr) = plt.subplots(2, 1, sharex=True, figsize=(7, 4.2), height_ratios=(2, 1))
        smooth = lambda v: np.convolve(v, np.ones(4) / 4, "same")  # noqa: E731
        rates.step(rows[:, 0], rows[:, 1], "k", lw=1, where="post", label="link")
        rates.plot(rows[:, 0], rows[:, 2], label="asked")
        rates.plot(rows[:, 0], smooth(rows[:, 3]), label="sent")
        rates.plot(rows[:, 0], smooth(rows[:, 4]), "--", label="passed")
        rates.set(ylabel="kbit/s", ylim=(0, None), title=f"TWCC drives the {args.drive}")
        rates.legend(ncols=4, fontsize=8)
        n = sorted(shown)
        psnr.plot(np.array(n) / args.fps, [shown[k] for k in n], ".", ms=2)
        psnr.set(xlabel="seconds", ylabel="PSNR, dB")
        figure.tight_layout()
        figure.savefig(args.plot, dpi=90)


if __name__ == "__main__":
    main()
