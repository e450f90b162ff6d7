# SPDX-License-Identifier: MIT OR Apache-2.0
"""The structured codec's graphs: encoder, decoder, and the decoder as the encoder runs it.

Every shape follows from the cell grid (`cells_y`, `cells_x`), which is symbolic here and fixed per session, so that after
ONNX Runtime's constant folding only tensor arithmetic is left. docs/bundle.md has the contract."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper

from .blending import predict
from .builder import INT64_MAX, Builder, Grid
from .cells import around, coded_cells, counted_cells, cut, every_cell, first_cells, joined, listed, moving_cells, parts_of
from .config import CELL, Config
from .filter_graph import loop_filter
from .prediction import planes
from .transform_graph import inverse_transform, transform

if TYPE_CHECKING:
    from .distortion import DistortionHead
    from .filter import LoopFilter

HALF = CELL // 2
# A context has one name on both sides; ONNX wants them distinct inside a graph, so outputs carry this suffix.
CONTEXT_OUT = ".next"
# What the encoder graph hands to the loop graph.
HANDED = ("loop.luma", "loop.chroma")
# Parts in which cells are predicted, in the encoder graph also transformed: what one takes is to stay in a processor's cache, but more parts
# are more work for several threads to begin. Pictures of fewer cells have empty parts.
PARTS, ENCODER_PARTS = 2, 4


def _io(cfg: Config, given: str = "cells"):
    """Inputs and outputs; `given`: cells of what the encoder graph gives."""
    value = helper.make_tensor_value_info
    t = cfg.block_length
    found = {
        "frames": value("frames", TensorProto.UINT8, [t, "frame_rows", "width"]),
        "latents": value("tokens", TensorProto.INT16, [given, cfg.coefficients]),  # of the encoder
        "tokens": value("tokens", TensorProto.INT32, ["cells", cfg.coefficients]),
        "counts": value("counts", TensorProto.INT32, ["cells"]),
        "position": value("position", TensorProto.INT64, []),
        "motion": value("motion", TensorProto.INT32, [5, "cells_y", "cells_x"]),
        "step": value("step", TensorProto.FLOAT, []),
        "rows": value("rows", TensorProto.INT64, [2]),
        "dec.reference": value("dec.reference", TensorProto.UINT8, ["frame_rows", "width"]),
        "loop.luma": value("loop.luma", TensorProto.FLOAT, [given, t, CELL, CELL]),
        "loop.chroma": value("loop.chroma", TensorProto.FLOAT, [given, t, HALF, CELL]),
        "distortion": value("distortion", TensorProto.FLOAT, [given, 1]),
    }
    out = onnx.ValueInfoProto()
    out.CopyFrom(found["dec.reference"])
    out.name += CONTEXT_OUT
    return found | {out.name: out}


def decoder(cfg: Config, net: LoopFilter | None, taps: bool = False) -> onnx.ModelProto:
    """tokens, counts, position, motion, step, rows, dec.reference -> frames, dec.reference.next. Of these only `rows` of cells are decoded; HALO of
    them on each side may be wrong, unless the picture ends there.

    `taps` adds outputs `recon.luma`, `residual.luma` float32 [1, T, height, width] and `recon.chroma`, `residual.chroma` [1, 2T,
    height/2, width/2]: what the filter sees, for training."""
    return _decoder(cfg, net, taps, handed=False)


def loop(cfg: Config, net: LoopFilter | None) -> onnx.ModelProto:
    """The decoder for the encoder's loop: what the encoder graph has predicted is not predicted again."""
    return _decoder(cfg, net, False, handed=True)


