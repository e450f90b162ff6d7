#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Delay of live video through elastictokenc, RTP over a socket of this machine, and elastictokdec, and of x264enc (zerolatency) and
avdec_h264 beside it: from the moment a picture is due at the encoder to the moment it leaves the decoder. The jitter buffer adds
nothing here; on a network it adds its latency. usage: rtp_latency.py [--apart] [--rates LIST] [--bitrate KBIT] [--encoder PROPERTIES]
CLIP.y4m..
Each clip is sent for nine seconds, forwards and backwards, at the first frame rate of the list that elastictok holds: one at which
the delay does not grow, and what waited while it started is made up for. With --apart the sender, up to the depayloader, and the
receiver, from the payloader on, run one after the other, as each has a machine of its own in the field; the delay is their sum."""
import argparse
import itertools
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

import y4m

sys.path.append("/usr/lib/python3/dist-packages")
import gi  # noqa: E402

gi.require_version("Gst", "1.0")
from gi.repository import Gst  # noqa: E402

SECONDS = 9
# Frames of a block of the builtin model.
BLOCK = 2
# Encoder, payloader, encoding name, depayloader and decoder.
CODECS = {
    "elastictok": (
        "elastictokenc rate-control=bitrate bitrate={bitrate} {extra}", "rtpelastictokpay", "ELASTICTOK", "rtpelastictokdepay", "elastictokdec"),
    "x264": (
        "x264enc speed-preset=veryfast tune=zerolatency bitrate={bitrate}",
        "rtph264pay mtu=1200 config-interval=-1 aggregate-mode=zero-latency", "H264", "rtph264depay", "avdec_h264"),
}


def encoded(clip, encoder, folder):
    """A file with the blocks of the clip."""
    path = Path(folder) / "blocks.etok"
    pipeline = Gst.parse_launch(f"filesrc location={clip} ! y4mdec ! {encoder} qos=false ! filesink location={path}")
    play(pipeline, "elastictokenc")
    pipeline.set_state(Gst.State.NULL)
    return path


def play(pipeline, what):
    """Plays to the end."""
    pipeline.set_state(Gst.State.PLAYING)
    message = pipeline.get_bus().timed_pop_filtered(300 * Gst.SECOND, Gst.MessageType.EOS | Gst.MessageType.ERROR)
    if message is None or message.type == Gst.MessageType.ERROR:
        sys.exit(f"{what}: {message.parse_error()[0].message if message else 'no end within five minutes'}")


def run(clip, codec, rate, args, part="whole"):
    """Milliseconds of each picture through the sender, the receiver or the whole."""
    encoder, payloader, encoding, depayloader, decoder = CODECS[codec]
    encoder = encoder.format(bitrate=args.bitrate, extra=args.encoder)
    receiver = Gst.parse_launch(
        f"udpsrc name=in port=0 reuse=false caps=application/x-rtp,media=video,clock-rate=90000,encoding-name={encoding} ! {depayloader} "
        f"{'' if part == 'sender' else '! ' + decoder} ! fakesink name=out sync=false async=false")
    receiver.set_state(Gst.State.READY)
    port = receiver.get_by_name("in").get_property("port")
    source = f"filesrc location={clip} ! " + (
        "elastictokparse ! video/x-elastictok,stream-format=packetized ! clocksync name=due" if part == "receiver" else
        f"y4mdec ! clocksync name=due ! queue max-size-buffers=100 max-size-time=0 max-size-bytes=0 ! {encoder}")
    sender = Gst.parse_launch(f"{source} ! {payloader} ! udpsink host=127.0.0.1 port={port} sync=false async=false")
    came, went = [], []
    note = lambda times: lambda *_: (times.append(time.monotonic()), Gst.PadProbeReturn.OK)[1]  # noqa: E731
    sender.get_by_name("due").get_static_pad("src").add_probe(Gst.PadProbeType.BUFFER, note(went))
    receiver.get_by_name("out").get_static_pad("sink").add_probe(Gst.PadProbeType.BUFFER, note(came))
    receiver.set_state(Gst.State.PLAYING)
    receiver.get_state(5 * Gst.SECOND)
    play(sender, codec)
    time.sleep(1)
    for pipeline in (sender, receiver):
        pipeline.set_state(Gst.State.NULL)
    # Blocks go in or come out instead of pictures.
    if part == "sender":
        came = [c for c in came for _ in range(BLOCK)][:len(went)]
    if part == "receiver":
        went = [w for w in went for _ in range(BLOCK)][:len(came)]
    if len(came) != len(went) or not came:
        sys.exit(f"{codec}: {len(came)} of {len(went)} pictures came")
    # The first second opens graphs and decoders.
    return [(c - w) * 1000 for c, w in zip(came, went)][rate:]


def apart(clip, rate, args, folder):
    """As `run`, the two ends one after the other."""
    sender = run(clip, "elastictok", rate, args, "sender")
    encoder = CODECS["elastictok"][0].format(bitrate=args.bitrate, extra=args.encoder)
    receiver = run(encoded(clip, encoder, folder), "elastictok", rate, args, "receiver")
    return [s + r for s, r in zip(sender, receiver)]


def at_rate(clip, rate, folder):
    """The same pictures at another rate, forwards and backwards for so long that a delay that grows shows."""
    video, out = y4m.read(clip), Path(folder) / clip.name
    there_and_back = itertools.cycle([*video.frames, *video.frames[-2:0:-1]])
    with open(clip, "rb") as source, open(out, "wb") as target:
        # Without comments: y4mdec refuses header lines of more than 80 bytes.
        header = re.sub(rb" X[^ \n]*", b"", source.readline())
        target.write(re.sub(rb" F[0-9]+:[0-9]+", b" F%d:1" % rate, header, count=1))
        for frame in itertools.islice(there_and_back, SECONDS * rate):
            target.write(b"FRAME\n" + frame.tobytes())
    return out


def holds(times, rate):
    """Whether the delay at the end is what it was in the middle, give or take a frame, and below five frames."""
    quarter = len(times) // 4
    middle, end = statistics.median(times[quarter:2 * quarter]), statistics.median(times[-quarter:])
    return end < min(middle + 1000 / rate, 5 * 1000 / rate)


def main():
    p = argparse.ArgumentParser(description=__doc__.split(" usage: ")[0])
    p.add_argument("clips", nargs="+", type=Path)
    p.add_argument("--apart", action="store_true", help="sender and receiver one after the other")
    p.add_argument("--rates", default="30,25,20,15,10,5", help="frames per second, falling")
    p.add_argument("--bitrate", type=int, default=1500)
    p.add_argument("--encoder", default="", help="further properties for elastictokenc")
    args = p.parse_args()
    Gst.init(None)
    print("| pictures | frames/s | codec | median, ms | in frame intervals | 95th percentile, ms |\n| --- | --- | --- | --- | --- | --- |")
    for clip in args.clips:
        form = y4m.Reader(clip).format
        with tempfile.TemporaryDirectory() as folder:
            for rate in map(int, args.rates.split(",")):
                timed = at_rate(clip, rate, folder)
                ends = apart(timed, rate, args, folder) if args.apart else run(timed, "elastictok", rate, args)
                results = {"elastictok": ends}
                if holds(results["elastictok"], rate):
                    break
            else:
                sys.exit(f"{clip} is too much for this machine at {rate} frames/s; give lower --rates")
            results["x264"] = run(timed, "x264", rate, args)
        for codec, times in results.items():
            times, median = sorted(times), statistics.median(times)
            print(f"| {form.width}x{form.height} | {rate} | {codec} | {median:.0f} | {median * rate / 1000:.1f} | "
                  f"{times[int(len(times) * 0.95)]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
