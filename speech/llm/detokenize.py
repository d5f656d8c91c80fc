"""Tokens to text while they arrive: no character is ever split, and a stop string is never shown.

`TextStream` is fed the ids a model samples and hands out text; `StopStrings` holds back what might become a stop.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

_BROKEN = "\ufffd"  # what a decoder writes for bytes that are no character, or not yet
_CONTEXT = 4  # tokens kept before the text to come: a decoder drops the first token's space


class TextStream:
    """The texts of one stream joined are the decoding of all its tokens."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special
        self._ids: list[int] = []  # context whose text is out, then tokens whose text is not, or not all
        self._shown = ""  # the decoding of those ids as far as it is out

    def push(self, ids: Sequence[int]) -> str:
        """The text that is certain now: all but an unfinished character at the end."""
        out = ""
        for i in ids:  # one by one, so that what comes out does not depend on how the ids were cut
            self._ids.append(i)
            text = self._decode()
            out += self._take(text.rstrip(_BROKEN), whole=not text.endswith(_BROKEN))
        return out

    def finish(self) -> str:
        """What was held back: bytes that became no character come out as U+FFFD."""
        return self._take(self._decode(), whole=True)

    def _take(self, text: str, *, whole: bool) -> str:
        new = text.removeprefix(self._shown) if text.startswith(self._shown) else ""
        if new:
            self._shown = text
        if whole and text == self._shown:
            self._ids = self._ids[-_CONTEXT:]
            self._shown = self._decode()
        return new

    def _decode(self) -> str:
        return self._tokenizer.decode(self._ids, skip_special_tokens=self._skip)


class StopStrings:
    """Text passes through until one of `stops` appears; it and what follows never come out."""

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise ValueError("an empty stop string would stop before the first word")
        self._stops, self._held, self.stopped = tuple(stops), "", False

    def push(self, text: str) -> str:
        """What can be shown. Once a stop has been found, `stopped` is true and nothing more comes."""
        if self.stopped:
            return ""
        self._held += text
        ends = [(at + len(s), at) for s in self._stops if (at := self._held.find(s)) >= 0]
        if ends:  # the stop that was complete first, so that cutting the text otherwise changes nothing
            first = min(end for end, _ in ends)
            out, self._held, self.stopped = self._held[: min(at for end, at in ends if end == first)], "", True
            return out
        kept = max((self._overlap(s) for s in self._stops), default=0)
        out, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        return out

    def finish(self) -> str:
        """What was held back in case it became a stop."""
        out, self._held = self._held, ""
        return out

    def _overlap(self, stop: str) -> int:
        """The longest end of the held text that begins `stop`."""
        return next((n for n in range(min(len(stop) - 1, len(self._held)), 0, -1) if self._held.endswith(stop[:n])), 0)
