"""The page in a real browser: what its keys do, what outlives a kill, and whom it shuts out."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
from browser import violations
from PIL import Image
from reviewing import write_choice
from served import serving
from shapes import FINISHED

from tutelage.chain.prepare import prepare
from tutelage.config import make_config
from tutelage.data.decisions import read_decisions
from tutelage.data.open import read_catalog


def server(run: Path) -> AbstractContextManager[tuple[str, ForkServerProcess]]:
    """``tutelage review`` and the address that it prints."""
    return serving("review", str(run), "--no-browser")


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """200 images to label first, so many that the ends of the list are not loaded together."""
    return chosen(tmp_path, [(40, 30)] * 200)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Four images to label first, larger than the window and than the pictures that are sent."""
    return chosen(tmp_path, [(2400, 1800)] * 4)


def chosen(place: Path, sizes: list[tuple[int, int]]) -> Path:
    """What ``tutelage suggest`` leaves that chose images of these (width, height)."""
    data, folder = place / "album", place / "chosen"
    data.mkdir()
    names = [f"{number:03}.jpg" for number in range(len(sizes))]
    for number, (name, (width, height)) in enumerate(zip(names, sizes, strict=True)):
        pixels = np.full((height, width, 3), number % 200, np.uint8)
        pixels[:, : width // 2] = 200
        Image.fromarray(pixels).save(data / name)
    return write_choice(folder, data, dict.fromkeys(names, ""))


def opened(
    chromium: Any, address: str, *, answer: Callable[[Any], None] | None = None, **context: Any
) -> Any:
    """The page; ``answer`` stands in for the server where the page sends decisions."""
    given = {"viewport": {"width": 1200, "height": 900}, **context}
    return another_window(chromium.new_context(**given), address, answer)


@contextmanager
def shown(chromium: Any, folder: Path, *, whole: bool = True, **context: Any) -> Iterator[Any]:
    """The page of a folder; in the end there must have been no fault, if it is whole."""
    with server(folder) as (address, _):
        page = opened(chromium, address, **context)
        yield page
        assert page.faults == [] or not whole


def another_window(context: Any, address: str, answer: Callable[[Any], None] | None = None) -> Any:
    page = context.new_page()
    if answer is not None:  # now: a request right after a later ``route`` may still slip through
        page.route("**/api/decisions", answer)
    page.set_default_timeout(10_000)
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda message: page.faults.append(message.text))
    page.goto(address)
    page.wait_for_selector(".item")
    return page


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def says(page: Any, text: str) -> None:
    page.wait_for_selector(f"#status:has-text({json.dumps(text)})")


def at(page: Any, text: str) -> None:
    page.wait_for_function(
        "text => document.getElementById('position').textContent === text", arg=text
    )


def picture(page: Any) -> dict[str, Any]:
    """The large picture, once it is there: its place on the screen, pixels and name."""
    page.wait_for_selector("#stage img")
    # Found and measured in one turn: a sharper picture may take its place between two.
    script = """() => { const image = document.querySelector("#stage img");
        const box = image.getBoundingClientRect();
        return {left: box.left, top: box.top, width: box.width, height: box.height,
                pixels: image.naturalWidth, name: image.alt}; }"""
    found: dict[str, Any] = page.evaluate(script)
    return found


def marked(page: Any) -> list[str]:
    """What is decided about each picture that is loaded, by the picture's name."""
    script = "cards => cards.map(c => c.querySelector('img').alt + ': ' + c.dataset.action)"
    return sorted(page.eval_on_selector_all(".item[data-action]", script))


def labels(folder: Path) -> dict[str, str | None]:
    return {name: decision.label for name, decision in sorted(read_decisions(folder).items())}


# --- what is decided is kept


