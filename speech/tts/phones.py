"""The symbols a voice reads: ARPAbet phones with stress, and the separators between words.

`pronounce` makes phones of words and `phrases` lays them out; their ids go to `Voice.plan` and to training. The ids are
part of every trained voice: add symbols at the end only.

A phrase is what is planned at once. It is laid out as

    [_]  phone...  separator  phone...  separator  ...

Every word is followed by exactly one separator: a space where speech runs on, else the punctuation written there, which
may be spoken as a pause. A separator takes any number of frames, none included: a space mostly none. A phrase ends with
its last word's separator; that is a space when the phrase was cut inside a clause because sound had to leave, and then
the next phrase goes on without a pause. `_` is silence that nobody wrote as punctuation: before the first word of a
recording, or an SSML break, where the caller sets its length. Example, "Well, he isn't":

    W EH1 L , HH IY1 <space> IH1 Z AH0 N T <space>
"""

from __future__ import annotations

from collections.abc import Iterable

from vivavoce.speech.errors import BadSpeech

PAD = "<pad>"  # fills a batch's shorter rows; never inside a phrase
PAUSE = "_"
SPACE = " "
# comma (also brackets), semicolon (also colon, dash, ellipsis), and the ends of sentences
SEPARATORS = (SPACE, ",", ";", ".", "?", "!")
_CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH"
_VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW"
CONSONANTS = tuple(_CONSONANTS.split())
VOWELS = tuple(f"{vowel}{stress}" for vowel in _VOWELS.split() for stress in "012")  # 0 none, 1 primary, 2 secondary
PHONES = CONSONANTS + VOWELS
SYMBOLS = (PAD, PAUSE, *SEPARATORS, *PHONES)
IDS = {symbol: i for i, symbol in enumerate(SYMBOLS)}


def encode(symbols: Iterable[str]) -> list[int]:
    """Ids of symbols. Raises BadSpeech, naming the first that is not in the table."""
    try:
        return [IDS[symbol] for symbol in symbols]
    except KeyError as e:
        raise BadSpeech(f"{e.args[0]!r} is no phone; vowels carry their stress (AH0), and there are "
                        f"{' '.join(PHONES)}") from None


def decode(ids: Iterable[int]) -> list[str]:
    """Symbols of ids."""
    return [SYMBOLS[i] for i in ids]
