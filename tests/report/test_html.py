from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from html.parser import HTMLParser
from itertools import product
from typing import Any

import numpy as np
import pytest

from tutelage.pages import read
from tutelage.pages.wording import DASH
from tutelage.report import html
from tutelage.report.model import FILES, ClassSheets, Sheet, Thumb

VOID = {"meta", "img", "br", "wbr", "link", "input"}


class Page(HTMLParser):
    """The parsed page: its elements and visible text; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag in {"td", "th"}:
            self.words += " "

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & {*self._open}:
            self.words += data

    def text(self) -> str:
        return " ".join(self.words.split())


@pytest.fixture(scope="module")
def bare_page(make_report: Any) -> str:
    """The page of one stage, and nothing else."""
    return html.render(make_report({"probe": (1.0, True)}))


def test_the_full_page_tells_everything(full_page: str) -> None:
    page = Page(full_page)
    text = page.text()
    for words in (
        "A run", "tutelage run photos --out runs/a", "2025-01-01 00:00",
        "79.0% of 200 test images are classified correctly by the student", "macro-F1 is 78.0%",
        "40.0% would be correct if the answer were always “ant”",
        "95% interval 74.0% to 79.0%",
        "labelled ant, probably bee: 71% likely to be wrong", "ant/odd.png",
        "tutelage review runs/a",
        "Gained 10.0 points", "Kept: it wins more.",
        "Rejected, and not part of the final model: self-train-1",
        "optimistic for a new plant", "student.onnx the model to deploy",
        "0.051", "0.432", "1,234,567", "1 min 15 s", "rejected round", "1 of 9 test images wrong",
        "tutelage predict runs/a",
        "Round 1 was over-confident", "views/photo.png", "What the student saw.",
        "16.00 MB", "it wins more", "broken.jpg cut short", "3 files could not be read",
        "teacher.lr 0.01", "limit null", "seed 7",
    ):  # fmt: skip
        assert words in text, words
    labelled = [a for tag, a in page.elements if tag == "svg" and "aria-label" in a]
    assert len(labelled) == 4  # ladder, reliability, precision and recall, ROC


def test_the_page_needs_no_network_and_runs_its_own_script_alone(full_page: str) -> None:
    text, page = full_page, Page(full_page)
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        assert tag != "script" or attributes == {}
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in {"src", "href", "xlink:href"}:
                beside = value in FILES  # links to what lies beside the page
                assert beside or (value or "").startswith(("#", "data:image/"))
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    policy = [a["content"] for t, a in page.elements if a.get("http-equiv")]
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    ]
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", script)


def test_ids_are_unique_links_lead_somewhere_and_pictures_have_words(full_page: str) -> None:
    page = Page(full_page)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    links = {a["href"] or "" for tag, a in page.elements if tag == "a"}
    assert {"student.onnx", "student/", "MODEL_CARD.md"} < links
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert {link for link in links if not link.startswith("#")} <= set(FILES)
    images = [a for tag, a in page.elements if tag == "img"]
    assert all(a.get("alt") for a in images if a.get("src"))  # the script fills the enlarged one
    pictures = [a for tag, a in page.elements if tag == "svg"]
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in pictures)


def test_every_step_has_a_row_that_says_why_it_was_kept(
    make_report: Any, full_fields: dict[str, Any]
) -> None:
    full_fields["reasons"]["student"] = "training brought it closer"
    text = Page(html.render(make_report(**full_fields))).text()
    table = text.split("Why each step was kept or rejected")[1].split("Pseudo-labels")[0]
    assert "transfer ✓ kept 70.0% 80.0% 6 2 40 +10.0" in table
    assert "Kept: it wins more." in table
    nothing = " ".join([DASH] * 6)
    assert f"self-train-1 ✗ rejected {nothing}" in table  # the fixture has no decision on it
    assert f"student ✓ kept {nothing} Not judged on held-out labels: it is made" in table
    assert "kept in any case. Training brought it closer." in table


def test_page_and_card_have_the_same_notes(make_report: Any, full_fields: dict[str, Any]) -> None:
    full_fields["notes"] = ["self-train-2 was left out (--minutes)", "images: a, b"]
    report = make_report(**full_fields)
    text = html.render(report)
    said = re.findall("<li>(.*?)</li>", text.split('id="notes"')[1].split("</ul>")[0])
    written = html.render_card(report).split("## Before you rely on it")[1]
    assert said == [line[2:] for line in written.splitlines() if line.startswith("- ")]
    assert said[:2] == ["Self-train-2 was left out (--minutes).", "Images: a, b."]
    assert f"Before you rely on it: {len(said)} notes" in Page(text).text()


def test_what_the_run_decided_stands_among_the_details(
    make_report: Any, full_fields: dict[str, Any]
) -> None:
    report = make_report(facts=["the student is the whole of lite0"], **full_fields)
    notes, rest = Page(html.render(report)).text().split("What each step gained")
    decided = rest.split("What the run decided")[1].split("Pseudo-labels")[0]
    assert decided.split() == ["The", "student", "is", "the", "whole", "of", "lite0."]
    assert "lite0" not in notes
    how, before = (
        html.render_card(report).split("## How it was made")[1].split("## Before you rely")
    )
    assert "The student is the whole of lite0." in how
    assert "lite0" not in before


@pytest.mark.parametrize(
    ("settings", "why"),
    [({}, "no round of self-training was planned"),
     ({"left_out": "self-train-1"}, "no time was left for self-train-1"),
     ({"clusters": {"agreement": 0.4, "doubt": "agreement: 0.40"}},
      "the unlabelled images do not seem to group by class (agreement: 0.40)")],
)  # fmt: skip
def test_why_there_are_no_pseudo_labels_is_known(
    make_report: Any, settings: dict[str, Any], why: str
) -> None:
    report = make_report(settings=settings, counts={"labeled": 16, "unlabeled": 80})
    assert f"No pseudo-labels were used: {why}." in Page(html.render(report)).text()


@pytest.mark.parametrize(
    ("pool", "words"),
    [(80, "The student's probabilities were calibrated on unlabelled training images, to be"),
     (0, "The student's probabilities were calibrated on labelled training images, to be")],
)  # fmt: skip
def test_what_the_students_calibration_rests_on_is_said(
    make_report: Any, pool: int, words: str
) -> None:
    report = make_report(counts={"unlabeled": pool})
    assert words in Page(html.render(report)).text().split("Details")[-1]
    assert words in html.render_card(report).split("## How it was made")[1]


def test_what_a_teachers_calibration_rests_on_is_said(
    make_report: Any, without_figures: Any
) -> None:
    report = make_report({"probe": (0.7, True), "self-train-1": (0.8, True)}, test=False)
    said = "The probabilities of self-train-1 were calibrated on "
    assert f"{said}held-out labels." in html.render_card(report)
    unjudged = without_figures(report, "self-train-1")
    assert f"{said}what its teacher said of the unlabelled images." in html.render_card(unjudged)


HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "x" * 5000,
           "{{ 7 * 7 }}", "\udcff\u202e$\\frac{")  # fmt: skip


def test_copies_are_told_with_what_they_were_worth(make_report: Any, bare_page: str) -> None:
    report = make_report({"probe": (0.7, True)})
    assert "Copies" not in Page(bare_page).text()
    counts = {"test": 3, "val": 0, "two_labels": 1, "left_out": 4, "pairs": 5}
    clean = {"probe": {"n": 197, "accuracy": 0.643, "accuracy_ci95": [0.6, 0.7]}}
    leakage = {**counts, "without": clean}
    told = dataclasses.replace(report, metrics={**report.metrics, "leakage": leakage})
    said = " ".join(Page(html.render(told)).text().split())
    assert "5 pairs of images show the same thing; 4 images were left out for that." in said
    assert "3 test and 0 val images have a copy" in said
    assert "1 pair has two labels" in said
    table = said.split("without copied images")[1].split("Skipped files")[0]
    assert "70.0%" in table
    assert "64.3%" in table
    assert "197" in table
    nothing = {**report.metrics, "leakage": {**counts, "pairs": 0, "without": {}}}
    report = dataclasses.replace(report, metrics=nothing)
    assert "Copies" not in Page(html.render(report)).text()


def test_hostile_names_stay_text(make_report: Any, full_fields: dict[str, Any]) -> None:
    evil = HOSTILE[0]
    full_fields["notes"] = [evil]
    full_fields["skipped"] = [(name, name) for name in HOSTILE]
    full_fields["settings"] = {name: {name: name} for name in HOSTILE}
    full_fields["pseudo"] = [{**full_fields["pseudo"][0], "class": name} for name in HOSTILE]
    full_fields["reasons"] = {"transfer": evil}
    image = full_fields["sheets"][0].thumbs[0].image
    full_fields["sheets"] = [Sheet(evil, evil, [Thumb(image, name, name) for name in HOSTILE])]
    full_fields["class_sheets"] = [ClassSheets(evil, full_fields["sheets"])]
    full_fields["to_review"] = full_fields["sheets"][0].thumbs
    full_fields["folder"] = evil
    stages = {"probe": (0.7, True), evil: (0.8, True)}
    report = make_report(stages, classes=HOSTILE, **full_fields)
    report = dataclasses.replace(report, title=evil, command=evil, created=evil)
    text = html.render(report)
    page = Page(text)
    assert text.count("<script") == 1
    assert "49" not in re.findall(r"<bdi[^>]*>([^<]*)</bdi>", text)
    assert all(not key.startswith("on") for _, a in page.elements for key in a)
    assert sum(tag == "img" for tag, _ in page.elements) == 3 * len(HOSTILE) + 1
    assert "<script>alert(1)</script>" in page.text()
    assert "{{ 7 * 7 }}" in page.text()
    assert "x" * 200 not in re.sub(r'title="[^"]*"', "", page.text().split("Every setting")[0])
    text.encode("utf-8")


def test_without_a_test_split_the_page_warns(make_report: Any, full_fields: dict[str, Any]) -> None:
    text = Page(html.render(make_report(test=False, **full_fields))).text()
    assert "There are no test images. The figures come from held-out labelled images." in text
    assert "They may be too low, because" in text
    assert "another choice of held-out labelled images would change" in text
    assert "on test images, and what self-training" not in text
    assert "accuracy on held-out labelled images, with 95% intervals" in text
    assert "Without test images there are no class-wise figures" in text


def test_without_test_images_the_first_screen_gives_the_teachers_accuracy(
    make_report: Any, without_figures: Any
) -> None:
    report = without_figures(make_report(test=False, folder="runs/a b"), "student")
    text = " ".join(Page(html.render(report)).text().split())
    assert "no accuracy to report" not in text
    assert "of 40 held-out labelled images are classified correctly by the" in text
    assert "was not judged: there are no test images." in text
    assert "tutelage evaluate 'runs/a b' DATA" in text


def test_a_class_that_test_lacks_is_named(make_report: Any) -> None:
    labels = np.array([0, 0, 2, 2] * 10)
    report = make_report(classes=("ant", "bee", "wasp"), labels=labels)
    text = Page(html.render(report)).text()
    assert "No test image shows bee: nothing here says how well it is recognised." in text


def test_one_bare_stage_is_a_page_too(bare_page: str) -> None:
    page = Page(bare_page)
    text = page.text()
    for words in (
        "There is only one step", "There is no mistake on the test images.",
        "There are neither test images nor pseudo-labels",
        "No pseudo-labels were used: the run had no unlabelled images.",
        "Nothing was exported or timed.", "There was no step to decide about.",
        "Every image could be read.", "No settings were recorded.",
    ):  # fmt: skip
        assert words in text, words


def test_of_a_hundred_classes_those_in_the_most_mistakes_are_shown(make_report: Any) -> None:
    classes = tuple(f"class {k}" for k in range(100))
    text = html.render(make_report(classes=classes, n=1000))
    page = Page(text)
    assert sum(tag == "svg" for tag, _ in page.elements) == 2
    assert any(tag == "details" for tag, _ in page.elements)
    assert "The ten weakest classes by F1" in page.text()
    assert "100 class 99" in page.text()
    matrix = text.split('class="matrix"')[1].split("</table>")[0]
    assert matrix.count("<td ") == 21 * 21
    assert matrix.count("others") == 2
    assert "the other 80 are summed up" in page.text()


def test_the_confusion_table_has_the_counts(make_report: Any) -> None:
    labels = np.array([0] * 30 + [1] * 10)
    text = html.render(make_report({"probe": (0.9, True)}, labels=labels))
    cells = re.findall(r'<td class="(hit|miss)" style="--share: ([\d.]+)%">([^<]*)</td>', text)
    # The last four images are wrong, all of them bees called ants.
    assert cells == [("hit", "45.0", "30"), ("miss", "0.0", "·"),
                     ("miss", "18.0", "4"), ("hit", "27.0", "6")]  # fmt: skip


def test_many_large_noisy_thumbnails_stay_under_five_megabytes(make_report: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (150, 150, 3), dtype=np.uint8)
    sheets = [Sheet(f"sheet {k}", "noise", [Thumb(noise, "n")] * 120) for k in range(3)]
    text = html.render(make_report({"probe": (0.7, True)}, sheets=sheets))
    assert len(text.encode()) < 5_000_000
    shown = text.count("<img src=")
    left_out = [int(found) for found in re.findall(r"(\d+) more left out", text)]
    assert len(left_out) == 3
    assert shown + sum(left_out) == 360
    assert shown >= 60


def test_the_same_report_is_the_same_page(
    make_report: Any, full_fields: dict[str, Any], full_page: str
) -> None:
    assert html.render(make_report(**full_fields)) == full_page


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb`` (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def blend(over: str, under: str, share: float) -> str:
    pairs = [(int(over[i : i + 2], 16), int(under[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in pairs)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_meets_wcag_aa(scheme: int) -> None:
    template = read("base.css")
    block = re.findall(r":root \{([^}]*--paper[^}]*)\}", template)[scheme]
    colour = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
    texts = ("ink", "muted", "student", "teacher", "good", "bad")
    for text, ground in product(texts, ("paper", "panel")):
        assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
    assert contrast(colour["ink"], colour["warn"]) >= 4.5
    for shade in ("student", "bad"):  # the confusion matrix shades its cells up to 45%
        cell = blend(colour[shade], colour["paper"], 0.45)
        assert contrast(colour["ink"], cell) >= 4.5
