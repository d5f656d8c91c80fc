"""The ready answers of a small model: ours first, nothing unfit, one file that reads back."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from vivavoce.recipes.train.backbone.replies import TALK, TASKS, beginnings, found, main, merged, ours
from vivavoce.speech.errors import BadConfig
from vivavoce.speech.llm.retrieval import FILE, Exchange, Replies, words


def corpus(folder: Path, *pairs: tuple[str, str], name: str = TALK) -> Path:
    file = folder / "text" / f"{name}.jsonl.xz"
    file.parent.mkdir(exist_ok=True)
    with lzma.open(file, "wt") as f:
        for a, b in pairs:
            f.write(json.dumps({"turns": [{"role": "user", "text": a}, {"role": "assistant", "text": b}]}) + "\n")
    return file


def test_our_own_small_talk_hears_each_thing_once() -> None:
    heard = [key for exchange in ours() for key in {tuple(words(text)) for text in exchange.heard}]
    assert not {" ".join(key) for key in heard if heard.count(key) > 1}
    assert all(reply[-1] in ".!?" for exchange in ours() for reply in exchange.replies)


def test_what_is_unfit_is_left_out_and_the_rest_written_as_sentences(tmp_path: Path) -> None:
    file = corpus(tmp_path, ("Do you like the rain", "yes, I do"), ("Are you drunk again", "no"),
                  ("one", "two"), ("Is this one too long", "x" * 200))  # fmt: skip
    assert list(found(file)) == [Exchange(("Do you like the rain",), ("Yes, I do.",))]


def test_tasks_begin_with_answers_that_name_nothing(tmp_path: Path) -> None:
    file = corpus(tmp_path, ("Book me a table", "What time? And where?"), ("Find me a bus", "There is one at 8 am."),
                  ("Find me a film", "How about Grease?"), ("Get me a cab", "I can do that."))  # fmt: skip
    assert [e.replies[0] for e in beginnings(file)] == ["What time? And where?", "I can do that."]
    assert len(list(beginnings(file, most=1))) == 1


def test_ours_answer_first_and_others_are_joined() -> None:
    mine = next(iter(ours()))
    theirs = [Exchange((mine.heard[0],), ("Other.",)), Exchange(("do you like rain",), ("Yes.",)),
              Exchange(("Do you like the rain?",), ("No.",))]  # fmt: skip
    assert merged(theirs)[-1] == Exchange(("do you like rain",), ("Yes.", "No."))
    assert not any("Other." in exchange.replies for exchange in merged(theirs))


def test_the_command_writes_a_file_that_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus(tmp_path, ("Do you like the rain", "yes"))
    for name in TASKS:
        corpus(tmp_path, (f"Find me a {name}", "where to"), name=name)
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "model")]) == 0
    assert "exchanges" in capsys.readouterr().out
    answer = Replies.load(tmp_path / "model" / FILE).find("do you like the rain?")
    assert answer is not None
    assert answer.reply == "Yes."
    with pytest.raises(BadConfig, match="no such corpus"):
        main(["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path)])
