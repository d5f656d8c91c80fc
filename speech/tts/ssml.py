"""What is written in the text about how to say it: a small SSML subset, and `[word|phonemes]` anywhere.

A `Reader` takes text as it comes, cut anywhere, and gives `Written` words and `Break`s, each as soon as no later text
can change it; what it gives depends on the whole text only, never on the cuts. Text that begins with `<speak` is SSML:
`break`, `prosody rate`, `say-as`, `phoneme`, `sub`, and `p` and `s`. `phrases` takes it from here.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

from vivavoce.speech.errors import BadSpeech
from vivavoce.speech.text import normalize

from .ipa import from_arpabet, from_ipa, phones_of
from .pronounce import with_ending
from .say_as import say_as

LONGEST = 80  # characters; what goes on longer without a space is read in pieces
SLOWEST, FASTEST = 0.5, 2.0  # of the usual rate
LONGEST_BREAK = 10.0  # seconds
LONGEST_GIVEN = 200  # characters of what is read as one thing; a step of the voice speaks it at once
_RATES = {"x-slow": 0.5, "slow": 0.75, "medium": 1.0, "default": 1.0, "fast": 1.25, "x-fast": 1.5}
_BREAKS = {"none": 0.0, "x-weak": 0.1, "weak": 0.2, "medium": 0.4, "strong": 0.7, "x-strong": 1.0}
_ATTRIBUTES = {
    "speak": (), "p": (), "s": (), "break": ("time", "strength"), "prosody": ("rate",), "sub": ("alias",),
    "say-as": ("interpret-as", "format"), "phoneme": ("ph", "alphabet"),
}  # fmt: skip
_BEGINNINGS = ("<speak", "<?xml")  # of what is SSML
# How what is no element opens and closes: comments, plain text, declarations. "<" alone may become any of them.
_ASIDES = {"<!--": "-->", "<![CDATA[": "]]>", "<!": ">", "<?": ">", "<": ">"}
_REPLACED = ("sub", "say-as", "phoneme")  # elements whose content is read as one thing
_ENDS = ("p", "s")  # elements that end a sentence


@dataclass(frozen=True)
class Written:
    """One word as it stands in the text, with its punctuation.

    said: what to read in its place. phones: how to say it, ARPAbet; overrides all else. rate: 1 is the voice's own.
    fresh: a new paragraph begins here.
    """

    text: str
    said: str | None = None
    phones: tuple[str, ...] = ()
    rate: float = 1.0
    fresh: bool = False


@dataclass(frozen=True)
class Break:
    """Silence of so many seconds between two words; it ends a phrase. With `sentence`, it ends the sentence as well."""

    seconds: float = 0.0
    sentence: bool = False


Item = Written | Break

_TAG = re.compile(r"<\s*(?P<close>/?)\s*(?P<name>[\w:-]+)(?P<rest>[^<>]*?)(?P<empty>/?)\s*>")
_ASIDE = re.compile(r"<!--|<!\[CDATA\[|<[?!]|<\Z")
_ATTRIBUTE = re.compile(r"""\s+([\w:-]+)\s*=\s*("[^"]*"|'[^']*')""")
_OVERRIDE = re.compile(r"""(?P<before>["'(“‘]{0,8})\[(?P<word>[^][|\n]{1,80})\|(?P<phones>[^][|\n]{1,200})\]""")
_OPEN_OVERRIDE = re.compile(r"""["'(“‘]{0,8}\[[^][|\n]{0,80}(?:\|[^][|\n]{0,200})?\Z""")
_BRACKET = re.compile(r"""["'(“‘]{0,8}\[""")  # with which an override begins
_ENDING = re.compile(  # what a word that is said in a way of its own takes of what goes on right behind it
    r"""(?:['’]?(?P<s>s)(?!\w)|['’](?P<contracted>d|ll|re|ve)(?!\w))?["'”’)\]}*_»]*-?""", re.IGNORECASE)
_OPEN_ENTITY = re.compile(r"&#?\w{0,32}\Z")  # which is not to be cut
_PARTS = re.compile(r""".+?(?:[—…]+|--+|\.{3,})["'”’)\]]*|.+""")  # dashes and ellipses end a part of a run
_BULLET = re.compile(r"(?:[-*•–]|\d{1,2}[.)])$")


