"""Rewrite the tables of benchmarks/results/ from what was recorded, each between its two marks.

python benchmarks/tables.py
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from augment_words import STAGES
from results import SETTING, SUGGEST_SETTING, Draws, grouped
from tutelage.stats.intervals import t_interval

ROOT = Path(__file__).parent
RESULTS = ROOT / "results"


def augment_cpu(result: dict[str, Any]) -> str:
    """The tables of one ``augment_cpu`` result, as Markdown."""
    chip = result["hardware"]
    lines = [
        f"{result['date']}, {chip['processor']}, {result['threads']} thread; {result['photos']}; "
        f"batches of {result['batch']}; {result['runs']} runs of {result['rounds']} rounds; "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items())
        + f"; load of the machine before the runs: {', '.join(map(_load, result['load_before']))}.",
    ]
    for size in dict.fromkeys(row["size"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["size"] == size]
        rows += [r for r in result["limits"] if r["size"] == size and r["name"] == "decode"]
        small = {row["name"]: row for row in result["uint8"] if row["size"] == size}
        lines += [
            "",
            f"| {rows[0]['from']} to {size} pixels | images/s to float32 (min to max) "
            "| tutelage is | as published | images/s to uint8 | tutelage is |",
            "|---|---|---|---|---|---|",
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


def _load(load: float | None) -> str:
    return "unknown" if load is None else f"{load:.1f}"


def _row(row: dict[str, Any], small: dict[str, Any] | None) -> str:
    name = f"{row['name']} ({row['form']})" if row.get("form") else row["name"]
    published = f"{row['published']:,.0f}" if "published" in row else ""
    cells = [name, _spread(row), _times(row), published]
    cells += ["", ""] if small is None else [f"{small['images_per_second']:,.0f}", _times(small)]
    return f"| {' | '.join(cells)} |"


def _times(row: dict[str, Any]) -> str:
    if row["name"] in ("copy", "decode"):
        return f"at {100 * row['ratio']:.3g}% of it"
    return "" if row["name"] == "tutelage" else f"{row['ratio']:.3g} times as fast"


def _spread(row: dict[str, Any]) -> str:
    return f"{row['images_per_second']:,.0f} ({row['min']:,.0f} to {row['max']:,.0f})"


ARMS = {
    "probe": "probe",
    "fine-tune": "fine-tune",
    "transfer": "transfer",
    "self-train": "teacher",
    "student-alone": "student alone",
    "student": "student",
}
DELIVERED = ("self-train", "student")  # arms: the models that a run leaves
PEERS = {  # words, and the arm to compare with
    "timm-fine-tune": ("timm's fine-tuning", "self-train"),
    "fixmatch": ("USB's FixMatch", "self-train"),
    "freematch": ("USB's FreeMatch", "self-train"),
    "sklearn-threshold": ("scikit-learn's self-training, threshold", "self-train"),
    "sklearn-k-best": ("scikit-learn's self-training, k best", "self-train"),
    "kd": ("plain distillation", "student"),
}
CELL = ("data, labels a class", "pool", "minutes", "threads")
PAIRS = (("self-train", "probe"), ("self-train", "fine-tune"), ("student", "student-alone"))


def efficiency(rows: list[dict[str, Any]]) -> str:
    """Accuracy of the ladder's arms and their paired differences, one line a cell, as Markdown.

    Args:
        rows: lines of ``efficiency.jsonl``; each is one arm of one draw.
    """
    cells = _cells(rows, "self-train")
    head = [*CELL, "draws", *ARMS.values()]
    lines = [_line(head), _line(["---"] * len(head))]
    for name, arms in cells.items():
        draws = str(len(arms["self-train"]))
        lines.append(_line([*name, draws, *(_accuracy(arms.get(arm)) for arm in ARMS)]))
    names = [f"{ARMS[arm]} minus {ARMS[minus]}" for arm, minus in PAIRS]
    head = [*CELL, *names, "student's share of the teacher", "student's calibration error"]
    lines += ["", _line(head), _line(["---"] * len(head))]
    gains: dict[tuple[str, str], list[float]] = {pair: [] for pair in PAIRS}
    for name, arms in cells.items():
        changes = [_paired(arms, *pair) for pair in PAIRS]
        for pair, change in zip(PAIRS, changes, strict=True):
            gains[pair] += [statistics.fmean(change)] if change else []
        student = arms.get("student", {})
        figures = [_share(_kept(arms)), _error([row["ece"] for row in student.values()])]
        lines.append(_line([*name, *map(_interval, changes), *figures]))
    means = [f"{100 * statistics.fmean(found):+.1f}" if found else "" for found in gains.values()]
    return "\n".join(
        [*lines, _line(["mean of the lines", *[""] * (len(CELL) - 1), *means, "", ""])]
    )


PRESENT, BEFORE = "tf_efficientnet_lite2", "tf_efficientnet_lite0"  # default teachers
WORSE = 0.03  # accuracy below its probe that a draw's user would mind


def compared(rows: list[dict[str, Any]], before: list[dict[str, Any]]) -> str:
    """The chain as it is, beside what it was on the same draws, one line a cell, as Markdown.

    Args:
        rows: lines of ``efficiency.jsonl`` of the present teacher.
        before: those of an earlier one.
    """
    head = [*CELL, "draws", "probe", "teacher", "student", "teacher minus probe"]
    head += ["the same in balanced accuracy", "teacher minus before", "student minus before"]
    head += ["student's share of the teacher", "student's calibration error"]
    head += [f"{ARMS[arm]}s {100 * WORSE:.0f} points below the probe" for arm in DELIVERED]
    lines = [_line(head), _line(["---"] * len(head))]
    earlier, sums = _cells(before, "self-train"), [list[float]() for _ in range(6)]
    below = dict.fromkeys(DELIVERED, 0)
    for name, arms in _cells(rows, "self-train").items():
        was = earlier.get(name, {})
        figures = ("accuracy", "balanced_accuracy")
        changes = [_paired(arms, "self-train", "probe", figure) for figure in figures]
        changes += [_paired({**arms, "was": was.get(arm, {})}, arm, "was") for arm in DELIVERED]
        kept = _kept(arms)
        errors = [row["ece"] for row in arms.get("student", {}).values()]
        for found, values in zip(sums, [*changes, kept, errors], strict=True):
            found += [statistics.fmean(values)] if values else []
        cells = [*name, str(len(arms["self-train"])), _accuracy(arms.get("probe"))]
        cells += [*(_accuracy(arms.get(arm)) for arm in DELIVERED), *map(_interval, changes)]
        cells += [_share(kept), _error(errors)]
        for arm in DELIVERED:
            count = sum(change < -WORSE for change in _paired(arms, arm, "probe"))
            below[arm] += count
            cells.append(str(count))
        lines.append(_line(cells))
    *gains, kept, errors = sums
    cells = [f"{100 * statistics.fmean(found):+.1f}" if found else "" for found in gains]
    cells += [_share(kept), _error(errors)]
    blank = [""] * (len(CELL) + 3)
    return "\n".join(
        [*lines, _line(["mean of the lines", *blank, *cells, *map(str, below.values())])]
    )


def _kept(arms: dict[str, Draws]) -> list[float]:
    """The student's accuracy as a share of its teacher's, on the draws that both have."""
    teacher, student = (arms.get(arm, {}) for arm in ("self-train", "student"))
    return [student[s]["accuracy"] / teacher[s]["accuracy"] for s in student if s in teacher]


def _share(kept: Sequence[float]) -> str:
    return f"{100 * statistics.fmean(kept):.1f}%" if kept else ""


def _error(errors: Sequence[float]) -> str:
    return f"{statistics.fmean(errors):.3f}" if errors else ""


def peers(rows: list[dict[str, Any]]) -> str:
    """Accuracy of the peers, and what tutelage has more on the same draws, as Markdown.

    Args:
        rows: lines of ``efficiency.jsonl``.
    """
    head = [*CELL, "peer", "draws", "accuracy", "tutelage on these", "tutelage minus peer"]
    lines = [_line(head), _line(["---"] * len(head))]
    for name, arms in _cells(rows, "self-train").items():
        for peer, (words, ours) in PEERS.items():
            theirs, own = arms.get(peer, {}), arms.get(ours, {})
            both = {seed: own[seed] for seed in theirs if seed in own}
            if theirs:
                change = _interval(_paired(arms, ours, peer))
                cells = [words, str(len(theirs)), _accuracy(theirs), _accuracy(both), change]
                lines.append(_line([*name, *cells]))
    return "\n".join(lines)


def _cells(rows: list[dict[str, Any]], arm: str) -> dict[tuple[str, ...], dict[str, Draws]]:
    """Arms and their draws, by the fields ``CELL`` of a setting, where ``arm`` was measured."""
    found = {}
    for setting, arms in sorted(grouped(rows).items(), key=lambda group: group[0][:2]):
        of = dict(zip(SETTING, setting, strict=True))
        pool = f"at most {of['limit']:,}" if of["limit"] else "all"
        threads = of["threads"] or "all"
        name = f"{of['data']}, {of['labels_per_class']}", pool, f"{of['minutes']:g}", f"{threads}"
        if arm in arms:
            if name in found:
                raise SystemExit(f"two settings of efficiency.jsonl would both be called {name}")
            found[name] = arms
    return found


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _accuracy(draws: Draws | None) -> str:
    """Mean over the draws, and half the width of its 95% interval."""
    if not draws:
        return ""
    values = [row["accuracy"] for row in draws.values()]
    if len(values) < 2:
        return f"{100 * values[0]:.1f}"
    mean, low, high = t_interval(values)
    return f"{100 * mean:.1f} ± {50 * (high - low):.1f}"


def _paired(arms: dict[str, Draws], arm: str, minus: str, figure: str = "accuracy") -> list[float]:
    """Differences in a figure on the draws that both arms have."""
    return [*_by_seed(arms, arm, minus, figure).values()]


def _by_seed(
    arms: dict[str, Draws], arm: str, minus: str, figure: str = "accuracy"
) -> dict[int, float]:
    """The same, by the seed of the draw."""
    first, second = arms.get(arm, {}), arms.get(minus, {})
    return {s: first[s][figure] - second[s][figure] for s in first if s in second}


def _interval(change: Sequence[float]) -> str:
    if len(change) < 2:
        return "".join(f"{100 * value:+.1f}" for value in change)
    mean, low, high = (100 * value for value in t_interval(change))
    if high - low < 1e-9:
        return f"{mean:+.1f}"  # all draws differ by the same: their spread is not seen
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def foreign(found: list[dict[str, Any]]) -> str:
    """The newest ``foreign`` result of each setting, one line an arm, as Markdown."""
    names = ["data, labels a class", "draws", "out of class", "transfer", "teacher"]
    names += ["teacher minus transfer", "AUROC", "foreign left out", "own left out"]
    lines = [_line(names), _line(["---"] * len(names))]
    newest = {(result["data"], result["labels_per_class"]): result for result in found}
    for (data, labels), result in newest.items():
        for arm in ("auto", "keep"):
            figures = result["summary"][arm]
            change = [row[arm]["teacher"] - row[arm]["transfer"] for row in result["runs"]]
            cells = [f"{data}, {labels}", str(len(result["runs"])), arm]
            cells += [f"{100 * figures[name]['mean']:.1f}" for name in ("transfer", "teacher")]
            cells.append(_interval(change))
            cells.append(f"{figures['auroc']['mean']:.3f}" if "auroc" in figures else "")
            left_out = [figures.get(f"{whose}_left_out") for whose in ("foreign", "own")]
            cells += [f"{100 * part['mean']:.0f}%" if part else "" for part in left_out]
            lines.append(_line(cells))
    return "\n".join(lines)


SUGGESTED = ("suggested", "random", "balanced")
OF_SUGGESTED = ("data, images a class", "pool", "draws", *SUGGESTED[:2], "as many of each class")


def suggestions(rows: list[dict[str, Any]], model: str, teacher: str) -> str:
    """Accuracy from suggested and from random labels, one line a cell, as Markdown.

    The first interval of the means is over the draws, for these data sets; the second over the data
    sets, each with the mean of its lines.

    Args:
        rows: lines of ``suggest.jsonl``.
        model: "probe" or "chain".
        teacher: whose features are looked at.
    """
    head = [*OF_SUGGESTED, "suggested minus random", "suggested minus as many of each"]
    head += ["macro F1, suggested minus random", "classes missed", "by random ones"]
    lines = [_line(head), _line(["---"] * len(head))]
    changes: dict[str, list[tuple[str, dict[int, float]]]] = {"random": [], "balanced": []}
    cells_of = sorted(grouped(rows, SUGGEST_SETTING).items(), key=str)
    for (*of, data, each, minutes, _, _), arms in cells_of:
        if of != [model, teacher] or "suggested" not in arms:
            continue
        chain = f", {minutes:g} minutes" if minutes else ""
        draws = arms["suggested"]
        cells = [f"{data}, {each}{chain}", f"{next(iter(draws.values()))['pool']:,}"]
        cells += [str(len(draws)), *(_accuracy(arms.get(arm)) for arm in SUGGESTED)]
        for minus, found in changes.items():
            change = _by_seed(arms, "suggested", minus)
            found.append((data, change))
            cells.append(_interval([*change.values()]))
        cells.append(_interval(_paired(arms, "suggested", "random", "macro_f1")))
        cells += [_missed(arms.get(arm)) for arm in SUGGESTED[:2]]
        lines.append(_line(cells))
    blank = [""] * (len(OF_SUGGESTED) - 1)
    for words, mean in (("draws", _over_draws), ("data sets", _over_sets)):
        cells = [_interval(mean(found)) for found in changes.values()]
        lines.append(_line([f"mean, interval over the {words}", *blank, *cells, "", "", ""]))
    return "\n".join(lines)


def _over_draws(cells: Sequence[tuple[str, dict[int, float]]]) -> list[float]:
    """The mean of the cells in each draw that all of them have."""
    shared = set.intersection(*(set(found) for _, found in cells)) if cells else set()
    return [statistics.fmean(found[seed] for _, found in cells) for seed in sorted(shared)]


def _over_sets(cells: Sequence[tuple[str, dict[int, float]]]) -> list[float]:
    """The mean of the cells of each data set."""
    found: dict[str, list[float]] = {}
    for data, draws in cells:
        found.setdefault(data, []).extend([statistics.fmean(draws.values())] if draws else [])
    return [statistics.fmean(means) for means in found.values() if means]


def _missed(draws: Draws | None) -> str:
    return f"{statistics.fmean(row['missed'] for row in draws.values()):.1f}" if draws else ""


def recorded(name: str) -> list[dict[str, Any]]:
    """What ``results.json`` has of one benchmark, oldest first."""
    found = json.loads((ROOT / "results.json").read_text())
    return [result for result in found if result["benchmark"] == name]


def lines_of(name: str) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, such as ``efficiency.jsonl``."""
    path = ROOT / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def taught_by(teacher: str) -> list[dict[str, Any]]:
    """The rows of ``efficiency.jsonl`` of one teacher."""
    return [row for row in lines_of("efficiency.jsonl") if row["teacher"] == teacher]


