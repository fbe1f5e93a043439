"""The command line, made from the verbs of ``api`` and the settings of ``config``.

A verb's signature gives its arguments, its docstring their help. Imports neither torch nor NumPy
before a verb is called.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tutelage import api
from tutelage._version import __version__
from tutelage.config import REMOVED, RunConfig, field_type, group_fields
from tutelage.system.cores import spin_briefly
from tutelage.system.errors import TutelageError
from tutelage.system.files import explain
from tutelage.system.ranks import env_int
from tutelage.system.stop import EXIT_CODE, Terminated, handled

VERBS: dict[str, Callable[..., Any]] = {
    name.replace("_", "-"): verb
    for name, verb in vars(api).items()
    if inspect.isfunction(verb) and verb.__module__ == api.__name__ and not name.startswith("_")
}
"""Command -> the function that it calls."""

SHARED = ("demo", "run", "transfer", "self-train", "distill", "pseudo-label")
"""Commands that several processes do together, under torchrun."""
CONTINUED = (*SHARED, "ladder", "suggest")
"""Commands that go on where they were cut off."""
MOVED: dict[tuple[str, ...], str] = {
    ("bench", "augment"): "bench augment is now python benchmarks/augment.py in a checkout of the "
    "source",
    ("bench", "model"): "bench model MODEL is now bench MODEL",
}


def build_parser() -> argparse.ArgumentParser:
    """The whole parser."""
    parser = argparse.ArgumentParser(
        prog="tutelage",
        description="From a few labelled images and many unlabelled ones to a small, exported "
        "classifier, with proof.",
    )
    parser.add_argument("--version", action="version", version=f"tutelage {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = _arguments(VERBS["predict"]) | _arguments(VERBS["run"])
    for name, verb in VERBS.items():
        summary, description = _summary(verb)
        command = commands.add_parser(name, help=_escaped(summary), description=description)
        _add_arguments(command, verb, common | _arguments(verb))
        _add_settings(command, name)
        command.usage = _usage(command)
    summary = "a script that makes a shell complete commands and options"
    usage = f'Print {summary}: eval "$(tutelage completion bash)"'
    command = commands.add_parser("completion", help=summary, description=usage)
    command.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "tcsh"))
    return parser


def _summary(verb: Callable[..., Any]) -> tuple[str, str]:
    """The first sentence of a docstring, as one of a list, and all before its sections."""
    lead = re.split(r"\n\n(?:Args|Returns|Raises):\n", inspect.getdoc(verb) or "")[0]
    lead = lead.replace("``", "")
    first = lead.split("\n\n")[0].removesuffix(".")
    return first[:1].lower() + first[1:], lead


def _arguments(verb: Callable[..., Any]) -> dict[str, str]:
    """Argument -> its help, from a docstring's section "Args"; empty if it is for Python only."""
    section = re.search(r"\nArgs:\n(.*?)(\n\n|$)", inspect.getdoc(verb) or "", re.DOTALL)
    found = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", section[1] if section else "", re.M)
    return {name: _plain(text) for name, text in found}


def _plain(text: str) -> str:
    words = " ".join(text.split()).replace("``", "")
    return words.partition("In Python")[0].strip().removesuffix(".")


def _escaped(text: str) -> str:
    return text.replace("%", "%%")  # argparse fills in what follows a single one


def _add_arguments(
    command: argparse.ArgumentParser, verb: Callable[..., Any], help: dict[str, str]
) -> None:
    """An argument for every parameter; without a default, ``out`` and keywords are options, too."""
    hints = typing.get_type_hints(verb, vars(api), {"Data": str, "Prediction": object})
    for name, parameter in inspect.signature(verb).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD or not help[name]:
            continue
        required = parameter.default is parameter.empty
        default = None if required else parameter.default
        text, kind = help[name], _without_none(hints[name])
        if kind is bool:
            _add_flag(command, name, text, default=parameter.default)
            continue
        options = _value(name, kind, listed=not required)
        options["help"] = _escaped(text + _default(default))
        if required and name != "out" and parameter.kind is not parameter.KEYWORD_ONLY:
            command.add_argument(name, **options)
        else:
            option = f"--{_dashed(name)}"
            command.add_argument(option, default=default, required=required, **options)
    if hints["return"] is not type(None) and verb is not VERBS["export"]:  # that prints it anyway
        command.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_flag(command: argparse.ArgumentParser, name: str, text: str, *, default: bool) -> None:
    option = f"--no-{_dashed(name)}" if default else f"--{_dashed(name)}"
    action = "store_false" if default else "store_true"
    text = f"do not {text}" if default else text
    command.add_argument(option, dest=name, action=action, help=_escaped(text))


def _without_none(hint: Any) -> Any:
    """The one type of a hint such as ``Path | str | None``; a path is given as text."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return next(kind for kind in typing.get_args(hint) if kind not in (type(None), Path))
    return hint


def _value(name: str, kind: Any, *, listed: bool) -> dict[str, Any]:
    """How argparse reads a value of this type; options list several with commas."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return {"choices": parts}
    if parts and listed:
        return {"type": _list_of(parts[0]), "metavar": "A,B" if parts[0] is str else "N,N"}
    if parts:
        return {"nargs": "+", "metavar": name.upper().removesuffix("S")}
    return {"type": kind, "metavar": _metavar(name, kind)}


def _list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def listed(text: str) -> list[Any]:
        return [] if text == "none" else [kind(part) for part in text.split(",")]

    listed.__name__ = "list"  # argparse names it where a value does not fit
    return listed


def _metavar(name: str, kind: type) -> str:
    return {int: "N", float: "X"}.get(kind, name.upper())


def _default(value: Any) -> str:
    if value in (None, ""):
        return ""
    return f" (default: {value:g})" if isinstance(value, float) else f" (default: {value})"


