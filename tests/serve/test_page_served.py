"""The chat page as `edgelm serve` serves it, in a browser, with the embedded model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")
from browser import Browser, Keys
from serving import Running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("chromium") and shutil.which("chromedriver")), reason="no chromium here"),
]


@pytest.fixture
def browser(home: Running, tmp_path: Path) -> Iterator[Browser]:
    browser = Browser(str(tmp_path))
    browser.open(home.url)
    yield browser
    asked, complaints = browser.requests(), browser.complaints()
    browser.close()
    assert [url for url in asked if not url.startswith(home.url + "/")] == []
    assert complaints == []


def test_a_question_is_answered_and_its_figures_are_shown(browser: Browser, home: Running) -> None:
    browser.one("#open-settings").click()
    browser.one("#field-temperature").send_keys("0")
    browser.keys(Keys.ESCAPE)
    answer = browser.ask("turn on the lamp in the kitchen")
    assert '"device":"light","room":"kitchen"' in answer
    assert "tokens/s" in browser.one("#speed").text
    context = home.get("/v1/models").json()["data"][0]["context"]
    assert browser.one("#context-text").text.endswith(f" of {context:,} tokens")
    browser.ask("and turn it off again")
    assert "from the cache" in browser.all(".stats")[-1].get_attribute("title")
    browser.driver.refresh()
    browser.until(lambda: len(browser.all(".answer")) == 2, "the chat is back")
    assert browser.all(".answer .prose")[0].text == answer


def test_an_answer_is_stopped_in_the_server_too(browser: Browser, home: Running) -> None:
    browser.one("#open-settings").click()
    browser.one("#field-max_tokens").send_keys("100000")
    browser.one("#field-temperature").send_keys("5")
    browser.keys(Keys.ESCAPE)
    browser.send("Go on for ever")
    browser.until(lambda: len(browser.one(".answer .prose").text) > 10, "it streams")
    browser.keys(Keys.ESCAPE)
    browser.until(lambda: "Stopped" in browser.one(".stats").text or not browser.all(".busy"), "it ends")
    home.wait_for("edgelm_running", 0)