def teachers(rows: list[dict[str, Any]]) -> str:
    """Every family of trunks that was tried as a teacher, one line an architecture, as Markdown.

    Args:
        rows: lines of ``teachers.jsonl``.
    """
    names = [
        "family",
        "architecture",
        "licence of its weights",
        "parameters",
        "made for",
        "planned",
    ]
    names += ["sides", "ms", "middle stages", "rates", "export", "default student", "failed"]
    lines = [_line(names), _line(["---"] * len(names))]
    for row in rows:
        step = {None: "fixed", 1: "any"}.get(row["step"], f"multiples of {row['step']}")
        difference = row["difference"]
        cells = [row["family"], f"`{row['architecture']}`", row["licence"]]
        cells += [f"{row['parameters'] / 1e6:.1f} M", f"{row['native']} px", f"{row['size']} px"]
        cells += [step, f"{row['milliseconds']:.1f}", str(row["levels"]), str(row["rates"])]
        cells.append("" if difference is None else f"{difference:.0e}")
        cells += [row["student"] or "", ", ".join(row["problems"]) or "nothing"]
        lines.append(_line(cells))
    return "\n".join(lines)


def int8(found: list[dict[str, Any]]) -> str:
    """The newest ``int8`` figures of each data set, one line each, as Markdown."""
    newest = {row["data"]: row for result in found for row in result["runs"]}
    result = found[-1]
    chip = result["hardware"]
    head = ["data", "test images", "accuracy, float to int8", "calibration error", "same answer"]
    head += ["unknown", "changed to or from unknown", "ms an image", "megabytes", "kept"]
    lines = [
        f"{result['date']}, {chip['processor']}, one thread; {result['note']}; "
        f"onnxruntime {result['versions']['onnxruntime']}.",
        "",
        _line(head),
        _line(["---"] * len(head)),
    ]
    for row in newest.values():
        of = [row[name] for name in ("fp32", "int8")]
        times, sizes = ([row[f"{name}_{unit}"] for name in ("fp32", "int8")]
                        for unit in ("ms", "bytes"))  # fmt: skip
        lines.append(
            _line(
                [
                    row["data"],
                    f"{row['n']:,}",
                    " to ".join(f"{100 * one['accuracy']:.1f}" for one in of),
                    " to ".join(f"{one['ece']:.3f}" for one in of),
                    f"{100 * row['agreement']:.1f}%",
                    " to ".join(str(one["unknown"]) for one in of),
                    str(row["unknown_flips"]),
                    f"{times[0]:.1f} to {times[1]:.1f}, {times[0] / times[1]:.2f} times as fast",
                    " to ".join(f"{size / 1e6:.1f}" for size in sizes),
                    row["kept"],
                ]
            )
        )
    return "\n".join(lines)