def _decoder(cfg: Config, net: LoopFilter | None, taps: bool, handed: bool) -> onnx.ModelProto:
    b, io = Builder(), _io(cfg)
    picture = Grid.of(b, "motion")
    grid = picture.band(b, "rows") if cfg.exact else picture
    decode = _decode_cells if cfg.exact else _decode_all
    luma, chroma, recon, residual = decode(b, cfg, picture, grid, net, taps, handed)
    t = cfg.block_length
    frames = b.op("Concat", *(b.reshape(x, t, -1, grid.width) for x in in_picture(b, cfg, picture, grid, luma, chroma)), axis=1, out="frames")
    b.op("Gather", frames, b.const(t - 1, np.int64), axis=0, out="dec.reference" + CONTEXT_OUT)
    rows = ["rows"] if cfg.exact else []
    inputs = ["tokens", "counts", "position", "motion", "step", *rows, "dec.reference", *(HANDED if handed else ())]
    outputs = [io["frames"], io["dec.reference" + CONTEXT_OUT]]
    if taps:
        for kind, (y, uv) in (("recon", recon), ("residual", residual)):
            for name, x, shape in ((f"{kind}.luma", y, [1, t, "height", "width"]),
                                   (f"{kind}.chroma", uv, [1, 2 * t, "half_height", "half_width"])):
                b.op("Identity", x, out=name)
                outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return b.model("loop" if handed else "decoder", [io[k] for k in inputs], outputs)


def _decode_all(b: Builder, cfg: Config, picture: Grid, grid: Grid, net: LoopFilter | None, taps: bool, handed: bool):
    """Every cell in the same way. Returns pictures of luma and chroma, and where `taps` ask for them, those before the filter and those of the
    residual, as pairs in float32."""
    predicted = HANDED if handed else predict(b, cfg, grid, "motion", "position", "dec.reference")[0]
    residual = inverse_transform(b, cfg, "tokens")
    luma, chroma = recon = pictures(b, cfg, grid, *(b.op("Add", p, r) for p, r in zip(predicted, residual)))
    if net is not None or taps:
        residual = pictures(b, cfg, grid, *residual)
    if net is not None:
        corrections = loop_filter(b, cfg, grid, net, recon, residual, "step", "counts")
        luma, chroma = b.op("Add", luma, corrections[0]), b.op("Add", chroma, corrections[1])
    return samples(b, luma), samples(b, chroma), recon, residual


def _decode_cells(b: Builder, cfg: Config, picture: Grid, grid: Grid, net: LoopFilter | None, taps: bool, handed: bool):
    """As _decode_all(), but cells that move, those that are coded and those that are corrected each by themselves: the others are the
    samples of the reference."""
    of_band = lambda mask: b.op("Or", grid.part(b, mask, 0, grid.x), first_cells(b, grid))
    coded_mask = every_cell(b, picture) if taps else coded_cells(b, "counts")
    near_mask = of_band(around(b, picture, coded_mask, 1))
    coded_mask = of_band(coded_mask)
    coded, near = listed(b, coded_mask), listed(b, near_mask)
    sizes = cfg.luma_coefficients, 2 * cfg.chroma_coefficients
    flat = lambda pair: [b.reshape(x, -1, n) for x, n in zip(pair, sizes)]
    if handed:
        given = flat(HANDED)
        shown = [samples(b, grid.part(b, x, 0, grid.x)) for x in given]
        predicted = [b.op("Gather", x, grid.in_picture(b, near.index), axis=0) for x in given]
    else:
        moving = grid.part(b, moving_cells(b, "motion", "position"), 0, grid.x)
        far = listed(b, b.op("Or", b.op("And", moving, b.op("Not", near_mask)), first_cells(b, grid, PARTS)))
        count = b.op("Shape", near.index)
        bounds = parts_of(b, count, PARTS)[:-1] + parts_of(b, b.op("Shape", far.index), PARTS, count)
        index = grid.in_picture(b, b.op("Concat", near.index, far.index, axis=0))
        parts = predict(b, cfg, picture, "motion", "position", "dec.reference", index, bounds)
        whole = lambda parts: [b.op("Concat", *one, axis=0) for one in zip(*parts)]
        predicted, moved = flat(whole(parts[:PARTS])), flat(whole([[samples(b, x) for x in part] for part in parts[PARTS:]]))
        shown = [b.op("Concat", *[x] * cfg.block_length, axis=1) for x in cut(b, grid, *band_planes(b, picture, grid, "dec.reference"), 1)]
        shown = [far.put(x, s) for x, s in zip(moved, shown)]
    residual = flat(inverse_transform(b, cfg, b.op("Gather", "tokens", grid.in_picture(b, coded.index), axis=0)))
    recon = [b.op("Add", coded.of(x, near), r) for x, r in zip(predicted, residual)]
    fine = [coded.put(r, x, near) for r, x in zip(recon, predicted)]
    if net is not None:
        from .exact_filter import correct, unfolded
        if not handed:
            b.metadata["filter"] = unfolded(net)
        corrections = correct(b, cfg, picture, grid, net, [samples(b, x) for x in fine], residual, coded_mask, coded, near, "step", "counts")
        fine = [b.op("Add", x, c) for x, c in zip(fine, corrections)]
    shown = [near.put(samples(b, x), s) for x, s in zip(fine, shown)]
    if taps:
        recon, residual = pictures(b, cfg, grid, *recon), pictures(b, cfg, grid, *residual)
    return *joined(b, grid, *shown, cfg.block_length), recon, residual


