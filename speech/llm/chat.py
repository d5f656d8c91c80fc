"""Chat templates: messages in, the prompt's text out, as the model was trained to read it.

The template is the Hub's Jinja text beside the tokenizer. It comes from strangers, so it runs in Jinja's sandbox.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vivavoce.speech import config as configs
from vivavoce.speech.errors import BadCheckpoint, BadConfig, MissingDependency

if TYPE_CHECKING:
    from jinja2 import Template

FILE, SETTINGS = "chat_template.jinja", "tokenizer_config.json"

Message = Mapping[str, Any]
"""`role` (system, user, assistant, tool) and `content`; whatever else the template reads."""


@dataclass(frozen=True)
class ChatTemplate:
    """text: the Jinja template; tokens: the special tokens it may name, `eos_token` and the like."""

    text: str
    tokens: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> ChatTemplate | None:
        """The folder's template, or None when it has none. Raises BadCheckpoint, BadConfig."""
        values = configs.read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
        text = values.get("chat_template")
        if (folder / FILE).is_file():
            try:
                text = (folder / FILE).read_text(encoding="utf-8")
            except UnicodeDecodeError as e:
                raise BadCheckpoint(f"{folder / FILE}: not a text ({e}); fetch the tokenizer again") from e
        if isinstance(text, list):  # several by name
            named = {t.get("name"): t.get("template") for t in text if isinstance(t, dict)}
            text = named.get("default")
        if text is None:
            return None
        if not isinstance(text, str):
            raise BadCheckpoint(f"{folder / SETTINGS}: chat_template is not a text; fetch the tokenizer again")
        tokens = {k: v.get("content") if isinstance(v, dict) else v for k, v in values.items() if k.endswith("_token")}
        return cls(text, {k: v for k, v in tokens.items() if isinstance(v, str)})

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(self.text, encoding="utf-8")
        (folder / SETTINGS).write_text(json.dumps(dict(self.tokens), indent=2) + "\n")

    def render(self, messages: Sequence[Message], *, reply: bool = True, **variables: Any) -> str:
        """The prompt. reply: end with what begins an assistant's turn; variables: `tools` and whatever else the
        template reads. Raises BadConfig when the template refuses the messages, MissingDependency without jinja2."""
        try:
            from jinja2 import TemplateError, TemplateSyntaxError
        except ImportError as e:
            raise MissingDependency("chat templates need jinja2; install jinja2") from e
        given = {"tools": None, "documents": None} | dict(self.tokens) | variables
        try:
            return _compiled(self.text).render(messages=messages, add_generation_prompt=reply, **given)
        except TemplateSyntaxError as e:
            raise BadConfig(f"the chat template is no template, line {e.lineno}: {e}; fetch the tokenizer again") from e
        except (TemplateError, TypeError, KeyError, ValueError, OverflowError) as e:
            raise BadConfig(f"the chat template refuses these messages: {e}") from e


@lru_cache(maxsize=8)  # a turn is rendered again for every word that is heard
def _compiled(text: str) -> Template:
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> NoReturn:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    return environment.from_string(text)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter would escape <, > and & for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
