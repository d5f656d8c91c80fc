"""Turn: one start and one end for each utterance, at the right sample, however the windows arrive."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vivavoce.speech.errors import BadConfig
from vivavoce.speech.turn import SpeechEnded, SpeechStarted, Turn, TurnConfig, TurnEvent, TurnState
from vivavoce.speech.vad import WINDOW

SECOND = 16000
RULE = TurnConfig(min_speech=3 * WINDOW, end_silence=10 * WINDOW, end_blank=5 * WINDOW, max_silence=20 * WINDOW,
                  max_utterance=100 * WINDOW)  # fmt: skip


def run(
    windows: list[float], config: TurnConfig = RULE, blank: list[int] | None = None, final: bool = True
) -> list[TurnEvent]:
    turn = Turn(config)
    gaps = None if blank is None else torch.tensor([blank]) * WINDOW
    n = torch.tensor([len(windows)])
    return turn.step(torch.tensor([windows]), turn.init_state(1), n, torch.tensor([final]), gaps)[0]


def test_an_utterance_starts_and_ends_at_its_own_samples() -> None:
    assert run([0.0] * 4 + [0.9] * 8 + [0.1] * 12) == [
        SpeechStarted(4 * WINDOW),
        SpeechEnded(12 * WINDOW, 22 * WINDOW, "silence"),
    ]


def test_silence_makes_no_event() -> None:
    assert run([0.01] * 500) == []


def test_a_click_is_not_speech() -> None:
    assert run(([0.0] * 5 + [0.99] * 2) * 20) == []


def test_a_pause_shorter_than_the_end_silence_does_not_end() -> None:
    assert run([0.9] * 5 + [0.0] * 9 + [0.9] * 5 + [0.0] * 10) == [
        SpeechStarted(0),
        SpeechEnded(19 * WINDOW, 29 * WINDOW, "silence"),
    ]


def test_once_speaking_a_lower_probability_will_do() -> None:
    assert run([0.4] * 30) == []
    assert run([0.9] * 3 + [0.4] * 30 + [0.3] * 10)[1] == SpeechEnded(33 * WINDOW, 43 * WINDOW, "silence")


def test_the_stream_s_end_ends_the_utterance() -> None:
    assert run([0.9] * 5 + [0.0] * 2) == [SpeechStarted(0), SpeechEnded(5 * WINDOW, 7 * WINDOW, "end")]
    assert run([0.9] * 5, final=False) == [SpeechStarted(0)]


def test_a_recogniser_that_still_emits_holds_the_turn() -> None:
    speech = [0.9] * 5 + [0.0] * 30
    quiet_from_window_17 = [max(0, i - 16) for i in range(35)]
    assert run(speech, blank=quiet_from_window_17)[1] == SpeechEnded(5 * WINDOW, 22 * WINDOW, "silence")
    assert run(speech, blank=[99] * 35)[1] == SpeechEnded(5 * WINDOW, 15 * WINDOW, "silence")


def test_a_long_silence_ends_whatever_the_recogniser_emits() -> None:
    assert run([0.9] * 5 + [0.0] * 30, blank=[0] * 35)[1] == SpeechEnded(5 * WINDOW, 25 * WINDOW, "silence")


def test_endless_speech_is_cut_and_goes_on() -> None:
    events = run([0.9] * 250)
    assert events == [
        SpeechStarted(0), SpeechEnded(100 * WINDOW, 100 * WINDOW, "length"),
        SpeechStarted(100 * WINDOW), SpeechEnded(200 * WINDOW, 200 * WINDOW, "length"),
        SpeechStarted(200 * WINDOW), SpeechEnded(250 * WINDOW, 250 * WINDOW, "end"),
    ]  # fmt: skip


def test_positions_stay_exact_after_a_hundred_hours() -> None:
    turn = Turn(RULE)
    state = turn.init_state(1)
    state.heard.fill_(100 * 3600 * SECOND)
    events = turn.step(torch.full((1, 3), 0.9), state, torch.tensor([3]), torch.tensor([False]))
    assert events == [[SpeechStarted(100 * 3600 * SECOND)]]


def moved(state: TurnState, turn: Turn, order: list[int], folder: Path) -> TurnState:
    state.save(folder / "turn.safetensors")
    again, other = turn.init_state(state.slots), turn.init_state(state.slots)
    again.load_file_(folder / "turn.safetensors")
    other.copy_slots_(torch.tensor(order), again, torch.arange(state.slots))
    return other


@pytest.mark.parametrize("seed", range(5))
def test_any_split_stall_snapshot_and_slot_gives_the_same_events(tmp_path: Path, seed: int) -> None:
    rng, turn = random.Random(seed), Turn(RULE)
    streams = [[p for _ in range(12) for p in [rng.choice([0.05, 0.4, 0.9])] * rng.randint(1, 15)] for _ in range(4)]
    blanks = [[rng.randint(0, 12) for _ in stream] for stream in streams]
    state, slot, taken = turn.init_state(4), [0, 1, 2, 3], [0] * 4
    got: list[list[TurnEvent]] = [[], [], [], []]
    ended = [False] * 4
    for tick in range(10_000):
        if all(ended):
            break
        if tick == 6:
            order = rng.sample(range(4), 4)
            state, slot = moved(state, turn, order, tmp_path), [order[s] for s in slot]
        x, gaps = torch.full((4, 5), float("nan")), torch.zeros(4, 5, dtype=torch.int64)
        valid, final = torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.bool)
        for i, stream in enumerate(streams):
            n = 0 if ended[i] else min(rng.randint(0, 5), len(stream) - taken[i])
            x[slot[i], :n] = torch.tensor(stream[taken[i] : taken[i] + n])
            gaps[slot[i], :n] = torch.tensor(blanks[i][taken[i] : taken[i] + n], dtype=torch.int64) * WINDOW
            taken[i] += n
            valid[slot[i]] = n
            final[slot[i]] = not ended[i] and taken[i] == len(stream)
            ended[i] |= taken[i] == len(stream)
        events = turn.step(x, state, valid, final, gaps)
        for i in range(4):
            got[i] += events[slot[i]]
    assert got == [run(stream, blank=blank) for stream, blank in zip(streams, blanks, strict=True)]
    assert any(got)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=120), st.booleans())
def test_starts_and_ends_alternate_in_time_order(windows: list[float], with_recogniser: bool) -> None:
    events = run(windows, blank=[i % 9 for i in range(len(windows))] if with_recogniser else None) if windows else []
    assert [type(e) for e in events] == [SpeechStarted, SpeechEnded] * (len(events) // 2)
    times = [e.at_sample for e in events]
    assert times == sorted(times)
    for start, end in zip(events[::2], events[1::2], strict=True):
        assert end.at_sample > start.at_sample


def test_each_session_may_have_its_own_rule() -> None:
    turn = Turn(RULE)
    state = turn.init_state(2)
    state.configure_(1, TurnConfig(threshold=0.95, end_silence=WINDOW, max_silence=WINDOW))
    x = torch.tensor([0.9] * 5 + [0.97] * 5 + [0.0]).expand(2, -1)
    events = turn.step(x, state, torch.tensor([11, 11]), torch.tensor([False, False]))
    assert events == [[SpeechStarted(0)], [SpeechStarted(5 * WINDOW), SpeechEnded(10 * WINDOW, 11 * WINDOW, "silence")]]


@pytest.mark.parametrize(
    "wrong",
    [{"threshold": 1.5}, {"threshold": 0.1, "hysteresis": 0.2}, {"end_silence": 0}, {"end_silence": 30000},
     {"min_speech": -1}, {"max_utterance": 100}],
)  # fmt: skip
def test_values_out_of_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(BadConfig, match=next(iter(wrong))):
        TurnConfig(**wrong)  # type: ignore[arg-type]
