"""Chat templates: rendered as transformers renders them, and harmless whatever they try."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgelm.errors import PromptError, TemplateError
from edgelm.runtime.text.chat import ChatTemplate, check_messages

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
HELLO = [{"role": "user", "content": "hi"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather <b>now</b> & é",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "where"},
                "days": {"type": "integer", "enum": [1, 2]},
            },
            "required": ["city"],
        },
    },
}
CALL = {
    "id": "abcdefghi",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": "Bern", "days": [1, 2.5, None, True]}},
}
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | None]] = {
    "one": ([{"role": "user", "content": "Hi <there> & 'q'"}], None),
    "system": ([{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Hé 👩‍👩‍👧\n\n"}], None),
    "turns": (
        [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "<think>x</think>b"},
            {"role": "user", "content": "c"},
        ],
        None,
    ),
    "tools": ([{"role": "system", "content": "s"}, {"role": "user", "content": "weather?"}], [WEATHER]),
    "tool call": (
        [
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "name": "get_weather", "tool_call_id": "abcdefghi", "content": '{"t": 3}'},
            {"role": "user", "content": "thanks"},
        ],
        [WEATHER],
    ),
    "two of a kind": ([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], None),
    "long": (
        [{"role": "user" if i % 2 == 0 else "assistant", "content": f"word {i} é\n" * 50} for i in range(61)],
        [WEATHER] * 5,
    ),
}


def render(source: str, messages: list[dict[str, Any]] = HELLO, **variables: Any) -> str:
    return ChatTemplate(source, SPECIAL).render(messages, **variables)


def real_templates(data: Path) -> dict[str, str]:
    folder = data / "chat-templates"
    found = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*/*.jinja*"))}
    for number, line in enumerate((folder / "ollama" / "templates.jsonl").read_text(encoding="utf-8").splitlines()):
        found |= {f"{name} {number}": source for name, source in json.loads(line).items()}
    assert len(found) >= 25
    return found


@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_real_templates_render_as_in_transformers(
    data_dir: Path, conversation: str, add_generation_prompt: bool
) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    messages, tools = CONVERSATIONS[conversation]
    compared = 0
    for name, source in real_templates(data_dir).items():
        options = {"tools": tools, "add_generation_prompt": add_generation_prompt}
        try:
            expected = utils.render_jinja_template([messages], chat_template=source, **options, **SPECIAL)[0][0]
        except Exception:
            with pytest.raises(TemplateError):
                ChatTemplate(source, SPECIAL).render(messages, **options)
            continue
        assert ChatTemplate(source, SPECIAL).render(messages, **options) == expected, name
        compared += 1
    assert compared >= 20


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}\n  {% if true %}\n{{ m.role }}: {{ m['content'] }}\n  {% endif %}\n{% endfor %}\n",
        "{{ messages | tojson }}|{{ messages | tojson(indent=2) }}|{{ {'é': '<b>'} | tojson(ensure_ascii=True) }}",
        "{% for x in range(10) %}{% if x == 2 %}{% continue %}{% elif x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}",
        "{% generation %}{{ messages[0].content }}{% set x = 1 %}{% endgeneration %}{{ x is defined }}",
        "{%- macro f(a, b=2) -%} {{ a }}{{ b }}{{ varargs }} {%- endmacro -%}{{ f(1) }}{{ f(1, 3, 4) }}",
        "{% set ns = namespace(n=0) %}{% for m in messages if m.role == 'user' %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        "{{ 'a' ~ 1 ~ none ~ [1, 'b'] }}{{ 'x' * 3 }}{{ [0] * 2 }}{{ 7 // 2 }}{{ 2 ** -1 }}{{ '%5.1f|%s' % (1, 'é') }}",
        "{{ bos_token }}{{ tools is none }}{{ tools is defined }}{{ documents is none }}{{ nothing is defined }}{{ nothing }}",
        "{{ '{} {a!r:>5}'.format(1, a='x') }}{{ 'a,b'.split(',') | join('-') }}{{ ('<' | safe) + '>' }}",
        "{% for k, v in {'b': 1, 'a': [2]} | dictsort %}{{ loop.index }}{{ loop.last }}{{ k }}={{ v }}{% endfor %}",
        "{% for x in [1, [2, [3]]] recursive %}{% if x is iterable %}{{ loop(x) }}{% else %}{{ x }}{% endif %}{% endfor %}",
        "{% set x %} {{ messages[-1:] | length }} {% endset %}{{ x | trim }}{{ 'a\\nb' | indent(2) }}",
        "{% filter upper %}a{{ 'b' }}{% endfilter %}{% call(x) m(2) %}{{ x }}{% endcall %}"
        "{% macro m(n) %}{{ caller(n) }}{% endmacro %}",
        "{% set a, b = 1, (2, 3) %}{{ a }}{{ b }}{{ messages | map(attribute='role') | list }}{{ 'b' in 'abc' }}",
    ],
)
def test_the_language_is_that_of_transformers(source: str) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    try:
        expected = utils.render_jinja_template([HELLO], chat_template=source, add_generation_prompt=True, **SPECIAL)[0]
    except Exception:
        with pytest.raises(TemplateError):
            render(source)
        return
    assert render(source) == expected[0]


def test_strftime_now_gives_the_date() -> None:
    assert render("{{ strftime_now('%Y') }}") == time.strftime("%Y")


def test_variables_and_special_tokens_reach_the_template() -> None:
    source = "{{ bos_token }}{{ enable_thinking }}{{ add_generation_prompt }}"
    assert render(source, enable_thinking=False) == "<s>FalseTrue"
    assert render(source, bos_token="!", add_generation_prompt=False) == "!False"


# -- content in parts

PARTS = [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}]


def test_parts_reach_a_template_that_reads_them() -> None:
    source = "{% for p in messages[0].content %}[{{ p.text }}]{% endfor %}"
    assert render(source, PARTS) == "[one][two]"


@pytest.mark.parametrize("source", ["{{ 'u: ' + messages[0].content }}", "u: {{ messages[0].content }}"])
def test_parts_are_joined_for_a_template_that_knows_strings(source: str) -> None:
    assert render(source, PARTS) == "u: one\ntwo"


# -- messages


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ("hi", "messages must be a list of dicts, not str"),
        ({"role": "user"}, "messages must be a list of dicts, not dict"),
        ([], "the conversation has no message"),
        (["hi"], "message 0 must be a dict with role and content, not str"),
        ([*HELLO, {"content": "x"}], "message 1 needs a role"),
        ([{"role": 5, "content": "x"}], "message 0 needs a role"),
        ([{"role": "user"}], r"message 0 \(user\) has no content"),
        (
            [{"role": "user", "content": 5}],
            r"message 0 \(user\): content must be a str or a list of text parts, not int",
        ),
        ([{"role": "user", "content": ["x"]}], r"message 0 \(user\), part 0: only text is supported, not 'str'"),
        (
            [{"role": "user", "content": [{"type": "image_url"}]}],
            r"message 0 \(user\), part 0: only text is supported, not 'image_url'",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], "part 0: text must be a str, not NoneType"),
        ([*HELLO, {"role": "user", "content": "x", "extra": object()}], "message 1 holds a object; only JSON"),
        ([{"role": "user", "content": "x", "extra": {1: 2}}], "message 0 holds a dict; only JSON"),
    ],
)
def test_malformed_messages_are_named(messages: Any, says: str) -> None:
    with pytest.raises(PromptError, match=says):
        check_messages(messages)
    with pytest.raises(PromptError, match=says):
        ChatTemplate("x").render(messages)


def test_messages_that_hold_themselves_are_refused() -> None:
    endless: dict[str, Any] = {"role": "user", "content": "x"}
    endless["self"] = endless
    with pytest.raises(PromptError, match="nested too deep"):
        check_messages([endless])


def test_an_assistant_may_call_tools_without_content() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert check_messages([message]) == [message]


def test_objects_do_not_reach_the_template() -> None:
    with pytest.raises(PromptError, match="only JSON values"):
        render("{{ thing.secret }}", thing=Path("/"))


# -- errors


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("a\n{% if %}", "the chat template has an error in line 2: "),
        ("{{ x", "the chat template has an error in line 1: "),
        ("{{ 'x' | nofilter }}", "the chat template has an error in line 1: No filter named 'nofilter'."),
        ("\n\n{{ foo.bar }}", "the chat template failed in line 3: 'foo' is undefined"),
        ("{{ 1 + 'a' }}", "the chat template failed in line 1: unsupported operand"),
        ("{{ 1 // 0 }}", "the chat template failed in line 1: integer division or modulo by zero"),
        ("{{ raise_exception('no\x1b[31m red\nroles') }}", "refuses this conversation: no?[31m red roles"),
        ("{{ raise_exception('x' * 5000) }}", "refuses this conversation: xxx"),
        ("{% include 'a' %}", "the chat template failed in line 1: no loader"),
        ("{% import 'os' as os %}", "the chat template failed in line 1: no loader"),
        ("x" * 70_000, "the chat template has 70,000 characters"),
    ],
)
def test_errors_are_one_line_that_says_where(source: str, says: str) -> None:
    with pytest.raises(TemplateError) as error:
        render(source)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


# -- hostile templates

LOOP = "{%% for i in range(100) %%}%s{%% endfor %%}"
BIG = "{% set x = 'a' * 4000000 %}"
HOSTILE = {
    "reach for builtins": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "reach for globals": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "reach through a function": "{{ raise_exception.__globals__['__builtins__'] }}",
    "reach through a format": "{{ '{0.__class__.__mro__}'.format(1) }}",
    "reach through a generator": "{{ (messages | map('first')).gi_frame.f_globals }}",
    "reach through a filter": "{{ '' | attr('__class__') }}",
    "change the messages": "{{ messages.append(1) }}",
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "loops that filter": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "exponential recursion": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(90) }}",
    "a loop in itself": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "a huge text": "{{ 'a' * 10 ** 9 }}",
    "a huge number": "{{ 10 ** (10 ** 10) }}",
    "growing numbers": "{% set ns = namespace(x=9) %}" + LOOP % "{% set ns.x = ns.x * ns.x %}",
    "text doubled with ~": "{% set ns = namespace(x='aaaaaaaa') %}" + LOOP % "{% set ns.x = ns.x ~ ns.x %}",
    "text doubled with +": "{% set ns = namespace(x='aaaaaaaa') %}" + LOOP % "{% set ns.x = ns.x + ns.x %}",
    "text doubled by a block": "{% set ns = namespace(x='aaaaaaaa') %}"
    + LOOP % "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}",
    "text squared": "{% set x = 'a' * 100000 %}{{ x.replace('a', x) }}",
    "text squared by a filter": "{% set x = 'a' * 100000 %}{{ x | replace('a', x) }}",
    "text joined to itself": "{% set x = 'a' * 100000 %}{{ x.join(x) }}",
    "numbers joined": "{{ range(100000) | join('a' * 100000) }}",
    "lists doubled": "{% set ns = namespace(x=[1]) %}" + LOOP % "{% set ns.x = ns.x + ns.x %}",
    "a list of lists": "{% set ns = namespace(x=[1]) %}" + LOOP % "{% set ns.x = [ns.x, ns.x] %}" + "{{ ns.x }}",
    "a dict of dicts": "{% set ns = namespace(x=1) %}"
    + LOOP % "{% set ns.x = {'a': ns.x, 'b': ns.x} %}"
    + "{{ ns.x | tojson }}",
    "a tuple of tuples": "{% set ns = namespace(x=1) %}"
    + LOOP % "{% set ns.x = (ns.x, ns.x) %}"
    + "{{ ns.x == ns.x }}",
    "arguments of a macro": "{% macro f() %}{{ varargs }}{% endmacro %}" + BIG + "{{ f(" + "x," * 3000 + "x) }}",
    "many slices": BIG + "".join(f"{{% set a{i} = x[1:] %}}" for i in range(999)),
    "many outputs": BIG + "{% set y %}" + "{{ x }}" * 3000 + "{% endset %}",
    "much plain text": "{% macro f() %}{% for i in range(99999) %}"
    + "x" * 50_000
    + "{% endfor %}{% endmacro %}{{ f() }}",
    "endless output": "{% for i in range(99999) %}" + "x" * 50_000 + "{% endfor %}",
    "a wide filter": "{{ 'a' | center(10 ** 9) }}",
    "a wide method": "{{ 'a'.ljust(10 ** 9) }}",
    "a wide format": "{{ '{:1000000000}'.format(1) }}",
    "a nested wide format": "{{ '{:{}}'.format(1, 10 ** 9) }}",
    "a wide percent": "{{ '%1000000000d' % 1 }}",
    "a wide percent by name": "{{ '%((a))1000000000s' % {'(a)': 1} }}",
    "a wide percent by star": "{{ '%*d' % (10 ** 9, 1) }}",
    "a precise percent": "{{ '%.1000000000f' % 1 }}",
    "a wide indent": "{{ 'a' | indent(10 ** 9) }}",
    "a wide json": "{{ [1] | tojson(indent=10 ** 9) }}",
    "a large batch": "{{ [1] | batch(10 ** 9, 0) | list }}",
    "a precise rounding": "{{ 1.5 | round(10 ** 9, 'floor') }}",
    "a quadratic strip": BIG + "{{ x.strip('b' * 2000000 ~ 'a') }}",
    "a quadratic search": BIG + "{{ x.rfind('b' ~ 'a' * 2000000) }}",
    "a quadratic test": "{% set r = range(99999) | list %}{{ r | select('in', r) | list }}",
    "a quadratic sum": "{{ ([[1]] * 99999) | sum(start=[]) }}",
    "many comparisons": BIG
    + "{% set y = 'a' * 4000000 %}{% for i in range(99999) %}{% if x == y %}{% endif %}{% endfor %}",
    "deep brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "many blocks in blocks": "{% for x in [1] %}" * 40 + "{% endfor %}" * 40,
    "long chains": "{{ 1" + " | string" * 6000 + " }}",
    "a long number": "{{ " + "1" * 6000 + " }}",
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_template_is_stopped_soon(attack: str) -> None:
    template, start = ChatTemplate(HOSTILE[attack], SPECIAL), time.thread_time()
    with pytest.raises(TemplateError):
        template.render(HELLO)
    assert time.thread_time() - start < 3


def test_hostile_templates_take_little_memory() -> None:
    """All of them one after the other in a process of its own, which may grow by 300 MB at most."""
    resource = pytest.importorskip("resource")
    program = (
        "import json, resource, sys\n"
        "from edgelm.runtime.text.chat import ChatTemplate\n"
        "ChatTemplate('{{ 1 }}').render([{'role': 'user', 'content': ''}])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for source in json.load(sys.stdin):\n"
        "    try: ChatTemplate(source).render([{'role': 'user', 'content': 'hi'}])\n"
        "    except Exception: pass\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    assert resource.RUSAGE_SELF == 0
    quick = [source for name, source in HOSTILE.items() if "loops" not in name]
    run = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(quick), capture_output=True, text=True, check=True
    )
    assert int(run.stdout) < 300


def test_a_template_still_works_after_it_was_stopped() -> None:
    template = ChatTemplate("{% if messages[0].content == 'bad' %}{{ 'a' * 10 ** 9 }}{% endif %}ok")
    with pytest.raises(TemplateError, match="stopped in line 1"):
        template.render([{"role": "user", "content": "bad"}])
    assert template.render(HELLO) == "ok"


def test_a_long_conversation_is_not_taken_for_an_attack() -> None:
    source = "{% for m in messages %}{{ m.role ~ ': ' ~ m.content | trim }}\n{{ loop.last or messages[loop.index:] | length }}{% endfor %}"
    messages = [{"role": "user", "content": "word " * 2000} for _ in range(300)]
    assert len(render(source, messages)) > 3_000_000


def test_threads_may_share_a_template() -> None:
    template = ChatTemplate("{% for i in range(300) %}{{ messages[0].content }}{% endfor %}")
    wrong: list[str] = []

    def work(name: str) -> None:
        for _ in range(10):
            text = template.render([{"role": "user", "content": name}])
            if text != name * 300:
                wrong.append(text)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("make", [lambda: ChatTemplate("{{ 1 }}"), lambda: ChatTemplate("{% bad")])
def test_nothing_is_compiled_before_it_is_needed(make: Callable[[], ChatTemplate]) -> None:
    make()


def test_the_runtime_loads_jinja_and_onnxruntime_only_when_used() -> None:
    program = "import sys, edgelm.runtime.lm; sys.exit(bool({'jinja2', 'onnxruntime', 'transformers', 'asyncio', 'llguidance'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
