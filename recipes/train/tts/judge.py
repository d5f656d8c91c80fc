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

from .measure import hear

RATE = 24_000
Speaker = Callable[[str], Tensor]  # a text to (n,) float32 at RATE
Judge = Callable[[Tensor], str]  # its sound to what was heard


@dataclass(frozen=True)
class Sentence:
    set: str
    text: str


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
    return {"ours": lambda text: synthesizer.speak(text).pcm, **{name: partial(_peer, name) for name in PEERS}}


def _peer(name: str, text: str) -> Tensor:
    spelled = normalize(text) if any(map(str.isdigit, text)) else text
    return torch.from_numpy(soxr.resample(voices.say(spelled, PEERS[name]), voices.RATE, RATE))


def judges(model: str) -> dict[str, Judge]:
    loaded = checkpoint.load(model)
    recognizer = Recognizer(loaded.model, loaded.tokenizer, ngram=loaded.ngram)

    def ours(pcm: Tensor) -> str:
        padded = torch.nn.functional.pad(pcm, (RATE // 5, RATE // 5)).numpy()
        return recognizer.transcribe(torch.from_numpy(soxr.resample(padded, RATE, 16_000))).text

    return {"pocketsphinx": hear, model: ours}


def judge(speak: Speaker, by: Mapping[str, Judge], given: Iterable[Sentence]) -> list[tuple[Sentence, dict[str, str]]]:
    """Each sentence and what every judge heard of it."""
    heard = []
    for sentence in given:
        pcm = speak(sentence.text)
        heard.append((sentence, {name: listen(pcm) for name, listen in by.items()}))
    return heard


def rows(voice: str, heard: Sequence[tuple[Sentence, Mapping[str, str]]]) -> list[Row]:
    """A row for each set and judge, and for all sets together."""
    out = []
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
    """Which words of the text have nothing in what was heard, not even another word."""
    ops = Levenshtein.editops(normalize(text).split(), normalize(heard).split())
    return {op.src_pos for op in ops if op.tag == "delete"}


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


def difference(synthesizer: Synthesizer, text: str) -> float:
    """Largest difference between a text spoken at once and word by word; infinite where the lengths differ."""
    pieces, whole = torch.cat(list(streamed(synthesizer, text))), synthesizer.speak(text).pcm
    return float((pieces - whole).abs().max()) if pieces.shape == whole.shape else float("inf")


def table(found: Sequence[Row]) -> list[str]:
    """Markdown."""
    lines = ["| set | voice | heard by | CER % (95 %) | WER % | skipped | repeated |", "|---|---|---|---|---|---|---|"]
    for r in found:
        rate = f"{100 * r.cer:.1f} ({100 * r.low:.1f}–{100 * r.high:.1f})"
        lines.append(f"| {r.set}, {r.sentences} | {r.voice} | {r.judge} | {rate} | {100 * r.wer:.1f} | {r.skipped} | "
                     f"{r.repeated} |")  # fmt: skip
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("judge", description="How well a voice is understood, beside espeak-ng and flite.")
    parser.add_argument("voice", nargs="?", default=VOICE, help="(default: %(default)s)")
    parser.add_argument("--model", default=MODEL, help="the recogniser of ours that judges too (default: %(default)s)")
    parser.add_argument("--steps", type=count, default=1, metavar="N", help="of the solver (default: %(default)s)")
    parser.add_argument("--limit", type=count, metavar="N", help="only the first N of each set")
    parser.add_argument("--threads", type=count, default=2, metavar="N")
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    synthesizer, by = Synthesizer(load_voice(args.voice), steps=args.steps), judges(args.model)
    console = Console(stderr=True)
    given = sentences(args.limit)
    found: list[Row] = []
    for name, speak in speakers(synthesizer).items():
        listed = track(given, name, console=console, transient=True, disable=not console.is_terminal)
        found += rows(name, judge(speak, by, listed))
    order = list(dict.fromkeys(row.set for row in found))
    found.sort(key=lambda row: order.index(row.set))
    worst = max(difference(synthesizer, sentence.text) for sentence in given)
    if args.json:
        print(json.dumps({"rows": [asdict(row) for row in found], "streaming_difference": worst}))
    else:
        print("\n".join([*table(found), "", f"streamed word by word against at once: largest difference {worst:.1e}"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
