# SPDX-License-Identifier: MIT OR Apache-2.0
"""What a block costs: floating-point operations, and bytes of weights, contexts and traffic.

    python -m elastictok_models.official.cost --config 200m [--precision fp16] [--update ..]"""
from __future__ import annotations

import argparse
from dataclasses import dataclass
from math import prod

import numpy as np

from .config import SIZES, Config, parse_update
from .weights import TYPES


@dataclass(frozen=True)
class Cost:
    """Of one half, for one block of one tile with a full window."""

    linear: int  # FLOPs of products with weights; a multiply and an add are two
    attention: int  # FLOPs of logits and weighted sums; ONNX Runtime computes masked blocks as well, so every block costs this
    weights: int  # bytes of the graph's weights
    context: int  # bytes of keys and values of the past, held twice (in and out)
    traffic: int  # least bytes that must move: weights once, contexts read and written


def cost(cfg: Config, side: str, precision: str = "fp32") -> Cost:
    """Cost of `side`, "encoder" or "decoder"."""
    size = np.dtype(TYPES[precision][0]).itemsize
    layers = cfg.num_encoder_layers if side == "encoder" else cfg.num_decoder_layers
    k, d, w = cfg.max_toks, cfg.hidden_size, cfg.window
    matrices = {key: prod(shape) for key, shape in cfg.shapes().items() if key.startswith(side) and len(shape) > 1 and "embed" not in key
                and "norm" not in key}
    inner = sum(n for key, n in matrices.items() if "scan_decoder" in key)
    outer = sum(matrices.values()) - inner
    tables = 2 * w * k * cfg.head_dim // 2
    weights = inner * size + (outer + tables) * 4
    context = 2 * layers * (w - 1) * k * d * size
    return Cost(2 * k * (inner + outer), 2 * 2 * layers * k * w * k * d, weights, context, weights + 2 * context)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--config", choices=list(SIZES), default="200m")
    ap.add_argument("--precision", choices=list(TYPES), default="fp32")
    ap.add_argument("--update", action="append", default=[])
    args = ap.parse_args()
    cfg = Config.preset(args.config, {k: v for text in args.update for k, v in parse_update(text).items()})
    print(f"{args.config}, {cfg.bottleneck_type}, {args.precision}: a block of a tile, window of {cfg.window} blocks of {cfg.max_toks} tokens")
    for side in ("encoder", "decoder"):
        c = cost(cfg, side, args.precision)
        print(f"{side}: {c.linear / 1e12:.2f} + {c.attention / 1e12:.2f} TFLOP (weights + attention), {c.weights / 1e6:.0f} MB of weights, "
              f"{c.context / 1e6:.0f} MB of contexts, {c.traffic / 1e6:.0f} MB moved")


if __name__ == "__main__":
    main()
