"""`vivavoce sample`: a sentence of synthetic speech in a file, so that a newcomer has something to transcribe.

espeak-ng speaks it (recipes/data/voices.py); the file goes to `vivavoce transcribe`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vivavoce.recipes.data.voices import RATE, Voice, say
from vivavoce.speech import audio

SENTENCE = "the ship was at sea for seven days and the wind was in the north"
VOICE = Voice("espeak-ng", "en-us", pitch=50, pitch_range=50, rate=140, level=0.5)
MARGIN = RATE // 4  # samples of silence before and after


def main(argv: Sequence[str] | None = None) -> int:
    """Raises MissingDependency without espeak-ng, BadAudio where the file cannot be written."""
    parser = argparse.ArgumentParser("vivavoce sample", description="Speak a sentence into a file, with espeak-ng.")
    parser.add_argument("out", type=Path, metavar="OUT.wav", help="or .flac, .ogg, .opus, .mp3")
    parser.add_argument("--text", default=SENTENCE, help="what to say (default: %(default)r)")
    args = parser.parse_args(argv)
    audio.write(args.out, np.pad(say(args.text, VOICE), MARGIN), RATE)
    print(f'{args.out}: "{args.text}"')
    return 0
