"""The chat page in a browser: what a person does with it, and what hostile text cannot do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")
from browser import Browser, Keys
from hostile import FAR, HOSTILE
from page_stub import CONTEXT, Stub, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("chromium") and shutil.which("chromedriver")), reason="no chromium here"),
]
LONG = "one more word and " * 200


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def chromium(downloads: Path) -> Iterator[Browser]:
    browser = Browser(str(downloads))
    yield browser
    browser.close()


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(Stub()) as stub:
        yield stub


@pytest.fixture
def browser(chromium: Browser, stub: Stub) -> Iterator[Browser]:
    """Chromium at a fresh origin (each stub has its port), which must have asked no other and broken no policy."""
    chromium.requests()
    chromium.complaints()
    chromium.open(stub.url)
    yield chromium
    assert [url for url in chromium.requests() if not url.startswith(stub.url)] == []
    assert chromium.complaints() == []


def test_a_question_streams_its_answer(browser: Browser, stub: Stub) -> None:
    stub.default, stub.pause = LONG, 0.005
    browser.send("Hello there")
    browser.until(lambda: 0 < len(browser.one(".answer .prose").text) < 900, "a part of the answer is seen")
    assert browser.shown("#stop")
    assert not browser.shown("#send")
    browser.until(lambda: not browser.all(".busy"), "the answer ends")
    assert browser.one(".answer .prose").text == LONG.strip()
    assert browser.one(".bubble").text == "Hello there"
    assert "900 tokens · 42 tokens/s" in browser.one(".stats").text
    assert browser.one("#speed").text == "42 tokens/s"
    assert browser.one("#context-text").text == f"920 of {CONTEXT:,} tokens"
    assert browser.one("#meter").get_attribute("aria-valuenow") == "920"
    assert stub.asked[0]["stream_options"] == {"include_usage": True}
    assert stub.asked[0]["messages"] == [{"role": "user", "content": "Hello there"}]


def test_stop_ends_the_request_and_keeps_what_came(browser: Browser, stub: Stub) -> None:
    stub.default, stub.pause = LONG, 0.02
    browser.send("Go on for long")
    browser.until(lambda: len(browser.one(".answer .prose").text) > 20, "a part of the answer is seen")
    browser.one("#stop").click()
    browser.until(lambda: "Stopped" in browser.one(".stats").text, "the answer is marked as stopped")
    browser.until(lambda: stub.left == 1, "the server sees that the client has left")
    assert LONG.startswith(browser.one(".answer .prose").text)
    assert browser.shown("#send")
    stub.pause, stub.default = 0.0, "Short."
    assert browser.ask("And now?") == "Short."


def test_chats_outlive_a_reload_even_in_the_middle_of_an_answer(browser: Browser, stub: Stub) -> None:
    first = browser.ask("The first question")
    stub.default, stub.pause = LONG, 0.02
    browser.send("The second")
    browser.until(lambda: len(browser.all(".answer .prose")[-1].text) > 20, "a part of the answer is seen")
    browser.driver.refresh()
    browser.until(lambda: len(browser.all(".answer")) == 2, "the chat is back")
    assert browser.all(".answer .prose")[0].text == first
    assert len(browser.all(".answer .prose")[1].text) >= 20
    assert "Stopped" in browser.all(".stats")[1].text
    assert browser.one(".chat[aria-current] .chat-open").text == "The first question"


def test_an_answer_is_made_again_and_a_message_edited(browser: Browser, stub: Stub) -> None:
    browser.ask("What is one and one?")
    browser.ask("And two and two?")
    stub.default = "Another answer."
    browser.all("[data-do=again]")[-1].click()
    browser.until(lambda: browser.all(".answer .prose")[-1].text == "Another answer.", "the new answer is there")
    assert [m["content"] for m in stub.asked[-1]["messages"] if m["role"] == "user"][-1] == "And two and two?"
    browser.all("[data-do=edit]")[0].click()
    browser.until(lambda: browser.shown(".editor textarea"), "the editor is open")
    browser.keys(Keys.END, " And three?", Keys.ENTER)
    browser.until(lambda: len(browser.all(".answer")) == 1 and not browser.all(".busy"), "it is answered anew")
    assert stub.asked[-1]["messages"] == [{"role": "user", "content": "What is one and one? And three?"}]
    assert browser.one(".bubble").text == "What is one and one? And three?"


def test_settings_are_sent_and_kept(browser: Browser, stub: Stub) -> None:
    browser.one("#open-settings").click()
    browser.one("#system").send_keys("Be brief.")
    values = {"temperature": "0.5", "top_p": "0.9", "top_k": "40", "min_p": "0.05", "max_tokens": "64", "seed": "7"}
    for name, value in values.items():
        browser.one(f"#field-{name}").send_keys(value)
    browser.keys(Keys.ESCAPE)
    browser.ask("Hello")
    assert stub.asked[-1]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert {name: stub.asked[-1][name] for name in values} == {
        name: json.loads(value) for name, value in values.items()
    }
    browser.driver.refresh()
    browser.until(lambda: browser.shown(".answer"), "the chat is back")
    browser.one("#open-settings").click()
    browser.one("#field-temperature").clear()
    browser.one("#field-temperature").send_keys("77")
    browser.keys(Keys.ESCAPE)
    browser.ask("Again")
    assert "temperature" not in stub.asked[-1], "a value out of range is not sent"
    assert stub.asked[-1]["seed"] == 7


def test_the_model_is_chosen_by_the_user_and_stays_with_the_chat(browser: Browser, stub: Stub) -> None:
    browser.ask("Hello")
    assert stub.asked[-1]["model"] == "qwen3-0.6b-rpi5-int4"
    browser.js(
        "const s = document.getElementById('model'); s.value = 'edgelm-home'; s.dispatchEvent(new Event('change'))"
    )
    browser.ask("Dim the lamp")
    assert stub.asked[-1]["model"] == "edgelm-home"
    browser.driver.refresh()
    browser.until(lambda: browser.one("#model").get_attribute("value") == "edgelm-home", "the chat's model is chosen")


def test_chats_are_renamed_exported_deleted_and_imported(browser: Browser, stub: Stub, downloads: Path) -> None:
    answer = browser.ask("Something to keep")
    browser.one("#new").click()
    browser.ask("Something else")
    assert [e.text for e in browser.all(".chat-open")] == ["Something else", "Something to keep"]
    browser.js("document.querySelector('.chat:last-child [data-do=rename]').click()")
    browser.keys("Lamps & “more” <b>", Keys.ENTER)
    browser.until(lambda: "Lamps & “more” <b>" in [e.text for e in browser.all(".chat-open")], "the name is new")
    browser.js("document.getElementById('export').click()")
    browser.until(lambda: list(downloads.glob("*.json")), "the file is saved")
    (file,) = downloads.glob("*.json")
    assert {chat["title"] for chat in json.loads(file.read_text())["chats"]} == {"Lamps & “more” <b>", "Something else"}
    for _ in range(2):
        browser.js("document.querySelector('.chat [data-do=delete]').click()")
    browser.until(lambda: not browser.all(".chat"), "the list is empty")
    browser.one("#toast-action").click()
    browser.until(lambda: len(browser.all(".chat")) == 1, "the last one is back")
    browser.one("#import-file").send_keys(str(file))
    browser.until(lambda: len(browser.all(".chat")) == 3, "the file's are there, too")
    browser.js("[...document.querySelectorAll('.chat-open')].find(b => b.textContent.startsWith('Lamps')).click()")
    browser.until(lambda: browser.one(".answer .prose").text == answer, "its answer is shown")
    (downloads / "no chats.json").write_text('{"format": "something"}')
    browser.one("#import-file").send_keys(str(downloads / "no chats.json"))
    browser.until(lambda: "holds no chats" in browser.one("#toast-text").text, "the refusal is told")


def test_at_a_phones_width_nothing_is_cut_off(browser: Browser, stub: Stub) -> None:
    stub.answers["table"] = (
        "| a | b | c | d |\n|--|--|--|--|\n" + "| wwwwwwwwwwwwwww " * 4 + "|\n\n```\n" + "x" * 300 + "\n```"
    )
    browser.open(stub.url, width=360, height=640)
    assert not browser.shown("#side")
    browser.ask("table " * 40)
    browser.ask("table")
    assert browser.js("return document.documentElement.scrollWidth") <= 360
    overflowing = """return [...document.querySelectorAll('#messages *, .dock *, .top *')].filter(e =>
        e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.table, pre, .sr')).map(e => e.className)"""
    assert browser.js(overflowing) == []
    small = """return [...document.querySelectorAll('button, select')].filter(e => e.offsetParent
        && (e.offsetHeight < 24 || e.offsetWidth < 24) && !e.closest('.code')).map(e => e.id || e.className)"""
    assert browser.js(small) == [], "each target is at least 24 pixels high and wide"
    browser.one("#side-open").click()
    browser.until(lambda: browser.shown("#side .chat-open"), "the list lies over the page")
    browser.keys(Keys.ESCAPE)
    browser.until(lambda: not browser.shown("#side"), "the list is closed")
    browser.one("#open-settings").click()
    assert browser.js("return document.getElementById('settings').getBoundingClientRect().width") <= 360


def focused(browser: Browser) -> str:
    """The id or the action of what has the focus, which must be seen to have it."""
    seen = browser.js("""
        const e = document.activeElement, s = getComputedStyle(e), box = e.closest('.composer');
        const marked = s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 1;
        return [e.id || e.dataset.do || e.className || e.tagName, marked || (box && e.id === 'input')]""")
    assert seen[1], f"the focus on {seen[0]} is not visible"
    return str(seen[0])


def test_all_is_done_with_keys_alone(browser: Browser, stub: Stub) -> None:
    assert browser.js("return document.activeElement.id") == "input"
    browser.keys("First line")
    browser.keys(Keys.ENTER, held=(Keys.SHIFT,))
    browser.keys("second line")
    browser.keys(Keys.ENTER)
    browser.until(lambda: browser.all(".answer") and not browser.all(".busy"), "it is answered")
    assert stub.asked[0]["messages"][0]["content"] == "First line\nsecond line"
    browser.js("document.activeElement.blur(); document.body.tabIndex = -1; document.body.focus()")
    order = []
    for _ in range(18):
        browser.keys(Keys.TAB)
        order.append(focused(browser))
        if order[-1] == "input":
            break
    assert order == [
        *("skip", "side-close", "new", "open", "rename", "save", "delete"),
        *("model", "theme", "open-settings", "copy", "edit", "copy", "again", "input"),
    ]
    stub.default, stub.pause = LONG, 0.02
    browser.keys("Go on", Keys.ENTER)
    browser.until(lambda: len(browser.all(".answer .prose")[-1].text) > 10, "it streams")
    browser.keys(Keys.ESCAPE)
    browser.until(lambda: "Stopped" in browser.all(".stats")[-1].text, "Escape stops it")
    stub.pause, stub.default = 0.0, "Yes."
    browser.keys(Keys.ARROW_UP)
    browser.until(lambda: browser.shown(".editor textarea"), "the arrow edits the last message")
    browser.keys(" now", Keys.ENTER)
    browser.until(lambda: browser.all(".answer .prose")[-1].text == "Yes.", "the edited one is answered")
    browser.keys("o", held=(Keys.CONTROL, Keys.SHIFT))
    browser.until(lambda: browser.shown("#empty"), "a new chat is open")
    browser.keys(",", held=(Keys.CONTROL,))
    browser.until(lambda: browser.shown("#settings"), "the settings are open")
    assert "Stop the answer" in browser.one(".shortcuts").text
    browser.keys(Keys.ESCAPE)
    browser.until(lambda: not browser.shown("#settings"), "the settings are closed")
    browser.keys("l", held=(Keys.CONTROL, Keys.SHIFT))
    browser.until(lambda: not browser.shown("#side"), "the list is hidden")


def test_a_screen_reader_hears_the_answer_once(browser: Browser, stub: Stub) -> None:
    browser.js("""window.heard = [];
        new MutationObserver(() => { const t = document.getElementById('announce').textContent; if (t) heard.push(t) })
            .observe(document.getElementById('announce'), {childList: true, characterData: true, subtree: true})""")
    stub.pause = 0.02
    browser.ask("Hello")
    browser.until(lambda: len(browser.js("return heard")) == 2, "both are said")
    assert browser.js("return heard") == ["Answering", f"Answer: {stub.default}"]
    assert browser.one("#messages").get_attribute("aria-live") == "off"
    unnamed = """return [...document.querySelectorAll('button, input, textarea, select')].filter(e =>
        !(e.ariaLabel || e.textContent.trim() || e.labels?.length || e.getAttribute('aria-labelledby') || e.hidden)).map(e => e.outerHTML)"""
    assert browser.js(unnamed) == []


def test_the_key_is_asked_for_and_kept_for_the_session(chromium: Browser, stub: Stub) -> None:
    stub.key = "secret"
    chromium.driver.get(stub.url)
    chromium.until(lambda: chromium.shown("#key-dialog"), "the key is asked for")
    chromium.keys("wrong", Keys.ENTER)
    chromium.until(lambda: chromium.shown("#key-dialog") and not chromium.one("#key").text, "it is asked for again")
    chromium.until(lambda: chromium.js("return document.activeElement.id") == "key", "the field has the focus")
    chromium.js("document.getElementById('key').value = ''")
    chromium.keys("secret", Keys.ENTER)
    chromium.until(lambda: "qwen" in chromium.one("#model").text, "the page connects")
    assert chromium.ask("Hello") == stub.default
    assert chromium.js("return [localStorage.getItem('edgelm.key'), sessionStorage.getItem('edgelm.key')]") == [
        None,
        "secret",
    ]


def test_errors_say_what_to_do_and_are_tried_again(browser: Browser, stub: Stub) -> None:
    stub.busy = True
    browser.ask("Hello")
    assert browser.one(".failure-text").text == "8 requests are waiting"
    assert browser.one(".failure-hint").text == "Try again in a moment."
    stub.busy = False
    browser.one(".failure [data-do=again]").click()
    browser.until(lambda: browser.all(".answer .prose")[-1].text == stub.default, "it is answered now")
    assert not browser.shown(".failure")


def test_a_server_that_is_gone_is_told(chromium: Browser) -> None:
    with serving(Stub()) as stub:
        chromium.open(stub.url)
    chromium.ask("Hello")
    assert chromium.one(".failure-text").text == "The server does not answer."
    assert "edgelm serve" in chromium.one(".failure-hint").text


def luminance(colour: list[int]) -> float:
    """Relative luminance of an sRGB colour, as WCAG 2.2 defines it."""
    r, g, b = (c / 12.92 if (c := v / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for v in colour)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_are_legible(browser: Browser, stub: Stub, dark: bool) -> None:
    browser.open(stub.url, dark=dark)
    colour = """const p = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
        const e = document.createElement('i'); e.style.color = `var(--${arguments[0]})`; document.body.append(e);
        p.fillStyle = getComputedStyle(e).color; p.fillRect(0, 0, 1, 1); e.remove();
        return [...p.getImageData(0, 0, 1, 1).data].slice(0, 3)"""
    light = {name: luminance(browser.js(colour, name)) for name in
             ("ground", "side", "surface", "ink", "muted", "accent", "accent-ink", "accent-soft", "danger", "danger-soft")}  # fmt: skip
    assert (light["ground"] < 0.1) == dark
    pairs = [(a, b) for a in ("ink", "muted", "accent") for b in ("ground", "side", "surface")]
    for a, b in [*pairs, ("accent-ink", "accent"), ("ink", "accent-soft"), ("danger", "danger-soft")]:
        high, low = max(light[a], light[b]), min(light[a], light[b])
        assert (high + 0.05) / (low + 0.05) >= 4.5, f"{a} on {b}"
    browser.one("#theme").click()
    assert browser.js("return document.documentElement.dataset.theme") == ("light" if dark else "dark")
    assert (luminance(browser.js(colour, "ground")) < 0.1) != dark
    browser.driver.refresh()
    assert browser.js("return document.documentElement.dataset.theme") == ("light" if dark else "dark")


INERT = """
const inside = [...document.querySelectorAll('.prose *, .thought *, .bubble *, .chat-open *')];
const allowed = new Set('P BR HR H1 H2 H3 H4 H5 H6 STRONG EM DEL CODE PRE BLOCKQUOTE UL OL LI TABLE THEAD TBODY TR TH TD A SPAN DIV BUTTON'.split(' '));
const bad = inside.filter(e => !allowed.has(e.tagName)).map(e => e.tagName);
for (const e of inside) for (const a of e.attributes) if (/^on|^style$|^src|^id$|^name$/.test(a.name)) bad.push(a.name);
for (const a of document.querySelectorAll('.prose a')) {
  if (!/^(https?|mailto):/.test(a.getAttribute('href')) || a.rel !== 'noopener noreferrer nofollow' || a.target !== '_blank') bad.push(a.outerHTML);
}
return [window.hit ?? null, bad, document.title, location.host]
"""


def assert_inert(browser: Browser, stub: Stub, what: str) -> None:
    hit, bad, _, host = browser.js(INERT)
    assert (hit, bad) == (None, []), what
    assert f"http://{host}/" == stub.url, what
    assert browser.shown("#input"), what


def test_hostile_text_of_a_model_does_nothing(browser: Browser, stub: Stub) -> None:
    stub.answers = {f"attack {number}": text for number, text in enumerate(HOSTILE)}
    for number, text in enumerate(HOSTILE):
        browser.js("document.getElementById('new').click()")
        browser.ask(f"attack {number}")
        assert_inert(browser, stub, text[:100])
        for link in browser.all(".prose a"):
            assert (link.get_attribute("href") or "").startswith((FAR, "mailto:")), text[:100]


def hostile_chat(text: str) -> dict[str, Any]:
    """A chat of a file with the text wherever there can be one, and members that no page wrote."""
    stats = {"tokens": text, "speed": text, "prompt": {"valueOf": text}, "first": [text]}
    answer = {"role": "assistant", "content": text, "reasoning": text, "error": text, "hint": text, "end": text}
    return {
        "id": text,
        "title": text,
        "created": text,
        "updated": text,
        "model": text,
        "system": text,
        "messages": [
            {"role": "user", "content": text, "html": text},
            {**answer, "stats": stats, "__proto__": {"polluted": 1}},
            {"role": "tool", "content": text},
            {"role": {"toString": text}, "content": {"a": text}},
            None,
            text,
        ],
        "__proto__": {"polluted": 1},
    }


def test_hostile_chats_of_a_file_and_in_storage_do_nothing(browser: Browser, stub: Stub, tmp_path: Path) -> None:
    file = tmp_path / "chats.json"
    short = [text for text in HOSTILE if len(text) < 3000]
    file.write_text(json.dumps({"format": "edgelm chats", "version": 1, "chats": [hostile_chat(t) for t in short]}))
    browser.one("#import-file").send_keys(str(file))
    browser.until(lambda: len(browser.all(".chat")) == len(short), "all are in the list")
    for number in range(len(short)):
        browser.js("document.querySelectorAll('.chat-open')[arguments[0]].click()", number)
        assert_inert(browser, stub, short[number])
    write = "localStorage.setItem('edgelm.chat.' + arguments[0], arguments[1])"
    for number, text in enumerate(short):
        browser.js(write, f"{number}<img src=x onerror=window.hit=1>\"]'", json.dumps(hostile_chat(text)))
    for junk in ("", "null", "[]", "{", '{"messages": 7}', '{"messages": [[]]}'):
        browser.js(write, f"junk{junk}", junk)
    browser.js('localStorage.setItem(\'edgelm.settings\', \'{"sampling": {"seed": "x"}, "system": 7}\')')
    browser.js("localStorage.setItem('edgelm.theme', '\"><img src=x onerror=window.hit=1>')")
    browser.driver.refresh()
    browser.until(lambda: len(browser.all(".chat")) >= 2 * len(short), "the list is there again")
    for number in range(0, len(browser.all(".chat")), 3):
        browser.js("document.querySelectorAll('.chat-open')[arguments[0]].click()", number)
        assert_inert(browser, stub, f"stored chat {number}")
    assert browser.js("return [({}).polluted ?? null, document.documentElement.dataset.theme ?? null]")[0] is None
