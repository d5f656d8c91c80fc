"""The ready answers that ship beside a small model: exchanges of the corpora whose answers need no context.

`vivavoce data replies` reads small talk, ours and the ChatterBot corpus's, and how task dialogues begin, and writes the
file that `speech/llm/retrieval.py` reads; the model's card credits them. Of tasks only answers that name nothing are
taken. Trivia is left out: a near match would be a wrong fact.
"""

from __future__ import annotations

import argparse
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from vivavoce.speech.errors import BadConfig
from vivavoce.speech.llm.retrieval import FILE, Exchange, Replies, words

from .data import SMALL_TALK, dialogues

TALK = "chatterbot_small_talk"
TASKS = ("sgd_train_dev",)
OF_EACH = 3000  # beginnings of tasks
LONGEST = 160  # characters of an answer that is spoken
_UNFIT = re.compile(
    r"\b(sex|sexy|sexual|porn|nude|naked|penis|breast|rape|nazi|hitler|kill|killed|murder\w*|suicide|stupid|idiot|dumb|"
    r"drunk|drugs?|gay|lesbian|whore|bitch|crap|hell|damn|ass|racist|slaves?|holocaust|terroris\w+|your master|"
    r"following|these|above|below|pictured|picture shows)\b",
    re.IGNORECASE,
)


def ours(path: Path = SMALL_TALK) -> Iterator[Exchange]:
    for talk in tomllib.loads(path.read_text(encoding="utf-8"))["talk"]:
        yield Exchange(tuple(talk["hear"]), tuple(talk["say"]))


def found(file: Path) -> Iterator[Exchange]:
    """The first question and answer of each dialogue, where they are fit to be said to anybody."""
    for turns in dialogues(file):
        (asks, question), (says, answer) = turns[:2]
        fit = (asks, says) == ("user", "assistant") and len(answer) <= LONGEST and len(words(question)) > 2
        if fit and not _UNFIT.search(f"{question} {answer}"):
            yield Exchange((question,), (_sentence(answer),))


def beginnings(file: Path, most: int = OF_EACH) -> Iterator[Exchange]:
    """How task dialogues begin, where the answer would fit anybody who asked for the like: no names, no numbers."""
    yield from islice((e for e in found(file) if not _NAMES.search(e.replies[0])), most)


def merged(exchanges: Iterable[Exchange]) -> list[Exchange]:
    """Answers to the same words together; the earlier ones stand first, and what ours answer nobody else does."""
    own = list(ours())
    taken = {tuple(words(heard)) for exchange in own for heard in exchange.heard}
    answers: dict[tuple[str, ...], tuple[str, list[str]]] = {}
    for exchange in exchanges:
        key = tuple(words(exchange.heard[0]))
        if key not in taken:
            kept = answers.setdefault(key, (exchange.heard[0], []))[1]
            kept += [reply for reply in exchange.replies if reply not in kept]
    return own + [Exchange((heard,), tuple(replies)) for heard, replies in answers.values()]


_NAMES = re.compile(r"\d|(?<![.?!] )(?<!^)\b(?!I\b|I'|OK\b)[A-Z]")  # a digit, or a capital inside a sentence


def _sentence(text: str) -> str:
    """As it would be written: a capital first, a stop last."""
    text = text.strip()
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?", '"')) else f"{text}."


def main(argv: Sequence[str] | None = None) -> int:
    """Raises BadConfig when a corpus is not there."""
    p = argparse.ArgumentParser("vivavoce data replies", description="Write the ready answers of a small model.")
    p.add_argument("--data", type=Path, default=Path(os.environ.get("VIVAVOCE_DATA", ".")),
                   help="folder that holds text/ (default: $VIVAVOCE_DATA)")  # fmt: skip
    p.add_argument("--out", type=Path, required=True, help="the model's folder")
    args = p.parse_args(argv)
    talk, *tasks = (args.data / "text" / f"{name}.jsonl.xz" for name in (TALK, *TASKS))
    for file in (talk, *tasks):
        if not file.is_file():
            raise BadConfig(f"{file}: no such corpus; --data takes the folder that holds text/")
    exchanges = merged(chain(found(talk), *map(beginnings, tasks)))
    args.out.mkdir(parents=True, exist_ok=True)
    Replies(exchanges).save(args.out / FILE)
    print(f"{len(exchanges):,} exchanges, {(args.out / FILE).stat().st_size / 1e6:.2f} MB in {args.out / FILE}")
    return 0
