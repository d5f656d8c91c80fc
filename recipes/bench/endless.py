"""`vivavoce bench endless`: the perplexity of prose that never ends, by what the cache keeps.

Streams the held-out end of a prose corpus through one session for each policy, as one conversation of hours would go,
and writes a table and a plot: sinks and a ring; a plain window of the same size, which a model that has learnt to lean
on its first tokens does not survive (StreamingLLM, arXiv 2309.17453); and over the first tokens everything kept, past
what the model was trained on. State and time a token do not depend on how far the stream has come.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from vivavoce.recipes.options import count, say
from vivavoce.recipes.train.backbone.data import SINK, prose
from vivavoce.speech.errors import BadConfig, MissingDependency
from vivavoce.speech.llm.hub import load
from vivavoce.speech.llm.model import LanguageModel
from vivavoce.streaming.cache_policy import CachePolicy, KeepAll, SinkRing, Window

CORPUS = "novels_pd_extra.txt.xz"
SLACK = 191  # a block of 192 tokens at a time; what is seen does not depend on it


@dataclass(frozen=True)
class Part:
    """Of a run of tokens: perplexity, milliseconds a token, bytes of state."""

    tokens: int
    perplexity: float
    ms: float
    state: int


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0. Raises what loading the model raises, BadConfig without the corpus."""
    args = _parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    loaded = load(args.model)
    file = args.data / "text" / CORPUS
    if not file.is_file():
        raise BadConfig(f"{file}: no such corpus; --data takes the folder that holds text/")
    sink = loaded.tokenizer.token_to_id(SINK)
    body = prose(file, loaded.tokenizer)[: args.tokens]
    stream = torch.cat((torch.tensor([] if sink is None else [sink], dtype=torch.int64), body))
    found: dict[str, list[Part]] = {}
    for name, policy in policies(args.window).items():
        found[name] = list(parts(LanguageModel(loaded.decoder, policy), stream, args.every))
        say(f"{name}: perplexity {overall(found[name]):.1f}")
    start = stream[: args.start + 1]
    for name, policy in (("everything kept", KeepAll(window=len(start))), next(iter(policies(args.window).items()))):
        found[f"{name}, start"] = list(parts(LanguageModel(loaded.decoder, policy), start, max(args.start // 12, 1)))
    Console().print(table(found))
    if args.plot:
        plot(found, args.plot)
    return 0


def policies(window: int) -> Mapping[str, CachePolicy]:
    """Alike in how many tokens a query sees."""
    return {
        f"4 sinks + ring of {window - 4}": SinkRing(4, window - 4, SLACK),
        f"window of {window}": Window(window=window, slack=SLACK),
    }


@torch.no_grad()
def parts(model: LanguageModel, stream: Tensor, every: int) -> Iterator[Part]:
    """One session fed `stream` (n,), reported every so many tokens; the first token is predicted by nothing."""
    state, block = model.init_state(1), min(model.policy.block, SLACK + 1)
    loss, tokens, began, before = 0.0, 0, time.perf_counter(), stream.new_zeros(0)
    for chunk in stream[:-1].split(block):
        n = torch.tensor([len(chunk)])
        hidden, _ = model.step(chunk[None], state, n, n < 0)
        scores = model.decoder.logits(hidden[0])
        wanted = stream[len(before) : len(before) + len(chunk) + 1][1:]
        before = stream[: len(before) + len(chunk)]
        loss += float(F.cross_entropy(scores, wanted, reduction="sum"))
        tokens += len(chunk)
        if tokens >= every or len(before) == len(stream) - 1:
            ms = 1e3 * (time.perf_counter() - began) / tokens
            yield Part(tokens, math.exp(min(loss / tokens, 700)), ms, state.nbytes)
            loss, tokens, began = 0.0, 0, time.perf_counter()


def overall(found: Sequence[Part]) -> float:
    """The perplexity of all parts together."""
    return math.exp(sum(p.tokens * math.log(p.perplexity) for p in found) / sum(p.tokens for p in found))


def table(found: Mapping[str, Sequence[Part]]) -> Table:
    out = Table("cache", "tokens", "perplexity", "first part", "last part", "ms a token, first / last", "state, MB")
    for name, ps in found.items():
        total = sum(p.tokens for p in ps)
        out.add_row(name, f"{total:,}", f"{overall(ps):.1f}", f"{ps[0].perplexity:.1f}", f"{ps[-1].perplexity:.1f}",
                    f"{ps[0].ms:.2f} / {ps[-1].ms:.2f}", f"{ps[-1].state / 1e6:.2f}")  # fmt: skip
    return out


def plot(found: Mapping[str, Sequence[Part]], path: Path) -> None:
    """Perplexity by tokens seen, logarithmic. Raises MissingDependency."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as e:
        raise MissingDependency("--plot needs matplotlib; pip install matplotlib") from e
    figure, axes = pyplot.subplots(figsize=(7, 3.5))
    for name, ps in found.items():
        ends = torch.tensor([p.tokens for p in ps]).cumsum(0).tolist()
        axes.plot(ends, [p.perplexity for p in ps], label=name)
    axes.set(xlabel="tokens of the stream", ylabel="perplexity", xscale="log", yscale="log")
    axes.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser("vivavoce bench endless", description=__doc__.partition(": ")[2].split("\n")[0])
    p.add_argument("--model", default="chat-en", metavar="M", help="as for `vivavoce chat` (default: %(default)s)")
    p.add_argument("--data", type=Path, default=Path(os.environ.get("VIVAVOCE_DATA", ".")),
                   help="folder that holds text/ (default: $VIVAVOCE_DATA)")  # fmt: skip
    p.add_argument("--tokens", type=count, default=200_000, metavar="N", help="of the stream (default: %(default)s)")
    p.add_argument("--window", type=count, default=256, metavar="N", help="tokens in view (default: %(default)s)")
    p.add_argument("--every", type=count, default=5000, metavar="N", help="tokens a part (default: %(default)s)")
    p.add_argument("--start", type=count, default=6144, metavar="N",
                   help="tokens over which everything is kept, too (default: %(default)s)")  # fmt: skip
    p.add_argument("--threads", type=count, default=2, metavar="N", help="of the CPU (default: %(default)s)")
    p.add_argument("--plot", type=Path, metavar="PNG", help="where to draw it")
    return p
