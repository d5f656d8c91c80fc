"""Whether people would understand a voice: sentences it never saw, as two recognisers hear them, beside other voices.

The 200 sentences of sentences.tsv (short, with numbers, long, everyday, from old novels) are read by the voice, by
espeak-ng and by flite; pocketsphinx, an outside judge, and this project's recogniser write down what they hear. Rows of
error rates, with intervals, go to stdout: `python -P -m vivavoce.recipes.train.tts.judge VOICE`.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import soxr
import torch
from rapidfuzz.distance import Levenshtein
from rich.console import Console
from rich.progress import track
from torch import Tensor

from vivavoce.recipes.bench.tts import PEERS
from vivavoce.recipes.data import voices
from vivavoce.recipes.options import MODEL, count
from vivavoce.recipes.speak import VOICE, load_voice
from vivavoce.speech import checkpoint
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.asr.score import Score, interval, score, total
from vivavoce.speech.text import normalize
from vivavoce.speech.tts.synthesizer import Synthesizer

from .measure import hear, insert

RATE = 24_000
OURS = "ours"
Judge = Callable[[Tensor], str]  # its sound to what was heard


@dataclass(frozen=True)
class Sentence:
    set: str
    text: str


class Said(NamedTuple):
    """pcm: (n,) float32 at RATE; difference: largest, between this and the same text pushed word by word."""

    pcm: Tensor
    difference: float = 0.0


Speaker = Callable[[str], Said]


@dataclass(frozen=True)
class Hearing:
    """A sentence as a voice said it. seconds: that it took; difference: see `Said`; heard: by judge."""

    voice: str
    text: str
    seconds: float
    difference: float
    heard: dict[str, str]


@dataclass(frozen=True)
class Row:
    """One voice's sentences of one set, as one judge heard them. cer, wer: error rates; low, high: of cer, 95 per cent;
    skipped: words that neither judge heard anything for; repeated: words that both heard twice running."""

    set: str
    voice: str
    judge: str
    sentences: int
    cer: float
    low: float
    high: float
    wer: float
    skipped: int
    repeated: int


def sentences(most: int | None = None) -> list[Sentence]:
    """All, or the first so many of each set."""
    text = resources.files("vivavoce.recipes.train.tts").joinpath("sentences.tsv").read_text("utf-8")
    rows = [Sentence(row["set"], row["text"]) for row in
            csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)]
    sets = dict.fromkeys(row.set for row in rows)
    return [row for name in sets for row in [r for r in rows if r.set == name][:most]]


def speakers(synthesizer: Synthesizer) -> dict[str, Speaker]:
    """The voice and its peers. These read the words as our normalisation spells them where there are numbers, so that
    nobody is blamed for reading them another way."""
    return {OURS: partial(_own, synthesizer), **{name: partial(_peer, name) for name in PEERS}}


def _own(synthesizer: Synthesizer, text: str) -> Said:
    pcm = synthesizer.speak(text).pcm
    return Said(pcm, difference(synthesizer, text, pcm))


def _peer(name: str, text: str) -> Said:
    spelled = normalize(text) if any(map(str.isdigit, text)) else text
    return Said(torch.from_numpy(soxr.resample(voices.say(spelled, PEERS[name]), voices.RATE, RATE)))


def judges(model: str) -> dict[str, Judge]:
    loaded = checkpoint.load(model)
    recognizer = Recognizer(loaded.model, loaded.tokenizer, lm=loaded.lm)

    def ours(pcm: Tensor) -> str:
        padded = torch.nn.functional.pad(pcm, (RATE // 5, RATE // 5)).numpy()
        return recognizer.transcribe(torch.from_numpy(soxr.resample(padded, RATE, 16_000))).text

    return {"pocketsphinx": hear, model: ours}


class Hearings:
    """What judges heard of voices, in a file of JSON lines where one is given: so a long run can be cut and go on,
    and be shared by processes that hear different voices."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.known: dict[tuple[str, str], Hearing] = {}
        if path is not None and path.exists():
            for line in path.read_text("utf-8").splitlines():
                hearing = Hearing(**json.loads(line))
                self.known[hearing.voice, hearing.text] = hearing

    def add(self, hearing: Hearing) -> None:
        self.known[hearing.voice, hearing.text] = hearing
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as f:
                f.write(json.dumps(asdict(hearing), ensure_ascii=False) + "\n")

    def of(self, voice: str, given: Iterable[Sentence]) -> list[tuple[Sentence, Hearing]]:
        return [(s, self.known[voice, s.text]) for s in given if (voice, s.text) in self.known]


def judge(voice: str, speak: Speaker, by: Mapping[str, Judge], given: Iterable[Sentence], heard: Hearings) -> None:
    """Lets every judge hear each sentence that has not been heard of this voice."""
    for sentence in given:
        if (voice, sentence.text) not in heard.known:
            said = speak(sentence.text)
            heard.add(Hearing(voice, sentence.text, len(said.pcm) / RATE, said.difference,
                              {name: listen(said.pcm) for name, listen in by.items()}))


def rows(voice: str, hearings: Sequence[tuple[Sentence, Hearing]]) -> list[Row]:
    """A row for each set and judge, and for all sets together."""
    out = []
    heard = [(sentence, hearing.heard) for sentence, hearing in hearings]
    if not heard:
        return []
    for name in [*dict.fromkeys(sentence.set for sentence, _ in heard), "all"]:
        part = [(s, texts) for s, texts in heard if name in (s.set, "all")]
        skipped = sum(len(set.intersection(*(gaps(s.text, t) for t in texts.values()))) for s, texts in part)
        repeated = sum(len(set.intersection(*(echoes(s.text, t) for t in texts.values()))) for s, texts in part)
        for by in part[0][1]:
            scores: list[Score] = [score(s.text, texts[by]) for s, texts in part]
            errors = total(scores)
            low, high = interval(s.characters for s in scores)
            out.append(Row(name, voice, by, len(part), errors.characters.rate, low, high, errors.words.rate, skipped,
                           repeated))  # fmt: skip
    return out


