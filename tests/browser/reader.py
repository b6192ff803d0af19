"""What a person does with the page, and what they see, in a few words for tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from axe_core_python.selenium import Axe
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from browser import chromium
from browser.program import Program

T = TypeVar("T")

PATIENCE_SECONDS = 15.0  # of tests, on a busy machine


class Reader:
    """See the module."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver
        self.forgiven: tuple[str, ...] = ()

    def begin(self) -> None:
        self.forgiven = ()
        chromium.show(self.driver, 1280, 900)

    def leave(self) -> None:
        self.driver.get("about:blank")

    def show(self, width: int, height: int, *, dark: bool = False) -> None:
        chromium.show(self.driver, width, height, dark=dark)

    def open(self, program: Program, query: str = "") -> None:
        self.driver.get(f"http://{program.http}/{query}")
        self.until(lambda: "Serving" in self.text("#health"))
        self.until(lambda: self.text("#nodes-count"))
        self.until(lambda: self.text("#claims-command"))
        self.until(lambda: self.text("#decisions-command"))

    def until(self, holds: Callable[[], T], seconds: float = PATIENCE_SECONDS) -> T:
        """What `holds` gives once that is true."""
        ends = time.monotonic() + seconds
        while True:
            try:
                found = holds()
            except StaleElementReferenceException:
                found = None  # the page was just redrawn
            if found:
                return found
            assert time.monotonic() < ends, f"not within {seconds} s; the page says:\n{self.text('body')[:3000]}"
            time.sleep(0.05)

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[str]:
        """The texts of the elements that are seen."""
        script = "return [...document.querySelectorAll(arguments[0])].filter(e => e.offsetParent).map(e => e.innerText)"
        found: list[str] = self.driver.execute_script(script, selector)
        return found

    def text(self, selector: str) -> str:
        return "\n".join(self.all(selector))

    def keys(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    @property
    def focused(self) -> WebElement:
        return self.driver.switch_to.active_element

    @property
    def address(self) -> str:
        return self.driver.current_url

    def complaints(self) -> list[str]:
        """What the console says, less what the test has provoked."""
        log = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        entries = [str(entry["message"]) for entry in log]
        return [entry for entry in entries if not any(word in entry for word in self.forgiven)]

    def barriers(self) -> dict[str, Any]:
        """What axe finds, by rule. The driver runs it in the page: its policy lets no script be added."""
        found = Axe().run(self.driver)
        return {
            violation["id"]: [node["html"][:200] for node in violation["nodes"]] for violation in found["violations"]
        }
