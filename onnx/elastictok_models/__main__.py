# SPDX-License-Identifier: MIT OR Apache-2.0
"""Commands on official models: python -m elastictok_models import-official --help"""
import argparse
import sys

from .official import cli


def main(argv: list[str] | None = None) -> int:
    ap = argparse.ArgumentParser(prog="python -m elastictok_models", description=__doc__)
    commands = ap.add_subparsers(dest="command", required=True)
    cli.arguments(commands.add_parser("import-official", help="make a bundle of an official ElasticTok checkpoint"))
    cli.head_arguments(commands.add_parser("train-head", help="fit a head for search=regression to a checkpoint (needs PyTorch)"))
    args = ap.parse_args(argv)
    try:
        {"import-official": cli.run, "train-head": cli.run_head}[args.command](args)
    except (ValueError, OSError) as e:
        print(f"{ap.prog} {args.command}: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
