"""Tokens to text while they arrive: no character is ever split, and a stop string is never shown.

`TextStream` is fed the ids a model samples and hands out text; `StopStrings` holds back what might become a stop.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

_BROKEN = "\ufffd"  # what a decoder writes for bytes that are no character, or not yet


class TextStream:
    """The texts of one stream joined are the decoding of all its tokens.

    (With one exception: where bytes that are no text follow others that are, decoders of the `<0xE4>` kind take back
    the good ones too. What was shown stays shown.)
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special
        self._ids: list[
            int
        ] = []  # some whose text is out, because decoders drop the first token's space; then new ones
        self._old = 0  # how many those are
        self._shown = ""  # the decoding of the ids as far as it is out

    def push(self, ids: Sequence[int]) -> str:
        """The text that is certain now: all but an unfinished character at the end."""
        out = ""
        for i in ids:  # one by one, so that what comes out does not depend on how the ids were cut
            self._ids.append(i)
            text = self._decode(self._ids)
            out += self._settle(text) if not text.endswith(_BROKEN) else self._advance(text.rstrip(_BROKEN))
        return out

    def finish(self) -> str:
        """What was held back: bytes that became no character come out as U+FFFD."""
        return self._settle(self._decode(self._ids))

    def _advance(self, text: str) -> str:
        """What of this is new; nothing while unfinished bytes hide what was shown."""
        if not text.startswith(self._shown):
            return ""
        new, self._shown = text.removeprefix(self._shown), text
        return new

    def _settle(self, text: str) -> str:
        """All of this is certain: the new ids become the old ones."""
        new = self._advance(text) if text.startswith(self._shown) else self._decode(self._ids[self._old :])
        kept = self._decode(self._ids[self._old :])
        if kept:  # ids that show nothing by themselves would not protect the next one's space
            self._ids, self._shown = self._ids[self._old :], kept
        else:
            self._shown = text
        self._old = len(self._ids)
        return new

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=self._skip)


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
