"""What the backbone learns from: dialogues and prose of a corpus folder as one stream of tokens a source.

Reads `*.txt.xz` (a sentence a line) and `*.jsonl.xz` (a dialogue a line) and our own small talk; every fiftieth
document, and the end of one book, are held out. Gives rows of tokens, each begun by the sink, as a function of the
step alone, so that a run resumes anywhere.
"""

from __future__ import annotations

import json
import lzma
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from vivavoce.speech.errors import BadConfig
from vivavoce.speech.text import normalize

SINK, END, SYSTEM, USER = "<|sink|>", "<|end|>", "<|system|>", "<|user|>"
ASSISTANT, PROSE = "<|assistant|>", "<|prose|>"
CONTROL = (SINK, END, SYSTEM, USER, ASSISTANT, PROSE, "<|heard|>", "<|text|>", "<|speech|>", "<|pause|>")
"""Tokens that stand for something; the last four wait for second passes and for speech."""
TEMPLATE = (
    SINK + "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}" + END + "{% endfor %}"
    "{% if add_generation_prompt %}" + ASSISTANT + "{% endif %}"
)
SMALL_TALK = Path(__file__).with_name("small_talk.toml")
HELD_OUT = 50  # every so many documents one is not trained on
BOOK = 12_000  # the last lines of a prose file that are not trained on, when it has ten times as many


@dataclass(frozen=True)
class DataConfig:
    """shares: of the rows, by the beginning of a corpus's name ('small_talk' is our own); length: tokens a row;
    batch: rows a step; lines: the most read of one corpus, 0 for all; heard: the share of users' turns that are written
    as the recogniser would, lower-case and without punctuation."""

    shares: Mapping[str, float] = field(
        default_factory=lambda: {
            "sgd_": 0.42, "taskmaster": 0.1, "small_talk": 0.1, "chatterbot": 0.04, "ha_intents_dialogues": 0.01,
            "opentrivia": 0.03, "novels_": 0.2, "tatoeba": 0.05, "common_voice": 0.05,
        }
    )  # fmt: skip
    length: int = 512
    batch: int = 8
    lines: int = 0
    heard: float = 0.4


@dataclass(frozen=True)
class Source:
    """One corpus: tokens, and where each document begins; held: tokens of the documents that are not trained on."""

    name: str
    share: float
    tokens: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    held: npt.NDArray[np.int32]


Turns = Sequence[tuple[str, str]]
"""(role, text) in order."""


def dialogues(file: Path) -> Iterator[Turns]:
    """Raises BadConfig for a file that is not xz-compressed JSON lines with turns."""
    try:
        with lzma.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield [(turn["role"], turn["text"]) for turn in json.loads(line)["turns"]]
    except (lzma.LZMAError, EOFError, ValueError, KeyError, TypeError) as e:
        raise BadConfig(f"{file}: not a corpus of dialogues ({e}); it takes xz-compressed JSON lines with turns") from e


def sentences(file: Path) -> Iterator[str]:
    """Raises BadConfig for a file that is not xz-compressed text."""
    try:
        with lzma.open(file, "rt", encoding="utf-8") as lines:
            yield from (line.strip() for line in lines)
    except (lzma.LZMAError, EOFError, ValueError) as e:
        raise BadConfig(f"{file}: not a text corpus ({e}); it takes xz-compressed UTF-8") from e


def small_talk(path: Path = SMALL_TALK) -> list[Turns]:
    """Our own exchanges: everything that may be heard with every answer to it."""
    talks = tomllib.loads(path.read_text(encoding="utf-8"))["talk"]
    return [[("user", hear), ("assistant", say)] for t in talks for hear in t["hear"] for say in t["say"]]


def written(turns: Turns, heard: bool) -> str:
    """A dialogue as the chat template writes it, without the sink. heard: users' turns as the recogniser would."""
    return "".join(
        f"<|{role}|>{normalize(text) if heard and role == 'user' else text}{END}" for role, text in turns
    )


