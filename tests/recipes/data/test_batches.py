"""Batches: within budget, everything once, the same for any resume and any number of ranks; what is padded is zero."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from vivavoce.recipes.data.augment import Augment, AugmentConfig
from vivavoce.recipes.data.batches import RATE, Batch, BatchConfig, Batches, Recordings, pad, read_audio
from vivavoce.recipes.data.labels import FRAME
from vivavoce.recipes.data.manifest import Utterance
from vivavoce.recipes.data.tokenizer import train_tokenizer
from vivavoce.speech.errors import BadAudio, BadConfig

CONFIG = BatchConfig(seconds=30, buckets=4)


def tokenizer() -> Tokenizer:
    return train_tokenizer(["a short one", "and a longer one here"], 40)


def _listed(count: int, seed: int = 0) -> list[Utterance]:
    """Rows without files, for plans."""
    rng = np.random.default_rng(seed)
    seconds = rng.uniform(1, 12, count)
    return [Utterance(Path(f"{i}.wav"), s, RATE, "x", "train", "one " * int(s / 3)) for i, s in enumerate(seconds)]


def _recorded(folder: Path, seconds: tuple[float, ...], rate: int = RATE) -> list[Utterance]:
    made = []
    for i, length in enumerate(seconds):
        path = folder / f"{i}.wav"
        audio = 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(length * rate)) / rate)
        soundfile.write(path, audio, rate)
        made.append(Utterance(path, length, rate, "x", "train", "one here"))
    return made


def plan(count: int = 200, config: BatchConfig = CONFIG, rank: int = 0, world: int = 1, weights=None) -> Batches:  # type: ignore[no-untyped-def]
    return Batches(Recordings(_listed(count), tokenizer(), config, weights), config, rank, world)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 120), st.integers(12, 60), st.integers(1, 20))
def test_every_batch_keeps_to_its_budget_and_every_utterance_comes_once(count: int, budget: int, buckets: int) -> None:
    batches = plan(count, BatchConfig(seconds=budget, buckets=buckets))
    made = list(itertools.chain(*batches.epoch(0)))
    assert sorted(itertools.chain(*made)) == list(range(count))
    assert all(batches.seconds[b].max() * len(b) <= budget for b in made)


def test_buckets_keep_padding_small_and_the_share_is_the_true_one() -> None:
    batches = plan(2000, BatchConfig(seconds=60, buckets=32))
    lengths = [batches.seconds[b] for group in batches.epoch(0) for b in group]
    padded = sum(float(x.max() * len(x)) for x in lengths)
    assert batches.padding(0) == pytest.approx(1 - sum(float(x.sum()) for x in lengths) / padded)
    assert batches.padding(0) < 0.05
    assert plan(2000, BatchConfig(seconds=60, buckets=1)).padding(0) > 0.2


def test_epochs_differ_and_repeat_by_seed_and_any_step_can_be_resumed_at() -> None:
    batches = plan()
    assert batches.epoch(0) != batches.epoch(1)
    assert plan().epoch(1) == batches.epoch(1)
    requests = itertools.islice(batches.requests(), 3 * len(batches.epoch(0)))
    steps = [(epoch, batch) for epoch, group in requests for batch in group]
    an_epoch = sum(map(len, batches.epoch(0)))
    for step in (0, 5, an_epoch - 1, an_epoch, 2 * an_epoch + 1):
        epoch, number, batch = plan().at_step(step)
        assert (epoch, plan().epoch(epoch)[number][batch]) == steps[step]


@pytest.mark.parametrize("world", [2, 3, 7])
def test_ranks_share_one_plan_and_take_as_many_steps(world: int) -> None:
    shards = [plan(rank=r, world=world).epoch(2) for r in range(world)]
    assert len({tuple(len(group) for group in s) for s in shards}) == 1
    together = Counter(tuple(b) for s in shards for group in s for b in group)
    whole = Counter(tuple(b) for group in plan().epoch(2) for b in group)
    assert set(together) == set(whole)
    assert sum((together - whole).values()) < world


def test_a_weight_is_how_often_an_utterance_comes_on_average() -> None:
    weights = [2.5 if i < 100 else 0.25 for i in range(200)]
    batches = plan(weights=weights)
    seen = Counter(i for epoch in range(40) for group in batches.epoch(epoch) for b in group for i in b)
    assert {seen[i] for i in range(100)} <= set(range(80, 121))
    assert np.mean([seen[i] for i in range(100)]) / 40 == pytest.approx(2.5, abs=0.05)
    assert np.mean([seen[i] for i in range(100, 200)]) / 40 == pytest.approx(0.25, abs=0.05)


def test_a_phase_too_short_for_every_utterance_is_named_not_waited_for() -> None:
    longest = min(u.seconds for u in _listed(20)) / 2
    with pytest.raises(BadConfig, match=f"no utterance of up to {longest:g} s is left"):
        Batches(Recordings(_listed(20), tokenizer(), CONFIG), dataclasses.replace(CONFIG, longest=longest))
    with pytest.raises(BadConfig, match="no utterance"):
        plan(20, weights=[0.0] * 20)


def test_what_no_encoder_frame_can_carry_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = [Utterance(tmp_path, s, RATE, "x", "train", text) for s, text in
            [(0.1, "one"), (25.0, "one"), (1.0, "one " * 30), (3.0, "one here"), (3.0, "")]]  # fmt: skip
    kept = Recordings(rows, tokenizer(), BatchConfig())
    assert kept.left_out == 3
    assert [u.seconds for u in kept.utterances] == [3.0, 3.0]
    with pytest.raises(BadConfig, match="no utterance of up to 20 s is left"):
        Batches(Recordings(rows[:3], tokenizer(), BatchConfig()), BatchConfig())
    with pytest.raises(BadConfig, match="1 weights for 5"):
        Recordings(rows, tokenizer(), BatchConfig(), [1.0])


def test_a_batch_holds_the_audio_and_the_tokens_and_zeros_after(tmp_path: Path) -> None:
    words = tokenizer()
    recordings = Recordings(_recorded(tmp_path, (1.0, 1.5)), words, BatchConfig())
    (batch,) = recordings[0, [[1, 0]]]
    assert batch.pcm.shape == (2, 24000)
    assert batch.samples.tolist() == [16000, 24000]
    assert not batch.pcm[0, 16000:].any()
    assert batch.seconds == 2.5
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(24000) / RATE)
    np.testing.assert_allclose(batch.pcm[1].numpy(), expected, atol=1e-4)
    assert words.decode(batch.tokens[0, : batch.token_lengths[0]].tolist()) == "one here"


def test_other_rates_and_channels_arrive_as_sixteen_kilohertz_mono(tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(24000) / 24000)
    soundfile.write(tmp_path / "s.wav", np.stack([tone, np.zeros_like(tone)], 1), 24000)
    audio = read_audio(Utterance(tmp_path / "s.wav", 1.0, 24000, "x", "train", ""))
    assert audio.dtype == np.int16
    assert len(audio) == RATE
    assert np.abs(np.fft.rfft(audio)).argmax() == 440
    assert np.abs(audio).max() == pytest.approx(8191, rel=0.02)


def test_a_file_that_is_not_audio_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.opus").write_bytes(b"nothing")
    with pytest.raises(BadAudio, match=r"x\.opus: cannot be decoded"):
        read_audio(Utterance(tmp_path / "x.opus", 1.0, RATE, "x", "train", ""))


def test_the_cache_changes_nothing_but_the_reading(tmp_path: Path) -> None:
    rows = _recorded(tmp_path, (1.0,))
    cached, read = (Recordings(rows, tokenizer(), BatchConfig(), cache=c) for c in (True, False))
    (first,) = cached[0, [[0]]]
    torch.testing.assert_close(first.pcm, read[0, [[0]]][0].pcm, rtol=0, atol=0)
    rows[0].path.unlink()
    torch.testing.assert_close(first.pcm, cached[0, [[0]]][0].pcm, rtol=0, atol=0)
    with pytest.raises(BadAudio):
        read[0, [[0]]]


def _same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) if x is not None and y is not None else x is y for x, y in zip(a, b, strict=True))


def test_known_phones_lie_beside_the_batch_and_stretch_with_the_sound(tmp_path: Path) -> None:
    rows = _recorded(tmp_path, (0.9, 1.3))
    config = BatchConfig(seconds=10.0, buckets=1)
    recordings = Recordings(rows, tokenizer(), config)
    assert recordings[0, [[0, 1]]][0].phones is None
    recordings.timed = lambda u: [(0, "SIL"), (int(0.5 * RATE), "S")] if u is rows[1] else None
    (batch,) = recordings[0, [[0, 1]]]
    assert batch.phones is not None
    assert batch.phones.shape == (2, 2 * (int(1.3 * RATE) // FRAME + 2))
    assert bool((batch.phones[0] == -1).all())  # never aligned: nothing is known
    begins = int((batch.phones[1] > 0).int().argmax())
    assert begins == 13  # half frames of 40 ms, each named for its middle
    recordings.augment = lambda audio, index, epoch: np.repeat(audio, 2)  # type: ignore[assignment]
    slower = recordings[0, [[1]]][0].phones
    assert slower is not None
    assert int((slower[0] > 0).int().argmax()) == 26


def test_worker_processes_give_the_batches_that_this_process_gives(tmp_path: Path) -> None:
    rows = _recorded(tmp_path, (0.9, 1.0, 1.1, 1.2, 1.3))
    augment = Augment(AugmentConfig(), 1)
    config = BatchConfig(seconds=2.7, buckets=2)
    batches = Batches(Recordings(rows, tokenizer(), config, augment=augment), config)
    here = list(itertools.islice(batches.loader(3), 4))
    there = list(itertools.islice(batches.loader(3, workers=1), 4))
    assert all(_same(a, b) for a, b in zip(here, there, strict=True))
    whole = list(itertools.islice(batches.loader(), 7))
    assert all(_same(a, b) for a, b in zip(here, whole[3:], strict=True))
    assert not _same(here[0], whole[0])


def test_batches_made_together_share_their_utterances_out_by_the_lengths_they_came_to_have(tmp_path: Path) -> None:
    recordings = Recordings(_recorded(tmp_path, (1.0, 1.1, 1.2, 1.3, 1.4)), tokenizer(), BatchConfig())
    factor = [3, 1, 2, 1, 2]
    recordings.augment = lambda audio, index, epoch: np.repeat(audio, factor[index])  # type: ignore[assignment]
    made = recordings[0, [[0, 1], [2, 3], [4]]]
    seconds = [[n / RATE for n in batch.samples.tolist()] for batch in made]
    assert seconds == [[1.1, 1.3], [2.4, 2.8], [3.0]]


def test_padding_of_an_empty_text_is_an_empty_row() -> None:
    batch = pad([np.ones(3, np.float32)], [np.zeros(0, np.int64)])
    assert batch.tokens.shape == (1, 0)
    assert batch.token_lengths.tolist() == [0]
