"""The `vivavoce` command: finds the module of a command, hands it the words that follow, and ends with its exit code.

A command is a module with `main(argv) -> int`, imported only when it is asked for, so that help is instant. Errors that
the user can put right come out as one line on stderr; VIVAVOCE_DEBUG=1 shows where they were raised.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from typing import NamedTuple

from vivavoce.streaming.errors import VivaVoceError

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class Command(NamedTuple):
    module: str
    help: str


class _Stderr(logging.Handler):
    """Warnings as one line each, on whatever stderr is at that moment (a progress bar replaces it)."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"vivavoce: {record.getMessage()}", file=sys.stderr)


COMMANDS = {
    "transcribe": Command("transcribe", "audio files to text, JSON or subtitles"),
    "listen": Command("listen", "a microphone to text, live"),
    "chat": Command("chat", "talk to a language model in text"),
    "convert": Command("convert", "a recording's words in another voice"),
    "speak": Command("speak", "text to a file or the loudspeaker"),
    "serve": Command("serve", "all of it over one port: realtime sessions, recordings, speech, a page"),
    "agent": Command("agent", "talk with the agent, over microphone and loudspeaker"),
    "evaluate": Command("evaluate", "word errors, delay and speed over a manifest"),
    "models": Command("models", "list, inspect and convert models"),
    "bench asr": Command("bench.asr", "the recogniser's speed beside transformers', in one run"),
    "bench backbone": Command("bench.backbone", "the language model beside recomputing and transformers, in one run"),
    "bench endless": Command("bench.endless", "perplexity of prose without end, by what the cache keeps"),
    "bench kernels": Command("bench.kernels", "the Triton kernels beside plain torch, on a GPU"),
    "bench server": Command("bench.server", "how many live sessions hold, batched and one at a time"),
    "bench tts": Command("bench.tts", "how soon and how fast the voice speaks, beside espeak-ng and flite"),
    "sample": Command("sample", "make a sentence of synthetic speech to try things with"),
    "train asr": Command("train.asr.train", "train a recogniser"),
    "train tts": Command("train.tts.train", "train a voice"),
    "train backbone": Command("train.backbone.train", "train a language model for dialogue"),
    "data synthesize": Command("data.synthesize", "make synthetic speech to train on"),
    "data align": Command("data.align", "find the phones in recordings to train on"),
    "data tokenizer": Command("data.tokenizer", "make subword tokenizers"),
    "data replies": Command("train.backbone.replies", "write the ready answers of a small language model"),
    "train folds": Command("train.asr.folds", "train a recogniser again on other folds and seeds, for the spread"),
    "train punctuation": Command("train.asr.punctuation", "train what writes punctuation and capitals"),
    "train lm": Command("train.asr.neural_lm", "train the network beside the n-gram"),
    "data ngram": Command("train.asr.ngram", "estimate the language model of a beam search"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 all done, 1 some inputs failed (named on stderr), 2 bad usage, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(handlers=[_Stderr()])
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage(), file=sys.stdout if words else sys.stderr)
        return DONE if words else USAGE
    if words[0] == "--version":
        print(f"vivavoce {metadata.version('vivavoce')}")
        return DONE
    for length in (2, 1):
        if command := COMMANDS.get(" ".join(words[:length])):
            return _run(command, words[length:])
    print(_unknown(words), file=sys.stderr)
    return DONE if words[1:] and words[1] in ("-h", "--help") and _group(words[0]) else USAGE


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: vivavoce COMMAND ...", "", *lines, "", "vivavoce COMMAND --help says what each takes."])


def _run(command: Command, argv: list[str]) -> int:
    try:
        code: int = import_module(f"vivavoce.recipes.{command.module}").main(argv)
        if sys.stdout is not None:  # closed by the shell: `>&-`
            sys.stdout.flush()  # so that a reader who went away is noticed here
    except SystemExit as e:  # argparse has said why
        return e.code if isinstance(e.code, int) else FAILED
    except VivaVoceError as e:
        if os.environ.get("VIVAVOCE_DEBUG"):
            raise
        print(f"vivavoce: {e}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more to flush at exit
        return FAILED
    return code


def _group(word: str) -> list[str]:
    return [name for name in COMMANDS if name.startswith(f"{word} ")]


def _unknown(words: Sequence[str]) -> str:
    if group := _group(words[0]):
        return "\n".join([f"usage: vivavoce {words[0]} ...", "", *(f"  {n}  {COMMANDS[n].help}" for n in group)])
    return f"vivavoce: there is no command {words[0]!r}; there are {', '.join(COMMANDS)}"


if __name__ == "__main__":
    sys.exit(main())
