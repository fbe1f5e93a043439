"""Draw the pictures of the documentation into docs/images/.

python docs/pictures.py              the badges, the drawing and the chart
python docs/pictures.py report RUN NAME [HEADING]
                                     NAME.png: RUN's report, from its top or from a heading on
python docs/pictures.py page RUN NAME
                                     NAME.png: the page of export --web, with a digit

The moving picture of a terminal is made by docs/terminal.py.
"""

from __future__ import annotations

import io
import json
import shutil
import statistics
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
STYLE = """
svg{font-family:system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif}
.page{fill:#fff}.ink{fill:#1f2328}.soft{fill:#59636e}.line{stroke:#59636e;fill:none}
.ours{fill:#0f766e}.theirs{fill:#9aa4af}.box{fill:#f3f6f8;stroke:#c3cbd3}.key{fill:#e3f4f1;stroke:#0f766e}
.dot{fill:#fff;stroke:#1f2328}
@media (prefers-color-scheme:dark){.page{fill:#14181d}.ink{fill:#e8edf2}.soft{fill:#a3afba}
.line{stroke:#a3afba}.ours{fill:#2dd4bf}.theirs{fill:#66717d}.box{fill:#1f262d;stroke:#3d4751}
.key{fill:#133a36;stroke:#2dd4bf}.dot{fill:#14181d;stroke:#e8edf2}}
"""


def svg(width: int, height: int, words: str, parts: Sequence[str], style: str = STYLE) -> str:
    """A picture that is legible on light and dark pages.

    Args:
        width: of the drawing, in its own units.
        height: likewise.
        words: the text alternative.
        parts: the elements.
        style: CSS.
    """
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{escape(words)}">'
    )
    page = f'<rect class="page" width="{width}" height="{height}" rx="8"/>'
    return "\n".join([head, f"<style>{style.strip()}</style>", page, *parts, "</svg>\n"])


def text(
    x: float, y: float, words: str, *, size: int = 16, kind: str = "ink", bold: bool = False
) -> str:
    """A line of text that begins at (x, y)."""
    weight = 600 if bold else 400
    head = f'<text class="{kind}" x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}">'
    return f"{head}{escape(words)}</text>"


# --- badges


def badge(name: str, value: str) -> str:
    """A badge of two fields, as repositories have them; it asks no service."""
    left, right = (14 + round(6.7 * len(part)) for part in (name, value))
    width = left + right
    parts = [
        '<clipPath id="c"><rect width="100%" height="20" rx="3"/></clipPath>',
        f'<g clip-path="url(#c)"><rect width="{left}" height="20" fill="#4a5159"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="#0f766e"/></g>',
    ]
    for middle, words in ((left / 2, name), (left + right / 2, value)):
        parts.append(
            f'<text x="{middle:g}" y="14" font-size="11" fill="#fff" '
            f'text-anchor="middle">{escape(words)}</text>'
        )
    style = 'svg{font-family:Verdana,"DejaVu Sans",sans-serif}.page{fill:none}'
    return svg(width, 20, f"{name}: {value}", parts, style)


