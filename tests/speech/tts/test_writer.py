"""The token model: the layouts it learns, and that sessions write what one pass of the decoder says."""

from __future__ import annotations

import random

import pytest
import torch

from vivavoce.speech.llm.sampling import Sampling
from vivavoce.speech.tts.writer import NOT_PREDICTED, Writer, WriterConfig, Writing, layout, write
from vivavoce.streaming.engine import Slot
from vivavoce.streaming.errors import Full, UnknownSlot

CONFIG = WriterConfig(symbols=9, codes=12, fingerprint="x", width=16, hidden=24, layers=2, heads=2, read=4, write=3,
                      least=0.5, most=2.0)  # fmt: skip
GREEDY = Sampling()
LIVELY = Sampling(temperature=1.0, ras_window=10, ras_share=0.3, seed=5)
PHONES = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2]


@pytest.fixture(scope="module")
def writer() -> Writer:
    torch.manual_seed(0)
    made = Writer(CONFIG).double().eval().requires_grad_(False)
    for p in made.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.4)
    return made


def test_a_whole_text_comes_before_its_speech() -> None:
    line, targets = layout(CONFIG, [1, 2], [3, 0, 3], interleaved=False)
    assert line == [1, 2, CONFIG.over, 12, 9, 12]
    assert targets == [NOT_PREDICTED] * 2 + [12, 9, 12, CONFIG.end]


def test_text_and_speech_take_turns_until_the_text_is_over() -> None:
    line, targets = layout(CONFIG, [1, 2, 3, 4, 5], [0, 1, 2, 3], interleaved=True)
    assert line == [1, 2, 3, 4, 9, 10, 11, 5, CONFIG.over, 12]
    no = NOT_PREDICTED
    assert targets == [no, no, no, 9, 10, 11, no, no, 12, CONFIG.end]


def test_speech_shorter_than_its_text_still_ends_after_the_text() -> None:
    line, targets = layout(CONFIG, list(range(1, 9)), [5], interleaved=True)
    assert line == [1, 2, 3, 4, 14, 5, 6, 7, 8, CONFIG.over]
    assert len(targets) == len(line)
    assert targets[-1] == CONFIG.end
    assert targets[3] == 14


def reference(writer: Writer, phones: list[int], *, interleaved: bool) -> list[int]:
    """Greedy, by whole passes over a growing line, with the rules written out."""
    c, said, line, text = writer.config, list[int](), list[int](), list(phones)
    turn = 0
    while True:
        if turn == 0 and c.over not in line:
            last = not interleaved or len(text) <= c.read
            line += [*text, c.over] if last else text[: c.read]
            text = [] if last else text[c.read :]
            turn = -1 if last else c.write
        scores = writer(torch.tensor([line]))[0, -1]
        over, share = c.over in line, len(said) / sum(i < c.symbols for i in line)
        allowed = set() if over and share >= c.most else set(range(c.symbols, c.over))
        allowed |= {c.end} if over and share >= c.least else set()
        best = max(allowed, key=lambda i: float(scores[i]))
        if best == c.end:
            return said
        line.append(best)
        said.append(best - c.symbols)
        turn -= 1


@pytest.mark.parametrize("interleaved", [False, True])
def test_what_is_written_is_what_whole_passes_say(writer: Writer, interleaved: bool) -> None:
    tokens = write(writer, PHONES, interleaved=interleaved, sampling=GREEDY)
    assert tokens == reference(writer, PHONES, interleaved=interleaved)
    assert CONFIG.least * len(PHONES) <= len(tokens) <= CONFIG.most * len(PHONES)


@pytest.mark.parametrize("seed", range(4))
def test_any_pushes_at_any_time_in_any_company_write_what_one_push_alone_writes(writer: Writer, seed: int) -> None:
    draw = random.Random(seed)
    texts = [PHONES, PHONES[3:5], [], PHONES * 3]
    writing = Writing(writer, slots=2)
    waiting, going = list(range(len(texts))), dict[Slot, int]()
    made = [list[int]() for _ in texts]
    left: dict[int, list[int]] = {i: list(text) for i, text in enumerate(texts)}
    while waiting or going:
        if waiting and len(going) < 2 and draw.random() < 0.5:
            going[writing.open(interleaved=True, sampling=LIVELY)] = waiting.pop(0)
        for slot, i in going.items():
            if i not in left or draw.random() < 0.5:
                continue
            n = draw.choice([1, 2, 5])
            writing.push(slot, left[i][:n])
            left[i] = left[i][n:]
            if not left[i]:
                writing.finish(slot)
                del left[i]
        for slot, written in writing.step().items():
            made[going[slot]] += written.tokens
            if written.done:
                writing.close(slot)
                del going[slot]
    for text, tokens in zip(texts, made, strict=True):
        assert tokens == write(writer, text, interleaved=True, sampling=LIVELY)


def test_speech_begins_before_the_text_is_over_and_ends_only_after_it(writer: Writer) -> None:
    writing = Writing(writer)
    slot = writing.open(sampling=LIVELY)
    writing.push(slot, PHONES[:4])
    assert writing.step() == {}  # these may be the last
    writing.push(slot, PHONES[4:5])
    for _ in range(CONFIG.write):
        assert not writing.step()[slot].done
    assert writing.step() == {}


def test_a_session_is_a_value_that_can_be_moved(writer: Writer) -> None:
    writing = Writing(writer, slots=3)
    slot = writing.open(interleaved=False, sampling=LIVELY)
    writing.push(slot, PHONES)
    writing.finish(slot)
    tokens = [*writing.step()[slot].tokens, *writing.step()[slot].tokens]
    state = writing._engine.snapshot(slot)
    writing._engine.close(slot)
    others = [writing._engine.open() for _ in range(2)]
    moved = writing._engine.open(snapshot=state)
    writing._sessions[moved] = writing._sessions.pop(slot)
    assert moved.index != others[0].index
    while not (written := writing.step()[moved]).done:
        tokens += written.tokens
    assert tokens == write(writer, PHONES, sampling=LIVELY)


def test_misuse_is_told(writer: Writer) -> None:
    writing = Writing(writer)
    slot = writing.open()
    with pytest.raises(Full):
        writing.open()
    with pytest.raises(ValueError, match="phones are 0 to 8"):
        writing.push(slot, [9])
    writing.finish(slot)
    with pytest.raises(UnknownSlot, match="has been finished"):
        writing.push(slot, [1])
    assert writing.step()[slot].done
    writing.close(slot)
    with pytest.raises(UnknownSlot):
        writing.finish(slot)
    with pytest.raises(ValueError, match="least"):
        WriterConfig(9, 12, "x", least=3.0)
