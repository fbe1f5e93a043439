"""What a command prints: its result for people or as JSON, and errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from tutelage.system.errors import TutelageError
from tutelage.system.storage import Place
from tutelage.system.words import are, counted

SKIPPED_SHOWN = 20  # images that could not be read, by name
FIGURES = {
    "majority": "always the most frequent class",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "ece": "calibration error (ECE)",
    "nll": "log-loss",
}
"""Figures of ``evaluate`` -> what people call them."""


def print_result(command: str, result: Any, options: dict[str, Any], *, as_json: bool) -> None:
    """Print what the verb of a command returned; ``options`` are what it was called with."""
    if command == "predict":
        rows, skipped = result
        _print_predictions(rows, skipped, options["out"], options["threshold"], as_json=as_json)
    elif command == "evaluate":
        _print_figures(result, as_json=as_json)
    elif command == "bench" and not as_json:
        from tutelage.deploy.bench import describe

        print(describe(result))
    elif command == "teachers" and not as_json:
        from tutelage.models.teachers import describe as as_text

        print(as_text(result))
    elif command == "watch" and not as_json:
        _print_look(result)
    elif command == "export" and not as_json:
        _print_page(result) if options["web"] else _print_export(result)
    elif as_json and result:  # only the lead of several processes has any
        print(json.dumps(result, indent=2))
    if command == "pseudo-label" and result and not options["quiet"]:
        counts = (
            "{images:,} images: {labelled:,} labelled, {accepted:,} of them accepted; "
            "{skipped:,} could not be read"
        ).format(**result)
        print(f"{counts}\nlabels: {Place.at(options['out']) / 'labels'}", file=sys.stderr)


def print_error(text: str) -> None:
    """Print a command's error, "tutelage COMMAND: what is wrong", on stderr."""
    from tutelage.system.console import painted, printable

    who, colon, told = text.partition(": ")
    print(painted(who + colon, "red") + printable(told, keep="\n\t"), file=sys.stderr)


def _print_line(text: str) -> None:
    from tutelage.system.console import printable

    print(printable(text), file=sys.stderr)


def _print_look(result: dict[str, Any]) -> None:
    from tutelage.watch.page import describe

    _print_skipped([*result["skipped"].items()])
    print(describe(result))


def _print_export(result: dict[str, Any]) -> None:
    """What was written, and how well it agrees with PyTorch."""
    from tutelage.deploy.export import BESIDE

    of = "training images" if result["images"] == "training images" else "generated pictures"
    reference = "tutelage" if "loss" in result else "PyTorch"  # which runs timm's model, too
    for form in (result, *(result.get(name) for name, row in BESIDE.items() if row.for_ports)):
        if form:
            same = round(form["top1_agreement"] * form["n"])
            print(
                f"{form['path']}: gives the same class as {reference} for {same} of {form['n']} "
                f"{of}; probabilities differ by at most {form['max_difference']:.2g}"
            )
    if "loss" in result:
        print(
            "timm resizes images in its own way; estimated loss of accuracy "
            f"{100 * result['loss']:.1f} points"
        )
    if "description" in result:
        print(f"{result['description']}: classes, sizes and thresholds, for other programs")
    if "golden" in result:
        private = "; think before you pass your images on" if of == "training images" else ""
        print(f"{result['golden']}: ten of these {of} with their answers, to test a port{private}")
    if "threshold" in result:
        print(
            f"decision threshold: {result['threshold']}; predict and serve use it when they are "
            f"given {result['path']}"
        )
    if int8 := result.get("int8"):
        print(f"{int8['reason']}; use {int8['path']}")
        if why := int8.get("without_reference"):
            print(f"tutelage watch {int8['path']} needs --reference DATA: {why}")


def _print_page(result: dict[str, Any]) -> None:
    """What ``export --web`` wrote, and how to open it."""
    print(
        f"{result['path']}: a page that runs {result['model']} in the browser "
        f"({result['bytes'] / 1e6:.1f} MB). To open it on this machine:\n"
        f"python -m http.server --bind localhost --directory {quote(result['path'])}"
    )


def _print_figures(figures: dict[str, Any], *, as_json: bool) -> None:
    for note in figures["notes"]:
        _print_line(f"note: {note}")
    _print_skipped([*figures["reasons"].items()])
    if figures["threshold"] is not None:
        _print_line(f"decision threshold that the model keeps: {figures['threshold']}")
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    low, high = figures["accuracy_ci95"]
    print(f"{figures['n']} {figures['split']} images")
    width = max(map(len, FIGURES.values()))
    print(f"{'accuracy':<{width}}  {figures['accuracy']:.4f}  [{low:.4f}, {high:.4f}] (95%)")
    for name, words in FIGURES.items():
        print(f"{words:<{width}}  {figures[name]:.4f}")
    if figures["split"] == "train":
        print("If the model learned from these images, this says nothing about new ones.")


def _print_skipped(reasons: Sequence[tuple[str, str]]) -> None:
    for name, reason in reasons[:SKIPPED_SHOWN]:
        _print_line(f"skipped {name}: {reason}")
    if (more := len(reasons) - SKIPPED_SHOWN) > 0:
        _print_line(f"skipped {more:,} more")


def _print_predictions(
    rows: Sequence[Any],
    skipped: Sequence[tuple[str, str]],
    out: str | None,
    threshold: str | None,
    *,
    as_json: bool,
) -> None:
    from tutelage.deploy.answers import as_json_lines, decided_otherwise, formula_cells, summary
    from tutelage.system.console import printable

    if as_json and rows:
        print("\n".join(as_json_lines(rows)))
    elif out is None:
        for row in rows:
            print(f"{printable(row.image)}\t{printable(row.label)}\t{row.confidence:.4f}")
    sys.stdout.flush()  # what is said on stderr comes after the rows
    _print_skipped(skipped)
    if not rows:
        raise TutelageError("none of the images could be read")
    written = "" if out is None else f"; written to {out}"
    _print_line(summary(rows, len(skipped)) + written)
    if threshold is None and (count := decided_otherwise(rows)):
        _print_line(
            f"{counted(count, 'answer')} {are(count)} not the likeliest class, because the model "
            "keeps a decision threshold"
        )
    if out is not None and Path(out).suffix == ".csv" and (count := formula_cells(rows)):
        some = f"{count:,} cells of {out} begin" if count > 1 else f"a cell of {out} begins"
        _print_line(
            f"{some} with =, +, - or @, which a spreadsheet takes for a formula: import that "
            "column as text"
        )
