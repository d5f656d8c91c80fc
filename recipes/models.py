"""`vivavoce models`: which models there are, what one is, and conversion of foreign ones into our layout.

Recognisers are `speech/checkpoint.py`, printed, language models `speech/llm/hub.py`; the other models that ship are
told by their folders and cards.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import get_args

from vivavoce.speech.checkpoint import CARD, CONFIG, Info, average, convert, info, models
from vivavoce.speech.config import read_json
from vivavoce.speech.llm import hub, retrieval
from vivavoce.speech.weights import Precision, count_parameters
from vivavoce.streaming.clock import Clock

SOURCE = "a shipped name, a folder, a .nemo file or a Hub id"


def main(argv: Sequence[str] | None = None) -> int:
    """Raises BadCheckpoint, BadConfig or MissingDependency, as `checkpoint.load` does."""
    args = _parser().parse_args(argv)
    if args.what == "list":
        print("\n".join([*map(line, models()), *map(other_line, others())]) or "no model ships with this package")
    elif args.what == "info":
        other = {folder.name: folder for folder in others()}.get(args.name)
        print(describe_other(other) if other else describe(info(args.name)))
    elif args.what == "average":
        print(describe(average(args.sources, args.folder, dtype=args.dtype)))
    elif is_language_model(Path(args.source)):
        print(describe_converted(convert_language_model(Path(args.source), Path(args.folder), args.dtype)))
    else:
        print(describe(convert(args.source, args.folder, dtype=args.dtype)))
    return 0


def is_language_model(folder: Path) -> bool:
    path = folder / CONFIG
    return path.is_file() and read_json(path).get("model_type") in (hub.MODEL_TYPE, *hub.KINDS)


def convert_language_model(source: Path, folder: Path, dtype: Precision) -> Path:
    """Write it in our layout, with its ready answers and its card; returns the folder."""
    loaded = hub.load(source)
    hub.save(loaded.decoder, folder, tokenizer=loaded.tokenizer, template=loaded.template, dtype=dtype)
    for name in (retrieval.FILE, CARD):
        if (source / name).is_file() and source.resolve() != folder.resolve():
            shutil.copy(source / name, folder / name)
    return folder


def describe_converted(folder: Path) -> str:
    return f"name        {folder.name}\nsize        {_size_of(folder).strip()}"


def others() -> list[Path]:
    """The folders of the models that ship and recognise nothing: voices, language models, punctuation."""
    root = Path(str(resources.files("vivavoce.speech.models")))
    recognisers = {model.source for model in models()}
    return [p for p in sorted(root.iterdir()) if (p / CARD).is_file() and p not in recognisers]


def other_line(folder: Path) -> str:
    """name, size, and what the card says first, in one line."""
    return f"{folder.name:20}  {_size_of(folder)}  {_first_sentence(folder)}"


def describe_other(folder: Path) -> str:
    return f"name        {folder.name}\nsource      {folder}\n\n{(folder / CARD).read_text().rstrip()}"


def _size_of(folder: Path) -> str:
    size = sum(f.stat().st_size for f in folder.iterdir() if f.suffix in (".safetensors", ".xz"))
    return f"{count_parameters(folder) / 1e6:>6.1f} M  {size / 1e6:>5.1f} MB"


def _first_sentence(folder: Path) -> str:
    """Of the card, up to its first stop or number."""
    body = next(part for part in (folder / CARD).read_text().split("\n\n")[1:] if part[:1] not in ("", "#", "|"))
    return re.split(r"[.:;] |, (?=[0-9])", " ".join(body.split()), maxsplit=1)[0].rstrip(".")


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
    parser = argparse.ArgumentParser("vivavoce models", description="List, inspect, convert and average models.")
    what = parser.add_subparsers(dest="what", required=True, metavar="list|info|convert|average")
    what.add_parser("list", help="the models that ship with the package")
    one = what.add_parser("info", help="what a model is, and its card")
    one.add_argument("name", metavar="NAME", help=SOURCE)
    to = what.add_parser("convert", help="write a model in this project's layout")
    to.add_argument("source", metavar="SRC", help=f"{SOURCE}, or the folder of a language model")
    to.add_argument("folder", metavar="DST", help="folder to write: config.json, model.safetensors, tokenizer.json")
    mean = what.add_parser("average", help="write the mean of several runs' weights")
    mean.add_argument("folder", metavar="DST", help="folder to write")
    mean.add_argument("sources", metavar="SRC", nargs="+", help=SOURCE)
    for writes in (to, mean):
        writes.add_argument(
            "--dtype", choices=get_args(Precision), default="float32", help="of the weights (default: %(default)s)"
        )
    return parser
