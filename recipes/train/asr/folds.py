"""How far a recogniser's errors can be trusted: the same recipe trained again, on other folds and with other seeds.

A corpus is cut into folds, by speaker where it has many (leave some readers out in turn), else by recording; each fold
is measured by a model that never heard it, nor a sentence it shares. What leaves is a table with means and spreads.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path

import torch

from vivavoce.recipes.data import manifest
from vivavoce.recipes.data.manifest import Utterance
from vivavoce.recipes.options import usable
from vivavoce.speech.errors import BadConfig
from vivavoce.streaming.errors import VivaVoceError

from .measure import error_rates
from .train import Run, TrainConfig, add_config, read_config

SPEAKERS = 10  # a corpus of fewer is cut by recording
EVERYTHING = 1_000_000


def fold_of(utterances: Sequence[Utterance], folds: int) -> list[int]:
    """The fold of each, 0 to folds - 1; nobody who speaks in one is heard in another. Digests decide, so a corpus that
    is listed in another order is cut the same.

    Raises BadConfig: fewer speakers or recordings than folds.
    """
    speakers = {u.speaker for u in utterances}
    names = [u.speaker if len(speakers) >= SPEAKERS else u.path.name for u in utterances]
    order = sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).digest())
    if not 2 <= folds <= len(order):
        raise BadConfig(f"{folds} folds of {len(order)} speakers or recordings; give 2 to {len(order)}")
    place = {name: i % folds for i, name in enumerate(order)}
    return [place[name] for name in names]


def lay_out(data: Path, speech: str, corpora: Sequence[str], folds: int, fold: int, root: Path) -> None:
    """A data folder like `data` (links to it), with that fold of the corpora as their dev sets and the rest of them to
    train on. folds 0: the split as it stands; 1: all of the corpora are dev sets, nothing of them is to train on.
    Raises BadManifest; BadConfig, a corpus is not there."""
    if folds and (lost := [name for name in corpora if not (data / speech / name / manifest.NAME).exists()]):
        raise BadConfig(f"{data / speech}: no {', '.join(lost)} there")
    for file in sorted((data / speech).glob(f"*/{manifest.NAME}")):
        utterances = manifest.load(file)
        if folds and file.parent.name in corpora:
            spoken = [u for u in utterances if u.text]
            places = fold_of(spoken, folds) if folds > 1 else [0] * len(spoken)
            utterances = [replace(u, split="dev" if at == fold else "train")
                          for u, at in zip(spoken, places, strict=True)]
        target = root / speech / file.parent.name / manifest.NAME
        target.parent.mkdir(parents=True, exist_ok=True)
        manifest.write(target, [replace(u, path=_linked(u.path, file.parent, target.parent)) for u in utterances])
    for other in data.iterdir():
        link = root / other.name
        if other.name != Path(speech).parts[0] and not link.exists():
            link.symlink_to(other.resolve())


def _linked(path: Path, source: Path, target: Path) -> Path:
    """A link to a recording at the same place below `target` as it has below `source`, for its phones are known by that
    place; the recording itself where it lies elsewhere."""
    inside = Path(os.path.relpath(path, source))
    if ".." in inside.parts:
        return path.resolve()
    link = target / inside
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(path.resolve())
    return link


def claim(folder: Path, config: TrainConfig, minutes: float, finish: bool) -> None:
    """Say in `folder` what it is trained with. Raises BadConfig: it was something else, whose result is not this one's.
    """
    settings = json.loads(json.dumps([asdict(config), minutes if finish else None], default=str))
    note = folder / "settings.json"
    if not note.exists():
        folder.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(settings) + "\n")
    elif json.loads(note.read_text()) != settings:
        raise BadConfig(f"{folder} holds a run of other settings; give another --out")


def trained(config: TrainConfig, root: Path, folder: Path, device: torch.device, minutes: float,
            finish: bool) -> Run | None:  # fmt: skip
    """A finished run in `folder`, None where it ended early. minutes and finish as in `Run.train`."""
    run = Run(config, root, folder, device)
    run.train(minutes, finish)
    return run if run.trainer.step_count >= config.optimizer.steps or run.trainer.spent > 1 else None


def measured(config: TrainConfig, root: Path, folder: Path, device: torch.device, minutes: float,
             finish: bool = False) -> dict[str, float]:  # fmt: skip
    """Train in `folder` and give the WER of every dev set, greedy at 480 ms; nothing where it ended early."""
    claim(folder, config, minutes, finish)
    result = folder / "result.json"
    if not result.exists():
        run = trained(config, root, folder, device, minutes, finish)
        if run is None:
            return {}
        model = run.trainer.averaged()
        rates = {name: error_rates(model, run.trainer.tokenizer, said, lookahead=6).words.rate
                 for name, said in run.data.dev(root).items()}
        result.write_text(json.dumps(rates) + "\n")
    found: dict[str, float] = json.loads(result.read_text())
    return found


def table(rows: dict[str, dict[str, float]]) -> str:
    """A line a run and set, then mean and standard deviation over the runs of each set."""
    lines = [f"{name}  {corpus}  WER {100 * rate:.2f} %"
             for name, rates in rows.items() for corpus, rate in rates.items()]
    for corpus in sorted({corpus for rates in rows.values() for corpus in rates}):
        values = [100 * rates[corpus] for rates in rows.values() if corpus in rates]
        spread = f", standard deviation {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        lines.append(f"{corpus}: mean {statistics.fmean(values):.2f} %{spread} over {len(values)} runs")
    return "\n".join(lines)


def one(config: TrainConfig, args: argparse.Namespace, fold: int, seed: int) -> tuple[str, dict[str, float]]:
    """The name of a run and its errors. Raises VivaVoceError."""
    part = f"{'+'.join(args.corpus)}-{fold + 1}-of-{args.folds}-" if args.folds else ""
    name = f"{part}seed-{seed}"
    root = args.out / name / "data"
    lay_out(args.data, config.data.speech, args.corpus, args.folds, fold, root)
    data = replace(config.data, dev_utterances=EVERYTHING)
    config = replace(config, seed=seed, data=data, measure_steps=config.optimizer.steps)
    device = torch.device(usable(args.device))
    return name, measured(config, root, args.out / name, device, args.minutes, args.finish)


def begun(config: TrainConfig, args: argparse.Namespace) -> TrainConfig | None:
    """The configuration of the runs once they have a start in common, which has heard nothing that any of them is
    measured on; None where its training ended early. Raises VivaVoceError."""
    folder = args.out / f"before-{'+'.join(args.corpus)}"  # other corpora want another start
    root = folder / "data"
    lay_out(args.data, config.data.speech, args.corpus, 1, 0, root)
    quiet = replace(config, measure_steps=config.optimizer.steps, data=replace(config.data, dev=()))
    claim(folder, quiet, args.before, finish=True)
    if not (folder / "done").exists():
        if trained(quiet, root, folder, torch.device(usable(args.device)), args.before, finish=True) is None:
            return None
        (folder / "done").touch()
    return replace(config, start=str((folder / "export").resolve()), tokenizer="", encoder=None, timed=0)


def at_once(runs: Sequence[tuple[TrainConfig, argparse.Namespace, int, int]],
            jobs: int) -> Iterator[tuple[str, dict[str, float]]]:  # fmt: skip
    """`one` of each, `jobs` at a time in processes of their own, in their order."""
    threads = max(1, torch.get_num_threads() // jobs)

    def apart(run: tuple[TrainConfig, argparse.Namespace, int, int]) -> tuple[str, dict[str, float]]:
        with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (threads,)) as process:
            return process.submit(one, *run).result()

    with ThreadPoolExecutor(jobs) as pool:  # one pool of processes would begin a run more after an interrupt
        yield from pool.map(apart, runs)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 done, 1 failed or cut short (the same line goes on), 2 bad usage."""
    p = argparse.ArgumentParser("vivavoce train folds", description="Train again on other folds and seeds; resumes.")
    add_config(p)
    p.add_argument("--data", type=Path, default=Path(os.environ.get("VIVAVOCE_DATA", ".")))
    p.add_argument("--out", type=Path, default=Path("runs/folds"))
    p.add_argument("--corpus", nargs="+", default=["ljspeech"], help="what to cut, all at once (default: ljspeech)")
    p.add_argument("--folds", type=int, default=5, help="0: the split as it stands, for a spread over seeds alone")
    p.add_argument("--seeds", type=int, nargs="+", default=[1])
    p.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    p.add_argument("--minutes", type=float, default=0, help="a run at most; run again to go on")
    p.add_argument("--finish", action="store_true", help="let the rate fall to 0 within --minutes: that is a run")
    p.add_argument("--before", type=float, default=0, metavar="MINUTES",
                   help="train for so long on everything but --corpus first, once for all runs")
    p.add_argument("--jobs", type=int, default=1, help="runs at a time, each on its share of the cores (default: 1)")
    args = p.parse_args(argv)
    rows = dict[str, dict[str, float]]()
    try:
        config = read_config(args.config, args.set)
        begin = begun(config, args) if args.before else config
        if begin is None:
            return 1
        runs = list(itertools.product([begin], [args], range(max(args.folds, 1)), args.seeds))
        rows.update(itertools.starmap(one, runs) if args.jobs < 2 else at_once(runs, args.jobs))
    except VivaVoceError as e:
        print(f"folds: {e}", file=sys.stderr)
        return 1
    print(table(rows))
    return int(not all(rows.values()))


if __name__ == "__main__":
    sys.exit(main())
