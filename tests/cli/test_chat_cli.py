"""``edgelm chat``."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import sys
import threading
import time

import pytest

import edgelm as library
from edgelm.bundle.reader import Bundle
from edgelm.cli.conversation import Conversation
from edgelm.errors import PromptError
from edgelm.exporter.pipeline import export
from edgelm.runtime.loop.results import Chunk, Timings
from edgelm.runtime.sample.config import GenerationConfig

FEW = ("--max-tokens", "6", "--temperature", "0.5", "--seed", "1")
WORDS = {  # what other prompts understand, typed alone
    "exit": "note: commands begin with a slash: /bye leaves",
    "Help": "note: commands begin with a slash: /help lists them",
    "/temperature 0.7": r"note: no command /temperature; did you mean /set temperature 0\.7\?",
}
FAREWELL = "note: the answer was cut off: its most tokens, or the context is full (/set max_tokens N)\n"


@pytest.fixture
def chat(edgelm, tiny_bundle, monkeypatch):
    """Runs a chat whose standard input is a pipe."""

    def run(data: bytes, *options: str, bundle: Bundle = tiny_bundle):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        ended = edgelm("chat", bundle.path, *FEW, *options)
        return ended._replace(err=ended.err.replace(FAREWELL, ""))

    return run


class FakeLM:
    """Answers every message with "answer", and remembers what it was asked; a token is a character."""

    def __init__(self, context: int = 100, template: object = None) -> None:
        self.context, self.asked = context, []
        self.config = GenerationConfig()
        self.template = object()

    def count_prompt(self, messages, *, how):
        return sum(len(m["content"]) for m in messages)

    def stream(self, messages, *, cancel, **options):
        self.asked.append(list(messages))
        if sum(len(m["content"]) for m in messages) > self.context:
            raise PromptError("too long")
        return self._answer(cancel)

    def _answer(self, cancel):
        if not cancel.is_set():
            yield Chunk("ans", (1,))
            yield Chunk("wer", (2,))
        yield Chunk("", (), "cancelled" if cancel.is_set() else "stop", Timings(1, 0, 2, 0.1, 0.1, 0.1))


def say(conversation: Conversation, text: str) -> str:
    return "".join(chunk.text for chunk in conversation.ask(text, threading.Event()))


def test_each_line_of_a_pipe_is_answered_and_nothing_else_is_printed(chat, tiny_bundle):
    with library.load(tiny_bundle.path) as lm:
        options = {"max_tokens": 6, "temperature": 0.5, "seed": 1}
        conversation = [{"role": "user", "content": "hi"}]
        first = lm.generate(conversation, **options).text
        conversation += [{"role": "assistant", "content": first}, {"role": "user", "content": "ho"}]
        second = lm.generate(conversation, **options).text
    ended = chat(b"hi\n\nho\n")
    assert ended == (0, "".join(text.removesuffix("\n") + "\n" for text in (first, second)), "")


def test_commands(chat):
    ended = chat(b"/help\n/stats\nhi\n/stats\n/zzz\n/exit\nnever asked\n")
    assert ended.code == 0
    assert ended.out == chat(b"hi\n").out
    lines = ended.err.splitlines()
    assert lines[0].startswith("/clear ")
    assert "nothing was said yet; 0 of 128 tokens of context used" in lines
    assert any(re.match(r"prompt \d+ tokens at .*; \d+ of 128 tokens of context used", line) for line in lines)
    assert lines[-1] == "note: no command /zzz; /help lists them"


def test_reset_forgets(chat):
    fresh = chat(b"hi\n").out
    assert chat(b"ho\n/reset\nhi\n").out == chat(b"ho\n").out + fresh


def test_the_system_message(chat):
    brief = chat(b"hi\n", "--system", "be brief").out
    assert brief != chat(b"hi\n").out
    assert chat(b"/system be brief\nhi\n").out == brief
    assert chat(b"/system\nhi\n", "--system", "be brief").out == chat(b"hi\n").out


def test_what_was_done_is_acknowledged(chat):
    ended = chat(b"/system be brief\n/system\n/clear\n/set temp 0.25\n/set temperature\n/sav x\n")
    assert ended.err.splitlines() == [
        "note: the system message is now: be brief; the conversation is forgotten",
        "note: no system message; the conversation is forgotten",
        "note: the conversation is forgotten",
        "note: temperature is 0.25",
        "note: temperature is the model's own",
        "note: no command /sav; did you mean /save?",
    ]


def test_options_are_set_and_checked(chat):
    shown = chat(b"/set\n/set max-tokens=3\n/set\n").err
    assert "max_tokens          6" in shown
    assert "max_tokens          3" in shown
    assert chat(b"/set max_tokens 3\nhi\n").out != chat(b"hi\n").out
    ended = chat(b"/set top_p 3\nhi\n")
    assert (ended.code, ended.err.startswith("error: top_p must be a number above 0")) == (1, True)
    assert chat(b"/set tempo 1\n").err.startswith("error: no option tempo\nhint: did you mean temperature")


def test_another_answer(chat):
    ended = chat(b"hi\n/regen\n")
    first = chat(b"hi\n").out
    again = ended.out.removeprefix(first)
    assert ended.out.startswith(first)
    assert again == chat(b"hi\n", "--seed", "2").out
    assert chat(b"/regen\n").err == "error: nothing was asked yet\n"


def test_a_conversation_is_saved_and_goes_on(chat, tmp_path):
    file = tmp_path / "a talk.json"
    ended = chat(f"/system be brief\nhi\n/save '{file}'\nho\n".encode())
    assert f"note: 2 messages saved to {file}\n" in ended.err
    saved = json.loads(file.read_text())
    assert [m["role"] for m in saved["messages"]] == ["system", "user", "assistant"]
    begun = chat(b"/system be brief\nhi\n").out
    assert begun + chat(f"/load '{file}'\nho\n".encode()).out == ended.out
    assert begun + chat(b"ho\n", "--load", str(file)).out == ended.out
    (tmp_path / "none.json").write_text("[1]")
    for text in ("none.json", "missing.json"):
        ended = chat(f"/load {tmp_path / text}\n".encode())
        assert (ended.code, ended.err.startswith("error: ")) == (1, True)
    assert chat(b"/save\n").err == "error: /save needs a file\nhint: /save chat.json\n"


def test_variables_and_tools_reach_the_template(chat, tmp_path):
    tools = tmp_path / "tools.json"
    tools.write_text("{}")
    assert chat(b"hi\n", "--tools", str(tools)).err.startswith(f"error: {tools} is no list of JSON objects\n")
    ended = chat(b"hi\n", "--template-arg", "messages=1")
    assert ended.err.startswith("error: template_args cannot set 'messages'")
    assert chat(b"hi\n", "--template-arg", "enable_thinking").code == 2


def test_a_message_longer_than_the_context_ends_a_pipe_with_an_error(chat):
    ended = chat(b"x" * 300 + b"\nhi\n")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("error: the prompt has ")


def test_a_pipe_that_is_no_text(chat):
    ended = chat(b"hi\ncaf\xe9\n")
    assert ended.code == 1
    assert ended.err == "error: standard input is not valid UTF-8 in line 2\n"


def test_a_full_context_drops_the_oldest_turns(chat):
    ended = chat(b"first message\nsecond message\nthird message\nfourth message\n")
    assert ended.code == 0
    assert "note: the context of 128 tokens is full: the oldest turn was dropped\n" in ended.err


def test_a_model_without_a_template(edgelm, tiny_checkpoint, tmp_path):
    bundle = export(tiny_checkpoint(chat_template=None), "x86-64", "fp32", output=tmp_path / "plain")
    ended = edgelm("chat", bundle.path)
    assert ended.code == 1
    assert ended.err == (
        "error: this model has no chat template, so it cannot chat\n"
        f'hint: use: edgelm run {bundle.path} "…"\n'
    )  # fmt: skip
    ended = edgelm("run", bundle.path, "-p", "x", "--system", "y")
    assert ended.err.startswith("error: this model has no chat template, so it takes no --system\n")


def test_a_conversation_grows_and_keeps_its_system_message():
    conversation = Conversation(FakeLM(), "sys", {})
    assert say(conversation, "one") == "answer"
    assert say(conversation, "two") == "answer"
    asked = [(m["role"], m["content"]) for m in conversation.lm.asked[-1]]
    assert asked == [("system", "sys"), ("user", "one"), ("assistant", "answer"), ("user", "two")]


def test_room_is_made_by_whole_turns(capsys):
    conversation = Conversation(FakeLM(context=40), "sys", {"max_tokens": 10})
    for text in ("a" * 9, "b" * 9, "c" * 9):
        say(conversation, text)
    contents = [m["content"] for m in conversation.lm.asked[-1]]
    # 3 + 9 + 6 + 9 and 10 for the answer are within 40; with the first turn they would not be
    assert contents == ["sys", "b" * 9, "answer", "c" * 9]
    assert capsys.readouterr().err.count("full") == 1


def test_a_refused_message_leaves_the_conversation_as_it_was():
    conversation = Conversation(FakeLM(context=30), None, {"max_tokens": 5})
    say(conversation, "one")
    before = list(conversation.turns)
    with pytest.raises(PromptError):
        say(conversation, "x" * 50)
    assert conversation.turns == before


def test_a_cancelled_answer_is_kept_as_far_as_it_came():
    conversation, cancel = Conversation(FakeLM(), None, {}), threading.Event()
    for _ in conversation.ask("one", cancel):
        break
    assert [m["content"] for m in conversation.turns] == ["one", "ans"]
    cancel.set()
    assert [chunk.finish_reason for chunk in conversation.ask("two", cancel)] == ["cancelled"]
    assert [m["content"] for m in conversation.turns] == ["one", "ans"]


SLOW = """
import sys, time
from edgelm.runtime.engine import Engine
forward = Engine.forward
Engine.forward = lambda self, *args, **kwargs: (time.sleep(0.03), forward(self, *args, **kwargs))[1]
from edgelm.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *args: str) -> None:
        self.text = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(sys.executable, [sys.executable, *args])

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait_for(self, pattern: str) -> None:
        """Reads until `pattern` has come; what was read until then is done with."""
        until = time.monotonic() + 60
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < until, self.text
            if select.select([self.fd], [], [], 0.1)[0]:
                self.text += os.read(self.fd, 4096).decode(errors="replace")
        self.text = self.text[found.end() :]

    def end(self) -> int:
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return code