def badges() -> dict[str, str]:
    """The badges by file name, with what pyproject.toml says."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    prefix = "Programming Language :: Python :: "
    pythons = [c.removeprefix(prefix) for c in project["classifiers"] if c.startswith(prefix)]
    return {
        "badge-licence.svg": badge("licence", project["license"]),
        "badge-python.svg": badge("python", " | ".join(pythons)),
        "badge-types.svg": badge("types", "mypy strict"),
    }


# --- the drawing of docs/concepts.md

FLOW = (  # title, two lines of words, class of its box
    ("probe", "a classifier on top of a pretrained network,", "which stays as it is", "box"),
    ("transfer", "the network itself learns from your labels,", "if held-out labels say so", "box"),
    (
        "self-training",
        "the teacher labels the pool; a student learns",
        "from it and teaches the next round",
        "box",
    ),
    ("student", "a small network learns to answer", "as the teacher does", "box"),
    ("student.onnx", "runs without PyTorch; report.html shows", "what each stage gained", "key"),
)


def flow() -> str:
    """From labelled and unlabelled images to a student, one box below the other."""
    width, left, top, step = 640, 40, 128, 92
    parts = [
        _box(left, 24, 260, ("a few labelled images", "10 of each class, say"), "key"),
        _box(width - 308, 24, 268, ("many unlabelled images", "the pool"), "box"),
        f'<path class="line" stroke-width="2" d="M165 84 V{top - 8}"/>',
        f'<path class="soft" d="M165 {top - 2} l-5 -10 h10 z"/>',
    ]
    for number, (title, first, second, kind) in enumerate(FLOW):
        y = top + number * step
        parts.append(_box(left, y, 500, (title, first, second), kind))
        if number:
            parts.append(_arrow(165, y - 20, y - 2))
    pool = width - 60
    rounds, student = top + 2 * step, top + 3 * step
    parts += [
        f'<path class="line" stroke-width="2" d="M{pool} 84 V{student + 36} H548"/>',
        f'<path class="line" stroke-width="2" d="M{pool} {rounds + 36} H548"/>',
        f'<path class="soft" d="M540 {rounds + 36} l10 -5 v10 z"/>',
        f'<path class="soft" d="M540 {student + 36} l10 -5 v10 z"/>',
    ]
    end = top + len(FLOW) * step
    held_out = "After each stage held-out labels decide whether it is kept."
    parts += [
        text(left, end + 14, held_out, kind="soft"),
        text(left, end + 36, "Test images are read once, after the last decision.", kind="soft"),
    ]
    words = (
        "A few labelled images train a probe, then transfer. Self-training also uses the many "
        "unlabelled images. A small student learns from the teacher and is exported to ONNX. "
        "Held-out labels decide whether a stage is kept."
    )
    return svg(width, end + 56, words, parts)


def _box(x: int, y: int, width: int, lines: Sequence[str], kind: str) -> str:
    height = 24 + 20 * (len(lines) - 1) + (8 if len(lines) > 2 else 16)
    parts = [
        f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="8" '
        'stroke-width="1.5"/>',
        text(x + 16, y + 24, lines[0], size=17, bold=True),
    ]
    parts += [text(x + 16, y + 45 + 19 * i, line, kind="soft") for i, line in enumerate(lines[1:])]
    return "".join(parts)


def _arrow(x: int, start: int, end: int) -> str:
    return (
        f'<path class="line" stroke-width="2" d="M{x} {start} V{end - 6}"/>'
        f'<path class="soft" d="M{x} {end} l-5 -10 h10 z"/>'
    )


# --- the chart against peers

CELL = {"data": "cifar10", "labels_per_class": 4, "teacher": "tf_efficientnet_lite0"}
BARS = (  # arm of benchmarks/efficiency.jsonl, its words, whether it is tutelage's result
    ("timm-fine-tune", "timm: fine-tuning", False),
    ("freematch", "USB: FreeMatch", False),
    ("probe", "frozen trunk and linear head", False),
    ("sklearn-k-best", "scikit-learn: self-training", False),
    ("student", "tutelage: student", True),
    ("self-train", "tutelage: teacher", True),
)
NOTE = (
    "All start from the same EfficientNet-lite0 and get the same labels, the same pool of",
    "6,000 images and 7 minutes on one core. The peers' settings are their authors', which",
    "were made for more steps than these minutes hold.",
)


def peer_draws() -> dict[str, list[float]]:
    """Accuracy of each arm on the label draws that all arms share, in their order."""
    lines = (ROOT / "benchmarks" / "efficiency.jsonl").read_text("utf-8").splitlines()
    found: dict[str, dict[int, float]] = {}
    for row in map(json.loads, lines):
        if all(row[name] == value for name, value in CELL.items()):
            found.setdefault(row["arm"], {})[row["seed"]] = row["accuracy"]
    shared = sorted(set.intersection(*(set(found[arm]) for arm, *_ in BARS)))
    return {arm: [found[arm][seed] for seed in shared] for arm, *_ in BARS}


def peers() -> str:
    """A bar for each arm's mean over the draws, a dot for each draw."""
    width, left, right, top, step = 720, 276, 650, 92, 40
    draws = peer_draws()

    def across(accuracy: float) -> float:
        return left + (right - left) * accuracy / 0.7

    bottom = top + step * len(BARS)
    what = "Accuracy in percent: mean (bar) and each of three label draws (dots)"
    parts = [
        text(24, 36, "CIFAR-10 with 4 labels a class", size=20, bold=True),
        text(24, 62, what, kind="soft"),
    ]
    for tick in range(0, 71, 10):
        x = across(tick / 100)
        parts.append(
            f'<path class="line" stroke-opacity=".25" d="M{x:g} {top - 8} V{bottom - 4}"/>'
            f'<text class="soft" x="{x:g}" y="{bottom + 14}" font-size="14" '
            f'text-anchor="middle">{tick}</text>'
        )
    for number, (arm, words, ours) in enumerate(BARS):
        y, mean = top + step * number, statistics.fmean(draws[arm])
        parts += [
            text(24, y + 18, words, bold=ours),
            f'<rect class="{"ours" if ours else "theirs"}" x="{left}" y="{y}" '
            f'width="{across(mean) - left:.1f}" height="26" rx="3"/>',
        ]
        parts += [
            f'<circle class="dot" cx="{across(one):.1f}" cy="{y + 13}" r="4.5" stroke-width="1.5"/>'
            for one in draws[arm]
        ]
        parts.append(text(across(max(draws[arm])) + 14, y + 19, f"{100 * mean:.1f}", bold=ours))
    parts += [
        text(24, bottom + 44 + 20 * number, line, size=14, kind="soft")
        for number, line in enumerate(NOTE)
    ]
    means = ", ".join(f"{words} {100 * statistics.fmean(draws[arm]):.1f}" for arm, words, _ in BARS)
    words = f"Accuracy on CIFAR-10 with 4 labels a class, mean of three draws: {means} percent"
    return svg(width, bottom + 104, words, parts)


