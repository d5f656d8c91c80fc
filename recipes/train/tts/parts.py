"""The parts of a voice by name: what each trains from, and the folders that trained parts make together.

Configurations come from `train`, which also runs the learners; recordings come from `data`, exports go to `speak` and
`convert`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from vivavoce.speech.asr.model import AsrModel
from vivavoce.speech.checkpoint import load, save
from vivavoce.speech.errors import BadConfig
from vivavoce.speech.tts.config import AcousticConfig, FlowConfig, VocoderConfig, VoiceConfig
from vivavoce.speech.tts.convert import Converter, ConverterConfig
from vivavoce.speech.tts.phones import SYMBOLS
from vivavoce.speech.tts.planner import Planner, PlannerConfig
from vivavoce.speech.tts.token_voice import TokenVoice, TokenVoiceConfig
from vivavoce.speech.tts.tokens import HOP, SpeechTokenizer
from vivavoce.speech.tts.vocoder import Vocoder
from vivavoce.speech.tts.voice import Voice
from vivavoce.speech.tts.writer import Writer, WriterConfig
from vivavoce.speech.weights import Precision

from .align import align_all, known
from .data import gather
from .schedule import Learner
from .sound import SoundConfig, SoundPart
from .speech import SpeechConfig, SpeechModel, SpeechPart, Told, remake, stand_ins
from .tokens import PlannerModel, PlannerPart, PlannerTraining, TokensConfig, TokensPart, cut, frames_of, listen
from .writer import WriterPart, WriterTraining

PartName = Literal["vocoder", "speech", "polish", "tokens", "planner", "writer"]
PARTS: tuple[PartName, ...] = get_args(PartName)


@dataclass(frozen=True)
class TrainConfig:
    """One run. corpora: folders under the data folder's `speech/`, aligned with their text; sound: for the vocoder
    alone, more of them; speakers: whose voices these are, `speaker` the one that is exported; others: folders under the
    data folder, of readers that speak to the acoustic model at its beginning and leave no voice behind; polished:
    how far the exported vocoder lies from that before polishing (0) to that after (1)."""

    name: str
    corpora: tuple[str, ...]
    speakers: tuple[str, ...]
    speaker: str
    sound: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    vocoder: VocoderConfig = field(default_factory=VocoderConfig)
    acoustic: AcousticConfig = field(default_factory=AcousticConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    vocoder_training: SoundConfig = field(default_factory=SoundConfig)
    speech_training: SpeechConfig = field(default_factory=SpeechConfig)
    polish_training: SoundConfig = field(default_factory=SoundConfig)
    tokens_training: TokensConfig = field(default_factory=TokensConfig)
    planner_training: PlannerTraining = field(default_factory=PlannerTraining)
    writer_training: WriterTraining = field(default_factory=WriterTraining)
    polished: float = 0.5
    seed: int = 1
    save_minutes: float = 4.0
    measure_steps: int = 400


class Site(NamedTuple):
    """Where a part trains. root: the data folder; folder: the run's."""

    config: TrainConfig
    root: Path
    folder: Path
    device: torch.device

    @property
    def speech(self) -> Path:
        return self.root / "speech"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"


def learner(name: PartName, config: TrainConfig, root: Path, folder: Path, device: torch.device) -> Learner:
    """The part at its first step. Raises BadManifest, BadAudio, BadConfig, MissingDependency."""
    torch.manual_seed(config.seed)
    return _LEARNERS[name](Site(config, root, folder, device))


def _vocoder(site: Site) -> Learner:
    c = site.config
    heard = gather(site.speech, [*c.corpora, *c.sound], site.cache)
    part = SoundPart(Vocoder(c.vocoder), heard, c.vocoder_training, site.device, c.seed)
    return Learner(part, c.vocoder_training.optimizer, site.device)


def _speech(site: Site) -> Learner:
    c = site.config
    own = _aligned(site)
    others = _all_aligned(site, site.root, c.others)
    speakers = [*c.speakers, *sorted({r.speaker for r, _ in others})]
    part = SpeechPart(_speech_model(c, len(speakers)), own, others, speakers, c.speaker, c.speech_training,
                      site.device, c.seed)
    return Learner(part, c.speech_training.optimizer, site.device)


