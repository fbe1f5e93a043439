"""The page in a real browser: corrections by keyboard outlive reloads and kills, and are used."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
from browser import browser
from shapes import FINISHED

from tutelage import api
from tutelage.data.decisions import read_decisions


@contextmanager
def server(run: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """``tutelage review`` and the address that it prints."""
    command = [sys.executable, "-m", "tutelage", "review", str(run), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1], process
        finally:
            process.kill()


@pytest.fixture
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


def opened(chromium: Any, address: str) -> Any:
    page = chromium.new_context(viewport={"width": 1200, "height": 900}).new_page()
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda message: page.faults.append(message.text))
    page.goto(address)
    page.wait_for_selector(".item")
    return page


def marked(page: Any) -> list[str]:
    """What is said below each decided picture, by the picture's name."""
    script = "cards => cards.map(c => c.querySelector('img').alt + ': ' + c.dataset.action)"
    return sorted(page.eval_on_selector_all(".item[data-action]", script))


def test_ten_corrections_outlive_a_reload_and_a_kill_and_the_next_run_uses_them(
    chromium: Any, reviewed: Path, photos: Path, own_cache: Path, tmp_path: Path
) -> None:
    with server(reviewed) as (address, process):
        page = opened(chromium, address)
        assert "token" not in page.url
        for _ in range(9):
            page.keyboard.press("3")
        page.keyboard.press("x")
        page.keyboard.press("2")
        page.keyboard.press("u")  # one too many
        page.wait_for_selector("#status:has-text('taken back')")
        before = marked(page)
        assert len(before) == 10
        assert sum("reject" in line for line in before) == 1
        page.reload()
        page.wait_for_selector(".item")
        assert marked(page) == before
        assert page.faults == []
        os.kill(process.pid, signal.SIGKILL)
    with server(reviewed) as (address, _):
        page = opened(chromium, address)
        assert marked(page) == before
        assert page.get_by_role("button", name="Decided (10)").is_visible()
    decisions = read_decisions(reviewed)
    labelled = {name for name, decision in decisions.items() if decision.label == "triangle"}
    assert len(labelled) == 9
    second = tmp_path / "second"
    api.run(photos, second, quiet=True, decisions=str(reviewed), **FINISHED)
    split = {row["image"]: row for row in parquet.read_table(second / "split.parquet").to_pylist()}
    for name in labelled:
        assert (split[name]["role"], split[name]["label"]) == ("labeled", "triangle")
    (rejected,) = decisions.keys() - labelled
    assert rejected not in split


def test_keys_move_filter_and_show(chromium: Any, reviewed: Path) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    with server(reviewed) as (address, _):
        page = opened(chromium, address)
        focused = "document.activeElement.id"
        first = page.evaluate(focused)
        page.keyboard.press("ArrowRight")
        assert page.evaluate(focused) != first
        page.keyboard.press("ArrowLeft")
        assert page.evaluate(focused) == first
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowUp")
        assert page.evaluate(focused) == first
        page.keyboard.press(" ")
        assert page.locator("#large").is_visible()
        page.locator("#large-image").evaluate(
            "image => image.decode()"
        )  # fails if it cannot be shown
        page.keyboard.press("Escape")
        page.keyboard.press("]")
        page.wait_for_selector("[data-view=suspicious][aria-pressed=true]")
        expect(page.locator(".item")).to_have_count(12)
        page.locator("#class").select_option("square")
        expect(page.locator(".item")).to_have_count(4)
        page.locator(".item").first.click()
        page.keyboard.press("c")
        page.keyboard.type("disc")
        page.keyboard.press("Enter")
        page.wait_for_selector(".item[data-action=relabel]")
        assert page.faults == []


def test_every_control_has_a_name_and_the_page_fits_a_phone(chromium: Any, reviewed: Path) -> None:
    with server(reviewed) as (address, _):
        page = chromium.new_context(viewport={"width": 360, "height": 700}).new_page()
        page.goto(address)
        page.wait_for_selector(".item")
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wide) <= 0
        nameless = (
            "elements => elements.filter(e => !e.innerText.trim() && !e.labels?.length "
            "&& !e.getAttribute('aria-label')).map(e => e.outerHTML)"
        )
        assert (
            page.eval_on_selector_all(
                "button, select, [role=listbox], [role=option], [role=toolbar]", nameless
            )
            == []
        )
        assert page.eval_on_selector_all(".item img", "i => i.filter(e => !e.alt).length") == 0


def test_a_bare_folder_is_labelled_by_keys_with_a_class_typed_in(
    chromium: Any, suggested: Path
) -> None:
    with server(suggested) as (address, _):
        page = opened(chromium, address)
        assert page.locator("#progress").inner_text() == "0 of 3 labelled"
        page.keyboard.press("Enter")  # there is nothing to agree to
        page.keyboard.press("2")
        page.wait_for_selector("#progress:has-text('1 of 3 labelled')")
        page.keyboard.press("c")
        page.keyboard.type("Bee")
        page.keyboard.press("Enter")
        assert page.locator("#hint").inner_text() == "The class is called bee."
        page.locator("#wanted").fill("wasp")
        page.keyboard.press("Enter")
        assert "no class wasp yet" in page.locator("#hint").inner_text()
        page.keyboard.press("Enter")
        page.wait_for_selector("#progress:has-text('2 of 3 labelled')")
        page.keyboard.press(" ")  # the last one, while it is shown large
        assert page.locator("#large").is_visible()
        page.keyboard.press("3")
        page.wait_for_selector("#progress:has-text('3 of 3 labelled')")
        page.keyboard.press("u")
        page.wait_for_selector("#progress:has-text('2 of 3 labelled')")
        page.keyboard.press(" ")
        assert not page.locator("#large").is_visible()
        assert page.faults == []
    labels = {name: decision.label for name, decision in read_decisions(suggested).items()}
    assert labels == {"03.jpg": "bee", "01.jpg": "wasp"}
    with server(suggested) as (address, _):
        page = opened(chromium, address)
        assert page.locator("#progress").inner_text() == "2 of 3 labelled"
        assert page.locator("#classes button").all_inner_texts() == ["1 ant", "2 bee", "3 wasp"]
        page.wait_for_function("document.activeElement.id === 'item-2'")
        page.keyboard.press("x")
        page.wait_for_selector("#progress:has-text('2 of 3 labelled, 1 of no use')")
