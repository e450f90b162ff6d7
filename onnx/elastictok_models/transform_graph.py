# SPDX-License-Identifier: MIT OR Apache-2.0
"""The cell transform as a graph, both ways."""
import numpy as np
from onnx import TensorProto

from . import exact
from .builder import Builder
from .config import CELL, Config
from .transform import chroma_columns, chroma_weights, dct, time_and_rows

HALF = CELL // 2


def inverse_transform(b: Builder, cfg: Config, tokens: str) -> tuple[str, str]:
    """Latents i32 [n, C] to the residual in pixel units, shaped as predict()'s outputs."""
    t, n = cfg.block_length, cfg.luma_coefficients
    part = lambda start, end: b.op("Cast", b.slice(tokens, start, end, 1), to=TensorProto.FLOAT)
    luma, chroma = part(0, n), part(n, cfg.coefficients)
    if cfg.exact:
        chroma = b.op("Mul", chroma, b.const(exact.chroma_gains(cfg).reshape(1, -1), np.float32))
        luma, chroma = _exact_inverse(b, cfg, luma, False), _exact_inverse(b, cfg, _whole(b, chroma, exact.LATENT_MAX), True)
    else:
        luma = b.op("MatMul", b.const(time_and_rows(cfg, CELL).T, np.float32), b.reshape(luma, -1, t * CELL, CELL))
        luma = b.op("MatMul", b.reshape(luma, -1, CELL), b.const(dct(CELL) / cfg.scale, np.float32))
        weights = 1 / (chroma_weights(cfg) * cfg.scale)
        chroma = b.op("Mul", chroma, b.const(weights.reshape(1, -1), np.float32))
        chroma = b.op("MatMul", b.const(time_and_rows(cfg, HALF).T, np.float32), b.reshape(chroma, -1, t * HALF, CELL))
        chroma = b.op("MatMul", b.reshape(chroma, -1, CELL), b.const(chroma_columns(), np.float32))
    return b.reshape(luma, -1, t, CELL, CELL), b.reshape(chroma, -1, t, HALF, CELL)


def _whole(b: Builder, x: str, most: int) -> str:
    """x limited to that magnitude and rounded, halves to even."""
    return b.op("Round", _limited(b, x, most))


def _limited(b: Builder, x: str, most: int) -> str:
    return b.op("Clip", x, b.const(np.float32(-most)), b.const(np.float32(most)))


def _exact_inverse(b: Builder, cfg: Config, latents: str, chroma: bool) -> str:
    columns, rows = exact.basis(cfg, chroma)
    x = b.op("MatMul", b.reshape(latents, -1, CELL), b.const(columns, np.float32))
    x = _whole(b, x, exact.MIDDLE_MAX)
    x = b.op("MatMul", b.const(rows / cfg.scale, np.float32), b.reshape(x, -1, len(rows), CELL))
    return _limited(b, x, exact.RESIDUAL_MAX)


def transform(b: Builder, cfg: Config, luma: str, chroma: str) -> tuple[str, str]:
    """Residuals shaped as predict()'s outputs to latents float32, not rounded: luma [cells, T*256], chroma
    [cells, T*128]."""
    t = cfg.block_length
    weights = chroma_weights(cfg) * cfg.scale
    (luma_columns, luma_rows), (columns, rows) = ((dct(CELL).T, time_and_rows(cfg, CELL)), (chroma_columns().T, time_and_rows(cfg, HALF)))
    if cfg.exact:  # the encoder may round as it likes, but it must undo what the decoder does
        (luma_columns, luma_rows), (columns, rows) = (map(np.linalg.inv, exact.basis(cfg, chroma)) for chroma in (False, True))
        weights = cfg.scale / exact.chroma_gains(cfg)
    luma = b.op("MatMul", b.reshape(luma, -1, CELL), b.const(cfg.scale * luma_columns, np.float32))
    luma = b.op("MatMul", b.const(luma_rows, np.float32), b.reshape(luma, -1, t * CELL, CELL))
    chroma = b.op("MatMul", b.reshape(chroma, -1, CELL), b.const(columns, np.float32))
    chroma = b.op("MatMul", b.const(rows, np.float32), b.reshape(chroma, -1, t * HALF, CELL))
    chroma = b.reshape(chroma, -1, 2 * cfg.chroma_coefficients)
    return b.reshape(luma, -1, cfg.luma_coefficients), b.op("Mul", chroma, b.const(weights.reshape(1, -1), np.float32))