def _polish(site: Site) -> Learner:
    c = site.config
    aligned = _aligned(site)
    model = _trained_speech(c, site.folder).eval().to(site.device)
    vocoder = Vocoder(c.vocoder)
    vocoder.load_state_dict(weights(site.folder, "vocoder"))
    made = remake(model, aligned, c.speakers)
    part = SoundPart(vocoder, [r for r, _ in aligned], c.polish_training, site.device, c.seed + 1, made)
    return Learner(part, c.polish_training.optimizer, site.device)


def _tokens(site: Site) -> Learner:
    c = site.config.tokens_training
    recogniser = _recogniser(c.recogniser, site.folder)
    heard = listen(site.speech, [*site.config.corpora, *c.corpora])
    quantiser = cut(recogniser, c.layers, c.levels, tap=c.tap).quantiser
    part = TokensPart(quantiser, recogniser, heard, c, site.device, site.config.seed)
    return Learner(part, c.optimizer, site.device)


def _planner(site: Site) -> Learner:
    c = site.config
    model, tokenizer = _trained_speech(c, site.folder), _trained_tokenizer(c, site.folder)
    everybody = gather(site.speech, c.corpora, site.cache)
    everybody += gather(site.root, c.others, site.cache) if c.others else []
    own, others = ([r for r in everybody if (r.speaker == c.speaker) == voice] for voice in (True, False))
    normalise = model.acoustic.mean, model.acoustic.deviation
    part = PlannerPart(_new_planner(c, tokenizer), model.flow, normalise, own, others, tokenizer, c.planner_training,
                       site.device, c.seed)
    return Learner(part, c.planner_training.optimizer, site.device)


def _writer(site: Site) -> Learner:
    c = site.config
    tokenizer = _trained_tokenizer(c, site.folder)
    everybody = _aligned(site) + _all_aligned(site, site.root, c.others)
    own, others = ([(r, a) for r, a in everybody if (r.speaker == c.speaker) == voice] for voice in (True, False))
    part = WriterPart(_new_writer(c, tokenizer), own, others, tokenizer, c.writer_training, site.device, c.seed)
    return Learner(part, c.writer_training.optimizer, site.device)


_LEARNERS: dict[PartName, Callable[[Site], Learner]] = {
    "vocoder": _vocoder, "speech": _speech, "polish": _polish, "tokens": _tokens, "planner": _planner,
    "writer": _writer}


def _aligned(site: Site) -> list[Told]:
    """The voices' own recordings."""
    found = _all_aligned(site, site.speech, site.config.corpora)
    strangers = {r.speaker for r, _ in found} - set(site.config.speakers)
    if strangers:
        raise BadConfig(f"{site.config.name}: `speakers` lacks {', '.join(sorted(strangers))}, heard in its corpora")
    return found


def _all_aligned(site: Site, folder: Path, corpora: Sequence[str]) -> list[Told]:
    told: list[Told] = []
    for corpus in corpora:
        recordings = gather(folder, [corpus], site.cache)
        told += zip(recordings, align_all(recordings, site.cache / f"{corpus}.json"), strict=True)
    return told


def _speech_model(config: TrainConfig, speakers: int) -> SpeechModel:
    return SpeechModel(config.acoustic, config.flow, len(SYMBOLS), speakers)


def _trained_speech(config: TrainConfig, folder: Path) -> SpeechModel:
    model = _speech_model(config, len(config.speakers))
    model.load_state_dict(_speech_weights(config, folder))
    return model


def _speech_weights(config: TrainConfig, folder: Path) -> dict[str, Tensor]:
    """Without the `others`, whose voices come after its own."""
    speech = weights(folder, "speech")
    speech["acoustic.speaker.weight"] = speech["acoustic.speaker.weight"][: len(config.speakers)]
    return speech


def _recogniser(source: str, folder: Path) -> AsrModel:
    """The one that this run's tokens were first cut from: a copy is kept, as others of its name will hear otherwise."""
    kept = folder / "recogniser"
    if not (kept / "model.safetensors").is_file():
        loaded = load(source)
        save(loaded.model, loaded.tokenizer, kept)
    return load(kept).model


