"""Takes the picture of the page for the documents: `VIVAVOCE_DATA=data python tests/photograph.py docs/page.png`.

A real browser on a real server captions a recording (or, without VIVAVOCE_DATA, a sentence by espeak-ng).
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr
from browser import browser
from serving import running

from vivavoce.recipes import sample
from vivavoce.recipes.data.voices import RATE, say
from vivavoce.recipes.options import MODEL
from vivavoce.server import app
from vivavoce.server.house import House
from vivavoce.speech import checkpoint
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.vad import Vad

WIDTH, HEIGHT = 1080, 640
RECORDING = "speech/ljspeech/LJ001-0004.opus"


def speech(path: Path) -> float:
    """Writes what the microphone hears; returns when the last sound is over, in seconds."""
    if folder := os.environ.get("VIVAVOCE_DATA"):
        pcm, rate = soundfile.read(Path(folder) / RECORDING, dtype="float32")
    else:
        pcm, rate = say(sample.SENTENCE, sample.VOICE), RATE
    whole = np.concatenate([np.zeros(rate // 2), pcm, np.zeros(rate), pcm])
    soundfile.write(path, soxr.resample(whole, rate, 48000), 48000, subtype="PCM_16")
    return len(whole) / rate - 1


def main(out: Path) -> None:
    loaded = checkpoint.load(MODEL)

    def recognizer(slots: int) -> Recognizer:
        return Recognizer(loaded.model, loaded.tokenizer, slots=slots, lm=loaded.lm)

    house = House.build(MODEL, recognizer, Vad.load(), places=2)
    with tempfile.TemporaryDirectory() as folder, running(app.build(house)) as address:
        microphone = Path(folder) / "speech.wav"
        seconds = speech(microphone)
        with browser(Path(folder) / "profile", microphone) as chrome, chrome.open(f"http://{address}/") as tab:
            tab.size(WIDTH, HEIGHT)
            tab.click("#go")
            tab.until(f"vivavoce.running?.connection?.samples > 24000 * {seconds}")
            tab.until("document.querySelector('#said li') && document.querySelector('#growing .words')?.innerText")
            tab.screenshot(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
