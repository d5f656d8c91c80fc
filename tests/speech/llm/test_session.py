"""Sessions as values: what is alike in a prompt, and what a folder brings back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vivavoce.speech.llm.model import DecoderState
from vivavoce.speech.llm.sampling import SamplerState
from vivavoce.speech.llm.session import EngineState, Session, Snapshot, equal
from vivavoce.streaming.cache_policy import SinkRing
from vivavoce.streaming.errors import StateMismatch
from vivavoce.streaming.sink_cache import CacheState

FRAME = torch.tensor([0.5, -1.0])


def state(window: int = 4) -> EngineState:
    cache = CacheState.empty(1, SinkRing(1, window, 1), layers=1, kv_heads=1, head_dim=2, like=torch.zeros(()))
    return EngineState(DecoderState(cache, torch.zeros(1, 0, 2)), SamplerState.empty(1))


def test_pieces_of_a_prompt_are_cut_where_tokens_and_embeddings_meet() -> None:
    session = Session("a", [1, 2, FRAME, FRAME, 3])
    assert session.alike(5) == 2
    session.fed = 2
    assert session.alike(5) == 2
    assert session.alike(1) == 1
    session.fed = 4
    assert session.alike(1) == 1


def test_places_are_equal_when_their_tokens_or_their_numbers_are() -> None:
    assert equal(3, 3)
    assert not equal(3, 4)
    assert equal(FRAME, FRAME.clone())
    assert not equal(FRAME, FRAME + 1)
    assert not equal(FRAME, 3)
    assert not equal(3, FRAME)


def test_a_copy_shares_no_list() -> None:
    one = Session("a", [1, 2], given=[5])
    other = one.copy("b")
    other.turn.append(3)
    other.given.pop()
    assert (one.turn, one.given, other.request) == ([1, 2], [5], "b")


def test_a_folder_brings_back_tokens_embeddings_and_state(tmp_path: Path) -> None:
    mine = state()
    mine.decoder.cache.keys[0].fill_(3)
    Snapshot(mine, Session("a", [1, FRAME, 2], fed=1, ends=(7,))).save(tmp_path)
    again = Snapshot.load(tmp_path, state())
    assert again.session.ends == (7,)
    assert all(equal(x, y) for x, y in zip(again.session.turn, [1, FRAME, 2], strict=True))
    assert torch.equal(again.state.decoder.cache.keys[0], mine.decoder.cache.keys[0])
    with pytest.raises(StateMismatch):
        Snapshot.load(tmp_path, state(window=5))
    (tmp_path / "embeddings.safetensors").unlink()
    with pytest.raises(StateMismatch, match="is not a saved session"):
        Snapshot.load(tmp_path, state())
