"""Chromium without a screen, and what a person does in it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

PATIENCE = 20  # seconds


class Browser:
    """A page, open at `url`."""

    def __init__(self, downloads: str) -> None:
        options = webdriver.ChromeOptions()
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,800"):
            options.add_argument(argument)
        options.add_experimental_option("prefs", {"download.default_directory": downloads})
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))

    def open(self, url: str, *, width: int = 1200, height: int = 800, dark: bool = False) -> None:
        """Open a page, which fills a window of the size, and wait until it knows the server's models."""
        phone = width < 700
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(url)
        self.until(lambda: "Connecting" not in self.one("#model").text, "the page connects")

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def shown(self, selector: str) -> bool:
        return any(element.is_displayed() for element in self.all(selector))

    def js(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def keys(self, *keys: str, held: tuple[str, ...] = ()) -> None:
        """Press keys, wherever the focus is."""
        chain = ActionChains(self.driver, duration=0)
        for key in held:
            chain.key_down(key)
        chain.send_keys(*keys)
        for key in held:
            chain.key_up(key)
        chain.perform()

    def until(self, true: Callable[[], Any], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                if true():
                    return
            except StaleElementReferenceException:
                pass  # the page has replaced it: look again
            time.sleep(0.03)
        raise AssertionError(f"in {PATIENCE} seconds it did not happen that {what}")

    def send(self, text: str) -> None:
        """Type a message and send it."""
        self.one("#input").click()
        self.keys(text, Keys.ENTER)

    def ask(self, text: str) -> str:
        """Send a message and wait for the answer; its text."""
        before = len(self.all(".answer"))
        self.send(text)
        self.until(lambda: len(self.all(".answer")) > before and not self.all(".busy"), "the answer is there")
        return self.all(".answer .prose")[-1].text

    def requests(self) -> list[str]:
        """What was asked of the network since the last call, the page's own blobs and data aside."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if urlsplit(url).scheme not in {"data", "blob"}]

    def complaints(self) -> list[str]:
        """What the console says of the policy and of errors in scripts since the last call."""
        entries = [entry["message"] for entry in self.driver.get_log("browser")]
        return [text for text in entries if "Content Security Policy" in text or "Uncaught" in text]

    def close(self) -> None:
        self.driver.quit()
