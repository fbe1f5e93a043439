"""What ``augment.py`` measured, as people read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STAGES = {
    "plan": "sample the plan",
    "copy": "straight copy to uint8",
    "crop": "+ crop, flip and resample",
    "slant": "+ rotate, shear, translate",
    "color": "+ tables, statistics, stencils",
    "normalise": "+ normalise to float32",
    "gather": "gather scattered images into a batch, where the loader has to (not included)",
}
"""Where the time of an image goes; each stage from "crop" on does more than the one before."""

LIMITS = {
    "copy": "the limit of memory: the same bytes, copied; tutelage reaches this much of it",
    "decode": "the limit of decoding: the same images from JPEG; tutelage reaches this much of it",
}


def describe(result: Mapping[str, Any]) -> str:
    """The result for people."""
    threads = f"{result['threads']} thread{'s' * (result['threads'] > 1)}"
    lines = [
        f"device {result['device']}, backend {result['backend']}, {threads}; {result['photos']}; "
        f"batches of {result['batch']}",
        "random resized crop, flip, RandAugment(2 operations, magnitude 9 of 30); images a second"
        f"{' of the processor' if result['threads'] == 1 else ''}, median (min to max) of "
        f"{result['rounds']} rounds; x: tutelage is so many times as fast",
    ]
    if result["load_before"] is not None and result["load_before"] > 0.5:
        lines.append(
            f"Other programs were running (load {result['load_before']:.1f}): expect noise"
        )
    decode = [row for row in result["limits"] if row["name"] == "decode"]
    for kind, rows in (("rows", [*result["rows"], *decode]), ("uint8", result["uint8"])):
        for size in dict.fromkeys(row["size"] for row in rows):
            some = [row for row in rows if row["size"] == size]
            title = "normalised float32" if kind == "rows" else "uint8"
            lines += ["", f"{some[0]['from']} -> {size} pixels, {title}", *map(_line, some)]
    lines += ["", *(f"absent: {name} ({why})" for name, why in result["absent"].items())]
    return "\n".join([*lines, *_alone(result)])


def _line(row: Mapping[str, Any]) -> str:
    note = row.get("form", "")
    if note and "published" in row:
        note += f" (as published {row['published']:,.0f})"
    times = "" if row["name"] == "tutelage" else f"{row['ratio']:.3g} x"
    if row["name"] in LIMITS:
        note, times = LIMITS[row["name"]], f"{100 * row['ratio']:.3g}%"
    if "gigabytes_per_second" in row:
        note += f" ({row['gigabytes_per_second']:.0f} GB/s)"
    spread = f"({row['min']:,.0f} to {row['max']:,.0f})"
    return (
        f"  {row['name']:<15}{row['images_per_second']:>11,.0f}  {spread:<26}{times:>9}  {note}"
    ).rstrip()


def _alone(result: Mapping[str, Any]) -> list[str]:
    lines = ["", "tutelage by threads, first row's work"]
    lines += [
        f"  {row['threads']:>3} thread{'s' * (row['threads'] > 1)}"
        f"{row['images_per_second']:>12,.0f}  {row['ratio']:.2f} x"
        for row in result["scaling"]
    ]
    lines += ["", "where its time goes, microseconds an image"]
    lines += [
        f"  {row['microseconds']:>8.1f}  {row['share']:>4.0%}  {STAGES[row['stage']]}"
        for row in result["breakdown"]
    ]
    return [*lines, f"first call, with compiling: {result['first_call_seconds']:.1f} s"]