class Reader:
    """`push` text, `finish`; both return what has become certain. Raises BadSpeech where SSML is wrong; its later
    answers mean nothing then."""

    def __init__(self) -> None:
        self._coming = ""  # may be a comment, say, and goes to _text when that is known
        self._text = ""
        self._ssml: bool | None = None  # not known yet
        self._open: list[tuple[str, dict[str, str]]] = []
        self._content: str | None = None  # of an element that is read as one thing
        self._newlines = 0
        self._spoken = False  # whether the <speak> element has come to its end

    def push(self, text: str) -> list[Item]:
        self._coming += text
        return self._drain(final=False)

    def finish(self) -> list[Item]:
        """The last words. Raises BadSpeech for elements still open."""
        items = self._drain(final=True)
        if self._open:
            name = self._open[-1][0]
            raise BadSpeech(f"SSML: <{name}> is never closed; write </{name}> where it ends")
        return items

    def _drain(self, final: bool) -> list[Item]:
        items: list[Item] = []
        if self._ssml is None:
            self._coming = self._coming.lstrip("\ufeff")  # a byte order mark, with which some editors begin a file
            start = self._coming.lstrip()
            self._ssml = start.startswith(_BEGINNINGS)
            if not final and not self._ssml and any(beginning.startswith(start) for beginning in _BEGINNINGS):
                self._ssml = None
                return []
        self._text += self._arrived(final)
        at = 0
        while (step := self._next(at, final)) is not None:
            at, found = step
            items += found
        self._text = self._text[at:]
        return items

    def _arrived(self, final: bool) -> str:
        """What came without comments and declarations, and with CDATA escaped; one that is still open is left."""
        came, at, self._coming = self._coming, 0, ""
        parts = []
        while self._ssml and (opening := _ASIDE.search(came, at)):
            parts.append(came[at : opening.start()])
            closing = _ASIDES[opening[0]]
            end = came.find(closing, opening.end())
            if end < 0 and final:
                cure = f"write {closing} where it does, or &lt; for a plain <"
                raise BadSpeech(f"SSML: {_short(came[opening.start() :])} never ends; {cure}")
            if end < 0:
                self._coming = came[opening.start() :]
                return "".join(parts)
            if opening[0] == "<![CDATA[":
                parts.append(html.escape(came[opening.end() : end], quote=False))
            at = end + len(closing)
        return "".join([*parts, came[at:]])

    def _next(self, at: int, final: bool) -> tuple[int, list[Item]] | None:
        """Where the next certain thing ends, and what it is; None when there is none yet."""
        if self._content is not None:
            return self._inside(at, final)
        start = _skip_spaces(self._text, at)
        if start > at:
            self._newlines += self._text.count("\n", at, start)
            return start, []
        if at == len(self._text):
            return None
        if self._ssml and self._text[at] == "<":
            return self._tag(at, final)
        if override := _override(self._text, at):
            m, phones = override
            end = self._run_end(m.end(), final)
            if end is None:
                return None
            self._check_spoken(m[0])
            return end, self._followed(self._plain(m["before"] + m["word"]), None, phones, m.end(), end)
        return self._run(at, final)

    def _run(self, at: int, final: bool) -> tuple[int, list[Item]] | None:
        end = self._run_end(at, final)
        if end is None:
            return None
        run = self._plain(self._text[at:end])
        self._check_spoken(run)
        return end, [self._written(part) for part in _PARTS.findall(run)]

    def _run_end(self, at: int, final: bool) -> int | None:
        """Where a run of at most LONGEST characters without a space or `[word|phonemes]` ends; None while unknown."""
        stop = re.compile(r"[\s<]" if self._ssml else r"\s").search(self._text, at, at + LONGEST)
        end = stop.start() if stop else min(len(self._text), at + LONGEST)
        for bracket in _BRACKET.finditer(self._text, at, end):
            if not final and _OPEN_OVERRIDE.match(self._text, bracket.start()):
                return None
            if _override(self._text, bracket.start()):
                return bracket.start()
        if end == len(self._text) and not final:
            return None
        cut = self._ssml and end == at + LONGEST
        entity = _OPEN_ENTITY.search(self._text, at, end) if cut else None
        return entity.start() if entity else end

    def _plain(self, text: str) -> str:
        return html.unescape(text) if self._ssml else text

    def _followed(self, word: str, said: str | None, phones: tuple[str, ...], at: int, end: int) -> list[Item]:
        """A word that is said in a way of its own, and what goes on right behind it: an s or 'll and punctuation belong
        to the word, anything else is read as it is written."""
        first, *others = _PARTS.findall("x" + self._plain(self._text[at:end]))  # x: as if the word stood there
        m = _ENDING.match(first, 1)
        assert m is not None, "every part of it may be missing"
        if ending := (m["s"] or m["contracted"] or "").lower():
            said = None if said is None else f"{said.rstrip(' .')}'{ending}"
            phones = with_ending(phones, ending) if phones else ()
        mine = m.end() if normalize(first[m.end() :]) else len(first)
        others = [first[mine:], *others] if mine < len(first) else others
        return [self._written(word + first[1:mine], said, phones), *map(self._written, others)]

    def _written(self, text: str, said: str | None = None, phones: tuple[str, ...] = ()) -> Written:
        fresh = self._newlines > 1 or (self._newlines > 0 and bool(_BULLET.match(text)))
        self._newlines = 0
        return Written(text, said, phones, self._rate(), fresh)

    def _rate(self) -> float:
        rate = 1.0
        for name, attributes in self._open:
            if name == "prosody":
                rate *= _rate_of(attributes.get("rate", "medium"))
        return min(max(rate, SLOWEST), FASTEST)

    # --- SSML

    def _tag(self, at: int, final: bool) -> tuple[int, list[Item]] | None:
        m = _TAG.match(self._text, at)
        if m is None:
            if ">" in self._text[at:] or final:
                raise BadSpeech(f"SSML: {_short(self._text[at:])} is no tag; write &lt; for a plain <")
            return None
        if m["close"]:
            return m.end(), self._closed(m["name"])
        return m.end(), self._opened(m["name"], _attributes(m["name"], m["rest"]), bool(m["empty"]))

    def _opened(self, name: str, attributes: dict[str, str], empty: bool) -> list[Item]:
        if name == "speak" and self._open:
            raise BadSpeech("SSML: <speak> stands inside another element; it is the outermost and comes once")
        self._check_spoken(f"<{name}>")
        if name == "break":
            if not empty:
                self._open.append((name, attributes))
            return [Break(_seconds_of(attributes))]
        if name == "prosody":
            _rate_of(attributes.get("rate", "medium"))
        if empty:
            return [Break(sentence=True)] if name in _ENDS else []
        self._open.append((name, attributes))
        self._content = "" if name in _REPLACED else None
        return [Break(sentence=True)] if name in _ENDS else []

    def _closed(self, name: str) -> list[Item]:
        if not self._open or self._open[-1][0] != name:
            expected = f"</{self._open[-1][0]}>" if self._open else "no closing tag"
            raise BadSpeech(f"SSML: </{name}> where {expected} belongs; close elements in the order they were opened")
        self._open.pop()
        self._spoken = name == "speak"
        return [Break(sentence=True)] if name in _ENDS else []

    def _inside(self, at: int, final: bool) -> tuple[int, list[Item]] | None:
        """The content of an element that is read as one thing, up to its closing tag and the word's punctuation."""
        name, attributes = self._open[-1]
        less = self._text.find("<", at)
        if less < 0 or (m := _TAG.match(self._text, less)) is None:
            if final or (less >= 0 and ">" in self._text[less:]):
                raise BadSpeech(f"SSML: <{name}> is never closed; write </{name}> where it ends")
            return None
        if not m["close"] or m["name"] != name:
            raise BadSpeech(f"SSML: {m[0]} inside <{name}>, which holds text only; close it before with </{name}>")
        end = self._run_end(m.end(), final)
        if end is None:
            return None
        content = " ".join(html.unescape(self._text[at:less]).split())
        self._open.pop()
        self._content = None
        said, phones = _replaced(name, attributes, content)
        return end, self._followed(content, said, phones, m.end(), end)

    def _check_spoken(self, what: str) -> None:
        if self._spoken:
            raise BadSpeech(f"SSML: {_short(what)} comes after </speak>; put everything inside one <speak> element")


