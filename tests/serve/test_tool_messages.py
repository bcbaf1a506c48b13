"""Calls and results in a conversation reach the model, whatever its template makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")

from edgelm.runtime.text.chat import ChatTemplate
from edgelm.serve.tool_messages import Style, fitted, style_of

CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "set_light", "arguments": {"room": "attic"}}}
PARAMETERS = {"type": "object", "properties": {"room": {"type": "string", "description": "Which."}}}
TOOL = {"type": "function", "function": {"name": "set_light", "description": "A light.", "parameters": PARAMETERS}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "on"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "abcdefghi", "name": "set_light", "content": "it is on"},
]
LINE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
TEMPLATES = {
    "an object": (
        LINE + "{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}",
        Style(null=True),
    ),
    "JSON": (
        LINE + "{% for c in m.tool_calls or [] %}{{ '' + c.function.arguments }}{% endfor %}{% endfor %}",
        Style(null=True, text=True),
    ),
    "no null": (
        "{% for m in messages %}{{ '' + m.content }}{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}"
        "{% endfor %}{% endfor %}",
        Style(),
    ),
    "no calls": (LINE + "{% endfor %}", Style(folded=True)),
    "no tool": (
        "{% for m in messages %}{% if m.role not in ('user', 'assistant') %}{{ raise_exception('role') }}{% endif %}"
        "[{{ m.role }}]{{ m.content }}{% endfor %}",
        Style(folded=True),
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_style_is_found_by_trying(name: str) -> None:
    source, style = TEMPLATES[name]
    template = ChatTemplate(source)
    assert style_of(template) == style
    text = template.render(fitted(template, MESSAGES))
    assert '"attic"' in text
    assert "it is on" in text


def test_other_messages_are_left_alone() -> None:
    broken = ChatTemplate("{% for %}")
    assert fitted(broken, MESSAGES[:1]) == MESSAGES[:1]


# Of 25 templates, those for which no conversation with calls is possible: an undefined variable, and a fault of its own.
UNUSABLE = ("fireworks-ai-llama-3-firefunction-v2", "llama-cpp-deepseek-r1")


def test_real_templates_lose_neither_calls_nor_results(data_dir: Path) -> None:
    lost = []
    for path in sorted(data_dir.glob("chat-templates/*/*.jinja*")):
        template = ChatTemplate(path.read_text(), {"bos_token": "<s>", "eos_token": "</s>"})
        if path.stem in UNUSABLE:
            continue
        text = template.render(fitted(template, MESSAGES), tools=[TOOL])
        if "attic" not in text or "it is on" not in text or '\\"attic' in text:
            lost.append(path.name)
    assert not lost
