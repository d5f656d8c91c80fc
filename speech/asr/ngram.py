"""An n-gram language model over subword pieces, small enough to lie beside the recogniser.

recipes/train/asr/ngram.py estimates one from text and saves it as `ngram.safetensors`; lm.py loads it and asks it
for the beam.
"""

from __future__ import annotations

import lzma
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vivavoce.speech import weights
from vivavoce.speech.errors import BadCheckpoint

NOWHERE = -1  # the node of a context that the model has not kept
STEP = 0.3  # nats between what a file can say; finer ones cost bytes and predict nothing better
LARGEST = 1 << 30  # bytes a column may unpack to


class Files(NamedTuple):
    """What lies on disk, by name; a node is one kept n-gram, in level order and sorted within its level.

    log_prob (nodes,) and backoff (nodes with a context's place, that is, all but the last level's) are uint8 steps of
    `scale` (2, 2) float32: the value of step 0 and the size of a step. token (nodes after the first level,) is the last
    piece, uint8 or int16; children (as backoff) int16 their number. These four are `_packed`. word_start (pieces,)
    uint8 whether a piece begins a word; order () int64.
    """

    log_prob: Tensor
    backoff: Tensor
    scale: Tensor
    token: Tensor
    children: Tensor
    word_start: Tensor
    order: Tensor