def test_ten_corrections_outlive_a_reload_and_a_kill_and_the_next_run_uses_them(
    chromium: Any, reviewed: Path, photos: Path, own_cache: Path, tmp_path: Path
) -> None:
    with server(reviewed) as (address, process):
        page = opened(chromium, address)
        assert "token" not in page.url
        press(page, *"333333333", "x", "2", "u")  # one too many
        says(page, "Taken back")
        before = marked(page)
        assert len(before) == 10
        assert sum("reject" in line for line in before) == 1
        page.reload()
        page.wait_for_selector(".item")
        assert marked(page) == before
        assert page.faults == []
        os.kill(process.pid, signal.SIGKILL)
    with shown(chromium, reviewed) as page:
        assert marked(page) == before
        assert page.get_by_role("button", name="Decided (10)").is_visible()
    decisions = read_decisions(reviewed)
    labelled = {name for name, decision in decisions.items() if decision.label == "triangle"}
    assert len(labelled) == 9
    second = tmp_path / "second"
    config = make_config("run", {**FINISHED, "decisions": str(reviewed)})
    prepare("run", read_catalog(photos), str(photos), second, config, quiet=True).close()
    split = {row["image"]: row for row in parquet.read_table(second / "split.parquet").to_pylist()}
    for name in labelled:
        assert (split[name]["role"], split[name]["label"]) == ("labeled", "triangle")
    (rejected,) = decisions.keys() - labelled
    assert rejected not in split


def test_what_could_not_be_saved_is_shown_kept_and_sent_again(chromium: Any, album: Path) -> None:
    with server(album) as (address, _):
        page = opened(chromium, address, answer=lambda route: route.abort())
        press(page, "1", "2")
        says(page, "2 decisions are not saved yet, and will be sent again")
        assert "2 not saved yet" in page.locator("#progress").inner_text()
        assert "ant (not saved yet)" in page.locator(".item").first.inner_text()
        questions = []
        page.on("dialog", lambda dialog: (questions.append(dialog.type), dialog.dismiss()))
        page.close(run_before_unload=True)
        page.wait_for_timeout(200)
        assert questions == ["beforeunload"]
        page.unroute("**/api/decisions")
        says(page, "Saved: bee: 001.jpg.")
        assert "not saved" not in page.locator("body").inner_text()
        assert labels(album) == {"000.jpg": "ant", "001.jpg": "bee"}
        with page.expect_event("close"):  # nothing is asked where nothing can be lost
            page.close(run_before_unload=True)
        assert questions == ["beforeunload"]


def test_what_the_server_refuses_is_said_and_not_shown_as_decided(
    chromium: Any, album: Path
) -> None:
    with server(album) as (address, _):
        refusal = {"status": 400, "json": {"error": "this cannot be"}}
        page = opened(chromium, address, answer=lambda route: route.fulfill(**refusal))
        press(page, "1")
        says(page, "Not saved: this cannot be")
        page.wait_for_function("() => document.querySelectorAll('.item[data-action]').length === 0")
        press(page, "u")
        says(page, "Not taken back: this cannot be")


def test_two_windows_do_not_overrule_each_other_unseen(chromium: Any, album: Path) -> None:
    with server(album) as (address, _):
        first = opened(chromium, address)
        second = another_window(first.context, address)
        press(first, "1")
        says(first, "Saved: ant: 000.jpg.")
        press(second, "2")
        says(second, "another window decided meanwhile that 000.jpg is ant")
        second.wait_for_selector(".item:first-child:has-text('✓ ant')")
        press(second, "ArrowLeft", "2")
        says(second, "Saved: bee: 000.jpg.")
        assert labels(album) == {"000.jpg": "bee"}


# --- where one is


