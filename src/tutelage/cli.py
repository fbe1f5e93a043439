"""The command line, built from the settings. Imports neither torch nor timm before it must."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tutelage._version import __version__
from tutelage.config import field_type, group_fields
from tutelage.system.errors import TutelageError
from tutelage.system.files import explain
from tutelage.system.ranks import env_int
from tutelage.system.stop import EXIT_CODE, Terminated, handled

TRAINING = {
    "demo": "the whole pipeline on solar-cell photos that pip installed",
    "run": "the whole pipeline on your images",
    "transfer": "a new head on a pretrained trunk",
    "self-train": "transfer, then rounds of pseudo-labels",
    "distill": "a small student of a trained teacher (--teacher MODEL)",
}
CONTINUED = (*TRAINING, "ladder", "label")
DATA_HELP = (
    "a folder (train/<class>/*, unlabeled/**, val/<class>/*, test/<class>/*; or only <class>/*), "
    "the same as WebDataset tars (train-*.tar, ...), a .csv or .parquet manifest with the columns "
    "image, label, split, or a folder that Hugging Face wrote (save_to_disk, or the hub's Parquet "
    "files)"
)


def build_parser() -> argparse.ArgumentParser:
    """The whole parser; every training option is a field of ``tutelage.config``."""
    parser = argparse.ArgumentParser(
        prog="tutelage",
        description="From a few labelled images and many unlabelled ones to a small, exported "
        "classifier, with proof.",
    )
    parser.add_argument("--version", action="version", version=f"tutelage {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in TRAINING.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name != "demo":
            command.add_argument("data", metavar="DATA", help=DATA_HELP)
        command.add_argument(
            "--out",
            default="tutelage-demo" if name == "demo" else None,
            required=name != "demo",
            help="the run folder; the same command continues a run that was cut off",
        )
        command.add_argument("--json", action="store_true", help="print metrics.json, too")
        command.add_argument("--quiet", action="store_true", help="print nothing but errors")
        _add_settings(command, name)
    _add_augment(commands)
    _add_ladder(commands)
    _add_model_commands(commands)
    _add_bench(commands)
    summary = "what makes a shell complete commands and options"
    command = commands.add_parser(
        "completion",
        help=summary,
        description=f'{summary[:1].upper()}{summary[1:]}: eval "$(tutelage completion bash)"',
    )
    command.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "tcsh"))
    return parser


def _add_augment(commands: Any) -> None:
    summary = "what augmentation does to your images, and whether it helps to cover the unlabelled"
    command = commands.add_parser("augment", help=summary, description=summary)
    command.add_argument("data", metavar="DATA", help=DATA_HELP)
    command.add_argument("--out", required=True, help="folder for augment.html and augment.json")
    command.add_argument(
        "--tune", action="store_true", help="search for the view that covers them best"
    )
    command.add_argument("--json", action="store_true", help="print augment.json, too")
    command.add_argument("--quiet", action="store_true", help="print nothing but errors")
    _add_settings(command, "augment")


def _add_ladder(commands: Any) -> None:
    summary = "what each stage buys on your data, over label draws, with intervals"
    command = commands.add_parser("ladder", help=summary, description=summary)
    command.add_argument("data", metavar="DATA", help=f"{DATA_HELP}; test images are needed")
    command.add_argument(
        "--out",
        required=True,
        help="folder for ladder.html, ladder.json and a run folder for each seed; the same command "
        "continues a ladder that was cut off, also with more --seeds",
    )
    command.add_argument(
        "--seeds", type=int, default=5, help="label draws, from --seed on (default: 5)"
    )
    command.add_argument(
        "--arms",
        metavar="A,B",
        type=lambda text: text.split(","),
        help="of scratch, augment, probe, fine-tune, transfer, self-train, student-alone, student, "
        "no-augmentation, no-transfer, no-self-train (default: all); without self-train there are "
        "no rounds, and the student learns from transfer",
    )
    command.add_argument(
        "--curve",
        metavar="N,N",
        type=_budgets,
        help="labels per class at which the unlabelled images are weighed besides your own, or "
        "none (default: half and a quarter as many, and twice and four times if there are)",
    )
    command.add_argument(
        "--hourly-price", type=float, help="of this machine, to tell what each arm costs"
    )
    command.add_argument("--json", action="store_true", help="print ladder.json, too")
    command.add_argument("--quiet", action="store_true", help="print nothing but errors")
    _add_settings(command, "ladder")


def _budgets(text: str) -> list[int]:
    """The numbers of ``--curve``; argparse turns a ValueError into its own message."""
    return [] if text == "none" else [int(part) for part in text.split(",")]


def _add_settings(command: argparse.ArgumentParser, name: str) -> None:
    for setting, (group, item) in group_fields(name).items():
        default = "" if item.default is None else f" (default: {item.default})"
        command.add_argument(
            f"--{setting.replace('_', '-')}",
            type=field_type(group, setting),
            choices=item.metadata["choices"],
            default=argparse.SUPPRESS,
            metavar=None if item.metadata["choices"] else setting.upper(),
            help=item.metadata["help"] + default,
        )


def _add_model_commands(commands: Any) -> None:
    model = "an exported .onnx file, a model folder, or a run folder"
    command = commands.add_parser("evaluate", help="accuracy and its interval on a data set")
    command.add_argument("model", metavar="MODEL", help=model)
    command.add_argument("data", metavar="DATA", help=DATA_HELP)
    command.add_argument("--split", default="test", choices=("train", "val", "test"))
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command = commands.add_parser("predict", help="classify images")
    command.add_argument("model", metavar="MODEL", help=model)
    command.add_argument("images", metavar="IMAGES", nargs="+", help="image files or folders")
    command.add_argument("--out", help="write .csv, .jsonl or .parquet instead of printing")
    command.add_argument("--json", action="store_true", help="print one JSON object an image")
    command.add_argument(
        "--reject",
        action="store_true",
        help='call images that look like none of the classes "unknown"; about 5%% of the images '
        "of the classes are lost to it",
    )
    summary = "pseudo-label a pool of any size, in shards, by any number of processes"
    command = commands.add_parser("label", help=summary, description=summary)
    command.add_argument("model", metavar="MODEL", help=model)
    command.add_argument(
        "images",
        metavar="IMAGES",
        nargs="+",
        help=".tar or .parquet shards, folders of images or of such shards, as paths or URLs "
        "(s3://...); patterns with * and {000..099} stand for several",
    )
    command.add_argument(
        "--out",
        required=True,
        help="folder for the labels; the same command continues what was cut off, and several at "
        "once share the work",
    )
    command.add_argument(
        "--threshold",
        type=float,
        default=0.95,
        help="probability that a pseudo-label needs to be accepted (default: 0.95)",
    )
    command.add_argument(
        "--accepted",
        metavar="FILE",
        help="in the end, also write the accepted images to this manifest for tutelage run: a .csv "
        "of paths, or a .parquet that holds the images, which shards need",
    )
    command.add_argument("--json", action="store_true", help="print label.json, too")
    command.add_argument("--quiet", action="store_true", help="print nothing but errors")
    command = commands.add_parser("export", help="a model for other programs, checked")
    command.add_argument("model", metavar="MODEL", help="a model folder, such as RUN/student")
    command.add_argument(
        "--format",
        choices=("onnx", "torch", "timm", "hub"),
        default="onnx",
        help="onnx, or torch (a .pt2 file of torch.export), with the preprocessing inside; timm, "
        "a folder for timm.create_model; hub, a model folder with its ONNX file and a card "
        "(default: onnx)",
    )
    command.add_argument(
        "--out", help="the file or the folder (default: model.onnx, model.pt2, timm, hub in MODEL)"
    )
    command.add_argument(
        "--int8", action="store_true", help="also quantise, if that is faster and does no harm"
    )
    command.add_argument(
        "--images",
        metavar="DATA",
        help="images to check and calibrate on (default: those of the run MODEL lies in)",
    )
    command.add_argument(
        "--max-loss",
        type=float,
        default=0.01,
        help="of accuracy that int8 may cost, as estimated (default: 0.01, one point)",
    )
    summary = "look at what the machine believed, and correct it, on a local page"
    command = commands.add_parser("review", help=summary, description=summary)
    command.add_argument("run", metavar="RUN", help="the folder of a finished run")
    command.add_argument("--port", type=int, default=0, help="of the page (default: a free one)")
    command.add_argument(
        "--no-browser", dest="browser", action="store_false", help="only print the page's address"
    )
    summary = "an exported model over HTTP"
    command = commands.add_parser("serve", help=summary, description=summary)
    command.add_argument("model", metavar="MODEL", help="an exported .onnx file, or a run folder")
    command.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to serve on (default: 127.0.0.1, this machine alone; there is no "
        "authentication)",
    )
    command.add_argument("--port", type=int, default=8000, help="0 for a free one (default: 8000)")
    command.add_argument("--threads", type=int, help="requests computed at once (default: cores)")
    command.add_argument(
        "--max-mb", type=float, default=32.0, help="megabytes of a request (default: 32)"
    )
    command.add_argument(
        "--max-images", type=int, default=64, help="images in a request (default: 64)"
    )
    command.add_argument(
        "--timeout", type=float, default=30.0, help="seconds to an answer (default: 30)"
    )


def _add_bench(commands: Any) -> None:
    summary = "how fast exported models are, and what they take"
    benchmarks = commands.add_parser("bench", help=summary, description=summary).add_subparsers(
        dest="benchmark", required=True, metavar="BENCHMARK"
    )
    summary = "latency, memory and size of exported models, one image and 32 at once"
    command = benchmarks.add_parser("model", help=summary, description=summary)
    command.add_argument(
        "models", metavar="MODEL", nargs="+", help="exported .onnx files, or run folders"
    )
    command.add_argument("--threads", type=int, default=1, help="for a batch (default: 1)")
    command.add_argument(
        "--size", type=int, help="side of the images in pixels (default: each model's canvas)"
    )
    command.add_argument("--runs", type=int, default=50, help="timed runs (default: 50)")
    command.add_argument("--json", action="store_true", help="print one JSON object")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 for what the user can mend, 130 and 143 for signals."""
    options = vars(build_parser().parse_args(argv))
    command = options.pop("command")
    try:
        _check_ranks(command)
        with handled() if command in CONTINUED else nullcontext():
            _run(command, options)
    except TutelageError as error:
        from tutelage.system.console import printable

        print(printable(f"tutelage {command}: {error}", keep="\n\t"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ntutelage {command}: stopped{_continues(command)}", file=sys.stderr)
        return 130
    except Terminated:
        print(f"tutelage {command}: ended by SIGTERM{_continues(command)}", file=sys.stderr)
        return EXIT_CODE
    except BrokenPipeError:
        return 1
    except OSError as error:
        told = explain(error, Path(options["out"]) if options.get("out") else None)
        print(f"tutelage {command}: {told}{_continues(command)}", file=sys.stderr)
        return 2
    return 0


def _check_ranks(command: str) -> None:
    """Refuse to do what one process does several times, side by side."""
    if command not in (*TRAINING, "label") and env_int("WORLD_SIZE", 1) > 1:
        raise TutelageError(
            f"{command} is the work of one process; start it without torchrun, which is for "
            f"{', '.join((*TRAINING, 'label'))}"
        )


def _run(command: str, options: dict[str, Any]) -> None:
    if command in (*TRAINING, "augment", "ladder"):
        _work(command, **options)
    elif command == "evaluate":
        _evaluate(**options)
    elif command == "predict":
        _predict(**options)
    elif command == "label":
        _label(**options)
    elif command == "bench":
        _bench(**options)
    elif command in ("review", "serve"):
        _serve(command, options)
    elif command == "completion":
        _completion(**options)
    else:
        _export(options)


def _continues(command: str) -> str:
    return "; the same command goes on where it was saved" * (command in CONTINUED)


def _completion(shell: str) -> None:
    import shtab

    print(shtab.complete(build_parser(), shell=shell))


def _serve(command: str, options: dict[str, Any]) -> None:
    from tutelage import api

    getattr(api, command)(**options)


def _work(command: str, json: bool, **options: Any) -> None:
    from tutelage import api

    content = getattr(api, command.replace("-", "_"))(**options)
    if json and content:  # only the lead of several ranks has any
        print(_dump(content))


def _evaluate(model: str, data: str, split: str, json: bool) -> None:
    from tutelage import api
    from tutelage.system.console import printable

    figures = api.evaluate(model, data, split=split)
    for name, reason in figures["reasons"].items():
        print(printable(f"skipped {name}: {reason}"), file=sys.stderr)
    if json:
        print(_dump(figures))
        return
    low, high = figures["accuracy_ci95"]
    print(f"{figures['n']} {split} images")
    print(f"accuracy  {figures['accuracy']:.4f}  [{low:.4f}, {high:.4f}] (95%)")
    for name in ("macro_f1", "ece", "nll"):
        print(f"{name:<9} {figures[name]:.4f}")


def _predict(model: str, images: Sequence[str], out: str | None, json: bool, reject: bool) -> None:
    from tutelage import api
    from tutelage.deploy.tables import as_json, check_suffix, formula_cells, write_predictions
    from tutelage.system.console import printable

    if out is not None:
        check_suffix(Path(out))
    rows, skipped = api.predict(model, images, reject=reject)
    for name, reason in skipped:
        print(printable(f"skipped {name}: {reason}"), file=sys.stderr)
    if not rows:
        raise TutelageError("none of the images could be read")
    if out is not None:
        write_predictions(rows, Path(out))
        if Path(out).suffix == ".csv" and (count := formula_cells(rows)):
            print(
                f"{count} cells of {out} begin with =, +, - or @, which a spreadsheet takes for "
                "formulas: import those columns as text",
                file=sys.stderr,
            )
        return
    if json:
        print("\n".join(as_json(rows)))
        return
    for row in rows:
        print(f"{printable(row.image)}\t{printable(row.label)}\t{row.confidence:.4f}")


def _label(json: bool, quiet: bool, **options: Any) -> None:
    from tutelage import api

    found = api.label(quiet=quiet, **options)
    if found is None:
        return
    if json:
        print(_dump(found))
    if not quiet:
        print(
            f"{found['images']:,} images: {found['labelled']:,} labelled, {found['accepted']:,} of "
            f"them accepted; {found['skipped']:,} could not be read\n"
            f"labels: {Path(options['out']) / 'labels'}",
            file=sys.stderr,
        )


def _export(options: dict[str, Any]) -> None:
    from tutelage import api

    print(_dump(api.export(**options)))


def _bench(benchmark: str, json: bool, **options: Any) -> None:
    from tutelage.api import exported_files
    from tutelage.deploy.bench import bench_model, describe

    result = bench_model(exported_files(options.pop("models")), **options)
    print(_dump(result) if json else describe(result))


def _dump(value: Any) -> str:
    return json.dumps(value, indent=2)