def _usage(command: argparse.ArgumentParser) -> str:
    """What must be given; argparse would list every option."""
    words = [
        f"{action.option_strings[0]} {action.metavar}"
        if action.option_strings
        else f"{action.metavar}{' ...' * (action.nargs == '+')}"
        for action in command._actions
        if action.required
    ]
    return " ".join(["%(prog)s", *words, "[options]"])


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _add_settings(command: argparse.ArgumentParser, name: str) -> None:
    """An option for every setting that a command knows, and an error for removed ones."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    known = group_fields(name)
    for setting, (group, item) in known.items():
        if group not in groups:
            title = (type(getattr(RunConfig(), group)).__doc__ or "").removesuffix(".")
            groups[group] = command.add_argument_group(title[:1].lower() + title[1:])
        choices, kind = item.metadata["choices"], field_type(setting)
        groups[group].add_argument(
            f"--{_dashed(setting)}",
            type=kind,
            choices=choices,
            default=argparse.SUPPRESS,
            metavar=None if choices else _metavar(setting, kind),
            help=_escaped(item.metadata["help"] + _default(item.default)),
        )
    hidden: Any = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
    for setting in REMOVED if known else ():
        command.add_argument(f"--{_dashed(setting)}", action=_Removed, nargs="?", **hidden)


class _Removed(argparse.Action):
    """An option of earlier versions."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None
    ) -> None:
        parser.exit(2, f"tutelage: {option} was removed: {REMOVED[self.dest]}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 for what the user can mend, 130 and 143 for signals."""
    words = tuple(sys.argv[1:] if argv is None else argv)
    if (moved := MOVED.get(words[:2])) and not Path(words[1]).exists():
        print(f"tutelage: {moved}", file=sys.stderr)
        return 2
    options = vars(build_parser().parse_args(words))
    command = options.pop("command")
    spin_briefly()
    again = "; the same command goes on where it was saved" * (command in CONTINUED)
    try:
        _check_ranks(command)
        with handled() if command in CONTINUED else nullcontext():
            _run(command, options)
    except TutelageError as error:
        _print_error(f"tutelage {command}: {error}", keep="\n\t")
        return 2
    except KeyboardInterrupt:
        print(f"\ntutelage {command}: stopped{again}", file=sys.stderr)
        return 130
    except Terminated:
        print(f"tutelage {command}: ended by SIGTERM{again}", file=sys.stderr)
        return EXIT_CODE
    except BrokenPipeError:
        return 1
    except OSError as error:
        message = explain(error, Path(options["out"]) if options.get("out") else None)
        print(f"tutelage {command}: {message}{again}", file=sys.stderr)
        return 2
    return 0


def _print_error(text: str, keep: str = "") -> None:
    from tutelage.system.console import printable

    print(printable(text, keep), file=sys.stderr)


def _check_ranks(command: str) -> None:
    """Refuse to start the work of one process in several."""
    if command not in SHARED and env_int("WORLD_SIZE", 1) > 1:
        raise TutelageError(
            f"{command} is the work of one process; start it without torchrun, which is for "
            f"{', '.join(SHARED)}"
        )


def _run(command: str, options: dict[str, Any]) -> None:
    """Call the verb of a command and print what it returns."""
    if command == "completion":
        import shtab

        print(shtab.complete(build_parser(), shell=options["shell"]))
        return
    as_json = options.pop("json", command == "export")
    result = getattr(api, command.replace("-", "_"))(**options)
    if command == "predict":
        _print_predictions(result[0], result[1], options["out"], as_json=as_json)
    elif command == "evaluate":
        _print_figures(result, as_json=as_json)
    elif command == "bench" and not as_json:
        from tutelage.deploy.bench import describe

        print(describe(result))
    elif command == "teachers" and not as_json:
        from tutelage.models.teachers import describe as as_text

        print(as_text(result))
    elif as_json and result:  # only the lead of several processes has any
        print(json.dumps(result, indent=2))
    if command == "pseudo-label" and result and not options["quiet"]:
        counts = (
            "{images:,} images: {labelled:,} labelled, {accepted:,} of them accepted; "
            "{skipped:,} could not be read"
        ).format(**result)
        print(f"{counts}\nlabels: {Path(options['out'], 'labels')}", file=sys.stderr)


def _print_figures(figures: dict[str, Any], *, as_json: bool) -> None:
    _print_skipped(figures["reasons"].items())
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    low, high = figures["accuracy_ci95"]
    print(f"{figures['n']} {figures['split']} images")
    print(f"accuracy           {figures['accuracy']:.4f}  [{low:.4f}, {high:.4f}] (95%)")
    for name in ("majority", "balanced_accuracy", "macro_f1", "ece", "nll"):
        print(f"{name:<18} {figures[name]:.4f}")


def _print_skipped(reasons: typing.Iterable[tuple[str, str]]) -> None:
    for name, reason in reasons:
        _print_error(f"skipped {name}: {reason}")


def _print_predictions(
    rows: Sequence[Any], skipped: Sequence[tuple[str, str]], out: str | None, *, as_json: bool
) -> None:
    from tutelage.deploy.tables import as_json_lines, formula_cells
    from tutelage.system.console import printable

    _print_skipped(skipped)
    if not rows:
        raise TutelageError("none of the images could be read")
    if out is not None:
        if Path(out).suffix == ".csv" and (count := formula_cells(rows)):
            _print_error(
                f"{count} cells of {out} begin with =, +, - or @, which a spreadsheet takes for "
                "formulas: import those columns as text"
            )
    elif as_json:
        print("\n".join(as_json_lines(rows)))
    else:
        for row in rows:
            print(f"{printable(row.image)}\t{printable(row.label)}\t{row.confidence:.4f}")
