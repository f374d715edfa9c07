"""A real browser, headless and with an empty profile: what it shows, asks for and complains of."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Page, async_playwright

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

_REPORT_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) =>
    console.error("policy: " + event.violatedDirective));
"""


class Tab:
    """One page, what it asked for (URLs) and what the console said against it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.asked: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self._hear(message.type, message.text))

    def _hear(self, kind: str, text: str) -> None:
        if kind in {"error", "warning"}:
            self.complaints.append(text)


@asynccontextmanager
async def tab(
    url: str, *, javascript: bool = True, size: tuple[int, int] = (1200, 900), dark: bool = False
) -> AsyncIterator[Tab]:
    """A page at ``url``, loaded; browser and driver end with the block."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium here (Debian: chromium)")
    options: dict[str, Any] = {
        "viewport": {"width": size[0], "height": size[1]},
        "color_scheme": "dark" if dark else "light",
        "java_script_enabled": javascript,
    }
    async with (
        async_playwright() as driver,
        await driver.chromium.launch(executable_path=chromium, args=list(FLAGS)) as browser,
        await browser.new_context(**options) as context,
    ):
        if javascript:
            await context.add_init_script(_REPORT_VIOLATIONS)
        found = Tab(await context.new_page())
        await found.page.goto(url)
        yield found
