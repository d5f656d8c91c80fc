"""Manifests: the TSV files that list recordings, read into `Utterance` values and written from them.

They come from a corpus folder or from `synthesize`; the evaluation, the batches and the exclusion of dev sentences
read them. Quotes mean nothing, and paths are relative to the manifest.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from vivavoce.speech.errors import BadManifest

COLUMNS = ("path", "seconds", "sample_rate", "speaker", "split", "text", "licence", "source")
NAME = "manifest.tsv"
HELD_OUT = 5  # of noise, one recording in so many is kept for measuring


@dataclass(frozen=True)
class Utterance:
    """One recording: where it lies, how long it is (seconds), and what is said (empty: unknown, or nothing). corpus:
    the folder of the manifest that it comes from."""

    path: Path
    seconds: float
    sample_rate: int
    speaker: str
    split: str
    text: str
    licence: str = ""
    source: str = ""
    corpus: str = field(default="", compare=False)

    @property
    def is_noise(self) -> bool:
        """Nobody speaks: no text and no speaker (`-`). Untranscribed speech has a speaker."""
        return self.speaker in ("", "-") and not self.text

    @property
    def is_response(self) -> bool:
        """How a room answers a click: named `rir_...`."""
        return self.is_noise and "rir" in self.path.stem.split("_")


def kept_for_dev(name: str) -> bool:
    """Whether a noise of this file name is for measuring. Its digest decides, so everybody agrees without a list; takes
    of one source, which differ in a last `-A`, `-B` ..., stay together."""
    source = re.sub(r"-[A-Z]$", "", Path(name).stem)
    return hashlib.sha256(source.encode()).digest()[0] % HELD_OUT == 0


def _with_dev_noise(utterances: list[Utterance]) -> list[Utterance]:
    """The rows, where no noise is marked `dev` a share of it moved there: nobody's training has then heard it."""
    noises = [u for u in utterances if u.is_noise and not u.is_response]
    if any(u.split == "dev" for u in noises):
        return utterances
    return [replace(u, split="dev") if u.is_noise and not u.is_response and u.split == "train"
            and kept_for_dev(u.path.name) else u for u in utterances]  # fmt: skip


def _utterance(row: Mapping[str, str | None], folder: Path, where: str) -> Utterance:
    values = {name: row[name] for name in COLUMNS}
    if None in values.values():
        raise BadManifest(f"{where}: fewer than {len(COLUMNS)} columns; separate them by single tabs")
    text = {name: value or "" for name, value in values.items()}
    try:
        seconds, rate = float(text["seconds"]), int(text["sample_rate"])
    except ValueError as e:
        raise BadManifest(f"{where}: {e}; `seconds` is a decimal and `sample_rate` a whole number") from None
    if not (0 <= seconds < float("inf") and rate > 0):
        raise BadManifest(f"{where}: seconds={seconds} and sample_rate={rate} must be positive")
    rest = {name: text[name] for name in ("speaker", "split", "text", "licence", "source")}
    return Utterance(path=folder / text["path"], seconds=seconds, sample_rate=rate, corpus=folder.name, **rest)


def _rows(path: Path) -> Iterator[Utterance]:
    with path.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            need = " ".join(COLUMNS)
            raise BadManifest(f"{path}, line 1: no column {', '.join(missing)}; the header needs, by tabs: {need}")
        for row in reader:
            yield _utterance(row, path.parent, f"{path}, line {reader.line_num}")


def load(path: str | os.PathLike[str], split: str | None = None) -> list[Utterance]:
    """The rows of a manifest file, or of `manifest.tsv` in a folder; with `split`, only that split's.

    Where a manifest marks no noise as `dev`, one recording in five is made so (`kept_for_dev`).

    Raises:
        BadManifest: it cannot be read, lacks a column, or holds a bad number; names the line and the cure.
    """
    file = Path(path)
    file = file / NAME if file.is_dir() else file
    try:
        return [u for u in _with_dev_noise(list(_rows(file))) if split is None or u.split == split]
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise BadManifest(f"{file}: cannot be read ({e}); give a UTF-8 TSV or a folder that holds {NAME}") from e


def load_all(root: str | os.PathLike[str], split: str | None = None) -> list[Utterance]:
    """Every manifest one folder below `root`, in the folders' order. Raises BadManifest, also when there is none."""
    files = sorted(Path(root).glob(f"*/{NAME}"))
    if not files:
        raise BadManifest(f"{root}: no folder in it holds a {NAME}; give the folder above the corpora")
    return [u for file in files for u in load(file, split)]


def write(path: str | os.PathLike[str], utterances: Iterable[Utterance]) -> None:
    """Write a manifest whose paths are relative to it; it appears whole or not at all.

    Raises:
        BadManifest: a field holds a tab or a line break, which the format cannot express.
    """
    file = Path(path)
    lines = ["\t".join(COLUMNS)]
    for u in utterances:
        where = os.path.relpath(u.path, file.parent)
        fields = [where, f"{u.seconds:.3f}", str(u.sample_rate), u.speaker, u.split, u.text, u.licence, u.source]
        if any(c in field for field in fields for c in "\t\r\n"):
            raise BadManifest(f"{u.path}: a tab or a line break in one of its fields; replace it by a space")
        lines.append("\t".join(fields))
    partial = file.with_suffix(".partial")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.replace(file)