def _trained_tokenizer(config: TrainConfig, folder: Path) -> SpeechTokenizer:
    """The recogniser's layers with the trained quantiser."""
    c = config.tokens_training
    tokenizer = cut(_recogniser(c.recogniser, folder), c.layers, c.levels, tap=c.tap)
    tokenizer.quantiser.load_state_dict(weights(folder, "tokens"))
    return tokenizer.eval()


def _new_planner(config: TrainConfig, tokenizer: SpeechTokenizer) -> Planner:
    c = config.planner_training
    return Planner(PlannerConfig(config.tokens_training.levels, tokenizer.fingerprint(), config.acoustic.condition,
                                 c.width, c.hidden, c.layers, ahead=c.ahead, frames=frames_of(tokenizer)))


def _trained_planner(config: TrainConfig, folder: Path, tokenizer: SpeechTokenizer) -> Planner:
    """Without the `others`."""
    model = PlannerModel(_new_planner(config, tokenizer), 0)
    trained = weights(folder, "planner")
    model.load_state_dict(trained | {"others.weight": trained["others.weight"][:1]})
    return model.planner


def _new_writer(config: TrainConfig, tokenizer: SpeechTokenizer) -> Writer:
    c, often = config.writer_training, HOP // tokenizer.config.hop  # bounds are of 12.5 tokens a second
    return Writer(WriterConfig(len(SYMBOLS), tokenizer.config.codes, tokenizer.fingerprint(), c.width, c.hidden,
                               c.layers, c.heads, c.read, c.write * often, WriterConfig.least * often,
                               WriterConfig.most * often))


def weights(folder: Path, name: PartName) -> dict[str, Tensor]:
    """A part's averaged weights. Raises BadConfig before it has any."""
    path = folder / f"{name}.pt"
    if not path.is_file():
        raise BadConfig(f"{path}: not there yet; train the part {name} first")
    tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return tensors


def _trained(folder: Path, *names: PartName) -> bool:
    return all((folder / f"{name}.pt").is_file() for name in names)


def export_voice(config: TrainConfig, folder: Path, dtype: Precision) -> Path | None:
    """Write the voice once vocoder and speech are trained; returns its folder."""
    if not _trained(folder, "vocoder", "speech"):
        return None
    vocoder = weights(folder, "vocoder")
    if _trained(folder, "polish"):
        polished = weights(folder, "polish")
        vocoder = {name: torch.lerp(tensor, polished[name], config.polished) for name, tensor in vocoder.items()}
    voice = Voice(VoiceConfig(config.name, len(SYMBOLS), config.speakers, config.speaker, config.acoustic, config.flow,
                              config.vocoder))
    speech = _speech_weights(config, folder)
    for symbol, like in stand_ins(known(folder / "cache", config.corpora)).items():
        speech["acoustic.phone.weight"][symbol] = speech["acoustic.phone.weight"][like]
    voice.load_state_dict(speech | {f"vocoder.{name}": t for name, t in vocoder.items()})
    voice.save(folder / "export", dtype=dtype)
    return folder / "export"


def export_converter(config: TrainConfig, folder: Path, dtype: Precision) -> Path | None:
    """Write the converter once tokens and planner are trained; returns its folder."""
    if not _trained(folder, "tokens", "planner"):
        return None
    tokenizer = _trained_tokenizer(config, folder)
    planner = _trained_planner(config, folder, tokenizer)
    converter = Converter(ConverterConfig(f"{config.name}-convert", config.name, tokenizer.config, planner.config))
    converter.tokenizer, converter.planner = tokenizer, planner
    converter.save(folder / "convert", dtype=dtype)
    return folder / "convert"


def export_token_voice(config: TrainConfig, folder: Path, dtype: Precision) -> Path | None:
    """Write the voice of tokens once all parts of it are trained; returns its folder."""
    if not _trained(folder, "vocoder", "speech", "tokens", "planner", "writer"):
        return None
    tokenizer = _trained_tokenizer(config, folder)
    planner, writer = _trained_planner(config, folder, tokenizer), _new_writer(config, tokenizer)
    made = TokenVoice(TokenVoiceConfig(f"{config.name}-tokens", "../export", writer.config, planner.config),
                      Voice.load(folder / "export"))
    made.planner = planner
    made.writer.load_state_dict(weights(folder, "writer"))
    made.save(folder / "token-voice", dtype=dtype)
    return folder / "token-voice"
