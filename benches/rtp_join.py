#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""How long a receiver that joins in the middle of a group waits for its first picture, from its request for a key frame on, with
elastictokenc and x264enc over RTP. usage: rtp_join.py [--joins N] [--rate FPS] [--bitrate KBIT]
The generated scene at 352x288, live; both ends are rtpbin with the profile AVPF over sockets of this machine, as in rtp_loss.py, and
use as many threads as there are processors. The round trip takes 40 ms. Receivers have no SDP: sequence headers come in band."""
import argparse
import statistics
import sys
import tempfile
import time

import rtp_loss
import y4m
from rtp_loss import Gst


class Join(rtp_loss.Session):
    """A sender that runs, and a receiver that starts later."""

    def __init__(self, clip, codec, args):
        self.asked, self.came, self.seen = [], [], []
        super().__init__(clip, codec, "", rtp_loss.Loss(0), 0, args)
        # The socket closes and keeps its port, so that nothing waits in it.
        self.receiver.set_state(Gst.State.NULL)

    def on_pad(self, rtpbin, pad):
        super().on_pad(rtpbin, pad)
        if pad.get_name().startswith("recv_rtp_src_"):
            self.depay.get_static_pad("sink").add_probe(Gst.PadProbeType.EVENT_UPSTREAM, self.on_request)
            self.depay.get_static_pad("src").add_probe(Gst.PadProbeType.BUFFER, self.on_key)

    def on_request(self, _pad, info):
        structure = info.get_event().get_structure()
        if structure is not None and structure.get_name() == "GstForceKeyUnit":
            self.asked.append(time.monotonic())
        return Gst.PadProbeReturn.OK

    def on_key(self, _pad, _info):
        self.came.append(time.monotonic())
        return Gst.PadProbeReturn.OK

    def on_picture(self, _pad, _info):
        self.seen.append(time.monotonic())
        return False

    def join(self, after):
        """Milliseconds from the request to the first key block or frame and to the first picture, `after` seconds after the sender's
        start."""
        self.sender.set_state(Gst.State.PLAYING)
        time.sleep(after)
        self.receiver.set_state(Gst.State.PLAYING)
        end = time.monotonic() + 10
        while not self.seen:
            if time.monotonic() > end:
                sys.exit(f"no picture within ten seconds, {len(self.asked)} requests")
            time.sleep(0.005)
        for pipeline in (self.sender, self.receiver):
            pipeline.set_state(Gst.State.NULL)
        if not self.asked or self.asked[0] > self.seen[0]:
            sys.exit("the receiver had a picture before it asked for one")
        return [(at[0] - self.asked[0]) * 1000 for at in (self.came, self.seen)]


def main():
    p = argparse.ArgumentParser(description=__doc__.split(" usage: ")[0])
    p.add_argument("--joins", type=int, default=10)
    p.add_argument("--rate", type=int, default=30, help="frames per second")
    p.add_argument("--bitrate", type=int, default=400, help="kbit/s of either encoder")
    args = p.parse_args()
    # Key frames come only where they are asked for.
    args.key, args.encoder, args.frames = 100_000, "", 300
    # rtp_loss.py runs many sessions at a time.
    for codec in rtp_loss.CODECS.values():
        for end in ("encoder", "decoder"):
            codec[end] = codec[end].replace(" threads=1", "").replace(" max-threads=1", "")
    Gst.init(None)
    with tempfile.TemporaryDirectory() as folder:
        clip = rtp_loss.scene(args, folder)
        args.luma = y4m.Reader(clip).format.luma
        print("| codec | key frame, median, ms | picture, median, ms | picture, longest, ms |\n| --- | --- | --- | --- |")
        for codec in rtp_loss.CODECS:
            # At another phase of a block each time.
            times = [Join(clip, codec, args).join(1.2 + 0.013 * n) for n in range(args.joins)]
            keys, pictures = zip(*times)
            print(f"| {codec} | {statistics.median(keys):.0f} | {statistics.median(pictures):.0f} | {max(pictures):.0f} |", flush=True)


if __name__ == "__main__":
    main()