RUNTIME_FORMS = {"onnx": "usual", "portable": "portable", "view": "view"}


def runtimes(rows: list[dict[str, Any]]) -> str:
    """How far runtimes are from onnxruntime with each form, a table for each model, as Markdown.

    Each table has all runtimes, so that what was not run is seen.

    Args:
        rows: lines of ``runtimes.jsonl``; the newest of a cell counts.
    """
    newest = {(row["model"], row["runtime"], row["form"]): row for row in rows}
    models = dict.fromkeys(model for model, _, _ in newest)
    names = dict.fromkeys(runtime for _, runtime, _ in newest)
    chips = {"{processor}, {cores} cores".format(**row["hardware"]) for row in newest.values()}
    dates = sorted({row["date"] for row in newest.values()})
    lines = [f"{' and '.join(dict.fromkeys([dates[0], dates[-1]]))}, {', '.join(sorted(chips))}."]
    for model in models:
        lines += ["", _line([f"**{model}**", "version", *RUNTIME_FORMS.values()])]
        lines.append(_line(["---"] * (2 + len(RUNTIME_FORMS))))
        for name in names:
            cells = [newest.get((model, name, form)) for form in RUNTIME_FORMS]
            versions = {cell["version"]: None for cell in cells if cell and "version" in cell}
            lines.append(_line([name, ", ".join(versions), *map(_agreement, cells)]))
    return "\n".join(lines)


