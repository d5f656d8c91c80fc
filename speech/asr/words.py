"""From decoded tokens to words with times: the shape every decoder emits, and the builder that turns it into text.

Decoders (ctc, ctc_beam, transducer) return `Emissions`, one row a slot. A session keeps one `OpenWord`, a small
immutable value, and feeds its row through `Vocabulary.feed`; out come words that will never change and the tail that
still may.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

FRAME_SAMPLES = 1280  # encoder frame t is centred at sample 1280 t (80 ms at 16 kHz)
MAX_PIECES = 64  # a "word" longer than this is a model babbling; closing it keeps the session's memory bounded

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPECIAL = re.compile(r"<[^<>\s]+>|\[(?:PAD|UNK|CLS|SEP|MASK)\]")
SPACE = "▁"


class Emissions(NamedTuple):
    """What a decoder step emits, (slots, m) each; how many entries of a row count is returned beside it.

    token: int64. frame: int64, the encoder frame the token begins at, counted since the stream began.
    end_frame: int64, one past the token's last frame. confidence: float, the token's probability at `frame`, 0 to 1.
    """

    token: Tensor
    frame: Tensor
    end_frame: Tensor
    confidence: Tensor


class Token(NamedTuple):
    """One emitted token of one session; fields as in `Emissions`."""

    token: int
    frame: int
    end_frame: int
    confidence: float


@dataclass(frozen=True)
class Word:
    """A word and where it was said: samples [start_sample, stop_sample); confidence 0 to 1."""

    word: str
    start_sample: int
    stop_sample: int
    confidence: float


@dataclass(frozen=True)
class OpenWord:
    """All a session remembers between feeds: the word still growing, and where the last finished one stopped."""

    tokens: tuple[Token, ...] = ()
    last_stop: int = 0


@dataclass(frozen=True)
class Update:
    """`stable`: words finished by this feed, never to change. `tail`: text after them that may still change."""

    stable: tuple[Word, ...] = ()
    tail: str = ""


def pack_left(keep: Tensor, *columns: Tensor) -> tuple[list[Tensor], Tensor]:
    """Move the kept entries of each row to its front, in order.

    keep: (slots, m) bool; columns: (slots, m) each. Returns the packed columns and how many of a row count, (slots,).
    """
    order = torch.argsort((~keep).to(torch.int8), dim=1, stable=True)
    return [c.gather(1, order) for c in columns], keep.sum(1)


def tokens_of(emissions: Emissions, count: Tensor, slot: int) -> list[Token]:
    """The tokens of one slot as plain Python values."""
    n = int(count[slot])
    columns = (c[slot, :n].tolist() for c in emissions)
    return [Token(*row) for row in zip(*columns, strict=True)]


class Vocabulary:
    """The tokenizer's pieces, by token id, as text: '▁' (or a space) begins a word, `<0xE9>` is a byte of UTF-8,
    control pieces such as `<unk>` and `<|en|>` are silent. Shared by all sessions; holds no session's state.
    """

    def __init__(self, pieces: Sequence[str], frame_samples: int = FRAME_SAMPLES) -> None:
        self.frame_samples = frame_samples
        self._pieces = [_piece_bytes(p) for p in pieces]

    def text(self, tokens: Iterable[int]) -> str:
        """Words separated by single spaces; half a UTF-8 character becomes U+FFFD."""
        return " ".join(b"".join(self._pieces[t] for t in tokens).decode("utf-8", "replace").split())

    def feed(
        self,
        open_word: OpenWord,
        tokens: Iterable[Token],
        heard: int,
        final: bool = False,
        unstable: Iterable[Token] = (),
    ) -> tuple[OpenWord, Update]:
        """Add emitted tokens; returns the session's new value and what changed.

        heard: samples of the stream so far; no word stops after it. final: the stream ends, nothing stays open.
        unstable: what a beam search has not committed yet; it shows in `Update.tail` and is not remembered.

        A word's times are its first token's frame start to its last token's frame end, cut so that words never
        overlap; its confidence is the minimum over its tokens. The result is the same however the tokens are split
        into feeds.
        """
        stable: list[Word] = []
        for token in tokens:
            if open_word.tokens and self._closes(open_word, token):
                open_word = self._close(open_word, min(heard, token.frame * self.frame_samples), stable)
            if self._pieces[token.token]:
                open_word = OpenWord((*open_word.tokens, token), open_word.last_stop)
        if final:
            return self._close(open_word, heard, stable), Update(tuple(stable))
        tail = b"".join(self._pieces[t.token] for t in (*open_word.tokens, *unstable))
        return open_word, Update(tuple(stable), _whole_characters(tail))

    def _closes(self, open_word: OpenWord, token: Token) -> bool:
        return self._pieces[token.token].startswith(b" ") or len(open_word.tokens) >= MAX_PIECES

    def _close(self, open_word: OpenWord, limit: int, stable: list[Word]) -> OpenWord:
        """Finish the open word, no later than sample `limit`. Two words of one frame share it at its centre."""
        word = self.text(t.token for t in open_word.tokens)
        if not word:
            return OpenWord((), open_word.last_stop)
        half = self.frame_samples // 2
        first, last = open_word.tokens[0], open_word.tokens[-1]
        stop = max(min((last.end_frame - 1) * self.frame_samples + half, limit), open_word.last_stop)
        start = min(max(first.frame * self.frame_samples - half, open_word.last_stop), stop)
        stable.append(Word(word, start, stop, min(t.confidence for t in open_word.tokens)))
        return OpenWord((), stop)


def _piece_bytes(piece: str) -> bytes:
    """UTF-8 of a piece, its word boundary as a leading space; control pieces are empty."""
    if byte := _BYTE.fullmatch(piece):
        return bytes([int(byte[1], 16)])
    if _SPECIAL.fullmatch(piece):
        return b""
    return piece.replace(SPACE, " ").encode()


def _whole_characters(text: bytes) -> str:
    """The tail as text: the first bytes of a character still arriving are left out."""
    return " ".join(text.decode("utf-8", "ignore").split())
