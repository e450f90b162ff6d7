# SPDX-License-Identifier: MIT OR Apache-2.0
"""The command import-official: from an official checkpoint to a bundle."""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import bundle
from .checkpoint import Checkpoint, CheckpointError
from .config import SIZES, Config, ConfigError, parse_update
from .weights import TYPES, RandomWeights


def arguments(ap: argparse.ArgumentParser) -> None:
    ap.add_argument("checkpoint", type=Path, nargs="?", help="the file params or streaming_train_state")
    ap.add_argument("--random", type=int, metavar="SEED", help="random weights instead of a checkpoint, to measure with")
    which = ap.add_mutually_exclusive_group(required=True)
    which.add_argument("--config", choices=list(SIZES), help="a named size, with the released settings of its bottleneck")
    which.add_argument("--config-json", type=Path, help="a JSON file with the official config fields")
    ap.add_argument("--update", action="append", default=[], metavar="SETTINGS",
                    help="name=value, or dict(name=value, ..) as the official scripts' --update_elastic_config; may be repeated")
    ap.add_argument("--out", type=Path, required=True, help="the bundle's directory")
    ap.add_argument("--name", help="the bundle's name; the directory's unless given")
    ap.add_argument("--precision", choices=list(TYPES), default="fp32", help="of the layers' weights, products and contexts")
    ap.add_argument("--context", choices=bundle.CONTEXTS, default=bundle.DEFAULT_CONTEXT,
                    help="when the window is full: restart with a key block, or let the oldest block go (default: %(default)s)")
    ap.add_argument("--numpy", type=int, choices=(1, 2), default=1, dest="numpy_version",
                    help="NumPy generation whose rounding the rotary tables follow; the released models were trained with 1")
    ap.add_argument("--layers", type=lambda text: tuple(map(int, text.split(","))), metavar="N,N,..",
                    help="token counts at which a stream can be thinned, rising to max_toks; they double from min_toks unless given")
    ap.add_argument("--vae-bits", type=int, default=bundle.VAE_BITS, help="bits of a VAE latent in the stream (default: %(default)s)")
    ap.add_argument("--licence", default="", help="licence of the weights, as free text")
    ap.add_argument("--training", default="", help="how the model was trained, as free text")
    ap.add_argument("--head", type=Path, help="a distortion head of train-head, for search=regression")


def run(args: argparse.Namespace) -> None:
    updates = {k: v for text in args.update for k, v in parse_update(text).items()}
    cfg = Config.preset(args.config, updates) if args.config else Config.from_json(args.config_json, updates)
    if (args.checkpoint is None) == (args.random is None):
        raise ConfigError("name a checkpoint, or --random SEED, and not both")
    source = RandomWeights(cfg, args.random) if args.checkpoint is None else Checkpoint(args.checkpoint, cfg)
    if isinstance(source, Checkpoint):
        if source.skipped:
            print(f"{len(source.skipped)} tensors are no part of the model and are skipped, such as {source.skipped[0]}", file=sys.stderr)
        source.check_finite()
    export = bundle.Export(args.name or args.out.absolute().name, args.precision, args.numpy_version, args.context, args.layers,
                           args.vae_bits, args.licence, args.training)
    bundle.write(cfg, export, source, args.out)
    print(f"{args.out}: {sum(f.stat().st_size for f in args.out.iterdir())} bytes", file=sys.stderr)


FAULTS = (CheckpointError, ConfigError, ValueError)