def band_planes(b: Builder, picture: Grid, grid: Grid, frames: str, t: int = 1) -> tuple[str, str]:
    """As planes(), of the rows of a band."""
    return tuple(grid.part(b, x, 1, size) for x, size in zip(planes(b, picture, frames, t), (CELL, HALF)))


def in_picture(b: Builder, cfg: Config, picture: Grid, grid: Grid, luma: str, chroma: str) -> list[str]:
    """Planes of all frames of a band, uint8, as joined() gives them, in those of the picture, zero elsewhere."""
    if grid.row is None:
        return [luma, chroma]
    below = b.op("Sub", b.op("Sub", picture.y, grid.row), grid.y)
    found = []
    for x, size, width in ((luma, CELL, grid.width), (chroma, HALF, grid.half_width)):
        x = b.reshape(x, cfg.block_length, -1, b.op("Mul", grid.y, b.ints(size)), width)
        rows = [b.op("Mul", n, b.ints(size)) for n in (grid.row, below)]
        found.append(b.op("Pad", x, b.shape(0, 0, rows[0], 0, 0, 0, rows[1], 0), b.const(0, np.uint8)))
    return found


def samples(b: Builder, x: str) -> str:
    """Float32 as bytes: rounds half to even and saturates."""
    return b.op("QuantizeLinear", x, b.const(np.float32(1)), b.const(0, np.uint8))


def pictures(b: Builder, cfg: Config, grid: Grid, luma: str, chroma: str) -> tuple[str, str]:
    """Samples of all cells, in the order of predict()'s outputs, as pictures: luma [1, T, height, width], chroma [1, 2T, height/2, width/2]."""
    t = cfg.block_length
    luma = b.op("Transpose", b.reshape(luma, grid.y, grid.x, t, CELL, CELL), perm=[2, 0, 3, 1, 4])
    chroma = b.op("Transpose", b.reshape(chroma, grid.y, grid.x, t, HALF, 2, HALF), perm=[2, 4, 0, 3, 1, 5])
    return b.reshape(luma, 1, t, grid.height, grid.width), b.reshape(chroma, 1, 2 * t, grid.half_height, grid.half_width)


def band_energies(b: Builder, cfg: Config, luma: str) -> str:
    """Of luma latents float32 [.., n]: what DistortionHead takes, float32 [.., bands]."""
    from .distortion import bands
    return b.op("MatMul", b.op("Mul", luma, luma), b.const(bands(cfg) / cfg.scale**2))


