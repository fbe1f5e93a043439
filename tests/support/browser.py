"""The browser that the machine has, driven by Playwright; tests are skipped where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# As root there is no sandbox to be had, and a browser that asks its maker for news on each start
# fails slowly where there is no network.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",  # a camera that shows a moving test picture
]


@contextmanager
def browser() -> Iterator[Any]:
    """A Playwright browser."""
    sync_api = pytest.importorskip("playwright.sync_api")
    found = [path for name in NAMES if (path := shutil.which(name))]
    if not found:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found[0], args=FLAGS)
        try:
            yield started
        finally:
            started.close()


def violations(page: Any) -> list[str]:
    """What axe-core finds on an open page, as it is now, in dark and in light.

    "light: rule at target: what to mend", one line for each part of the page; empty if all is well.
    The page is light afterwards.
    """
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = []
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        for rule in axe.run(page).response["violations"]:
            found += [
                f"{scheme}: {rule['id']} at {' '.join(map(str, node['target']))}: {rule['help']}"
                for node in rule["nodes"]
            ]
    return found