def test_it_begins_at_the_first_undecided_image_and_says_how_far_one_is(
    chromium: Any, album: Path
) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    with shown(chromium, album) as page:
        at(page, "1 of 200")
        press(page, *"1" * 75)
        at(page, "76 of 200")
        says(page, "Saved: ant: 074.jpg.")
        page.reload()
        page.wait_for_selector(".item")
        at(page, "76 of 200")
        assert page.evaluate("document.activeElement.id") == "item-75"
        assert page.locator("#progress").inner_text() == "75 of 200 labelled"
        assert page.locator("#share").evaluate("bar => bar.value") == pytest.approx(75 / 200)
        page.get_by_role("button", name="Earlier images").click()
        page.wait_for_selector("#item-0")
        press(page, "End")
        at(page, "200 of 200")
        press(page, "ArrowRight")
        says(page, "This is the last image.")
        press(page, "Home")
        at(page, "1 of 200")
        press(page, "n")
        at(page, "76 of 200")
        page.wait_for_selector("#item-75")
        page.locator("#shown").select_option("undecided")
        at(page, "1 of 125")
        assert page.evaluate("document.activeElement.id") == "item-75", "the keys go on there"
        page.locator("#shown").select_option("decided")
        at(page, "1 of 75")
        expect(page.locator(".item")).to_have_count(60)
        page.mouse.move(600, 400)
        page.mouse.wheel(0, 2000)
        expect(page.locator(".item")).to_have_count(75)  # the rest comes before the end is in sight
        page.locator("#class").select_option("bee")
        at(page, "0 of 0")
        assert page.locator("#empty").is_visible()


def test_the_end_is_said(chromium: Any, suggested: Path) -> None:
    with shown(chromium, suggested) as page:
        assert page.locator(".item .file").first.locator("wbr").count() == 0  # in no folder
        top = page.locator("#grid").bounding_box()["y"]
        press(page, "1", "2", "1")
        says(page, "Every image of this list is decided.")
        files = page.locator(".item .file").all_inner_texts()
        assert files == ["03.jpg", "01.jpg", "08.png"]
        assert f"--decisions {suggested}" in page.locator("#then").inner_text()
        assert page.locator("#grid").bounding_box()["y"] == top  # it has not moved under the hand


def test_keys_move_filter_and_show(chromium: Any, reviewed: Path) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    with shown(chromium, reviewed) as page:
        focused = "document.activeElement.id"
        first = page.evaluate(focused)
        press(page, "ArrowRight")
        assert page.evaluate(focused) != first
        press(page, "ArrowLeft")
        assert page.evaluate(focused) == first
        press(page, "ArrowDown", "ArrowUp")
        assert page.evaluate(focused) == first
        expect(page.locator("#about")).to_contain_text("It may be sure of the last ones.")
        press(page, "]")
        page.wait_for_selector("[data-view=suspicious][aria-pressed=true]")
        expect(page.locator(".item .why").last).to_contain_text("chance that it is wrong")
        titles = page.locator("#views button").all_inner_texts()[1:4]
        assert titles == ["Your labels (12)", "Least sure first (30)", "Surest first (30)"]
        expect(page.locator("#about")).to_have_text(
            "All of your own labels, the most doubtful first."
        )
        expect(page.locator(".item")).to_have_count(12)
        page.locator("#class").select_option("square")
        expect(page.locator(".item")).to_have_count(4)
        page.locator(".item").first.click(position={"x": 5, "y": 3})  # beside its picture
        press(page, "a")
        page.wait_for_selector(".item[data-action=accept]")
        press(page, "c")
        page.keyboard.type("disc")
        press(page, "Enter")
        page.wait_for_selector(".item[data-action=relabel]")


@pytest.mark.parametrize(
    ("suspicion", "suspected", "said"),
    [
        (0.03, False, ["why", "your label; 3% chance that it is wrong"]),
        (0.87, True, ["doubt", "looks like bee; 87% chance that it is wrong"]),
    ],
)
def test_only_a_doubtful_label_is_said_to_look_like_another(
    chromium: Any, suggested: Path, suspicion: float, suspected: bool, said: list[str]
) -> None:
    item = {"image": "1.jpg", "given": "ant", "label": "bee"}
    item |= {"suspicion": suspicion, "suspected": suspected}
    with shown(chromium, suggested) as page:
        script = "async item => (await import('/static/words.js')).lines(item)"
        assert page.evaluate(script, item) == [["file", "1.jpg"], ["label", "ant"], said]


