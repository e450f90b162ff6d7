# SPDX-License-Identifier: MIT OR Apache-2.0
"""The learned in-loop filter as a graph."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .builder import Builder, Grid
from .config import CELL, CHROMA_CENTRE, CHROMA_SCALE, LUMA_CENTRE, LUMA_SCALE, PATCH, K, Config

if TYPE_CHECKING:
    from .filter import LoopFilter


def corrected_patches(b: Builder, grid: Grid, counts: str) -> str:
    """float32 [1, 1, patches_y, patches_x]: 1 in patches of coded cells and in those next to them, diagonally too, so that no seam
    stays between a coded cell and one that was skipped; 0 elsewhere, where the picture stays exactly as predicted."""
    coded = b.op("Where", b.op("Greater", counts, b.const(0, np.int32)), b.const(np.float32(1)), b.const(np.float32(0)))
    coded = b.op("Expand", b.reshape(coded, grid.y, 1, grid.x, 1), b.shape(grid.y, K, grid.x, K))
    coded = b.reshape(coded, 1, 1, grid.patches_y, grid.patches_x)
    return b.op("MaxPool", coded, kernel_shape=[3, 3], pads=[1, 1, 1, 1])


def loop_filter(b: Builder, cfg: Config, grid: Grid, net: LoopFilter, recon: tuple[str, str], residual: tuple[str, str],
                step: str, counts: str) -> tuple[str, str]:
    """LoopFilter on pictures. `recon`, `residual`: luma float32 [1, T, height, width] and chroma [1, 2T, height/2, width/2];
    returns the corrections of both, of these shapes.

    Patches are never cut out: the first layer strides over the pictures, the last one's channels are shuffled to samples. The
    embedding of place and step is as long as a patch of one plane has samples, so it enters as a plane of its own. In
    between are only convolutions and sums, for which ONNX Runtime keeps its blocked layout."""
    w = {k: v.detach().cpu().numpy().astype(np.float32) for k, v in net.state_dict().items()}
    weight = lambda k: b.weight(f"filter.{k}", w[k])
    linear = lambda x, k: b.op("Gemm", x, weight(k + ".weight"), weight(k + ".bias"), transB=1)
    step = b.op("Min", step, b.const(np.float32(cfg.coarsest_step)))
    log = b.op("Div", b.op("Log", step), b.const(np.float32(np.log(2))))
    log = b.op("Reshape", b.op("Sub", b.op("Mul", log, b.const(np.float32(0.25))), b.const(np.float32(1))), b.ints(1, 1))
    condition = linear(b.op("Relu", linear(log, "condition.0")), "condition.2")
    place = b.weight("filter.place", w["place"].reshape(PATCH, PATCH, K, K).transpose(2, 0, 3, 1))
    tile = b.op("Add", place, b.op("Reshape", condition, b.ints(1, PATCH, 1, PATCH)))
    tile = b.op("Expand", b.reshape(tile, 1, CELL, 1, CELL), b.shape(grid.y, CELL, grid.x, CELL))
    embedding = b.reshape(tile, 1, 1, grid.height, grid.width)

    def stride(x: str, name: str, kernel: np.ndarray, side: int, *bias: str) -> str:
        return b.op("Conv", x, b.weight("filter." + name, kernel.reshape(len(kernel), -1, side, side)), *bias, strides=[side, side])

    def head(name: str, n: int, recon: str, residual: str, side: int, scale: int, centre: int) -> str:
        """What pictures give to a first layer, their patches being of n samples; recon enters as recon / scale - centre."""
        kernel = w[name + ".weight"][:, :, 0, 0]
        bias = b.weight(f"filter.{name}.bias", w[name + ".bias"] - centre * kernel[:, :n].sum(1, dtype=np.float64))
        limited = b.op("Clip", b.op("Div", residual, step), b.const(np.float32(-8)), b.const(np.float32(8)))
        return b.op("Add", stride(recon, name + ".recon", kernel[:, :n] / scale, side, bias),
                    stride(limited, name + ".residual", kernel[:, n:2 * n] / 2, side))

    def mixers(h: str, name: str, count: int) -> str:
        for i in range(count):
            conv = lambda x, part, **kw: b.op("Conv", x, weight(f"{name}.{i}.{part}.weight"), weight(f"{name}.{i}.{part}.bias"), **kw)
            x = conv(h, "depthwise", group=len(w[f"{name}.{i}.depthwise.weight"]), pads=[1, 1, 1, 1])
            h = b.op("Add", h, conv(b.op("Relu", conv(x, "expand")), "project"))
        return h

    luma = head("head", cfg.luma_patch, recon[0], residual[0], PATCH, LUMA_SCALE, LUMA_CENTRE)
    luma = b.op("Add", luma, stride(embedding, "head.embedding", w["head.weight"][:, 2 * cfg.luma_patch:, 0, 0], PATCH))
    luma = mixers(luma, "body", cfg.blocks)
    chroma = head("chroma_head", cfg.chroma_patch, recon[1], residual[1], PATCH // 2, CHROMA_SCALE, CHROMA_CENTRE)
    chroma = mixers(b.op("Add", chroma, b.op("Conv", luma, weight("chroma_luma.weight"))), "chroma_body", cfg.chroma_blocks)

    corrected = b.op("Mul", corrected_patches(b, grid, counts), step)
    luma = b.op("Mul", b.op("Conv", luma, weight("tail.weight")), b.op("Mul", corrected, b.op("Exp", linear(condition, "gain"))))
    chroma = b.op("Mul", b.op("Conv", chroma, weight("chroma_tail.weight")), corrected)
    to_samples = lambda x, side: b.op("DepthToSpace", x, blocksize=side, mode="CRD")
    return to_samples(luma, PATCH), to_samples(chroma, PATCH // 2)
