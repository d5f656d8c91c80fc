"""Training: it learns, it resumes from any step exactly, it exports what it averaged, and its parts are right."""

import dataclasses
import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import soundfile
import torch
from tokenizers import Tokenizer

from vivavoce.recipes.data import manifest, voices
from vivavoce.recipes.data.batches import BatchConfig
from vivavoce.recipes.data.manifest import Utterance
from vivavoce.recipes.data.tokenizer import train_tokenizer
from vivavoce.recipes.train.asr.data import DataConfig
from vivavoce.recipes.train.asr.ngram import train as train_ngram
from vivavoce.recipes.train.asr.train import OptimizerConfig, Run, TrainConfig, Trainer, consistency, read_config
from vivavoce.recipes.train.asr.word_errors import WordErrorsConfig
from vivavoce.speech.asr.model import TransducerConfig
from vivavoce.speech.checkpoint import load, save
from vivavoce.speech.errors import BadConfig, MissingDependency
from vivavoce.speech.nn.encoder import EncoderConfig

WORDS = {"low": 300.0, "high": 2400.0}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A corpus of two 'words', each a tone: 24 recordings to train on, 4 to measure, and a tokenizer."""
    folder = tmp_path / "speech" / "tones"
    folder.mkdir(parents=True)
    rows = []
    for i in range(28):
        words = [sorted(WORDS)[(i >> k) & 1] for k in range(1 + i % 3)]
        t = torch.arange(4800) / 16000
        pcm = torch.cat([torch.sin(2 * torch.pi * WORDS[w] * t) * 0.3 for w in words])
        soundfile.write(folder / f"{i}.wav", pcm.numpy(), 16000)
        rows.append(Utterance(folder / f"{i}.wav", len(pcm) / 16000, 16000, f"s{i % 4}", "train", " ".join(words)))
    rows[-4:] = [dataclasses.replace(u, split="dev", text=f"{u.text} again") for u in rows[-4:]]
    manifest.write(folder / "manifest.tsv", rows)
    train_tokenizer(["low high low", "high low again"], 40).save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def make_config(**changes: object) -> TrainConfig:
    data = DataConfig(batches=BatchConfig(seconds=3.0, buckets=2), dev=("tones",), noise_share=0.0)
    encoder = EncoderConfig(width=16, layers=2, heads=2, hidden=32, channels=4, dropout=0.0)
    plain = TrainConfig("tones", data, "", "tokenizer.json", encoder, OptimizerConfig(rate=3e-3, steps=8, warmup=2),
                        between=0, measure_steps=8, transducer=TransducerConfig(hidden=8, layers=1))
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in run.trainer.model.state_dict().items()}


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_run_cut_short_resumes_to_the_same_weights(root: Path, dropout: float) -> None:
    config, cpu = make_config(), torch.device("cpu")
    assert config.encoder is not None
    config = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, dropout=dropout))
    whole = Run(config, root, root / "whole", cpu)
    whole.train()
    first = Run(config, root, root / "cut", cpu)
    for batch in first.data.batches(0):
        first.trainer.step(batch)
        if first.trainer.step_count == 3:
            break
    first.save()
    second = Run(config, root, root / "cut", cpu)
    assert second.trainer.step_count == 3
    second.train()
    assert second.trainer.step_count == whole.trainer.step_count == 8
    for (name, a), b in zip(weights(whole).items(), weights(second).values(), strict=True):
        assert torch.equal(a, b), name
    assert all(torch.equal(a, b) for a, b in
               zip(whole.trainer.average.values(), second.trainer.average.values(), strict=True))


def test_a_finished_run_stays_as_it_is(root: Path) -> None:
    config, cpu = make_config(), torch.device("cpu")
    Run(config, root, root / "run", cpu).train()
    again = Run(config, root, root / "run", cpu)
    before = weights(again)
    again.train()
    assert again.trainer.step_count == 8
    assert all(torch.equal(before[name], x) for name, x in weights(again).items())


def test_without_its_tokenizer_it_says_what_makes_one(root: Path) -> None:
    (root / "tokenizer.json").unlink()
    with pytest.raises(BadConfig, match=r"tokenizer\.json: not a tokenizer .* `vivavoce data tokenizer` makes one"):
        Run(make_config(), root, root / "run", torch.device("cpu"))


def test_timed_speech_comes_first_and_a_cut_inside_it_resumes(root: Path) -> None:
    try:
        voices._espeak_files()
    except MissingDependency as e:
        pytest.skip(str(e))
    config, cpu = make_config(timed=4, timed_seconds=2.0), torch.device("cpu")
    whole = Run(config, root, root / "whole", cpu)
    kinds = [batch.phones is not None for batch in islice(whole.batches(), 6)]
    assert kinds == [True] * 4 + [False] * 2
    whole.train()
    cut = Run(config, root, root / "cut", cpu)
    for batch in islice(cut.batches(), 2):
        cut.trainer.step(batch)
    cut.save()
    again = Run(config, root, root / "cut", cpu)
    assert [batch.phones is not None for batch in islice(again.batches(), 4)] == [True] * 2 + [False] * 2
    again.train()
    assert again.trainer.step_count == 8


def test_the_export_is_the_average_and_loads(root: Path) -> None:
    run = Run(make_config(), root, root / "run", torch.device("cpu"))
    run.train()
    loaded = load(root / "run" / "export")
    assert loaded.model.config == run.trainer.model.config
    for name, p in loaded.model.named_parameters():
        assert torch.equal(p, run.trainer.average[name])
    assert "WER" in (root / "run" / "log.txt").read_text()


def assert_resumes(config: TrainConfig, root: Path) -> None:
    """A run cut after three steps ends with the weights of one that was not."""
    cpu = torch.device("cpu")
    whole, cut = (Run(config, root, root / name, cpu) for name in ("whole", "cut"))
    whole.train()
    for batch in islice(cut.batches(), 3):
        cut.trainer.step(batch)
    cut.save()
    again = Run(config, root, root / "cut", cpu)
    again.train()
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(again).values(), strict=True))


def test_two_maskings_and_workers_over_one_store_train_and_resume(root: Path) -> None:
    data = dataclasses.replace(make_config().data, store=str(root / "store"), workers=1)
    config = make_config(consistency=0.2, data=data)
    assert_resumes(config, root)


def test_word_errors_count_beside_the_other_losses_and_resume(root: Path) -> None:
    tokenizer = Tokenizer.from_file(str(root / "tokenizer.json"))
    train_ngram(["low high low", "high low"] * 5, tokenizer, 3, 100).save(root / "lm.safetensors")
    config = make_config(word_errors=WordErrorsConfig("lm.safetensors", hypotheses=4, weight=3.0))
    assert_resumes(config, root)
    trainer = Trainer(config, root, torch.device("cpu"))
    batch = next(Run(config, root, root / "batch", torch.device("cpu")).data.batches(0))
    with_them = trainer.loss(batch)
    counted, trainer.word_errors = trainer.word_errors, None
    assert counted is not None
    assert float((with_them - trainer.loss(batch)).detach()) > 0.1


def test_the_rate_falls_within_the_time_allowed_also_after_a_restart(root: Path) -> None:
    run = Run(make_config(optimizer=OptimizerConfig(steps=1000, warmup=1, cooldown=0.5)), root, root / "run",
              torch.device("cpu"))
    rates = []
    for run.trainer.spent in (0.2, 0.5, 0.75, 1.0, 1.2):
        rates.append(run.trainer.rate() / run.config.optimizer.rate)
    assert rates == pytest.approx([1.0, 1.0, 0.5, 0.0, 0.0])
    run.train(minutes=1e-6, finish=True)
    assert run.trainer.step_count == 1
    assert Run(run.config, root, root / "run", torch.device("cpu")).trainer.spent > 1


def test_bfloat16_gives_about_the_same_gradients_and_keeps_the_weights_in_float32(root: Path) -> None:
    moved = []
    for bfloat16 in (None, True):
        run = Run(make_config(bfloat16=bfloat16), root, root / f"run-{bfloat16}", torch.device("cpu"))
        before = weights(run)
        loss = run.trainer.step(next(iter(run.data.batches(0))))
        after = weights(run)
        assert all(after[name].dtype == before[name].dtype for name in before)
        moments = [s["exp_avg"].flatten() for o in run.trainer.optimizers for s in o.state.values()]
        moved.append((float(loss), torch.cat(moments)))
    (exact, gradient), (rounded, other) = moved
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.01)
    assert float(torch.cosine_similarity(gradient, other, dim=0)) > 0.99


def test_views_that_agree_cost_nothing_and_padding_does_not_count() -> None:
    torch.manual_seed(0)
    log_probs, count = torch.randn(2, 5, 4).log_softmax(-1), torch.tensor([5, 3])
    twice = torch.cat([log_probs, log_probs])
    assert consistency(twice, torch.cat([count, count])) == 0
    twice[3, 3:] = torch.randn(2, 4).log_softmax(-1)
    assert consistency(twice, torch.cat([count, count])) == 0
    twice[3, 1] = torch.randn(4).log_softmax(-1)
    assert consistency(twice, torch.cat([count, count])) > 0


def test_it_learns_to_tell_two_tones(root: Path) -> None:
    optimizer = OptimizerConfig(rate=5e-3, steps=120, warmup=10, average=0.9)
    run = Run(make_config(optimizer=optimizer, measure_steps=10_000, lookaheads=(6,), transducer=None,
                          data=dataclasses.replace(make_config().data, augment=quiet())), root, root / "run",
              torch.device("cpu"))
    run.train()
    from vivavoce.recipes.train.asr.measure import error_rates
    from vivavoce.speech.audio import read

    heard = [(read(u.path), u.text) for u in manifest.load(root / "speech" / "tones", "train")]
    assert error_rates(run.trainer.averaged(), run.trainer.tokenizer, heard, lookahead=6).words.rate < 0.3


def quiet():  # type: ignore[no-untyped-def]
    from vivavoce.recipes.data.augment import AugmentConfig

    return AugmentConfig(speed=0.0, room=0.0, rooms=1, noise=0.0, babble=0.0, telephone=0.0, codec=0.0, clipping=0.0)


def test_it_goes_on_from_a_model_and_its_tokenizer(root: Path) -> None:
    first = Run(make_config(), root, root / "first", torch.device("cpu"))
    first.train()
    onward = dataclasses.replace(make_config(), start=str(root / "first" / "export"), tokenizer="", encoder=None,
                                 transducer=None)
    second = Trainer(onward, root, torch.device("cpu"))
    assert second.tokenizer.get_vocab() == first.trainer.tokenizer.get_vocab()
    for name, weight in first.trainer.averaged().state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], weight, rtol=0, atol=2e-3)
    with pytest.raises(BadConfig, match="has its own"):
        dataclasses.replace(onward, encoder=make_config().encoder)
    with pytest.raises(BadConfig, match="either `start`"):
        dataclasses.replace(onward, start="")


def test_with_a_tokenizer_of_its_own_it_keeps_the_encoder_and_begins_new_heads(root: Path) -> None:
    first = Run(make_config(), root, root / "first", torch.device("cpu"))
    first.train()
    train_tokenizer(["low high low", "high low again"], 32).save(str(root / "smaller.json"))
    other = dataclasses.replace(make_config(), start=str(root / "first" / "export"), tokenizer="smaller.json",
                                encoder=None, transducer=None)
    trainer = Trainer(other, root, torch.device("cpu"))
    pieces = trainer.tokenizer.get_vocab_size()
    assert pieces == trainer.model.config.pieces < first.trainer.model.config.pieces
    assert trainer.model.ctc is not None
    assert trainer.model.ctc.linear.out_features == pieces + 1
    for name, weight in first.trainer.averaged().encoder.state_dict().items():
        torch.testing.assert_close(trainer.model.encoder.state_dict()[name], weight, rtol=0, atol=2e-3)


def test_a_model_gone_on_from_may_get_a_transducer_beside_it(root: Path) -> None:
    first = Run(make_config(transducer=None), root, root / "first", torch.device("cpu"))
    first.train()
    onward = dataclasses.replace(make_config(), start=str(root / "first" / "export"), tokenizer="", encoder=None)
    run = Run(onward, root, root / "second", torch.device("cpu"))
    began = {k: v.clone() for k, v in run.trainer.model.state_dict().items()}
    torch.testing.assert_close(began["ctc.linear.weight"], first.trainer.averaged().ctc.linear.weight,  # type: ignore[union-attr]
                               rtol=0, atol=2e-3)  # fmt: skip
    run.train()
    moved = {k for k, v in run.trainer.model.state_dict().items() if not torch.equal(v, began[k])}
    assert any(k.startswith("transducer.") for k in moved)
    again = dataclasses.replace(onward, start=str(root / "second" / "export"))
    with pytest.raises(BadConfig, match="has its own \\[transducer\\]"):
        Trainer(again, root, torch.device("cpu"))


def test_a_model_gone_on_from_takes_another_dropout(root: Path) -> None:
    first = Run(make_config(), root, root / "first", torch.device("cpu"))
    first.train()
    onward = dataclasses.replace(make_config(), start=str(root / "first" / "export"), tokenizer="", encoder=None,
                                 transducer=None, dropout=0.25)
    assert Trainer(onward, root, torch.device("cpu")).model.config.encoder.dropout == 0.25
    with pytest.raises(BadConfig, match="belongs in \\[encoder\\]"):
        make_config(dropout=0.1)


def test_the_rate_warms_up_holds_and_falls_to_nothing(root: Path) -> None:
    trainer = Trainer(make_config(optimizer=OptimizerConfig(rate=1.0, steps=100, warmup=10, cooldown=0.3)), root,
                      torch.device("cpu"))
    rates = []
    for trainer.step_count in range(101):
        rates.append(trainer.rate())
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert set(rates[10:70]) == {1.0}
    assert rates[85] == pytest.approx(0.5)
    assert rates[100] == 0.0


@pytest.mark.parametrize("name", ["small-en", "small-en-gpu", "onward", "word-errors"])
def test_the_shipped_configurations_are_readable(name: str) -> None:
    import vivavoce.recipes.train.asr as package

    config = read_config(Path(package.__path__[0]) / f"{name}.toml")
    assert config.name == "small-en"
    assert (config.word_errors is not None) == (name == "word-errors")


@pytest.mark.parametrize(("text", "problem"), [
    ('name = "x"\nspeed = 3', "unknown key 'speed'"),
    ("name = ", "not TOML"),
    ('name = "x"', "is missing"),
])
def test_a_bad_configuration_is_named(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(BadConfig, match=problem):
        read_config(tmp_path / "c.toml")
    with pytest.raises(BadConfig, match="cannot be read"):
        read_config(tmp_path / "none.toml")


@pytest.mark.slow
def test_two_processes_train_one_model(root: Path) -> None:
    """torchrun, gloo: both ranks take the mean gradient, so rank 0's export is one model, and the run ends."""
    (root / "c.toml").write_text(
        'name = "tones"\ntokenizer = "tokenizer.json"\n[encoder]\nwidth = 16\nlayers = 1\nheads = 2\nhidden = 16\n'
        'channels = 4\n[optimizer]\nsteps = 4\n[data]\ndev = ["tones"]\n[data.batches]\nseconds = 3.0\nbuckets = 2\n')
    done = subprocess.run(
        [sys.executable, "-P", "-m", "torch.distributed.run", "--nproc-per-node=2", "-m",
         "vivavoce.recipes.train.asr.train", str(root / "c.toml"), "--data", str(root), "--out", str(root / "run"),
         "--device", "cpu", "--threads", "1"], cwd=root, env=os.environ, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    assert load(root / "run" / "export").name == "tones"


def aligned(root: Path, **changes: object) -> TrainConfig:
    """A run on the tones whose phones are known: AA all through `low`, IY through `high`."""
    phones = {"low": "AA", "high": "IY"}
    rows = {f"tones/{u.path.name}": [u.text, [[4800 * i, phones[w]] for i, w in enumerate(u.text.split())]]
            for u in manifest.load(root / "speech" / "tones", "train")}
    (root / "phones.json").write_text(json.dumps(rows))
    plain = make_config(transducer=None)
    return dataclasses.replace(plain, data=dataclasses.replace(plain.data, phones="phones.json"),
                               optimizer=OptimizerConfig(rate=1e-2, steps=60, warmup=5, cooldown=0.1, muon=True),
                               measure_steps=60, **changes)  # type: ignore[arg-type]


def test_known_phones_are_learnt_beside_the_words(root: Path) -> None:
    run = Run(aligned(root), root, root / "phones", torch.device("cpu"))
    run.train()
    right = known = 0
    for batch in islice(run.data.batches(0), 4):
        assert batch.phones is not None
        with torch.no_grad():
            mel, frames = run.trainer.model.features(batch.pcm, batch.samples)
            x, _ = run.trainer.model.encoder(mel, frames, 1)
        said = run.trainer.model.phones(x).flatten(1, 2).argmax(-1)
        n = min(said.shape[1], batch.phones.shape[1])
        inside = batch.phones[:, :n] > 0
        right += int((said[:, :n] == batch.phones[:, :n])[inside].sum())
        known += int(inside.sum())
    assert right > 0.8 * known > 0


def test_it_keeps_the_phones_it_goes_on_from_where_its_data_has_them_and_drops_them_where_not(root: Path) -> None:
    first = Run(aligned(root), root, root / "phones", torch.device("cpu"))
    first.train()
    onward = dataclasses.replace(first.config, start=str(root / "phones" / "export"), tokenizer="", encoder=None)
    kept = Trainer(onward, root, torch.device("cpu")).model.phones
    assert kept is not None
    torch.testing.assert_close(kept.linear.weight, first.trainer.average["phones.linear.weight"], rtol=0, atol=2e-3)
    none = dataclasses.replace(onward, data=dataclasses.replace(onward.data, phones=""))
    assert Trainer(none, root, torch.device("cpu")).model.phones is None
    untaught = dataclasses.replace(onward, phones_weight=0.0)
    assert Trainer(untaught, root, torch.device("cpu")).model.phones is None
    timed = Trainer(dataclasses.replace(none, timed=2), root, torch.device("cpu"))
    assert timed.model.phones is not None
    assert timed.averaged().phones is None  # what timed speech alone taught does not stay
    again = dataclasses.replace(onward, start=_saved_without_phones(none, root))
    assert Trainer(again, root, torch.device("cpu")).model.config.phones


def _saved_without_phones(config: TrainConfig, root: Path) -> str:
    trainer = Trainer(config, root, torch.device("cpu"))
    save(trainer.averaged(), trainer.tokenizer, root / "none")
    return str(root / "none")


def test_muon_and_phones_of_two_maskings_resume_to_the_same_weights(root: Path) -> None:
    config = aligned(root, consistency=0.2)
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, steps=6), measure_steps=100)
    assert_resumes(config, root)
