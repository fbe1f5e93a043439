"""The pages of serve in a real browser, and the commands that /docs shows, as they are pasted."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from answering import write_model
from browser import violations
from PIL import Image

from tutelage.deploy.uploads import Limits
from tutelage.pages import render

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (90, 60, 255)
WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where ``tutelage serve --quiet`` answers with a model that calls blue images unknown."""
    model = write_model(tmp_path_factory.mktemp("model") / "m.onnx", threshold=0.9)
    words = ["serve", str(model), "--port", "0", "--max-mb", "0.1", "--quiet"]
    command = [sys.executable, "-m", "tutelage", *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()
        assert process.stderr.read() == ""  # as it was told: --quiet


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    colours = {"photo.jpg": RED, "one.jpg": RED, "two.png": GREEN, "sea.png": BLUE}
    for name, colour in colours.items():
        Image.new("RGB", (60, 40), colour).save(folder / name)
    (folder / "notes.png").write_bytes(b"no picture")
    (folder / "large.png").write_bytes(bytes(100_001))
    return folder


@pytest.fixture
def page(address: str, chromium: Any) -> Iterator[Any]:
    """A phone on which / is open; ``page.faults`` is what went wrong."""
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with chromium.new_context(**phone) as context:
        opened = context.new_page()
        # A request right after a later ``route`` might slip through, were there none from here on.
        opened.route("**/unasked", lambda route: route.abort())
        opened.faults = []
        opened.on("pageerror", lambda error: opened.faults.append(str(error)))
        opened.on("console", lambda said: opened.faults.append(said.text))
        known = (address, f"blob:{address}")
        opened.on("request", lambda a: a.url.startswith(known) or opened.faults.append(a.url))
        opened.goto(address)
        opened.wait_for_selector("#about:has-text('m.onnx knows 2 classes: r, g.')")
        yield opened


def sent(page: Any, *files: Path) -> list[str]:
    """What the cards say in large letters once all of these are answered."""
    page.set_input_files("#files", list(files))
    # Not by wait_for_function: it evaluates, which the page's policy forbids.
    expect = pytest.importorskip("playwright.sync_api").expect
    expect(page.locator(".answer h2")).to_have_count(len(files))
    return list(page.locator(".answer h2").all_inner_texts())


def test_pictures_are_answered_with_every_probability(page: Any, pictures: Path) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    files = [pictures / name for name in ("one.jpg", "two.png", "sea.png")]
    assert sent(page, *files) == ["r", "g", "unknown"]
    red, _, blue = page.locator("#answers > li").all()
    assert red.locator("img").get_attribute("alt") == "one.jpg"
    assert red.locator("img").evaluate("image => image.decode()") is None  # it can be shown
    rows = [text.split() for text in red.locator("tr").all_inner_texts()]
    assert rows == [["r", "99.6%"], ["g", "0.0%"]]
    width = "bar => bar.firstChild.offsetWidth / bar.offsetWidth"
    assert red.locator(".bar").first.evaluate(width) == pytest.approx(0.996, abs=0.01)
    assert "It looks like none of the classes. The nearest is r." in blue.inner_text()
    assert "Answered in" in blue.inner_text()
    expect(page.get_by_role("status")).to_have_text("3 of 3 answered. sea.png: unknown")
    page.get_by_role("button", name="Clear").click()
    assert page.locator("#answers > li").count() == 0
    assert page.faults == []


def test_what_has_no_answer_says_why(page: Any, pictures: Path) -> None:
    files = [pictures / name for name in ("notes.png", "large.png", "one.jpg")]
    assert sent(page, *files) == ["No answer", "No answer", "r"]
    notes, large, _ = page.locator(".answer p:last-child").all_inner_texts()
    assert notes.startswith("The file is not a JPEG, PNG")
    assert large == "The file has 0.1 MB; the server takes 0.1 MB at most."
    page.route("**/predict*", lambda route: route.abort())
    page.set_input_files("#files", pictures / "one.jpg")
    page.wait_for_selector(".answer p:has-text('The server does not answer.')")


def test_many_classes_are_folded_and_a_threshold_is_told(
    page: Any, pictures: Path, address: str
) -> None:
    shares = {f"class {k}": 0.3 if k == 7 else 0.05 for k in range(15)}
    row = {"image": "image", "label": "class 3", "confidence": 0.05, "probabilities": shares}
    told = {"json": {"predictions": [row]}, "headers": {"Server-Timing": "predict;dur=7.2"}}
    page.route("**/predict*", lambda route: route.fulfill(**told))
    about = page.request.get(f"{address}health").json()
    about["decision_threshold"] = {"class 3": 0.04}
    page.route("**/health", lambda route: route.fulfill(json=about))
    page.reload()
    assert sent(page, pictures / "one.jpg") == ["class 3"]
    said = page.locator(".answer").inner_text()
    assert "class 7 is more probable, but the model says class 3 from a probability of 4%" in said
    assert "Answered in 7 ms" in said
    assert page.locator("tr:visible").count() == 12
    page.get_by_text("The other 3 classes").click()
    assert page.locator("tr:visible").count() == 15


def test_pictures_are_chosen_by_key_dropped_and_pasted(page: Any, pictures: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose pictures").press("Enter")
    assert chooser.value.is_multiple()
    chooser.value.set_files([pictures / "one.jpg", pictures / "two.png"])
    page.wait_for_selector("#status:has-text('2 of 2 answered')")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Take a photo").click()
    assert chooser.value.element.get_attribute("capture") == "environment"
    chooser.value.set_files(pictures / "photo.jpg")
    page.wait_for_selector("#status:has-text('3 of 3 answered. photo.jpg: r, 99.6%')")
    hand_over = """async ([kind, holder, address]) => {
        const bytes = await (await fetch(address)).blob();
        const held = new DataTransfer();
        held.items.add(new File([bytes], `${kind}.css`));
        document.dispatchEvent(Object.assign(new Event(kind), { [holder]: held }));
    }"""
    for kind, holder in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(hand_over, [kind, holder, "static/page.css"])
        page.wait_for_selector(f"#answers figcaption:has-text('{kind}.css')")
    page.wait_for_selector("#status:has-text('3 of 5 answered')")
    page.evaluate(
        "document.dispatchEvent(Object.assign(new Event('paste'), "
        "{ clipboardData: new DataTransfer() }))"
    )
    assert page.get_by_role("status").inner_text() == "There is no picture in the clipboard."


def test_both_pages_fit_a_phone_and_shut_nobody_out(
    page: Any, pictures: Path, address: str
) -> None:
    sent(page, pictures / "one.jpg", pictures / "sea.png")
    assert page.evaluate(WIDE) <= 0
    assert violations(page) == []
    page.goto(f"{address}docs")
    assert page.evaluate(WIDE) <= 0
    assert violations(page) == []
    assert page.faults == []


def test_the_command_is_copied(page: Any, address: str) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    page.wait_for_selector("button:has-text('Copied')")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == f"curl --data-binary @photo.jpg {address}predict"


def test_examples_work_as_they_are_pasted(address: str, pictures: Path) -> None:
    if not shutil.which("curl"):
        pytest.skip("no curl on this machine")
    runs = {"python": [sys.executable, "-c"]}
    if node := shutil.which("node"):
        runs["javascript"] = [node, "--input-type=module", "-e"]
    page = httpx.get(f"{address}docs").text
    said = {}
    for name, source in re.findall(r'<code id="(\w+)">(.*?)</code>', page, re.S):
        if name != "javascript" or node:
            command = [*runs.get(name, ["sh", "-c"]), unescape(source)]
            ended = subprocess.run(command, cwd=pictures, capture_output=True, text=True)
            assert ended.returncode == 0, ended.stderr
            said[name] = ended.stdout
    assert '"label":"r"' in said["one"]
    assert said["several"].count('"label"') == 2
    assert '"rejected":false' in said["reject"]
    assert all(said[name].startswith("r 0.99") for name in runs), said
    assert '"status":"ok"' in said["health"]
    assert "tutelage_requests_total" in said["metrics"]


def test_names_on_the_page_for_programs_are_no_markup() -> None:
    about = {"model": "<b>.onnx", "classes": ["<i>", "bee"], "rejects": False}
    html = render("serve/docs.html.j2", about=about, limits=Limits(), address='http://a"<s>')
    assert "&lt;b&gt;.onnx tells 2 classes apart." in html
    assert not any(tag in html for tag in ("<b>", "<i>", "<s>", "?reject"))


def test_pages_allow_no_script_but_their_own(address: str) -> None:
    for path in ("", "docs", "static/ask.js"):
        headers = httpx.get(f"{address}{path}").headers
        policy = "default-src 'none'; script-src 'self'"
        assert headers["content-security-policy"].startswith(policy)
        assert headers["x-content-type-options"] == "nosniff"
    assert httpx.get(f"{address}static/docs.html").status_code == 404