def gaps(text: str, heard: str) -> set[int]:
    """Which words of the text have nothing in what was heard, not a letter: without them it is nearer by just as many
    letters as they have. A word that a neighbour swallowed ("common" for "come in") is misheard, not skipped. Of two
    alike both count where one was lost: it could be either, and too many is better here than too few."""
    words, hearing = normalize(text).split(), normalize(heard)
    whole = Levenshtein.distance(" ".join(words), hearing)

    def nearer(i: int) -> int:
        return whole - Levenshtein.distance(" ".join(words[:i] + words[i + 1 :]), hearing)

    return {i for i, word in enumerate(words) if nearer(i) == len(word) + (len(words) > 1)}


def echoes(text: str, heard: str) -> set[int]:
    """Which words of the text were heard once more right after themselves."""
    said, words = normalize(text).split(), normalize(heard).split()
    ops = Levenshtein.editops(said, words)
    return {op.src_pos - 1 for op in ops
            if op.tag == "insert" and op.src_pos and words[op.dest_pos] == said[op.src_pos - 1]}  # fmt: skip


def streamed(synthesizer: Synthesizer, text: str) -> Iterator[Tensor]:
    """The sound of a text that is pushed word by word, a step after each."""
    slot, words, done = synthesizer.open(), text.split(" ")[::-1], False
    while not done:
        if words:
            synthesizer.push(slot, f"{words.pop()} ")
            if not words:
                synthesizer.finish(slot)
        for speech in synthesizer.step().values():
            yield speech.pcm
            done = speech.done
    synthesizer.close(slot)


def difference(synthesizer: Synthesizer, text: str, whole: Tensor) -> float:
    """Largest difference between a text spoken at once and word by word; infinite where the lengths differ."""
    pieces = torch.cat(list(streamed(synthesizer, text)))
    return float((pieces - whole).abs().max()) if pieces.shape == whole.shape else float("inf")


def table(found: Sequence[Row]) -> list[str]:
    """Markdown."""
    lines = ["| set | voice | heard by | CER % (95 %) | WER % | skipped | repeated |", "|---|---|---|---|---|---|---|"]
    for r in found:
        rate = f"{100 * r.cer:.1f} ({100 * r.low:.1f}–{100 * r.high:.1f})"
        lines.append(f"| {r.set}, {r.sentences} | {r.voice} | {r.judge} | {rate} | {100 * r.wer:.1f} | {r.skipped} | "
                     f"{r.repeated} |")  # fmt: skip
    return lines


def worst(heard: Sequence[tuple[Sentence, Hearing]], by: str, most: int) -> list[str]:
    """Markdown: the sentences of which a judge heard the most characters wrong."""
    scored = sorted(heard, key=lambda pair: -score(pair[0].text, pair[1].heard[by]).characters.rate)
    lines = ["| CER % | text | heard |", "|---|---|---|"]
    for sentence, hearing in scored[:most]:
        rate = score(sentence.text, hearing.heard[by]).characters.rate
        lines.append(f"| {100 * rate:.0f} | {sentence.text} | {hearing.heard[by]} |")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("judge", description="How well a voice is understood, beside espeak-ng and flite.")
    parser.add_argument("voice", nargs="?", default=VOICE, help="(default: %(default)s)")
    parser.add_argument("--model", default=MODEL, help="the recogniser of ours that judges too (default: %(default)s)")
    parser.add_argument("--steps", type=count, default=1, metavar="N", help="of the solver (default: %(default)s)")
    parser.add_argument("--limit", type=count, metavar="N", help="only the first N of each set")
    parser.add_argument("--only", action="append", choices=(OURS, *PEERS), metavar="NAME",
                        help=f"hear this one now; may be given again (default: {OURS}, {', '.join(PEERS)})")
    parser.add_argument("--heard", type=Path, metavar="FILE",
                        help="keep what was heard there; what it holds of the sentences is not heard again")
    parser.add_argument("--worst", type=count, metavar="N", help=f"list the N sentences of {OURS} heard worst")
    parser.add_argument("--into", type=Path, metavar="DOC.md", help="put the table between its markers named judge")
    parser.add_argument("--threads", type=count, default=2, metavar="N")
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    synthesizer, by = Synthesizer(load_voice(args.voice), steps=args.steps), judges(args.model)
    console = Console(stderr=True)
    given, heard, found = sentences(args.limit), Hearings(args.heard), list[Row]()
    for name, speak in speakers(synthesizer).items():
        if name in (args.only or (OURS, *PEERS)):
            listed = track(given, name, console=console, transient=True, disable=not console.is_terminal)
            judge(name, speak, by, listed, heard)
        found += rows(name, heard.of(name, given))
    order = list(dict.fromkeys(row.set for row in found))
    found.sort(key=lambda row: order.index(row.set))
    own = heard.of(OURS, given)
    apart = max((hearing.difference for _, hearing in own), default=0.0)
    if args.json:
        print(json.dumps({"rows": [asdict(row) for row in found], "streaming_difference": apart}))
        return 0
    lines = [*table(found), "", f"Streamed word by word against at once, {len(own)} sentences: largest difference "
             f"{apart:.1e} of full scale."]  # fmt: skip
    print("\n".join(lines))
    if args.into:
        insert(args.into, "judge", lines)
    if args.worst:
        print("\n".join(["", f"Heard worst by {next(iter(by))}:", "", *worst(own, next(iter(by)), args.worst)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