def _agreement(row: dict[str, Any] | None) -> str:
    """A cell: the largest difference, and what else differs."""
    if row is None:
        return "not run"
    if "failed" in row:
        return "fails"
    words = [f"{row['max_difference']:.0e}" if row["max_difference"] else "0"]
    if row["top1_agreement"] < 1:
        words.append(f"top-1 {row['top1_agreement']:.3f}")
    if flips := row["unknown_flips"]:
        words.append(f"{flips} unknown flip{'s' if flips > 1 else ''}")
    if row["images"] < 150:
        words.append(f"{row['images']} images")
    return "; ".join(words)


def watch(found: list[dict[str, Any]]) -> str:
    """The newest ``watch`` result of each data set: alarms by size, and errors, as Markdown."""
    newest = {result["data"]: result for result in found}
    if not newest:
        return "Not measured yet."
    one = next(iter(newest.values()))
    chip, everything = one["hardware"], [row for r in newest.values() for row in r["rows"]]
    sizes = sorted({row["size"] for row in everything})
    lines = [
        f"{one['date']}, {chip['processor']}, {chip['cores']} cores. Share of looks with an alarm, "
        f"by the number of images in the look. {one['rate']:.0%} is what chance may raise.",
        "",
        f"| data | change | looks | {' | '.join(map(str, sizes))} |",
        f"|---|---|---|{'---|' * len(sizes)}",
    ]
    for name, result in newest.items():
        for kind, rows in _by_kind(result).items():
            cells = [f"{rows[n]['alarm']:.0%}" if n in rows else "" for n in sizes]
            looks = str(next(iter(rows.values()))["looks"])
            lines.append(_line([f"{name}, reference {result['reference']}", kind, looks, *cells]))
    lines += [
        "",
        "Estimates on the largest looks: the true accuracy, the estimate minus it on average, its "
        "mean error, how often its 95% interval holds the truth, and how often it is called "
        "reliable; then the mean error of a class's share, and how often its interval holds.",
        "",
        "| data | change | images | accuracy | estimate is off by | error | held | relied on "
        "| share is off by | held |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, result in newest.items():
        for kind, rows in _by_kind(result).items():
            lines.append(_line([name, kind, *_estimates(rows[max(rows)])]))
    return "\n".join(lines)


def _by_kind(result: dict[str, Any]) -> dict[str, dict[int, dict[str, Any]]]:
    """Change -> number of images -> row."""
    kinds: dict[str, dict[int, dict[str, Any]]] = {}
    for row in result["rows"]:
        kinds.setdefault(row["kind"], {})[row["size"]] = row
    return kinds


def _estimates(row: dict[str, Any]) -> list[str]:
    accuracy, shares = row["accuracy"], row["shares"]
    cells = [str(row["size"]), f"{100 * row['right']:.1f}"]
    if accuracy is None:
        cells += [""] * 4
    else:
        bias, error = (
            f"{100 * accuracy[name]:{form}}" for name, form in (("bias", "+.1f"), ("error", ".1f"))
        )
        cells += [bias, error, f"{accuracy['covered']:.0%}", f"{accuracy['believed']:.0%}"]
    if shares is None:
        return [*cells, "", ""]
    return [*cells, f"{100 * shares['error']:.1f}", f"{shares['covered']:.0%}"]


TABLES: dict[str, tuple[Callable[[], str], str]] = {
    "augment_cpu": (lambda: augment_cpu(recorded("augment_cpu")[-1]), "augmentation.md"),
    "present": (lambda: compared(taught_by(PRESENT), taught_by(BEFORE)), "efficiency.md"),
    "left out": (lambda: compared(lines_of("left_out.jsonl"), []), "efficiency.md"),
    "efficiency": (lambda: efficiency(taught_by(BEFORE)), "efficiency.md"),
    "peers": (lambda: peers(taught_by(BEFORE)), "efficiency.md"),
    "suggest": (
        lambda: suggestions(lines_of("suggest.jsonl"), "probe", "tf_efficientnet_lite0"),
        "efficiency.md",
    ),
    "foreign": (lambda: foreign(recorded("foreign")), "efficiency.md"),
    "int8": (lambda: int8(recorded("int8")), "int8.md"),
    "runtimes": (lambda: runtimes(lines_of("runtimes.jsonl")), "runtimes.md"),
    "teachers": (lambda: teachers(lines_of("teachers.jsonl")), "teachers.md"),
    "watch": (lambda: watch(recorded("watch")), "watch.md"),
}


def filled(text: str, name: str) -> str:
    """A document with the table of the newest results between its marks."""
    write, _ = TABLES[name]
    marks = f"<!-- {name}: written by benchmarks/tables.py -->", f"<!-- end of {name} -->"
    between = f"{re.escape(marks[0])}.*?{re.escape(marks[1])}"
    if not re.search(between, text, re.DOTALL):
        raise SystemExit(f"no {marks[0]} ... {marks[1]} in the document; put both where it belongs")
    table = f"{marks[0]}\n{write()}\n{marks[1]}"
    return re.sub(between, lambda _: table, text, flags=re.DOTALL)


def main() -> None:
    for name, (_, document) in TABLES.items():
        path = RESULTS / document
        path.write_text(filled(path.read_text(), name))


if __name__ == "__main__":
    main()
