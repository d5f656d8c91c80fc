"""What somebody's words say about the turn: whether they are done, and whether they mean to interrupt.

Plain English word lists, because the recogniser's text has neither punctuation nor intonation. Used by the conversation
for semantic turn detection and for barge-in.
"""

from __future__ import annotations

import re
from typing import Literal

Completeness = Literal["complete", "open", "unfinished"]


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_WORD = re.compile(r"[a-z0-9]+(?:['’-][a-z0-9]+)*", re.IGNORECASE)

# Said while listening; they ask for nothing.
_BACKCHANNELS = _set(
    "mm mmm hm hmm mhm mm-hm mm-hmm mhmm uh-huh uhhuh uh huh ah oh ooh aha yeah yep yup yes ok okay right sure wow "
    "nice great cool good really indeed exactly true alright fine um er"
)
_BACKCHANNEL_PHRASES = frozenset(
    ("i see", "got it", "go on", "of course", "i know", "all right", "makes sense", "that's right", "oh i see")
)
# Said to get the floor; one is enough.
_COMMANDS = _set("stop wait no nope hold pause quiet enough sorry excuse actually but cancel what shut hey")

# Nobody ends a turn on these.
_UNFINISHED = _set(
    "and or but because so if when while although unless until since than that which who whose whom the a an this "
    "these those my your his her its our their to of in on at with for from by about into between without through "
    "i we they he she you i'm you're we're they're it's he's she's there's i'd i'll i've is are was were be been am "
    "do does did don't doesn't didn't can could would should will might must may has have had very really quite um "
    "uh er erm hmm during like maybe also then"
)
# Enough by themselves.
_ANSWERS = _set(
    "yes no okay ok yeah yep nope thanks please hello hi hey goodbye bye stop sure exactly correct right never always "
    "nothing everything today tomorrow tonight now"
)
_CLOSINGS = ("thank you", "that's all", "that is all", "that's it", "never mind", "please")
_QUESTIONS = _set("what who where when why how which whose can could would will should do does did is are")


def words_of(text: str) -> list[str]:
    return [w.lower().replace("’", "'") for w in _WORD.findall(text)]


def completeness(text: str) -> Completeness:
    """complete: a finished turn by its words; unfinished: more is bound to follow; open: either may be."""
    words = words_of(text)
    if text.rstrip().endswith((".", "?", "!")):
        return "complete"
    if not words:
        return "open"
    said = " ".join(words)
    if said.endswith(_CLOSINGS) or (len(words) <= 2 and words[-1] in _ANSWERS):
        return "complete"
    if words[-1] in _UNFINISHED:
        return "unfinished"
    return "complete" if len(words) >= 4 and words[0] in _QUESTIONS else "open"


def is_backchannel(text: str) -> bool:
    """Whether these words, or none, only say that somebody listens."""
    words = words_of(text)
    return " ".join(words) in _BACKCHANNEL_PHRASES or (len(words) <= 4 and all(w in _BACKCHANNELS for w in words))


def interrupts(stable: str, tail: str = "") -> bool:
    """Whether words so far are certain to be an interruption, before the utterance has ended: a word that asks for the
    floor, or two that are more than listening. stable: will not change; tail: may."""
    if words_of(stable) and words_of(stable)[0] in _COMMANDS:
        return True
    said = f"{stable} {tail}".strip()
    return not is_backchannel(said) and not _may_become_backchannel(said) and len(words_of(said)) >= 2


def _may_become_backchannel(text: str) -> bool:
    said = " ".join(words_of(text))
    return any(phrase.startswith(said) for phrase in _BACKCHANNEL_PHRASES)
