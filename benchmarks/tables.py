"""Write the tables of the docs anew from benchmarks/results.json, each between its two marks.

python benchmarks/tables.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent
DOCS = ROOT.parent / "docs"


def augment_cpu(result: dict[str, Any]) -> str:
    """The tables of one ``augment_cpu`` result, as Markdown."""
    from tutelage.bench.words import STAGES

    chip = result["hardware"]
    lines = [
        f"{result['date']}, {chip['processor']}, {result['threads']} thread; {result['photos']}; "
        f"batches of {result['batch']}; {result['runs']} runs of {result['rounds']} rounds; "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items())
        + ".",
    ]
    for size in dict.fromkeys(row["size"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["size"] == size]
        rows += [r for r in result["limits"] if r["size"] == size and r["name"] == "decode"]
        small = {row["name"]: row for row in result["uint8"] if row["size"] == size}
        lines += [
            "",
            f"| {rows[0]['from']} to {size} pixels | images/s to float32 (min to max) "
            "| tutelage is | images/s to uint8 | tutelage is |",
            "|---|---|---|---|---|",
        ]
        lines += [_row(row, small.get(row["name"])) for row in rows]
    lines += ["", "| threads | images/s (min to max) | times one |", "|---|---|---|"]
    lines += [
        f"| {row['threads']} | {_spread(row)} | {row['ratio']:.2f} |" for row in result["scaling"]
    ]
    lines += ["", "| where the time goes | microseconds an image |", "|---|---|"]
    lines += [f"| {STAGES[name]} | {time:.0f} |" for name, time in result["breakdown"].items()]
    absent = [f"{name} ({why})" for name, why in result["absent"].items()]
    return "\n".join([*lines, *(["", f"Absent: {', '.join(absent)}."] if absent else [])])


def _row(row: dict[str, Any], small: dict[str, Any] | None) -> str:
    name = f"{row['name']} ({row['form']})" if row.get("form") else row["name"]
    cells = [name, _spread(row), _times(row)]
    cells += ["", ""] if small is None else [f"{small['images_per_second']:,.0f}", _times(small)]
    return f"| {' | '.join(cells)} |"


def _times(row: dict[str, Any]) -> str:
    if row["name"] in ("copy", "decode"):
        return f"at {100 * row['ratio']:.3g}% of it"
    return "" if row["name"] == "tutelage" else f"{row['ratio']:.3g} times as fast"


def _spread(row: dict[str, Any]) -> str:
    return f"{row['images_per_second']:,.0f} ({row['min']:,.0f} to {row['max']:,.0f})"


def magnitude(found: list[dict[str, Any]]) -> str:
    """The newest ``magnitude`` result of each data set, one line an arm, as Markdown."""
    lines = [
        "| data | strong view | teacher | minus the default | student | minus the default |",
        "|---|---|---|---|---|---|",
    ]
    newest = {(result["data"], result["labels_per_class"]): result for result in found}
    for (data, labels), result in newest.items():
        draws = len({row["seed"] for row in result["runs"]})
        name = f"{data}, {labels} labels a class, {draws} draws, {result['steps']} steps"
        for arm, models in result["summary"].items():
            cells = [name, arm]
            for model in ("teacher", "student"):
                cells += [f"{100 * models[model]['mean']:.1f}", _change(models[model])]
            lines.append(f"| {' | '.join(cells)} |")
            name = ""
    return "\n".join(lines)


def _change(figures: dict[str, Any]) -> str:
    if figures["ci95"] is None or figures["ci95"] == [0.0, 0.0]:
        return ""
    low, high = (100 * end for end in figures["ci95"])
    return f"{100 * figures['minus_default']:+.1f} ({low:+.1f} to {high:+.1f})"


TABLES = {
    "augment_cpu": (lambda found: augment_cpu(found[-1]), "augmentation.md"),
    "magnitude": (magnitude, "augmentation.md"),
}


def filled(text: str, name: str, found: list[dict[str, Any]]) -> str:
    """A document with the table of the newest results between its marks."""
    write, _ = TABLES[name]
    mine = [result for result in found if result["benchmark"] == name]
    table = write(mine) if mine else "Not measured yet."
    marks = f"<!-- {name}: written by benchmarks/tables.py -->", f"<!-- end of {name} -->"
    between = f"{re.escape(marks[0])}.*?{re.escape(marks[1])}"
    if not re.search(between, text, re.DOTALL):
        raise SystemExit(f"no {marks[0]} ... {marks[1]} in the document; put both where it belongs")
    return re.sub(between, lambda _: f"{marks[0]}\n{table}\n{marks[1]}", text, flags=re.DOTALL)


def main() -> None:
    found = json.loads((ROOT / "results.json").read_text())
    for name, (_, document) in TABLES.items():
        path = DOCS / document
        path.write_text(filled(path.read_text(), name, found))


if __name__ == "__main__":
    main()