def _skip_spaces(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _attributes(name: str, rest: str) -> dict[str, str]:
    if name not in _ATTRIBUTES:
        raise BadSpeech(f"SSML: <{name}> is not among what can be spoken: {', '.join(sorted(_ATTRIBUTES))}")
    attributes = {key: html.unescape(value[1:-1]) for key, value in _ATTRIBUTE.findall(rest)}
    if _ATTRIBUTE.sub("", rest).strip():
        raise BadSpeech(f'SSML: <{name}{_short(rest)}> has no such form; write attributes as name="value"')
    allowed = _ATTRIBUTES[name]
    if name != "speak" and (unknown := sorted(attributes.keys() - allowed)):  # speak carries versions and name spaces
        raise BadSpeech(f"SSML: <{name}> takes {' and '.join(allowed) or 'no attribute'}, not {unknown[0]}")
    return attributes


def _rate_of(rate: str) -> float:
    value = _RATES.get(rate.strip())
    if value is None:
        m = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", rate)
        value = float(m[1]) / (100 if m[2] else 1) if m else 0.0
    if not SLOWEST <= value <= FASTEST:
        raise BadSpeech(f'SSML: prosody rate="{rate}" is none of {", ".join(_RATES)}, nor from 50% to 200%')
    return value


def _seconds_of(attributes: dict[str, str]) -> float:
    if "time" not in attributes:
        strength = attributes.get("strength", "medium")
        if strength not in _BREAKS:
            raise BadSpeech(f'SSML: break strength="{strength}" is none of {", ".join(_BREAKS)}')
        return _BREAKS[strength]
    m = re.fullmatch(r"\s*\+?(\d+(?:\.\d+)?|\.\d+)\s*(ms|s)\s*", attributes["time"])
    seconds = float(m[1]) / (1000 if m[2] == "ms" else 1) if m else -1.0
    if not 0 <= seconds <= LONGEST_BREAK:
        raise BadSpeech(f'SSML: break time="{attributes["time"]}" is not like 300ms or 1.5s, up to {LONGEST_BREAK:g}s')
    return seconds


def _replaced(name: str, attributes: dict[str, str], content: str) -> tuple[str | None, tuple[str, ...]]:
    """What to read instead of an element's content, or how to say it."""
    if name == "phoneme":
        if not attributes.get("ph"):
            raise BadSpeech(f'SSML: <phoneme> around {_short(content)!r} needs ph="..."')
        return None, phones_of(_bounded(attributes["ph"]))
    if name == "sub":
        if not attributes.get("alias", "").strip():
            raise BadSpeech(f'SSML: <sub> around {_short(content)!r} needs alias="..."')
        return _bounded(attributes["alias"]), ()
    return say_as(_bounded(content), attributes.get("interpret-as", ""), attributes.get("format", "")), ()


def _bounded(given: str) -> str:
    if len(given) > LONGEST_GIVEN:
        raise BadSpeech(f"SSML: {_short(given)!r} has more than {LONGEST_GIVEN} characters to be read as one; part it")
    return given


def _override(text: str, at: int) -> tuple[re.Match[str], tuple[str, ...]] | None:
    """`[word|phonemes]` at this place, and its phones; None where there is something else, a table or a link, say."""
    m = _OVERRIDE.match(text, at)
    phones = _override_phones(m["phones"]) if m else ()
    return (m, phones) if m and phones else None


def _override_phones(phones: str) -> tuple[str, ...]:
    """ARPAbet, /IPA/, or IPA that cannot be plain words; none where it is something else."""
    if phones.isascii() and not phones.startswith("/"):
        return from_arpabet(phones)
    try:
        return from_ipa(phones)
    except BadSpeech:
        return ()


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