# --- pages


def report(run: str, name: str, heading: str = "") -> None:
    """Photograph a part of a run's report."""
    with opened((Path(run) / "report.html").resolve().as_uri(), 560 if heading else 1000) as page:
        page.wait_for_timeout(1000)
        if heading:
            page.get_by_role("heading", name=heading).evaluate("it => it.scrollIntoView()")
        photograph(page, name)


def web_page(run: str, name: str) -> None:
    """Photograph the page that runs the model of a demo, with one of its digits."""
    from PIL import Image
    from sklearn.datasets import load_digits

    from tutelage import api

    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from webpage import LOADED, answers, served

    with tempfile.TemporaryDirectory() as place:
        digit = Path(place, "digit.png")
        Image.fromarray((load_digits().images[3] * 15.9).astype("uint8")).save(digit)
        api.export(run, web=Path(place, "page"))
        with served(Path(place, "page")) as address, opened(address, 770) as page:
            page.wait_for_selector(LOADED)
            answers(page, [digit])
            page.evaluate("scrollTo(0, 0)")
            photograph(page, name)


@contextmanager
def opened(address: str, height: int) -> Iterator[Any]:
    """A page in a window 1000 pixels wide."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1000, "height": height})
        page.goto(address)
        yield page
        browser.close()


def photograph(page: Any, name: str) -> None:
    """Save what the window shows, in 128 colours."""
    from PIL import Image

    photographed = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    small = photographed.quantize(128, dither=Image.Dither.NONE)
    small.save(IMAGES / f"{name}.png", optimize=True)


DRAWN: dict[str, Callable[[], str]] = {"concepts.svg": flow, "peers.svg": peers}


def main(words: Sequence[str]) -> None:
    """See the head of this file."""
    if words:
        {"report": report, "page": web_page}[words[0]](*words[1:])
        return
    IMAGES.mkdir(exist_ok=True)
    for name, content in {**badges(), **{name: draw() for name, draw in DRAWN.items()}}.items():
        (IMAGES / name).write_text(content, "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