def test_an_unknown_key_is_answered(chromium: Any, suggested: Path) -> None:
    with shown(chromium, suggested) as page:
        says(page, "Press ? for the keys.")
        press(page, "k")
        says(page, "k does nothing here. Press ? for the keys.")
        press(page, "9")
        says(page, "No class has the key 9. Press C and type its name.")
        press(page, "a")
        says(page, "There is no label yet that could be right: choose a class.")
        press(page, "?")
        assert page.locator("#help").is_visible()
        assert "the next undecided image" in page.locator("#help").inner_text()
        press(page, "1")  # nothing is decided behind the dialog
        press(page, "?")
        assert page.locator("#help").is_hidden()
        press(page, "Enter", "k")
        says(page, "k does nothing here.")
    assert labels(suggested) == {}


# --- the large picture


def test_a_large_picture_is_zoomed_and_moved(chromium: Any, large: Path) -> None:
    with shown(chromium, large) as page:
        page.locator(".item img").nth(1).click()
        whole = picture(page)
        assert (whole["name"], whole["pixels"]) == ("001.jpg", 1600)
        assert whole["width"] < 1200
        assert whole["height"] < 900
        press(page, "ArrowRight")
        at(page, "3 of 4")
        press(page, "ArrowUp")
        at(page, "2 of 4")
        press(page, "z")
        page.wait_for_function("() => document.querySelector('#stage img')?.naturalWidth === 2400")
        own = picture(page)
        assert own["width"] == own["pixels"] == 2400
        assert "1800 pixels, shown at 100%" in page.locator("#caption").inner_text()
        press(page, "ArrowRight", "ArrowDown")
        moved = picture(page)
        assert (moved["name"], moved["width"]) == ("001.jpg", 2400)
        assert moved["left"] < own["left"] - 200
        assert moved["top"] < own["top"] - 150
        press(page, *["ArrowRight"] * 9)
        edge = picture(page)
        assert edge["name"] == "001.jpg", "the edge ends the way"
        assert edge["left"] + edge["width"] == pytest.approx(1192, abs=2)
        page.mouse.move(500, 400)
        page.mouse.down()
        page.mouse.move(700, 450)
        page.mouse.up()
        dragged = picture(page)
        assert dragged["left"] == pytest.approx(edge["left"] + 200, abs=1)
        press(page, "-")
        assert picture(page)["width"] == pytest.approx(1600, abs=1)
        press(page, "z")
        assert picture(page)["width"] == pytest.approx(whole["width"], abs=1)


def test_the_wheel_zooms_where_it_is_turned(chromium: Any, large: Path) -> None:
    with shown(chromium, large) as page:
        press(page, "Enter")
        before = picture(page)
        x, y = before["left"] + before["width"] / 4, before["top"] + before["height"] / 4
        page.mouse.move(x, y)
        page.mouse.wheel(0, -400)
        page.wait_for_function("() => document.querySelector('#stage img').offsetWidth > 2000")
        after = picture(page)
        assert after["left"] + after["width"] / 4 == pytest.approx(x, abs=2)
        assert after["top"] + after["height"] / 4 == pytest.approx(y, abs=2)
        page.mouse.dblclick(600, 400)
        assert picture(page)["width"] == pytest.approx(before["width"], abs=1)
        page.mouse.dblclick(600, 400)
        page.wait_for_function("() => document.querySelector('#stage img')?.naturalWidth === 2400")
        assert picture(page)["width"] == 2400


def test_deciding_goes_on_to_the_next_image_also_zoomed(chromium: Any, large: Path) -> None:
    with shown(chromium, large) as page:
        press(page, "Enter")
        whole = picture(page)
        press(page, "+", "+")
        wide = picture(page)["width"]
        assert wide > 2 * whole["width"]
        press(page, "2")
        says(page, "Saved: bee: 000.jpg.")
        page.wait_for_selector("#stage img[alt='001.jpg']")
        assert picture(page)["width"] == pytest.approx(wide, abs=1)
        press(page, "c")
        page.keyboard.type("wasp")
        press(page, "Enter", "Enter")
        says(page, "Saved: wasp: 001.jpg.")
        page.wait_for_selector("#stage img[alt='002.jpg']")
        press(page, "3")
        says(page, "Saved: wasp: 002.jpg.")
        press(page, "u")
        page.wait_for_selector("#stage img[alt='002.jpg']")
        press(page, "PageDown", "x")
        says(page, "Saved: of no use: 003.jpg.")
        press(page, "Escape")
        assert page.locator("#viewer").is_hidden()
        assert page.evaluate("document.activeElement.id") == "item-3"
    assert labels(large) == {"000.jpg": "bee", "001.jpg": "wasp", "003.jpg": None}


