# SPDX-License-Identifier: MIT OR Apache-2.0
"""Settings of official models on the command line, and the command import-official: from an official checkpoint to a bundle."""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import bundle
from .checkpoint import Checkpoint
from .config import SIZES, Config, ConfigError, parse_update
from .distortion import Head
from .weights import TYPES, RandomWeights


def model_arguments(ap: argparse.ArgumentParser) -> None:
    """The checkpoint and what its settings are."""
    ap.add_argument("checkpoint", type=Path, nargs="?", help="the file params or streaming_train_state")
    which = ap.add_mutually_exclusive_group(required=True)
    which.add_argument("--config", choices=list(SIZES), help="a named size, with the released settings of its bottleneck")
    which.add_argument("--config-json", type=Path, help="a JSON file with the official config fields")
    ap.add_argument("--update", action="append", default=[], metavar="SETTINGS",
                    help="name=value, or dict(name=value, ..) as the official scripts' --update_elastic_config; may be repeated")
    ap.add_argument("--layers", type=_numbers, metavar="N,N,..",
                    help="token counts at which a stream can be thinned, rising to max_toks; they double from min_toks unless given")


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers such as 256,1024,4096") from None


def config(args: argparse.Namespace) -> Config:
    """The settings that model_arguments describe. Raises ConfigError."""
    updates = {k: v for text in args.update for k, v in parse_update(text).items()}
    return Config.preset(args.config, updates) if args.config else Config.from_json(args.config_json, updates)


def arguments(ap: argparse.ArgumentParser) -> None:
    """Those of import-official."""
    model_arguments(ap)
    ap.add_argument("--random", type=int, metavar="SEED", help="random weights instead of a checkpoint, to measure with")
    ap.add_argument("--out", type=Path, required=True, help="the bundle's directory")
    ap.add_argument("--name", help="the bundle's name; the directory's unless given")
    ap.add_argument("--precision", choices=list(TYPES), default="fp32", help="of the layers' weights, products and contexts")
    ap.add_argument("--context", choices=bundle.CONTEXTS, default=bundle.DEFAULT_CONTEXT,
                    help="when the window is full: restart with a key block, or let the oldest block go (default: %(default)s)")
    ap.add_argument("--numpy", type=int, choices=(1, 2), default=1, dest="numpy_version",
                    help="NumPy generation whose rounding the rotary tables follow; the released models were trained with 1")
    ap.add_argument("--vae-bits", type=int, default=bundle.VAE_BITS, help="bits of a VAE latent in the stream (default: %(default)s)")
    ap.add_argument("--head", type=Path, help="a distortion head that train-head made, for search=regression")
    ap.add_argument("--licence", default="", help="licence of the weights, as free text")
    ap.add_argument("--training", default="", help="how the model was trained, as free text")


def run(args: argparse.Namespace) -> None:
    """Carries out import-official. Raises ValueError with cause and remedy; the output directory is then as it was."""
    cfg = config(args)
    if (args.checkpoint is None) == (args.random is None):
        raise ConfigError("name a checkpoint, or --random SEED, and not both")
    source = RandomWeights(cfg, args.random) if args.checkpoint is None else Checkpoint(args.checkpoint, cfg)
    if isinstance(source, Checkpoint):
        if source.skipped:
            print(f"{len(source.skipped)} tensors are no part of the model and are skipped, such as {source.skipped[0]}", file=sys.stderr)
        source.check_finite()
    export = bundle.Export(args.name or args.out.absolute().name, args.precision, args.numpy_version, args.context, args.layers,
                           args.vae_bits, args.licence, args.training)
    head = Head.load(args.head, cfg, export.layers or bundle.boundaries(cfg)) if args.head else None
    bundle.write(cfg, export, source, args.out, head)
    print(f"{args.out}: {sum(f.stat().st_size for f in args.out.iterdir())} bytes", file=sys.stderr)


def head_arguments(ap: argparse.ArgumentParser) -> None:
    """Those of train-head."""
    model_arguments(ap)
    ap.add_argument("--data", type=Path, required=True, help="a folder of videos; needs ffmpeg")
    ap.add_argument("--pairs", type=int, default=4000, help="blocks to learn from (default: %(default)s)")
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--out", type=Path, required=True, help="the head, an .npz file")


def run_head(args: argparse.Namespace) -> None:
    """Carries out train-head."""
    if args.checkpoint is None:
        raise ConfigError("train-head needs a checkpoint; name the file params or streaming_train_state")
    from . import train_head  # PyTorch is loaded only where it is needed: an import does without

    train_head.run(args, config(args))
