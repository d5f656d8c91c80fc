"""`vivavoce models`: which recognisers there are, what one is, and conversion of foreign checkpoints into our layout.

All of it is `speech/checkpoint.py`, printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import get_args

from vivavoce.speech.checkpoint import Info, convert, info, models
from vivavoce.speech.weights import Precision
from vivavoce.streaming.clock import Clock

SOURCE = "a shipped name, a folder, a .nemo file or a Hub id"


def main(argv: Sequence[str] | None = None) -> int:
    """Raises BadCheckpoint, BadConfig or MissingDependency, as `checkpoint.load` does."""
    args = _parser().parse_args(argv)
    if args.what == "list":
        print("\n".join(map(line, models())) or "no model ships with this package")
    elif args.what == "info":
        print(describe(info(args.name)))
    else:
        print(describe(convert(args.source, args.folder, dtype=args.dtype)))
    return 0


def line(model: Info) -> str:
    """name, size, decoders, lookaheads in one line."""
    size = f"{_parameters(model):>8}  {_megabytes(model):>8}"
    return f"{model.name:20}  {size}  {'+'.join(model.decoders):10}  {_hears(model)}"


def describe(model: Info) -> str:
    rows = {
        "name": model.name,
        "source": model.source,
        "parameters": _parameters(model),
        "size": _megabytes(model),
        "decoders": ", ".join(model.decoders),
        "lookahead": _hears(model),
    }
    lines = [f"{key:11} {value}" for key, value in rows.items()]
    return "\n".join([*lines, "", model.card.rstrip()] if model.card else lines)


def _parameters(model: Info) -> str:
    return f"{model.parameters / 1e6:.1f} M"


def _megabytes(model: Info) -> str:
    return f"{model.size / 1e6:.1f} MB"


def _hears(model: Info) -> str:
    """The lookaheads it was trained at."""
    if not model.lookaheads:
        return "whole utterances only"
    return ", ".join(str(Clock().lookahead_ms(frames)) for frames in sorted(model.lookaheads)) + " ms"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("vivavoce models", description="List, inspect and convert models.")
    what = parser.add_subparsers(dest="what", required=True, metavar="list|info|convert")
    what.add_parser("list", help="the models that ship with the package")
    one = what.add_parser("info", help="what a model is, and its card")
    one.add_argument("name", metavar="NAME", help=SOURCE)
    to = what.add_parser("convert", help="write a model in this project's layout")
    to.add_argument("source", metavar="SRC", help=SOURCE)
    to.add_argument("folder", metavar="DST", help="folder to write: config.json, model.safetensors, tokenizer.json")
    to.add_argument(
        "--dtype", choices=get_args(Precision), default="float32", help="of the weights (default: %(default)s)"
    )
    return parser
