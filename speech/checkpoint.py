"""Recognisers on disk: `config.json` + `model.safetensors` + `tokenizer.json`, and every foreign layout read into it.

A model comes from its shipped name, a folder (ours, or the Hub's transformers layout), a `.nemo` archive or a Hub id.
It goes to the recogniser, to the trainer, or, converted, into a folder of our own layout.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from tokenizers import Tokenizer

from . import config as configs
from . import hub, nemo
from .asr.lm import LanguageModel
from .asr.model import AsrConfig, AsrModel
from .errors import BadCheckpoint, BadConfig, MissingDependency
from .foreign import rename
from .weights import Parts, Precision, count_parameters, fit, pack, read, unpack, weight_files, write

CONFIG, TOKENIZER, CARD = "config.json", "tokenizer.json", "README.md"
MODEL_TYPE = "vivavoce_asr"  # what `model_type` of config.json says in our own layout
KINDS = (MODEL_TYPE, *hub.KINDS)


@dataclass(frozen=True)
class Loaded:
    """A recogniser ready to run. source: the folder or archive it came from; lm: what its beam search fuses."""

    model: AsrModel
    tokenizer: Tokenizer
    source: Path
    lm: LanguageModel | None = None

    @property
    def name(self) -> str:
        return self.model.config.name

    @property
    def pieces(self) -> list[str]:
        """The subword pieces by token id, as `asr.words.Vocabulary` takes them."""
        return [self.tokenizer.id_to_token(i) or "" for i in range(self.model.config.pieces)]


@dataclass(frozen=True)
class Info:
    """What `vivavoce models` shows. size: bytes of weights and language models; lookaheads: trained ones, in frames of
    80 ms (none: it hears whole utterances only); card: the text of README.md, or nothing."""

    name: str
    source: Path
    parameters: int
    size: int
    lookaheads: tuple[int, ...]
    decoders: tuple[str, ...]
    card: str


def save(
    model: AsrModel,
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    dtype: Precision = "float32",
    lm: LanguageModel | None = None,
) -> None:
    """Write the model's folder, weights last so that a folder with weights is complete. int8: one scale a row."""
    _check_tokenizer(model.config, tokenizer, "the tokenizer given")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    values = {"model_type": MODEL_TYPE, **configs.to_dict(model.config)}
    (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n")
    (folder / TOKENIZER).write_text(tokenizer.to_str())
    if lm is not None:
        _check_lm(model.config, lm, "the language model given")
        lm.save(folder)
    write(pack(model, dtype), folder / "model.safetensors")


def load(source: str | Path, *, device: torch.device | str = "cpu") -> Loaded:
    """A model in float32, in eval mode, on `device`.

    source: a shipped name (`models()`), a folder, a `.nemo` archive, or a Hub id `owner/name`, fetched once.
    Raises BadCheckpoint, BadConfig, or MissingDependency when reading this source needs a package that is not there.
    """
    path = locate(source)
    parts = _read(path)
    _check_tokenizer(parts.config, parts.tokenizer, str(path))
    model = AsrModel.empty(parts.config)
    fit(model, parts.tensors, str(path))
    lm = LanguageModel.load(path)
    if lm is not None:
        _check_lm(parts.config, lm, str(path))
        lm = lm.to(device)
    return Loaded(model.eval().to(device), parts.tokenizer, path, lm)


def convert(source: str | Path, folder: str | Path, *, dtype: Precision = "float32") -> Info:
    """Read a model of any format and write it in ours; returns what was written."""
    loaded = load(source)
    save(loaded.model, loaded.tokenizer, folder, dtype=dtype, lm=loaded.lm)
    return info(Path(folder))


def average(sources: Sequence[str | Path], folder: str | Path, *, dtype: Precision = "float32") -> Info:
    """Write the mean of several models' weights (model soups, arXiv 2203.05482): runs that went on from one model, with
    other data or other steps, are often better together. Raises BadConfig where shapes or tokenizers differ."""
    first, *others = (load(source) for source in sources)
    mean = {name: value.clone() for name, value in first.model.state_dict().items()}
    for number, other in enumerate(others, 2):
        state = other.model.state_dict()
        alike = {n: x.shape for n, x in state.items()} == {n: x.shape for n, x in mean.items()}
        if not alike or other.pieces != first.pieces:
            raise BadConfig(f"{other.source}: not of the shape or pieces of {first.source}; average runs of one model")
        for name, value in mean.items():
            if value.is_floating_point():
                value.lerp_(state[name], 1 / number)
    first.model.load_state_dict(mean)
    save(first.model, first.tokenizer, folder, dtype=dtype, lm=first.lm)
    return info(Path(folder))


def models() -> list[Info]:
    """The recognisers that ship with the package, by name."""
    return [info(folder) for folder in _shipped().values()]


def info(source: str | Path) -> Info:
    """What is known about a model; in our own layout without reading its weights. Raises as `load` does."""
    path = locate(source)
    if path.is_dir() and _model_type(path) == MODEL_TYPE:
        config, parameters, files = _own_config(path), count_parameters(path), weight_files(path)
    else:
        config, tensors, _ = _read(path)
        parameters, files = sum(t.numel() for t in tensors.values()), [path] if path.is_file() else weight_files(path)
    card = path / CARD
    return Info(
        config.name,
        path,
        parameters,
        sum(f.stat().st_size for f in files) + LanguageModel.size(path),
        config.lookaheads,
        config.decoders,
        card.read_text() if card.is_file() else "",
    )


def locate(source: str | Path, kinds: Collection[str] = KINDS) -> Path:
    """The folder or archive that `source` means. A shipped name wins over a folder of that name here: write `./name`
    for the folder. kinds: what `model_type` says of the shipped ones that are meant. Raises BadCheckpoint when there
    is none."""
    shipped = _shipped(kinds)
    if isinstance(source, str) and source in shipped:
        return shipped[source]
    path = Path(source)
    if path.exists():
        return _archive_in(path)
    if isinstance(source, str) and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source):
        return _fetch(source)
    raise BadCheckpoint(
        f"{source}: no such model; give one that ships ({', '.join(shipped) or 'none does'}), a folder, "
        "a .nemo file, or a Hub id like owner/name"
    )


