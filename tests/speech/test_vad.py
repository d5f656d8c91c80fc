"""Vad: silero-vad's own answers, for any split, batch mate, snapshot and slot."""

from __future__ import annotations

import math
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from streams import one_pass, random_sizes, streamed, worst
from torch import Tensor

from vivavoce.speech import vad as module
from vivavoce.speech.errors import BadCheckpoint, MissingDependency
from vivavoce.speech.vad import WINDOW, Vad


@pytest.fixture(scope="module")
def vad() -> Vad:
    return Vad.load()


def voiced(samples: int, seed: int = 0) -> Tensor:
    """Something that rises and falls like speech: a buzz through two resonances, in bursts, over a little noise."""
    torch.manual_seed(seed)
    t = torch.arange(samples, dtype=torch.float64) / 16000
    pitch = 2 * math.pi * torch.cumsum(120 + 25 * torch.sin(2 * math.pi * 2 * t), 0) / 16000
    formants = sum(
        torch.sin(k * pitch) * math.exp(-(((k * 120 - f) / 250) ** 2)) for f in (550, 1600) for k in range(30)
    )
    bursts = (torch.sin(2 * math.pi * 1.1 * t + seed) > -0.3) * (0.6 + 0.4 * torch.sin(2 * math.pi * 4 * t))
    return (0.1 * formants * bursts + 0.003 * torch.randn(samples, dtype=torch.float64)).float()


def silero_itself(x: Tensor) -> Tensor:
    """The package's own TorchScript model, window after window, the last one filled up with zeros."""
    spec = find_spec("silero_vad")
    assert spec is not None
    model = torch.jit.load(Path(str(spec.origin)).parent / "data" / "silero_vad.jit")
    model.eval()
    x = torch.nn.functional.pad(x, (0, -len(x) % WINDOW))
    with torch.no_grad():
        return torch.stack([model(window, 16000).squeeze() for window in x.split(WINDOW)])


@pytest.mark.parametrize("samples", [16000 * 6, 16000 * 2 + 77, 512, 3])
def test_equals_silero_s_own_model(vad: Vad, samples: int) -> None:
    x = voiced(samples)
    want = silero_itself(x)
    got = one_pass(vad, x)
    assert got.shape == want.shape
    assert (got - want).abs().max() < 1e-4
    assert samples < 16000 or (want.max() > 0.8 and want.min() < 0.2)  # the comparison saw both


def test_silence_is_not_speech(vad: Vad) -> None:
    assert one_pass(vad, torch.zeros(32000)).max() < 0.1


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_any_split_start_stall_and_slot_equals_one_pass(dtype: torch.dtype, tolerance: float) -> None:
    stage = Vad.load().to(dtype)
    streams = [voiced(n, seed=n).to(dtype) for n in (16000, 511, 512, 5000, 9001, 1)]
    pushes = [[320], [1], [100, 412], random_sizes(1, 3000), random_sizes(2, 700), [1]]
    got = streamed(stage, streams, pushes=pushes, lookaheads=[0] * 6, move_at=7)
    for x, y in zip(streams, got, strict=True):
        assert len(y) == -(-len(x) // WINDOW)
        assert worst(y, one_pass(stage, x)) <= tolerance


def test_a_row_without_input_keeps_every_bit_of_its_state(vad: Vad) -> None:
    state = vad.init_state(2)
    vad.step(torch.randn(2, 1000), state, torch.tensor([1000, 777]), torch.tensor([False, False]))
    before = {name: leaf.clone() for name, leaf in state.leaves()}
    x = torch.randn(2, 1500)
    x[1] = float("nan")  # beyond `valid` anything may lie
    _, count = vad.step(x, state, torch.tensor([1500, 0]), torch.tensor([False, False]))
    assert count[1] == 0
    assert all(torch.equal(leaf[1], before[name][1]) for name, leaf in state.leaves())


def test_an_end_on_a_window_s_border_adds_no_window(vad: Vad) -> None:
    state = vad.init_state(1)
    _, count = vad.step(torch.zeros(1, 512), state, torch.tensor([512]), torch.tensor([False]))
    assert count.tolist() == [1]
    _, count = vad.step(torch.zeros(1, 0), state, torch.tensor([0]), torch.tensor([True]))
    assert count.tolist() == [0]


def test_twenty_milliseconds_cost_little(vad: Vad) -> None:
    state, x = vad.init_state(1), torch.zeros(1, 320)
    started = time.process_time()
    for _ in range(50):
        vad.step(x, state, torch.tensor([320]), torch.tensor([False]))
    assert time.process_time() - started < 0.5  # 1 s of audio


def test_other_weights_are_refused(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(3)}, tmp_path / "other.jit")
    (tmp_path / "text.jit").write_text("not weights")
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "pickle.jit")
    for name in ("other", "text", "pickle", "gone"):
        with pytest.raises(BadCheckpoint, match=f"{name}.jit does not hold silero-vad's weights"):
            Vad.load(tmp_path / f"{name}.jit")


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="pip install"):
        Vad.load()