def test_an_image_that_cannot_be_shown_is_said_and_does_not_stop_one(
    chromium: Any, album: Path
) -> None:
    (album.parent / "album" / "000.jpg").write_bytes(b"no image")
    with shown(chromium, album, whole=False) as page:
        press(page, "Enter")
        page.wait_for_selector("#stage:has-text('This image cannot be shown.')")
        press(page, "x")
        page.wait_for_selector("#stage img[alt='001.jpg']")


# --- several at once


def test_several_are_decided_and_taken_back_as_one(chromium: Any, album: Path) -> None:
    with shown(chromium, album) as page:
        press(page, "Shift+ArrowRight", "Shift+ArrowRight", "2")
        at(page, "4 of 200")
        says(page, "Saved: bee: 3 images.")
        press(page, "Control+z")
        says(page, "Taken back: bee, 3 images.")
        at(page, "1 of 200")
        assert labels(album) == {}
        press(page, "Control+y")
        says(page, "Saved: bee: 3 images.")
        press(page, "u")
        says(page, "Taken back")
        press(page, "Control+y", "u", "Control+y")  # faster than the answer
        says(page, "Saved: bee: 3 images.")
        said: set[str] = set()
        for _ in range(100):  # a late answer to one of those may take the place of the words
            press(page, "Control+y")
            page.wait_for_timeout(50)
            said.add(page.inner_text("#status"))
            if "There is nothing to make again." in said:
                break
        assert "There is nothing to make again." in said
        while len(labels(album)) != 3:  # the last of them is on its way
            page.wait_for_timeout(20)
        page.locator(".item").nth(10).click(modifiers=["Control"])
        page.locator(".item").nth(12).click(modifiers=["Control"])
        at(page, "13 of 200, 2 selected")
        press(page, " ", " ", "c")
        assert "2 images" in page.locator("#chooser").inner_text()
        page.keyboard.type("wasp")
        press(page, "Enter", "Enter")
        says(page, "Saved: wasp: 2 images.")
        at(page, "14 of 200")
        page.locator(".item").nth(20).click(position={"x": 5, "y": 3})
        page.locator(".item").nth(23).click(modifiers=["Shift"])
        at(page, "24 of 200, 4 selected")
        press(page, "x")
        says(page, "Saved: of no use: 4 images.")
    found = labels(album)
    assert [name for name in found if found[name] == "wasp"] == ["010.jpg", "012.jpg"]
    assert [name for name in found if found[name] is None] == [f"0{n}.jpg" for n in range(20, 24)]


def test_a_large_picture_is_decided_alone_and_the_selection_stays(
    chromium: Any, album: Path
) -> None:
    with shown(chromium, album) as page:
        press(page, "Shift+ArrowRight", "Shift+ArrowRight", "Enter", "1")
        says(page, "Saved: ant: 002.jpg.")
        press(page, "Escape")
        at(page, "4 of 200, 2 selected")
        press(page, "2")
        says(page, "Saved: bee: 2 images.")
        press(page, " ")
        at(page, "3 of 200, 1 selected")
        press(page, "Escape")
        at(page, "3 of 200")
    assert labels(album) == {"000.jpg": "bee", "001.jpg": "bee", "002.jpg": "ant"}


def test_all_that_are_loaded_are_selected_and_the_rest_is_said(chromium: Any, album: Path) -> None:
    with shown(chromium, album) as page:
        page.mouse.wheel(0, 1000)
        page.wait_for_selector(".item:nth-child(120)")  # what is ahead is loaded
        press(page, "Control+a")
        says(page, "Those that are not loaded yet are not selected.")
        loaded = page.locator(".item").count()
        assert page.locator(".item[aria-selected=true]").count() == loaded < 200
        page.keyboard.press("Escape")
        assert page.locator(".item[aria-selected=true]").count() == 0


