"""A page to listen at: the same sentences, made at once and streamed, beside espeak-ng and flite; static HTML.

`python -P -m vivavoce.recipes.train.tts.listening --out DIR` writes DIR/index.html and the sound beside it. The
sentences are the first few of each set of sentences.tsv.
"""

from __future__ import annotations

import argparse
import html
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vivavoce.recipes.options import count
from vivavoce.recipes.speak import VOICE, load_voice
from vivavoce.speech import audio
from vivavoce.speech.tts.synthesizer import Synthesizer

from .judge import OURS, RATE, Sentence, sentences, speakers, streamed

Way = Callable[[str], Tensor]  # a text to (n,) float32 at RATE
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.4 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; }}
td, th {{ text-align: left; padding: .4rem; }}
tr.text td {{ border-top: 1px solid #ccc; }}
audio {{ width: 100%; min-width: 8rem; }}
</style>
<h1>{title}</h1>
<p>Streamed sound was made while its text was pushed word by word. Nothing is marked as better: listen.</p>
<table>
<tr>{head}</tr>
{rows}
</table>
</html>
"""


def page(title: str, given: Sequence[Sentence], ways: Sequence[str]) -> str:
    """The page of sentences whose sound lies in files named as `name` says."""
    head = "".join(f"<th>{html.escape(way)}</th>" for way in ways)
    rows = []
    for i, sentence in enumerate(given):
        cells = "".join(f'<td><audio controls preload="none" src="{name(i, way)}"></audio></td>' for way in ways)
        rows.append(f'<tr class="text"><td colspan="{len(ways)}">{html.escape(sentence.text)}</td></tr>')
        rows.append(f"<tr>{cells}</tr>")
    return _PAGE.format(title=html.escape(title), head=head, rows="\n".join(rows))


def name(number: int, way: str) -> str:
    return f"{number:02d}-{way.replace(' ', '-')}.mp3"


def write(folder: Path, title: str, given: Sequence[Sentence], ways: Mapping[str, Way]) -> None:
    """Raises BadAudio where the folder cannot be written to."""
    folder.mkdir(parents=True, exist_ok=True)
    for way, speak in ways.items():
        for i, sentence in enumerate(given):
            audio.write(folder / name(i, way), speak(sentence.text), RATE)
    (folder / "index.html").write_text(page(title, given, list(ways)), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("listening", description="Write a page to listen at.")
    parser.add_argument("voice", nargs="?", default=VOICE, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--limit", type=count, default=4, metavar="N", help="sentences a set (default: %(default)s)")
    parser.add_argument("--steps", type=count, default=1, metavar="N", help="of the solver (default: %(default)s)")
    args = parser.parse_args(argv)
    synthesizer = Synthesizer(load_voice(args.voice), steps=args.steps)
    others: dict[str, Way] = {way: lambda text, speak=speak: speak(text).pcm  # type: ignore[misc]
                              for way, speak in speakers(synthesizer).items() if way != OURS}  # fmt: skip

    def word_by_word(text: str) -> Tensor:
        return torch.cat(list(streamed(synthesizer, text)))

    ways: dict[str, Way] = {"at once": lambda text: synthesizer.speak(text).pcm, "streamed": word_by_word, **others}
    write(args.out, f"{Path(args.voice).name}: {args.steps} step{'s' * (args.steps > 1)}", sentences(args.limit), ways)
    print(args.out / "index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