def documents(file: Path | None, config: DataConfig, seed: int) -> list[str]:
    """Of one corpus; None is our own small talk, of which nothing is left out."""
    rng = np.random.default_rng(seed)
    limit = config.lines or None
    if file is None:
        both = [written(turns, heard) for turns in small_talk() for heard in (False, True)]
        return [both[i] for i in rng.permutation(len(both))]
    if file.name.endswith(".jsonl.xz"):
        found = [written(t, bool(rng.random() < config.heard)) for t in islice(dialogues(file), limit)]
        return [found[i] for i in rng.permutation(len(found))]
    return list(islice(sentences(file), limit))  # prose keeps its order


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """Byte-level BPE of `size` tokens, the control tokens first. Digits stand alone; every segment between control
    tokens begins with a space, so that a word is the same token wherever it stands."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.Prepend(" ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokenizer_texts(root: Path, config: DataConfig, lines: int = 20_000) -> Iterator[str]:
    """The first lines of every corpus, without control tokens."""
    for name, file in corpora(root, config):
        few = DataConfig(shares=config.shares, lines=lines, heard=config.heard)
        for text in documents(file, few, len(name))[:lines]:
            yield from (part.rpartition("|>")[2] for part in text.split(END))


def corpora(root: Path, config: DataConfig) -> list[tuple[str, Path | None]]:
    """(beginning of the name, file) of every corpus the shares name. Raises BadConfig when one is not there."""
    found: list[tuple[str, Path | None]] = []
    for name in config.shares:
        files: list[Path | None] = [None] if name == "small_talk" else [*sorted((root / "text").glob(f"{name}*.xz"))]
        if not files:
            raise BadConfig(f"{root / 'text'}: no corpus begins with {name!r}; take it out of [data.shares] or add it")
        found += [(name, file) for file in files]
    return found


class TrainingData:
    """Every source as tokens, and rows of them by step."""

    def __init__(
        self, config: DataConfig, root: Path, tokenizer: Tokenizer, *, seed: int = 0, kept: Path | None = None
    ) -> None:
        """kept: a folder in which the tokens lie, or are put, so that a run resumes at once."""
        self.config, self.seed = config, seed
        self.sink = tokenizer.get_vocab()[SINK]
        self.sources = [
            _kept(kept, name, file, config, partial(_source, name, file, config, tokenizer, seed))
            for name, file in corpora(root, config)
        ]
        weights = np.array([source.share * len(source.tokens) for source in self.sources])
        for name in config.shares:  # files of one name share its weight by size
            mine = np.array([s.name.startswith(name) for s in self.sources])
            weights[mine] *= config.shares[name] / weights[mine].sum()
        self.weights = weights / weights.sum()

    def batch(self, step: int) -> Tensor:
        """(batch, length + 1) int64: each row the sink and then documents from a random one on."""
        rng = np.random.default_rng((self.seed, step))
        chosen = rng.choice(len(self.sources), size=self.config.batch, p=self.weights)
        return torch.from_numpy(np.stack([self._row(self.sources[i], rng) for i in chosen]))

    def _row(self, source: Source, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        start = int(rng.choice(source.starts))
        around = np.arange(start, start + self.config.length) % len(source.tokens)
        return np.concatenate(([self.sink], source.tokens[around])).astype(np.int64)

    def held_out(self, rows: int) -> dict[str, Tensor]:
        """By source, at most `rows` rows of documents that are not trained on."""
        n, out = self.config.length, dict[str, Tensor]()
        for source in self.sources:
            count = min(rows, len(source.held) // n)
            if count:
                body = torch.from_numpy(source.held[: count * n].astype(np.int64)).view(count, n)
                out[source.name] = torch.cat((torch.full((count, 1), self.sink), body), dim=1)
        return out

    @property
    def summary(self) -> str:
        return ", ".join(f"{s.name} {len(s.tokens):,}" for s in self.sources) + " tokens"


def prose(file: Path, tokenizer: Tokenizer, lines: int = BOOK) -> Tensor:
    """The held-out end of a prose corpus as one stream of tokens (n,), without the sink."""
    every = list(sentences(file))
    return torch.from_numpy(np.concatenate(_encode(every[-lines:], tokenizer, prose=True)).astype(np.int64))


def _kept(folder: Path | None, name: str, file: Path | None, config: DataConfig, make: Callable[[], Source]) -> Source:
    """What `make` makes, from the folder when it was made before with these settings."""
    if folder is None:
        return make()
    path = folder / f"{file.name if file else name}-{config.lines}-{config.heard}.npz"
    if not path.exists():
        source = make()
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with part.open("wb") as whole:
            np.savez(whole, tokens=source.tokens, starts=source.starts, held=source.held)
        part.replace(path)
        return source
    with np.load(path) as arrays:
        return Source(_called(file), config.shares[name], **arrays)


def _called(file: Path | None) -> str:
    return "small_talk" if file is None else file.name.split(".")[0]


def _source(name: str, file: Path | None, config: DataConfig, tokenizer: Tokenizer, seed: int) -> Source:
    texts = documents(file, config, seed)
    flat = file is not None and not file.name.endswith(".jsonl.xz")
    encoded = _encode(texts, tokenizer, prose=flat)
    if file is None:
        kept, held = encoded, []
    elif flat and file.name.startswith("novels_") and len(encoded) > 10 * BOOK:
        kept, held = encoded[:-BOOK], encoded[-BOOK:]
    else:
        kept = [d for i, d in enumerate(encoded) if i % HELD_OUT]
        held = encoded[::HELD_OUT]
    lengths = np.array([len(d) for d in kept])
    return Source(
        name=_called(file),
        share=config.shares[name],
        tokens=np.concatenate(kept),
        starts=np.cumsum(lengths) - lengths,
        held=np.concatenate(held) if held else np.zeros(0, np.int32),
    )


def _encode(texts: Sequence[str], tokenizer: Tokenizer, *, prose: bool) -> list[npt.NDArray[np.int32]]:
    """Prose runs on from line to line; its mark stands at every sixteenth, so that a row soon meets one."""
    mark = tokenizer.token_to_id(PROSE)
    out = []
    for begin in range(0, len(texts), 4096):
        for i, encoding in enumerate(tokenizer.encode_batch(texts[begin : begin + 4096]), begin):
            out.append(np.array([*([mark] if prose and i % 16 == 0 else []), *encoding.ids], np.int32))
    return out