def distortion(b: Builder, grid: Grid, head: DistortionHead, energies: str, key: str) -> None:
    """DistortionHead as a graph: energies float32 [cells, bands] and the input step to the output `distortion` float32 [cells, 1]. Where `key`,
    bool [], is false, energies may have fewer rows, and the output is NaN."""
    from .distortion import FLOOR
    w = {k: v.detach().cpu().numpy().astype(np.float32) for k, v in head.state_dict().items()}
    weight = lambda k, v: b.weight(f"distortion.{k}", v)
    n = len(w["share"])
    relative = b.op("Div", b.reshape(energies, -1, 1, n), b.op("Mul", "step", "step"))  # [cells, 1, bands]
    most = weight("most", w["share"] * np.exp(w["saturation"].astype(np.float64)))
    kept = b.op("Div", b.op("Mul", relative, most), b.op("Add", relative, most))
    kept = b.op("ReduceSum", kept, b.ints(2), keepdims=1)
    log = b.op("Log", "step")
    rows = b.slice(b.op("Shape", energies), 0, 1, 0)
    everywhere = lambda x: b.op("Expand", x, b.shape(rows, 1, 1))
    features = b.op("Concat", b.op("Mul", b.op("Log", b.op("Add", relative, b.const(np.float32(FLOOR)))), b.const(np.float32(0.25))),
                    everywhere(b.op("Mul", log, b.const(np.float32(0.25)))), everywhere(b.const(np.float32(1))), axis=2)  # all cells are intra
    hidden = b.op("Add", b.op("MatMul", features, weight("hidden.weight", w["hidden.weight"].T)), weight("hidden.bias", w["hidden.bias"]))
    out = b.op("Add", b.op("MatMul", b.op("Relu", hidden), weight("out.weight", w["out.weight"].T)), weight("out.bias", w["out.bias"]))
    total = b.op("Add", b.op("Add", b.op("Log", b.op("Add", kept, b.const(np.float32(1e-6)))), b.op("Mul", log, b.const(np.float32(2)))), out)
    predicted, unknown = b.op("Squeeze", b.op("Exp", total), b.ints(2)), b.const(np.float32(np.nan))
    padded = b.op("Pad", predicted, b.shape(0, 0, b.op("Sub", grid.cells, rows), 0), unknown)
    b.op("Where", key, padded, unknown, out="distortion")


def encoder(cfg: Config, head: DistortionHead | None = None) -> onnx.ModelProto:
    """frames, position, motion, step, rows, dec.reference -> of the cells in these rows, tokens: the latents of what motion does not predict; distortion of key blocks; and the
    prediction, for the loop graph. Without `head` neither step nor distortion."""
    b, io = Builder(), _io(cfg, "cells_of_rows" if cfg.exact else "cells")
    key = b.op("Equal", "position", b.const(0, np.int64))
    picture = Grid.of(b, "motion")
    grid = picture.band(b, "rows") if cfg.exact else picture
    index = grid.in_picture(b, counted_cells(b, grid)) if cfg.exact else None
    bounds = parts_of(b, grid.cells, ENCODER_PARTS)
    predicted = predict(b, cfg, picture, "motion", "position", "dec.reference", index, bounds)
    tokens, energies = [], []
    t = cfg.block_length
    given = [b.reshape(x, -1, t, size, CELL) for x, size in zip(cut(b, grid, *band_planes(b, picture, grid, "frames", t), t), (CELL, HALF))]
    for start, end, part in zip(bounds, bounds[1:], predicted):
        real = lambda x: b.op("Cast", b.slice(x, start, end, 0), to=TensorProto.FLOAT)
        latents = transform(b, cfg, *(b.op("Sub", real(x), p) for x, p in zip(given, part)))
        # rounds half to even and saturates
        tokens.append(b.op("Concat", *(b.op("QuantizeLinear", x, b.const(np.float32(1)), b.const(0, np.int16)) for x in latents), axis=1))
        if head is not None:
            asked = b.op("Where", key, b.op("Sub", end, start), b.ints(1))
            energies.append(band_energies(b, cfg, b.slice(latents[0], 0, asked, 0)))
    rows = ["rows"] if cfg.exact else []
    inputs, outputs = ["frames", "position", "motion", *rows, "dec.reference"], [io[k] for k in ("latents", *HANDED)]
    for name, parts in zip(HANDED, zip(*predicted)):
        b.op("Concat", *parts, axis=0, out=name)
    b.op("Concat", *tokens, axis=0, out="tokens")
    if head is not None:
        distortion(b, grid, head, b.op("Concat", *energies, axis=0), key)
        inputs.append("step")
        outputs.append(io["distortion"])
    return b.model("encoder", [io[k] for k in inputs], outputs)
