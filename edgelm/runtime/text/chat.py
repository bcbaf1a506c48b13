"""Conversations to prompts: a model's chat template, rendered as transformers renders it, without trusting it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgelm.bundle.json_table import shown
from edgelm.errors import PromptError, TemplateError

if TYPE_CHECKING:
    import jinja2

    from edgelm.runtime.text.sandbox import Sandbox

LONGEST_SOURCE = 64 << 10  # characters; the longest templates in use have about 20,000, and compiling is not metered
_FILE = "<template>"  # Jinja's name for a template that came as a string
_PROBE = "edgelm-probe"


class ChatTemplate:
    """A chat template in Jinja, as ``tokenizer_config.json`` or ``chat_template.jinja`` holds it.

    Jinja is loaded and the template compiled at the first rendering.

    Args:
        source: the template.
        special_tokens: ``bos_token``, ``eos_token`` … by name, and a list of others, as the template may use them.
        others: sources of the model's other templates by name, such as ``tool_use``.
    """

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, Any] | None = None,
        others: Mapping[str, str] | None = None,
    ) -> None:
        self.source = source
        self._others = {name: ChatTemplate(text, special_tokens) for name, text in (others or {}).items()}
        self.special_tokens = dict(special_tokens or {})
        self._lock = threading.Lock()
        self._compiled: tuple[Sandbox, jinja2.Template] | None = None
        self._takes_parts: bool | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the model's templates; this one is the default."""
        return ("default", *self._others)

    @property
    def each(self) -> tuple[ChatTemplate, ...]:
        """All of the model's templates, this one first."""
        return (self, *self._others.values())

    def named(self, name: str | None, *, tools: bool = False) -> ChatTemplate:
        """The model's template of that name; None for ``tool_use`` where there are `tools` and it has one, else this one.

        Raises:
            PromptError: there is none of that name.
        """
        if name is None:
            return self._others.get("tool_use", self) if tools else self
        if name == "default":
            return self
        if name not in self._others:
            raise PromptError(f"this model has no chat template {name!r}", hint=f"it has {', '.join(self.names)}")
        return self._others[name]

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt for a conversation.

        Args:
            messages: dicts with ``role`` and ``content``; see `check_messages`. Content in parts is joined by newlines
                for a template that knows only strings.
            add_generation_prompt: end with the opening of the assistant's answer.
            tools: JSON schemas of functions the model may call.
            variables: what else this template knows, such as ``enable_thinking``.

        Raises:
            PromptError: the messages are malformed.
            TemplateError: the template is invalid, refuses the conversation, or was stopped for what it does.
        """
        checked = check_messages(messages)
        if any(isinstance(message.get("content"), list) for message in checked) and not self._knows_parts():
            checked = [_joined(message) for message in checked]
        given = _plain({"tools": None if tools is None else list(tools), **variables}, "a template variable")
        return self._render({"messages": checked, "add_generation_prompt": add_generation_prompt, **given})

    def _knows_parts(self) -> bool:
        """Whether the template reads content given in parts, found out by trying."""
        if self._takes_parts is None:
            parts = [{"type": "text", "text": _PROBE}]
            try:
                text = self._render({"messages": [{"role": "user", "content": parts}], "tools": None})
            except TemplateError:
                text = ""
            # A template for strings fails, or prints the list as Python would.
            self._takes_parts = _PROBE in text and f"'{_PROBE}'" not in text and f'"{_PROBE}"' not in text
        return self._takes_parts

    def _render(self, variables: dict[str, Any]) -> str:
        from edgelm.runtime.text.budget import Budget

        given = {"documents": None, "add_generation_prompt": True, **self.special_tokens, **variables}
        with self._lock:
            sandbox, template = self._compile()
            sandbox.budget = budget = Budget(given)
            pieces, size = [], 0
            try:
                for piece in template.root_render_func(template.new_context(given)):
                    size += len(piece)
                    budget.allow(size)
                    pieces.append(piece)
            except Exception as error:  # whatever a template can raise: the sandbox stands between it and us
                raise _explained(error, template) from None
            finally:
                sandbox.budget = None
        return "".join(pieces)

    def _compile(self) -> tuple[Sandbox, jinja2.Template]:
        if self._compiled is None:
            import jinja2

            from edgelm.runtime.text.sandbox import Sandbox

            if len(self.source) > LONGEST_SOURCE:
                raise TemplateError(
                    f"the chat template has {len(self.source):,} characters, {LONGEST_SOURCE:,} at most"
                )
            sandbox = Sandbox()
            try:
                self._compiled = sandbox, sandbox.from_string(self.source)
            except jinja2.TemplateSyntaxError as error:
                raise TemplateError(f"the chat template has an error in line {error.lineno}: {_line(error)}") from None
            except Exception as error:  # Python's compiler on what Jinja made of it: too deep, too many blocks
                raise TemplateError(f"the chat template cannot be compiled: {_line(error)}") from None
        return self._compiled


def check_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A copy of the messages of a conversation, after checking their form.

    Each is a dict with a ``role`` and a ``content``: a str, a list of ``{"type": "text", "text": …}``, or None where
    there are ``tool_calls``. Further keys are allowed and must hold JSON values.

    Raises:
        PromptError: naming the message that is wrong.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise PromptError(f"messages must be a list of dicts, not {type(messages).__name__}")
    if not messages:
        raise PromptError("the conversation has no message")
    return [_check_message(message, f"message {index}") for index, message in enumerate(messages)]


def _check_message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise PromptError(f"{where} must be a dict with role and content, not {type(message).__name__}")
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not role:
        raise PromptError(f"{where} needs a role such as 'user', not {shown(role)}")
    if content is None:
        if not message.get("tool_calls"):
            raise PromptError(f"{where} ({role}) has no content")
    elif isinstance(content, list | tuple):
        for index, part in enumerate(content):
            _check_part(part, f"{where} ({role}), part {index}")
    elif not isinstance(content, str):
        raise PromptError(
            f"{where} ({role}): content must be a str or a list of text parts, not {type(content).__name__}"
        )
    copy: dict[str, Any] = _plain(message, where)
    return copy


def _check_part(part: Any, where: str) -> None:
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if not isinstance(kind, str) or kind != "text":
        raise PromptError(f"{where}: only text is supported, not {shown(kind)}")
    if not isinstance(part.get("text"), str):
        raise PromptError(f"{where}: text must be a str, not {type(part.get('text')).__name__}")


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    """A copy of JSON data; a template is given nothing else, so that no object of the program is within its reach."""
    if depth > 100:
        raise PromptError(f"{where} is nested too deep")
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {str(key): _plain(item, where, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, where, depth + 1) for item in value]
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise PromptError(f"{where} holds a {type(value).__name__}; only JSON values can be given to a chat template")


def _joined(message: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(message.get("content"), list):
        return message
    return {**message, "content": "\n".join(part["text"] for part in message["content"])}


def _explained(error: Exception, template: jinja2.Template) -> TemplateError:
    """The one line that says what a rendering failed of."""
    from traceback import walk_tb

    import jinja2

    lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == _FILE]
    where = f"line {template.get_corresponding_lineno(lines[-1])}" if lines else "the template"
    if isinstance(error, jinja2.exceptions.SecurityError):
        return TemplateError(f"the chat template was stopped in {where}: {_line(error)}", hint="it is not safe to use")
    if type(error) is jinja2.TemplateError:  # what raise_exception raises
        return TemplateError(f"the chat template refuses this conversation: {_line(error)}")
    if isinstance(error, RecursionError | MemoryError):
        return TemplateError(f"the chat template was stopped in {where}: it needs too much memory or calls itself")
    return TemplateError(f"the chat template failed in {where}: {_line(error)}")


def _line(error: Exception) -> str:
    """An error's text in one printable line: a template chooses it, and a terminal obeys control characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return printable if len(printable) <= 300 else printable[:299] + "…"