def _shipped(kinds: Collection[str] = KINDS) -> dict[str, Path]:
    root = Path(str(resources.files("vivavoce.speech.models")))
    return {p.name: p for p in sorted(root.iterdir())
            if (p / CONFIG).is_file() and _model_type(p) in kinds}


def _archive_in(path: Path) -> Path:
    """The one `.nemo` archive of a folder that holds nothing else to load; otherwise the path itself."""
    archives = [] if path.is_file() or (path / CONFIG).is_file() else sorted(path.glob("*.nemo"))
    return archives[0] if len(archives) == 1 else path


def _fetch(repository: str) -> Path:
    """The Hub's copy of a repository, from the local cache when it is there."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as e:
        raise MissingDependency(
            f"{repository} is no folder here, and fetching it from the Hub needs huggingface_hub; "
            "install vivavoce[hub], or give a folder"
        ) from e
    try:
        folder = Path(snapshot_download(repository, allow_patterns=["*.json", "*.jinja", "*.safetensors", CARD]))
        if not (folder / CONFIG).is_file():
            folder = Path(snapshot_download(repository, allow_patterns=["*.nemo", CARD]))
        return _archive_in(folder)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as e:
        raise BadCheckpoint(
            f"{repository}: no such folder here, and the Hub did not give it ({e}); check the name and "
            "the network, or fetch the folder by other means and give its path"
        ) from e


def _read(path: Path) -> Parts:
    if path.is_file():
        if path.suffix != ".nemo":
            raise BadCheckpoint(f"{path}: not a model; give the folder that holds config.json, or a .nemo file")
        return nemo.read(path)
    kind = _model_type(path)
    if kind == MODEL_TYPE:
        return Parts(_own_config(path), unpack(read(path)), read_tokenizer(path))
    if kind in hub.KINDS:
        tensors = rename(read(path), hub.TABLE, hub.IGNORED, str(path))
        return Parts(hub.read_config(path), tensors, read_tokenizer(path))
    raise BadCheckpoint(
        f"{path}: a checkpoint of another kind ({kind}); recognisers of these kinds load: "
        f"{', '.join([MODEL_TYPE, *hub.KINDS])}, .nemo"
    )


def _model_type(folder: Path) -> str:
    if not (folder / CONFIG).is_file():
        raise BadCheckpoint(f"{folder}: {CONFIG} is missing; give the folder that holds it and the weights")
    kind = configs.read_json(folder / CONFIG).get("model_type")
    return kind if isinstance(kind, str) else "its config.json names no model_type"


def _own_config(folder: Path) -> AsrConfig:
    values = configs.read_json(folder / CONFIG)
    values.pop("model_type")
    return configs.parse(AsrConfig, values, str(folder / CONFIG))


def read_tokenizer(folder: Path) -> Tokenizer:
    """Raises BadCheckpoint."""
    path = folder / TOKENIZER
    if not path.is_file():
        raise BadCheckpoint(f"{folder}: {TOKENIZER} is missing; fetch the checkpoint again, all of it")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as e:  # tokenizers raises bare Exception
        raise BadCheckpoint(f"{path}: not a tokenizer ({e}); fetch it again") from e


def _check_tokenizer(config: AsrConfig, tokenizer: Tokenizer, where: str) -> None:
    """Ids 0 to pieces - 1 must all have a piece; the blank after them may have one too, and nothing more."""
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    gap = next((i for i in range(config.pieces) if tokenizer.id_to_token(i) is None), None)
    if gap is not None or not config.pieces <= size <= config.pieces + 1:
        raise BadCheckpoint(
            f"{where}: the tokenizer has {size} pieces, the model {config.pieces}; they do not belong together"
        )


def _check_lm(config: AsrConfig, lm: LanguageModel, where: str) -> None:
    if lm.pieces != config.pieces:
        raise BadCheckpoint(
            f"{where}: its language model knows {lm.pieces} pieces, the recogniser {config.pieces}; train both with "
            "one tokenizer"
        )