@dataclass(frozen=True, eq=False)
class NGram:
    """A back-off model (Katz 1987) as a trie: P(w | h) is the kept n-gram's, or the back-off of h times P(w | h[1:]).

    Nodes 0 to `pieces` are the single pieces and the start of a sentence; then pairs, then triples and so on. A context
    is the nodes of its last 1, 2, ... `order` - 1 pieces, NOWHERE for those not kept: (..., order - 1) int64. So each
    step looks up only one piece more, and any context has the same size.

    key: (nodes after the first level,) int64, ascending, parent * pieces + piece. log_prob: (nodes,) float32, nats.
    backoff: (nodes + 1,) float32; the last, which NOWHERE finds, is 0. word_start: (pieces,) bool.
    """

    key: Tensor
    log_prob: Tensor
    backoff: Tensor
    word_start: Tensor
    order: int

    @property
    def pieces(self) -> int:
        return len(self.word_start)

    @property
    def device(self) -> torch.device:
        return self.key.device

    @cached_property
    def levels(self) -> Tensor:
        """0 to order - 1, as a column."""
        return torch.arange(self.order, device=self.device)[:, None]

    def to(self, device: torch.device | str) -> Self:
        key, log_prob, backoff, word_start = (
            x.to(device) for x in (self.key, self.log_prob, self.backoff, self.word_start)
        )
        return type(self)(key, log_prob, backoff, word_start, self.order)

    def start(self, *shape: int) -> Tensor:
        """The context at the start of a sentence, (*shape, order - 1)."""
        context = torch.full((*shape, self.order - 1), NOWHERE, device=self.device)
        context[..., 0] = self.pieces
        return context

    def score(self, context: Tensor, token: Tensor) -> Tensor:
        """log P(token | context) in nats, float32. context: (..., order - 1); token: (..., n). Returns (..., n)."""
        child = self._child(context[..., None], token[..., None, :])
        node = torch.cat([token[..., None, :], child], dim=-2)  # by how long a context it is in
        longest = ((node != NOWHERE) * self.levels).amax(-2, keepdim=True)  # which has the say
        backoff = self.backoff[context].flip(-1).cumsum(-1).flip(-1)  # of a context and all that are longer
        price = F.pad(backoff, (0, 1))[..., None].expand(node.shape).gather(-2, longest)
        return (self.log_prob[node.gather(-2, longest)] + price)[..., 0, :]

    def advance(self, context: Tensor, token: Tensor) -> Tensor:
        """The context after one piece more. token: (...)."""
        longer = self._child(context[..., :-1], token[..., None])
        return torch.cat([token[..., None], longer], dim=-1)

    def log_probs(self, tokens: Tensor) -> Tensor:
        """Of each piece of sentences given those before it. tokens: (sentences, length). Returns the same shape."""
        context, columns = self.start(len(tokens)), []
        for token in tokens.unbind(1):
            columns.append(self.score(context, token[:, None]))
            context = self.advance(context, token)
        return torch.cat(columns, dim=1) if columns else self.log_prob.new_zeros(tokens.shape)

    def _child(self, node: Tensor, token: Tensor) -> Tensor:
        """The node one piece below, or NOWHERE."""
        if not len(self.key):
            return torch.full(torch.broadcast_shapes(node.shape, token.shape), NOWHERE, device=self.device)
        key = node * self.pieces + token  # below 0 for NOWHERE, so that none is found
        at = torch.searchsorted(self.key, key).clamp_(max=len(self.key) - 1)
        return (at + (self.pieces + 1)).masked_fill_(self.key[at] != key, NOWHERE)

    def save(self, path: str | Path) -> None:
        """Write it, probabilities to within half a `STEP`; atomic, so a reader sees the old file or the new one."""
        inner = self._level(self.order - 1)
        (log_prob, a), (backoff, b) = _steps(self.log_prob), _steps(self.backoff[:inner])
        parent, token = self.key // self.pieces, self.key % self.pieces
        files = Files(
            log_prob=_packed(log_prob),
            backoff=_packed(backoff),
            scale=torch.stack([a, b]),
            token=_packed(token.to(_token_type(self.pieces))),
            children=_packed(torch.bincount(parent, minlength=inner)[:inner].to(torch.int16)),
            word_start=self.word_start.to(torch.uint8),
            order=torch.tensor(self.order),
        )
        weights.write({name: x.cpu().contiguous() for name, x in files._asdict().items()}, Path(path))

    def _level(self, level: int) -> int:
        """How many nodes the first `level` levels have."""
        end = self.pieces + 1
        for _ in range(level - 1):  # the children of nodes before `end` lie before
            end = self.pieces + 1 + int(torch.searchsorted(self.key, end * self.pieces))
        return end

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises BadCheckpoint for a file that is missing, truncated, or holds something else."""
        try:
            files = Files(**load_file(path))
            files = files._replace(
                log_prob=_unpacked(files.log_prob, torch.uint8),
                backoff=_unpacked(files.backoff, torch.uint8),
                token=_unpacked(files.token, _token_type(len(files.word_start))),
                children=_unpacked(files.children, torch.int16),
            )
        except (SafetensorError, OSError, TypeError, ValueError, RuntimeError, lzma.LZMAError) as e:
            raise BadCheckpoint(f"{path}: not an n-gram model ({e}); make one with `vivavoce data ngram`, or leave it "
                                "out") from e
        nodes, inner, pieces = len(files.log_prob), len(files.children), len(files.word_start)
        count = files.children.long()
        if not (
            nodes == len(files.token) + pieces + 1
            and inner == len(files.backoff)
            and bool((count >= 0).all())
            and int(count.sum()) == len(files.token)
            and files.scale.shape == (2, 2)
        ):
            raise BadCheckpoint(f"{path}: its parts have sizes that do not fit together; fetch it again")
        log_prob, backoff = (
            scale[0] + scale[1] * x.float()
            for scale, x in zip(files.scale, (files.log_prob, files.backoff), strict=True)
        )
        parent = torch.repeat_interleave(torch.arange(inner), count)
        return cls(
            key=parent * pieces + files.token.long(),
            log_prob=log_prob,
            backoff=torch.cat([backoff, torch.zeros(nodes + 1 - inner)]),
            word_start=files.word_start.bool(),
            order=int(files.order),
        )


def _token_type(pieces: int) -> torch.dtype:
    return torch.uint8 if pieces <= 256 else torch.int16


def _packed(x: Tensor) -> Tensor:
    """x (n,) as the bytes of an xz stream, uint8; low bytes come first, then high bytes, which are mostly the same."""
    planes = x.cpu().contiguous().view(torch.uint8).view(-1, x.element_size()).T.contiguous()
    return torch.frombuffer(bytearray(lzma.compress(planes.numpy().tobytes(), preset=9)), dtype=torch.uint8)


def _unpacked(x: Tensor, dtype: torch.dtype) -> Tensor:
    """What was packed. Raises LZMAError or ValueError for anything else."""
    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    found = bytearray(stream.decompress(x.numpy().tobytes(), LARGEST))
    if not stream.eof or len(found) % dtype.itemsize:
        raise ValueError("a column is cut off or too large")
    planes = torch.frombuffer(found, dtype=torch.uint8) if found else torch.zeros(0, dtype=torch.uint8)
    return planes.view(dtype.itemsize, len(found) // dtype.itemsize).T.contiguous().view(dtype)[:, 0]


def _steps(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (n,) as uint8 steps, and the value of step 0 and the size of a step, (2,). 0, as most back-offs are, is one."""
    size = ((x.max() - x.min()) / 254).clamp(min=STEP)
    low = (x.min() / size).floor() * size
    return torch.round((x - low) / size).to(torch.uint8), torch.stack([low, size]).float()
