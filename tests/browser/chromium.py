"""Chromium as the distribution packages it, driven by selenium. Talks to loopback alone."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip


def missing() -> str:
    """What is not here; empty when both programs are."""
    programs = {"Chromium": binary(), "chromedriver": shutil.which("chromedriver")}
    names = [name for name, path in programs.items() if not path]
    return f"{' and '.join(names)} not found (Debian: apt-get install chromium chromium-driver)" if names else ""


def binary() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def browser(
    width: int = 1280, height: int = 900, *, dark: bool = False, scale: float = 1
) -> Iterator[webdriver.Chrome]:
    """A browser with a profile of its own, that ends with the block."""
    with TemporaryDirectory(prefix="chromium-") as profile:
        options = Options()
        options.binary_location = str(binary())
        for flag in FLAGS:
            options.add_argument(flag)
        options.add_argument(f"--user-data-dir={profile}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(
            options, Service(str(shutil.which("chromedriver")), env={**os.environ, "TMPDIR": profile})
        )
        try:
            show(driver, width, height, dark=dark, scale=scale)
            yield driver
        finally:
            driver.quit()


def show(driver: webdriver.Chrome, width: int, height: int, *, dark: bool = False, scale: float = 1) -> None:
    """From now on with this size and theme."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 500},
    )
    features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def picture(driver: webdriver.Chrome, path: Path) -> None:
    """What is seen now, as PNG."""
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "optimizeForSpeed": False})
    path.write_bytes(base64.b64decode(shot["data"]))