# --- whom it shuts out


@pytest.mark.parametrize("width", [1200, 390])
def test_nobody_is_shut_out(chromium: Any, reviewed: Path, width: int) -> None:
    with server(reviewed) as (address, process):
        page = opened(chromium, address, viewport={"width": width, "height": 844})
        press(page, "1", "x", " ", "Shift+ArrowRight")
        says(page, "Saved")
        assert violations(page) == []
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wide) <= 0
        for open_it, close_it in (("Enter", "Escape"), ("?", "Escape"), ("c", "Escape")):
            press(page, open_it)
            assert violations(page) == []
            assert page.evaluate(wide) <= 0
            press(page, close_it)
        process.kill()
        process.join()
        press(page, "1")
        says(page, "will be sent again")
        assert violations(page) == []


def test_a_phone_labels_by_touch(chromium: Any, large: Path) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with shown(chromium, large, **phone) as page:
        says(page, "Tap a picture to see it large.")
        page.locator(".item img").first.tap()
        page.get_by_role("button", name="bee").tap()
        page.wait_for_selector("#stage img[alt='001.jpg']")
        swipe(page, 300, 100)
        at(page, "3 of 4")
        swipe(page, 100, 300)
        at(page, "2 of 4")
        page.get_by_role("button", name="Zoom in").tap()
        page.get_by_role("button", name="Zoom in").tap()
        before = picture(page)["left"]
        swipe(page, 300, 250)
        assert before - 52 <= picture(page)["left"] <= before - 25  # the browser waits for a few
        page.get_by_role("button", name="Close").tap()
        page.get_by_role("button", name="Select several").tap()
        for number in (2, 3):
            page.locator(".item img").nth(number).tap()
        page.get_by_role("button", name="ant").tap()
        says(page, "Saved: ant: 2 images.")
    assert labels(large) == {"000.jpg": "bee", "002.jpg": "ant", "003.jpg": "ant"}


def swipe(page: Any, start: int, end: int) -> None:
    """Draw a finger across the middle of the picture."""
    session = page.context.new_cdp_session(page)

    def touch(kind: str, *points: int) -> None:
        given = [{"x": x, "y": 350} for x in points]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": given})

    touch("touchStart", start)
    touch("touchMove", (start + end) // 2)
    touch("touchMove", end)
    touch("touchEnd")
    page.wait_for_timeout(300)  # the browser takes a tap right after for the end of the movement


def test_a_bare_folder_is_labelled_by_keys_with_a_class_typed_in(
    chromium: Any, suggested: Path
) -> None:
    with shown(chromium, suggested) as page:
        assert page.locator("#progress").inner_text() == "0 of 3 labelled"
        press(page, "2")
        page.wait_for_selector("#progress:has-text('1 of 3 labelled')")
        press(page, "c")
        page.keyboard.type("Bee")
        press(page, "Enter")
        assert page.locator("#hint").inner_text() == "The class is called bee."
        page.locator("#wanted").fill("wasp")
        press(page, "Enter")
        assert "no class wasp yet" in page.locator("#hint").inner_text()
        press(page, "Enter")
        page.wait_for_selector("#progress:has-text('2 of 3 labelled')")
        press(page, "3")
        page.wait_for_selector("#progress:has-text('3 of 3 labelled')")
        press(page, "u")
        page.wait_for_selector("#progress:has-text('2 of 3 labelled')")
    assert labels(suggested) == {"01.jpg": "wasp", "03.jpg": "bee"}
    with shown(chromium, suggested) as page:
        assert page.locator("#progress").inner_text() == "2 of 3 labelled"
        assert page.locator("#classes button").all_inner_texts() == ["1 ant", "2 bee", "3 wasp"]
        page.wait_for_function("() => document.activeElement.id === 'item-2'")
        press(page, "x")
        page.wait_for_selector("#progress:has-text('2 of 3 labelled, 1 of no use')")
