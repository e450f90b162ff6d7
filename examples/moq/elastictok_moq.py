# SPDX-License-Identifier: MIT OR Apache-2.0
"""ElasticTok over Media over QUIC (MoQ): one track for each layer, whose priority falls with the layer.

A group of a track is a group of the stream: a key block and the blocks that depend on it. Object 0 of a group is the sequence
header; object n is what the layer adds to block n, counted from 1. A block of n layers is the objects of n tracks, one after
the other. A relay that has too little bandwidth sends the tracks of higher priority first, so upper layers are late or missing
and the base layer is not.

A viewer subscribes to as many layers as it wants. Where a layer's object is missing when the next block comes, the viewer goes
on without that layer to the end of the group, since pictures should change their number of layers at key blocks only.
"""
import argparse
import asyncio
import json
import signal
import sys
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
from gi.repository import Gst, GstApp  # noqa: E402, F401
import moq  # noqa: E402

# What the encoder makes, and the most that it can.
LAYERS, MOST_LAYERS = 4, 5
# Of the base layer; each layer above it has less.
PRIORITY, STEP = 200, 40
# How long old groups are still sent, in us: the base layer longer, since all else hangs on it.
BASE_AGE, UPPER_AGE = 2_000_000, 500_000


def priority(layer: int) -> int:
    return PRIORITY - STEP * layer


def track(layer: int) -> str:
    return f"layer{layer}"


class Publisher:
    """Encodes once and publishes each layer."""

    def __init__(self, source: str, bitrate: int, key_int_max: int, layers: int, single: bool):
        tracks = 1 if single else layers
        # A block of fewer layers is a prefix of the block, so what a layer adds is the difference of two thinned blocks.
        thinners = "".join(
            f" t. ! queue max-size-buffers=0 max-size-bytes=0 max-size-time=0 ! elastictokthin max-layers={0 if layer + 1 == tracks else layer + 1}"
            f" ! appsink name=layer{layer} sync=false max-buffers=64"
            for layer in range(tracks)
        )
        self.pipeline = Gst.parse_launch(
            f"{source} ! videoconvert ! elastictokenc rate-control=bitrate bitrate={bitrate} key-int-max={key_int_max}"
            f" layers={layers} ! video/x-elastictok,stream-format=packetized ! tee name=t{thinners}"
        )
        self.sinks = [self.pipeline.get_by_name(f"layer{layer}") for layer in range(tracks)]
        self.group = -1
        self.groups: list = []

    def next_block(self):
        """Sequence header, whether it is a key block, its time in us, and what each layer adds; `None` at the end."""
        samples = [sink.emit("pull-sample") for sink in self.sinks]
        if None in samples:
            error = self.pipeline.get_bus().pop_filtered(Gst.MessageType.ERROR)
            if error:
                raise RuntimeError(error.parse_error()[0].message)
            return None
        buffers = [sample.get_buffer() for sample in samples]
        blocks = [buffer.extract_dup(0, buffer.get_size()) for buffer in buffers]
        pieces = [block[len(before):] for before, block in zip([b"", *blocks], blocks)]
        header = samples[0].get_caps().get_structure(0).get_value("codec_data")
        key = not buffers[0].has_flags(Gst.BufferFlags.DELTA_UNIT)
        return header.extract_dup(0, header.get_size()), key, buffers[0].pts // 1000, pieces

    async def run(self, broadcast) -> None:
        ages = [BASE_AGE] + [UPPER_AGE] * (len(self.sinks) - 1)
        info = [moq.TrackInfo(priority=priority(layer), max_age_us=age) for layer, age in enumerate(ages)]
        tracks = [broadcast.publish_track(track(layer), i) for layer, i in enumerate(info)]
        broadcast.announce()
        self.pipeline.set_state(Gst.State.PLAYING)
        try:
            while (block := await asyncio.to_thread(self.next_block)) is not None:
                self.write(tracks, *block)
            for finished in [*self.groups, *tracks]:
                finished.finish()
        finally:
            self.pipeline.set_state(Gst.State.NULL)

    def write(self, tracks, header: bytes, key: bool, at: int, pieces: list[bytes]) -> None:
        if key:
            for group in self.groups:
                group.finish()
            self.group += 1
            self.groups = [t.create_group(self.group) for t in tracks]
            for group in self.groups:
                group.write_frame(header, at)
        # When it was sent, for viewers that measure: the clock that all processes of a machine have in common.
        for group, piece in zip(self.groups, pieces):
            group.write_frame(time.monotonic_ns().to_bytes(8, "little") + piece, at)


