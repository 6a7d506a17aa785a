"""Render a page in headless Chromium for tests: the DOM after its scripts ran, a screenshot, the console.

For tests only; the product never starts a browser. A broken page also yields a PNG; assert on the DOM and the
console. Playwright drives the system's Chromium, because Chromium's own `--screenshot` lays out a page 500
pixels wide and crops it to a phone's width.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
VOID = frozenset({"meta", "link", "br", "img", "input", "hr", "col", "source", "wbr"})
needs_chromium = pytest.mark.skipif(  # .ci/run allows no skips: a missing browser fails the test there
    not any(map(shutil.which, BROWSERS)) and not os.environ.get("PERENNIAL_REQUIRE_SYSTEM_TOOLS"),
    reason="no Chromium to look at pages with; apt-get install chromium",
)


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a page; `text` is its complete text with whitespace collapsed."""

    tag: str
    attributes: dict[str, str]
    text: str

    @property
    def classes(self) -> frozenset[str]:
        return frozenset(self.attributes.get("class", "").split())


@dataclass(frozen=True, slots=True)
class Rendered:
    """Final state of a page in the browser.

    `console` contains its messages and uncaught errors, `requests` every requested address (the page's own first),
    and `page_width` the width of its content in pixels. If that exceeds the viewport's width, the page scrolls
    horizontally.
    """

    dom: str
    screenshot: Path
    console: tuple[str, ...]
    requests: tuple[str, ...]
    page_width: int


def render(
    page: str | Path,
    folder: Path,
    *,
    width: int = 1280,
    height: int = 1600,
    dark: bool = False,
    ready: str = "body",
    settle_ms: int = 500,
) -> Rendered:
    """Open a URL or file at this viewport, wait for the CSS selector `ready`, and write a PNG to `folder`.

    Waits another `settle_ms` milliseconds for late rendering. Raises Playwright's TimeoutError if `ready` never
    appears.
    """
    address = page.resolve().as_uri() if isinstance(page, Path) else page
    theme: Literal["dark", "light"] = "dark" if dark else "light"
    screenshot = folder / f"{Path(address).stem}-{width}-{theme}.png"
    console: list[str] = []
    requests: list[str] = []
    with opened_browser() as browser:
        tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme)
        tab.on("console", lambda message: console.append(message.text))
        tab.on("pageerror", lambda error: console.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(address)
        tab.wait_for_selector(ready, state="attached")
        tab.wait_for_timeout(settle_ms)
        tab.screenshot(path=screenshot)
        page_width = tab.evaluate("document.documentElement.scrollWidth")
        return Rendered(tab.content(), screenshot, tuple(console), tuple(requests), page_width)


@contextmanager
def opened_browser() -> Iterator[Browser]:
    """Open the system's Chromium, headless, for a test that clicks and types."""
    browser_path = next(path for path in map(shutil.which, BROWSERS) if path)
    with sync_playwright() as driver, driver.chromium.launch(executable_path=browser_path, args=[*FLAGS]) as browser:
        yield browser


def elements(html: str) -> list[Element]:
    """Return every element of a page in document order, parsed by HTML's rules (script and style are text)."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return [Element(tag, attributes, " ".join("".join(text).split())) for tag, attributes, text in reader.found]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[tuple[str, list[str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        text: list[str] = []
        self.found.append((tag, {name: value or "" for name, value in attrs}, text))
        if tag not in VOID:
            self._open.append((tag, text))

    def handle_endtag(self, tag: str) -> None:
        while any(name == tag for name, _ in self._open):
            if self._open.pop()[0] == tag:
                break

    def handle_data(self, data: str) -> None:
        for _, text in self._open:
            text.append(data)