@pytest.mark.parametrize("leave", ["\x03\x03", "\x04"], ids=["ctrl-c twice", "ctrl-d"])
def test_on_a_terminal_ctrl_c_ends_an_answer_and_then_the_chat(tiny_bundle, leave):
    chat = Terminal("-c", SLOW, "chat", str(tiny_bundle.path), "--temperature", "2", "--seed", "5")
    chat.wait_for("/help for help, /bye to leave\r\n")
    chat.wait_for("> ")
    chat.type("hi\n")
    chat.wait_for("hi\r\n.+")  # the answer has begun; whole it takes 3 seconds
    chat.type("\x03")
    chat.wait_for("\n> ")
    chat.type("/stats\n")
    chat.wait_for(r"prompt \d+ tokens.*, \d+ tokens")
    chat.wait_for("> ")
    time.sleep(0.3)  # readline writes its prompt a little before it listens
    chat.type(leave[0])
    if len(leave) > 1:
        chat.wait_for(r"Ctrl-D or /bye to leave\)\r\n> ")
        time.sleep(0.3)
        chat.type(leave[1])
    chat.wait_for("\n")
    assert chat.end() == 0
    assert "Traceback" not in chat.text


def test_on_a_terminal_an_error_does_not_end_the_chat(tiny_bundle):
    chat = Terminal("-m", "edgelm", "chat", str(tiny_bundle.path), *FEW)
    chat.wait_for("> ")
    chat.type("x" * 300 + "\n")
    chat.wait_for("error: the prompt has .* tokens")
    chat.wait_for("> ")
    chat.type('"""one\n')
    chat.wait_for(r"\. ")
    chat.type('two"""\n')
    chat.wait_for("> ")
    for typed, said in WORDS.items():
        chat.type(f"{typed}\n")
        chat.wait_for(said)
        chat.wait_for("> ")
    chat.type("/bye\n")
    assert chat.end() == 0
