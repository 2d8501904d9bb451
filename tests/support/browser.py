"""A real Chromium without a window, as Debian's chromium and chromium-driver give it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

SECONDS = 20  # after which a test that hangs fails
PROGRAMS = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
MISSING = [name for name, path in PROGRAMS.items() if path is None]


class Browser:
    """One tab of it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Go to a page anew, without what the last one kept."""
        self.driver.get("about:blank")
        self.driver.get(url)

    def find(self, selector: str) -> WebElement:
        """The first that can be seen, which is waited for."""

        def seen(driver: webdriver.Chrome) -> WebElement | None:
            elements = driver.find_elements(By.CSS_SELECTOR, selector)
            return next((each for each in elements if each.is_displayed()), None)

        return WebDriverWait(self.driver, SECONDS, 0.05).until(seen, f"nothing is {selector}")

    def text(self, selector: str) -> str:
        """What it says."""
        return self.find(selector).text

    def until(self, condition: Callable[[], Any], what: str) -> None:
        """Wait until it holds."""
        WebDriverWait(self.driver, SECONDS, 0.05).until(lambda _: condition(), what)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script of the page returns."""
        return self.driver.execute_script(script, *arguments)

    def size(self, width: int, height: int) -> None:
        """Show the page on a screen of so many pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def scheme(self, name: str) -> None:
        """Be a system that is `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def complaints(self) -> list[str]:
        """Errors of scripts and what the page's policy kept back, since the last look."""
        lines = self.driver.get_log("browser")
        return [line["message"] for line in lines if line["source"] != "network"]

    def requests(self) -> list[str]:
        """The addresses that were asked for since the last look."""
        events = [
            json.loads(line["message"])["message"] for line in self.driver.get_log("performance")
        ]
        return [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]


@contextmanager
def browser() -> Iterator[Browser]:
    """It hears a tone where a microphone would be, and lets every page have it."""
    options = webdriver.ChromeOptions()
    options.binary_location = PROGRAMS["chromium"] or ""
    for word in (
        "headless=new",
        "no-sandbox",
        "disable-dev-shm-usage",
        "disable-gpu",
        "use-fake-device-for-media-stream",
        "use-fake-ui-for-media-stream",
    ):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(PROGRAMS["chromedriver"]))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