class Viewer:
    """Puts layers together and plays them."""

    def __init__(self, layers: int, sink: str, wait: float, started: float):
        self.layers, self.wait = layers, wait
        self.pipeline = Gst.parse_launch(
            "appsrc name=blocks is-live=true format=time do-timestamp=true max-bytes=4194304"
            f" ! elastictokdec name=decoder ! videoconvert ! {sink}" if sink else "appsrc name=blocks ! fakesink"
        )
        if sink:
            self.pipeline.get_by_name("decoder").get_static_pad("src").add_probe(Gst.PadProbeType.BUFFER, self.on_picture)
        self.source = self.pipeline.get_by_name("blocks")
        # Of each layer, pieces by group and block; and which layers the group still has.
        self.pieces = [{} for _ in range(layers)]
        self.more = asyncio.Event()
        self.group, self.usable = None, layers
        # Blocks by number of layers, and of each layer the delays of its objects in ms.
        self.shown: dict[int, int] = {}
        self.delays: list[list[float]] = [[] for _ in range(layers)]
        self.bytes = 0
        # Seconds until the first block and the first picture.
        self.first, self.picture = None, None
        self.started = started

    def on_picture(self, _pad, _info) -> Gst.PadProbeReturn:
        self.picture = time.monotonic() - self.started
        return Gst.PadProbeReturn.REMOVE

    async def receive(self, broadcast, layer: int) -> None:
        age = BASE_AGE if layer == 0 else UPPER_AGE
        wanted = moq.Subscription(priority=priority(layer), max_age_us=age)
        groups = await broadcast.subscribe_track(track(layer), wanted)
        tasks = set()
        async for group in groups.groups_as_arrived():
            task = asyncio.create_task(self.read(group, layer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    async def read(self, group, layer: int) -> None:
        number = 0
        try:
            async for frame in group:
                payload = bytes(frame.payload)
                self.bytes += len(payload)
                if number > 0:
                    self.delays[layer].append((time.monotonic_ns() - int.from_bytes(payload[:8], "little")) / 1e6)
                self.pieces[layer][group.sequence, number] = payload if number == 0 else payload[8:]
                number += 1
                self.more.set()
        except moq.Error:
            pass  # The sender gave the rest of the group up: newer ones are on their way.

    async def piece(self, layer: int, at, deadline: float) -> bytes | None:
        """What a layer adds to a block; `None` where it does not come in time, or the next group's base layer is there first."""
        while at not in self.pieces[layer]:
            newer = layer == 0 and any(group > at[0] and number > 0 for group, number in self.pieces[0])
            left = deadline - time.monotonic()
            if newer or left <= 0:
                return None
            self.more.clear()
            try:
                await asyncio.wait_for(self.more.wait(), min(left, 0.1))
            except asyncio.TimeoutError:
                pass
        return self.pieces[layer].pop(at)

    async def play(self) -> None:
        while True:
            groups = sorted({group for group, number in self.pieces[0] if number == 0 and (self.group is None or group > self.group)})
            if not groups:
                self.more.clear()
                await self.more.wait()
                continue
            self.group, self.usable = groups[0], self.layers
            for pieces in self.pieces:
                for old in [at for at in pieces if at[0] < self.group]:
                    del pieces[old]
            header = self.pieces[0].pop((self.group, 0))
            caps = Gst.Caps.new_empty_simple("video/x-elastictok")
            caps.set_value("stream-format", "packetized")
            caps.set_value("codec_data", Gst.Buffer.new_wrapped(header))
            if self.source.props.caps is None or not self.source.props.caps.is_equal(caps):
                self.source.props.caps = caps
            number = 1
            while (block := await self.piece(0, (self.group, number), float("inf"))) is not None:
                self.show(number, await self.upper(block, number))
                number += 1

    async def upper(self, block: bytes, number: int) -> bytes:
        deadline = time.monotonic() + self.wait
        for layer in range(1, self.usable):
            piece = await self.piece(layer, (self.group, number), deadline)
            if piece is None:
                self.usable = layer
                break
            block += piece
        return block

    def show(self, number: int, block: bytes) -> None:
        if self.first is None:
            self.first = time.monotonic() - self.started
        self.shown[self.usable] = self.shown.get(self.usable, 0) + 1
        buffer = Gst.Buffer.new_wrapped(block)
        if number > 1:
            buffer.set_flags(Gst.BufferFlags.DELTA_UNIT)
        self.source.emit("push-buffer", buffer)

    def report(self) -> dict:
        late = [{"objects": len(d), "within_500_ms": sum(ms <= 500 for ms in d)} for d in self.delays]
        seconds = time.monotonic() - self.started
        return {
            "first_block_s": self.first and round(self.first, 2),
            "first_picture_s": self.picture and round(self.picture, 2),
            "bytes": self.bytes,
            "kbps": round(self.bytes * 8e-3 / seconds),
            "blocks_by_layers": self.shown,
            "layers": late,
        }

    async def run(self, broadcast, blocks: int) -> None:
        self.pipeline.set_state(Gst.State.PLAYING)
        tasks = [asyncio.create_task(self.receive(broadcast, layer)) for layer in range(self.layers)]
        player = asyncio.create_task(self.play())
        try:
            while not blocks or sum(self.shown.values()) < blocks:
                done, _ = await asyncio.wait([*tasks, player], timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
                error = self.pipeline.get_bus().pop_filtered(Gst.MessageType.ERROR)
                if error:
                    raise RuntimeError(error.parse_error()[0].message)
                for task in done:
                    task.result()
                if tasks[0] in done:
                    break
        finally:
            for task in [*tasks, player]:
                task.cancel()
            self.pipeline.set_state(Gst.State.NULL)


def source(text: str) -> str:
    return "v4l2src ! decodebin" if text == "camera" else text


async def watch(args, url: str) -> None:
    started = time.monotonic()
    async with moq.Client(url, tls_verify=not args.insecure) as client:
        broadcast = await client.announced_broadcast(args.name).available()
        viewer = Viewer(args.layers or LAYERS - 1, args.sink, args.wait, started)
        try:
            limit = args.seconds or None
            await asyncio.wait_for(viewer.run(broadcast, args.blocks), limit)
        except asyncio.TimeoutError:
            pass
        print(json.dumps(viewer.report()), flush=True)


async def publish(args, url: str) -> None:
    async with moq.Client(url, tls_verify=not args.insecure) as client:
        publisher = Publisher(source(args.source), args.bitrate, args.key_int_max, args.layers or LAYERS, args.single)
        await publisher.run(client.create_broadcast(args.name))


async def relay(args, ready=None) -> None:
    async with moq.Server(args.bind, tls_generate=["localhost"]) as server:
        port = server.local_addr.rsplit(":", 1)[1]
        print(f"https://localhost:{port}", flush=True)
        if ready:
            ready.set_result(f"https://localhost:{port}")
        sessions = set()
        async for request in server:
            session = asyncio.create_task(serve(request))
            sessions.add(session)
            session.add_done_callback(sessions.discard)


async def serve(request) -> None:
    try:
        session = await request.accept()
        await session.closed()
    except moq.Error:
        pass  # The peer went away.


async def demo(args) -> None:
    ready = asyncio.get_running_loop().create_future()
    parts = [asyncio.create_task(relay(args, ready))]
    url = await ready
    args.insecure = True
    parts.append(asyncio.create_task(publish(argparse.Namespace(**vars(args) | {"layers": None}), url)))
    viewer = asyncio.create_task(watch(args, url))
    done, _ = await asyncio.wait([*parts, viewer], return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    await viewer
    for part in parts:
        part.cancel()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("demo", "relay", "publish", "watch"))
    parser.add_argument("--url", default="https://localhost:4443", help="relay to connect to")
    parser.add_argument("--insecure", action="store_true", help="accept any certificate, such as one that was generated")
    parser.add_argument("--bind", default="127.0.0.1:4443", help="relay: address and port to listen at; port 0 = any")
    parser.add_argument("--name", default="live", help="name of the broadcast")
    parser.add_argument("--source", default="camera", help="publish: 'camera', or elements in gst-launch's words")
    parser.add_argument("--bitrate", type=int, default=1000, help="publish: kbit/s of all layers")
    parser.add_argument("--key-int-max", type=int, default=60, help="publish: most frames between key blocks")
    parser.add_argument("--single", action="store_true", help="publish: all layers in one track, for comparison")
    parser.add_argument("--layers", type=int, choices=range(1, MOST_LAYERS + 1), help="publish: layers to encode (4); watch: layers to subscribe to (3)")
    parser.add_argument("--wait", type=float, default=0.1, help="watch: seconds to wait for upper layers")
    parser.add_argument("--sink", default="autovideosink", help="watch: element that shows pictures; '' = only measure")
    parser.add_argument("--blocks", type=int, default=0, help="watch: stop after so many blocks; 0 = never")
    parser.add_argument("--seconds", type=float, default=0, help="watch: stop after so many seconds; 0 = never")
    args = parser.parse_args()
    Gst.init(None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    parts = {"relay": lambda: relay(args), "demo": lambda: demo(args)}
    parts |= {"publish": lambda: publish(args, args.url), "watch": lambda: watch(args, args.url)}
    try:
        asyncio.run(parts[args.what]())
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
