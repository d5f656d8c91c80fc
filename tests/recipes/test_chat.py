"""`vivavoce chat`: lines in, replies out as they come, from a pipe or a terminal; Ctrl-C stops a reply and no more."""

from __future__ import annotations

import io
import signal
import sys
from itertools import count
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from vivavoce.recipes import chat
from vivavoce.recipes.chat import main
from vivavoce.speech.checkpoint import locate
from vivavoce.speech.errors import BadCheckpoint
from vivavoce.speech.llm.assistant import Assistant, Conversation
from vivavoce.speech.llm.chat import ChatTemplate
from vivavoce.speech.llm.config import LlmConfig
from vivavoce.speech.llm.decoder import Decoder
from vivavoce.speech.llm.hub import MODEL_TYPE, save
from vivavoce.speech.llm.retrieval import FILE, Exchange, Replies

TEXT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<e>{% endfor %}<assistant>"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of nonsense with two ready answers."""
    letters = ["Ġ", *map(chr, range(33, 127))]
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<e>", "<system>", "<user>", "<assistant>"])
    size, end = tokenizer.get_vocab_size(), tokenizer.token_to_id("<e>")
    torch.manual_seed(0)
    decoder = Decoder(LlmConfig(size, 16, 1, 2, 2, 8, 16, tied=True, ends=(end,)))
    folder = tmp_path_factory.mktemp("talker")
    save(decoder, folder, tokenizer=tokenizer, template=ChatTemplate(TEXT))
    talk = [Exchange(("hello there",), ("Good day.",)), Exchange(("how are you",), ("Very well.",))]
    Replies(talk).save(folder / FILE)
    return folder


def test_a_pipe_gives_a_reply_a_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello there\n\n  \nhow are you"))
    assert main(["--model", str(folder), "--system", "Be nice."]) == 0
    assert capsys.readouterr().out == "Good day.\nVery well.\n"


def test_a_terminal_is_asked_for_each_turn(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("hello there\n"))
    assert main(["--model", str(folder)]) == 0
    assert capsys.readouterr().out == "> Good day.\n> \n"


def test_the_model_speaks_where_nothing_is_ready_and_the_seed_decides(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*options: str) -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO("xyz\n"))
        assert main(["--model", str(folder), "--max-tokens", "8", *options]) == 0
        return capsys.readouterr().out

    assert said() == said()
    assert said("--seed", "1") != said("--seed", "2")
    assert said("--temperature", "0", "--seed", "1") == said("--temperature", "0", "--seed", "2")


def interrupt_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Ctrl-C comes before the assistant's step of that number."""
    step, steps = Assistant.step, count(1)

    def interrupted(self: Assistant) -> object:
        if next(steps) == number:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    monkeypatch.setattr(Assistant, "step", interrupted)


def test_ctrl_c_stops_the_reply_and_the_conversation_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt_at(monkeypatch, 4)
    monkeypatch.setattr(sys, "stdin", io.StringIO("xyz\nhello there\n"))
    before = signal.getsignal(signal.SIGINT)
    assert main(["--model", str(folder)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith(" ...")
    assert second == "Good day."
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_before_the_first_word_leaves_the_turn_open(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened, talks = Assistant.open, list[Conversation]()
    interrupt_at(monkeypatch, 1)
    monkeypatch.setattr(Assistant, "open", lambda self, **options: talks.append(opened(self, **options)) or talks[-1])
    monkeypatch.setattr(sys, "stdin", io.StringIO("x" * 200 + "\nhello there\n"))
    assert main(["--model", str(folder), "--max-tokens", "4"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == " ..."
    assert [m["content"] for m in talks[0].messages[::2]] == ["x" * 200 + " hello there"]


def test_a_turn_that_is_too_long_is_refused_and_the_next_is_answered(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("x" * 100 + "\nhello there\n"))
    assert main(["--model", str(folder), "--window", "60"]) == 1
    out, err = capsys.readouterr()
    assert out == "Good day.\n"
    assert "shorten it" in err


def test_wrong_options_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--temperature", "-1"], ["--max-tokens", "0"], ["--window", "0"], ["--seed", "9" * 20]):
        with pytest.raises(SystemExit):
            chat._parser().parse_args(wrong)
        assert wrong[0] in capsys.readouterr().err
    with pytest.raises(BadCheckpoint, match="no such model"):
        main(["--model", "nowhere"])


def test_the_model_that_ships_makes_small_talk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        locate("chat-en", (MODEL_TYPE,))
    except BadCheckpoint:
        pytest.skip("no language model ships with this checkout")
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello!\nI want to book a table for two in Fresno\n"))
    assert main([]) == 0
    hello, booking = capsys.readouterr().out.splitlines()
    assert hello == "Hello! How are you today?"
    assert len(booking.split()) > 1


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_bytes_that_are_no_text_are_answered_like_any_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], errors: str
) -> None:
    raw = io.BytesIO(b"\xff\xfe\x80 what\nhello there\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw, encoding="utf-8", errors=errors))
    assert main(["--model", str(folder), "--max-tokens", "20"]) == 0
    assert capsys.readouterr().out.endswith("Good day.\n")


@pytest.mark.parametrize("kept", ["int8", "fp8"])
def test_a_cache_in_eight_bits_talks_too(
    kept: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello there\n"))
    assert main(["--model", str(folder), "--kept", kept]) == 0
    assert capsys.readouterr().out == "Good day.\n"
