"""Chat templates render what transformers renders, and what strangers write in them can do no harm."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers as tf
from tokenizers import Tokenizer, models

from vivavoce.speech.errors import BadCheckpoint, BadConfig, MissingDependency
from vivavoce.speech.llm.chat import ChatTemplate

CHATML = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{% for message in messages %}
    {% if message.role == 'skip' %}{% continue %}{% endif %}
{{ '<|im_start|>' + message.role + '\n' + message['content'] | trim + eos_token }}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
{{- tools | tojson(indent=2) if tools else bos_token }}
"""
MESSAGES = [{"role": "system", "content": " Be <brief> & kind. "}, {"role": "skip", "content": "x"},
            {"role": "user", "content": "Grüezi"}]  # fmt: skip
TOKENS = {"bos_token": "<s>", "eos_token": "<|im_end|>"}


@pytest.mark.parametrize("options", [{}, {"tools": [{"name": "f", "say": "ä<"}]}, {"tools": None}], ids=str)
@pytest.mark.parametrize("reply", [True, False])
def test_it_renders_what_transformers_renders(options: dict[str, Any], reply: bool) -> None:
    raw = Tokenizer(models.WordLevel({"<unk>": 0, **{t: i + 1 for i, t in enumerate(TOKENS.values())}}, "<unk>"))
    theirs = tf.PreTrainedTokenizerFast(tokenizer_object=raw, chat_template=CHATML, **TOKENS)
    wanted = theirs.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=reply, **options)
    assert ChatTemplate(CHATML, TOKENS).render(MESSAGES, reply=reply, **options) == wanted


def test_it_is_read_from_the_tokenizers_settings_or_its_own_file(tmp_path: Path) -> None:
    assert ChatTemplate.read(tmp_path) is None
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(json.dumps({"chat_template": "one", "eos_token": {"content": "</s>"}, "pad_token": None}))
    assert ChatTemplate.read(tmp_path) == ChatTemplate("one", {"eos_token": "</s>"})
    named = [{"name": "tool_use", "template": "two"}, {"name": "default", "template": "three"}]
    settings.write_text(json.dumps({"chat_template": named}))
    assert ChatTemplate.read(tmp_path) == ChatTemplate("three")
    (tmp_path / "chat_template.jinja").write_text("four")
    assert ChatTemplate.read(tmp_path) == ChatTemplate("four")
    (tmp_path / "chat_template.jinja").unlink()
    settings.write_text(json.dumps({"chat_template": 5}))
    with pytest.raises(BadCheckpoint, match="chat_template is not a text"):
        ChatTemplate.read(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadCheckpoint, match=r"chat_template\.jinja: not a text"):
        ChatTemplate.read(tmp_path)


def test_it_survives_being_written(tmp_path: Path) -> None:
    ChatTemplate(CHATML, TOKENS).write(tmp_path)
    assert ChatTemplate.read(tmp_path) == ChatTemplate(CHATML, TOKENS)


@pytest.mark.parametrize(("text", "says"), [
    ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    ("{% for %}", "is no template, line 1"),
    ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ("{{ messages.append(1) }}", "unsafe"),
    ("{{ messages[0].content.nothing.at_all }}", "nothing"),
])  # fmt: skip
def test_what_a_template_must_not_do_is_an_error(text: str, says: str) -> None:
    with pytest.raises(BadConfig, match=says):
        ChatTemplate(text).render(MESSAGES)


def test_without_jinja_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingDependency, match=r"install jinja2"):
        ChatTemplate("x").render(MESSAGES)
