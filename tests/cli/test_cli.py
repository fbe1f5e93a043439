"""The command line: its options, its output, its exit codes, and the base install."""

import inspect
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from answering import write_model
from PIL import Image
from predicted import as_in_csv, predictions_in
from shapes import FINISHED, as_options, contents

from tutelage import api, cli
from tutelage.cli import output
from tutelage.cli.output import FIGURES, SKIPPED_SHOWN
from tutelage.cli.parser import EVERYDAY, VERBS, build_parser
from tutelage.config import COMMANDS, SETTINGS, field_type, group_fields
from tutelage.system.console import printable
from tutelage.system.errors import TutelageError

NAMES = ("demo", "run", "transfer", "self-train", "distill", "augment", "suggest", "ladder",
         "evaluate", "predict", "pseudo-label", "export", "review", "serve", "bench", "watch",
         "teachers", "completion")  # fmt: skip


class Ended(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """``command(*words)`` runs ``tutelage``, in this process."""

    def run(*words: Any) -> Ended:
        capsys.readouterr()
        code = cli.main([str(word) for word in words])
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(command: Command) -> Callable[..., None]:
    """``refused(said, *words)``: the command ends with 2, prints nothing, and says so."""

    def check(said: str, *words: Any) -> None:
        done = command(*words)
        assert (done.code, done.out) == (2, "")
        assert said in done.err

    return check


def python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )


# --- help


def test_help_names_every_command_and_imports_no_torch() -> None:
    code = """
import sys
from tutelage import cli
for words in ([], *([name] for name in sys.argv[1:])):
    try:
        cli.main([*words, "--help"])
    except SystemExit as end:
        assert end.code == 0
heavy = {"torch", "torchvision", "timm", "onnxruntime", "matplotlib", "pyarrow", "numpy", "PIL"}
sys.exit(f"imported {heavy & set(sys.modules)}" if heavy & set(sys.modules) else 0)
"""
    done = python(code, *NAMES)
    assert done.returncode == 0, done.stderr
    _, first, *others = done.stdout.split("usage: tutelage")
    assert set(NAMES) <= set(first.split())
    assert [text.split()[0] for text in others] == list(NAMES)


def test_everyday_commands_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert sorted(listed) == sorted(NAMES)
    assert tuple(listed[: len(EVERYDAY)]) == EVERYDAY
    assert lines.index("advanced:") == lines.index("everyday:") + len(EVERYDAY) + 2


def test_help_shows_a_dozen_settings_and_help_all_the_rest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = {}
    for option in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as end:
            cli.main(["run", option])
        assert end.value.code == 0
        words = capsys.readouterr().out.split()
        shown[option] = {n for n in SETTINGS if f"--{n.replace('_', '-')}" in words}
    assert shown["--help-all"] == set(group_fields("run"))
    assert {"minutes", "labels_per_class", "teacher"} < shown["--help"]
    assert len(shown["--help"]) <= 16


def test_python_m_tutelage_is_the_command() -> None:
    words = [sys.executable, "-m", "tutelage", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("tutelage ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_setting_is_an_option_that_reaches_the_verb(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(api, command.replace("-", "_"), lambda **options: given.update(options))
    words, expected = [], {}
    for name, (_, item) in group_fields(command).items():
        choices = item.metadata["choices"]
        value = choices[-1] if choices else item.default if item.default is not None else 1
        words += [f"--{name.replace('_', '-')}", str(value)]
        expected[name] = field_type(name)(value)
    data = [] if command == "demo" else ["photos"]
    words += ["--budget", "3"] if command == "suggest" else []
    assert cli.main([command, *data, "--out", "run", *words]) == 0
    assert {name: given[name] for name in expected} == expected
    assert all(type(given[name]) is type(value) for name, value in expected.items())
    assert given["out"] == "run"
    assert given["quiet"] is False
    assert given.get("data") == ("digits" if command == "demo" else "photos")


def test_every_verb_is_a_command_with_help_for_each_of_its_arguments() -> None:
    assert [*VERBS, "completion"] == list(NAMES)
    assert set(COMMANDS) < set(VERBS)
    commands = build_parser(full=True).commands
    for name, verb in VERBS.items():
        command = commands[name]
        assert command.description
        for action in command._actions:
            assert action.help, (name, action.dest)
            assert "``" not in action.help + command.description
            assert "In Python" not in action.help
        printing = {"help", "help_all", "json", "config"}
        known = {action.dest for action in command._actions} - printing
        parameters = set(inspect.signature(verb).parameters)
        assert parameters - known <= {"settings", "data"} if name == "review" else {"settings"}
        assert known - parameters == set(group_fields(name))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ladder", "d", "--out", "o", "--arms", "probe,transfer", "--curve", "2,5", "--seeds=3",
          "--seed", "3"],
         {"arms": ["probe", "transfer"], "curve": [2, 5], "seeds": 3,
          "engine": "local", "address": None, "seed": 3, "quiet": False}),
        (["ladder", "d", "--out", "o", "--curve", "none"], {"arms": None, "curve": [], "seeds": 5}),
        (["augment", "d", "--out", "o"], {"quiet": False}),
        (["suggest", "d", "--out", "o", "--budget", "5", "--classes", "red ant,bee"],
         {"budget": 5, "classes": ["red ant", "bee"], "port": 0, "browser": True, "quiet": False}),
        (["suggest", "d", "--out", "o", "--budget=5"], {"budget": 5, "classes": None}),
        (["evaluate", "m", "d", "--split", "val"], {"model": "m", "data": "d", "split": "val"}),
        (["predict", "m", "a", "b", "--reject"],
         {"model": "m", "images": ["a", "b"], "out": None, "reject": True, "threshold": None}),
        (["pseudo-label", "m", "a", "--out", "o"],
         {"images": ["a"], "threshold": 0.95, "accepted": None, "quiet": False}),
        (["export", "m", "--format", "hub"],
         {"out": None, "format": "hub", "int8": False, "images": None, "max_loss": 0.01}),
        (["review", "r", "--no-browser"], {"run": "r", "port": 0, "browser": False}),
        (["serve", "m", "--max-mb", "1"],
         {"max_mb": 1.0, "threads": None, "host": "127.0.0.1", "quiet": False}),
        (["bench", "m", "n", "--size", "8"],
         {"models": ["m", "n"], "threads": 1, "size": 8, "runs": 50}),
    ],
)  # fmt: skip
def test_words_become_the_verbs_arguments(
    words: list[str], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def verb(**options: Any) -> None:
        given.update(options)
        raise TutelageError("enough")

    monkeypatch.setattr(api, words[0].replace("-", "_"), verb)
    assert cli.main(words) == 2
    assert {name: given[name] for name in expected} == expected
    known = {*inspect.signature(VERBS[words[0]]).parameters, *group_fields(words[0])}
    assert set(given) <= known


def test_options_that_were_not_given_are_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(api, "demo", lambda **options: given.update(options))
    assert cli.main(["demo"]) == 0
    assert given == {"out": "tutelage-demo", "data": "digits", "quiet": False}


# --- exit codes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "d", "--seed", "x"], "tutelage run: --seed: 'x' is not a whole number"),
        (["run", "d", "--minutes=five"], "tutelage run: --minutes: 'five' is not a number"),
        (["ladder", "d", "--curve", "2,x"], "tutelage ladder: --curve: 'x' is not a whole number"),
        (["run", "d", "--mix", "paint"], "tutelage run: --mix: invalid choice: 'paint' (choose "
         "from 'none', 'cutmix', 'mixup')"),
        (["run"], "tutelage run: DATA is missing; expected: tutelage run DATA [options]"),
        (["suggest", "d"], "tutelage suggest: --budget is missing; expected: tutelage suggest DATA "
         "--budget N [options]"),
        (["--json"], "tutelage: COMMAND is missing; expected: tutelage COMMAND [options]"),
    ],
)  # fmt: skip
def test_words_that_do_not_parse_end_with_2_and_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    assert capsys.readouterr().err == f"{said}\n"


def test_no_command_at_all_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "tutelage COMMAND --help" in capsys.readouterr().err


AGAIN = "; run the same command again to continue"
FULL = OSError(28, "No space left on device", "/here/out.csv")
MEND = "/here/out.csv: No space left on device; free some space there, or choose another --out"


@pytest.mark.parametrize(
    ("words", "error", "code", "said"),
    [
        ("run d", KeyboardInterrupt(), 130, f"\ntutelage run: stopped{AGAIN}\n"),
        ("evaluate m d", KeyboardInterrupt(), 130, "\ntutelage evaluate: stopped\n"),
        ("run d --out /here/out.csv", FULL, 2, f"tutelage run: {MEND}{AGAIN}\n"),
        ("predict m d --out /here/out.csv", FULL, 2, f"tutelage predict: {MEND}\n"),
        ("evaluate m d", BrokenPipeError(), 1, ""),
    ],
)
def test_what_ends_a_command_is_one_line_with_the_mend(
    words: str,
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
) -> None:
    def verb(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(api, words.partition(" ")[0], verb)
    assert command(*words.split()) == (code, "", said)


# --- model commands

SAME = "gives the same class as PyTorch for 42 of 42 training images"


def read_rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        return predictions_in(path)
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(path).to_pylist()
    return [{**row, "probabilities": dict(row["probabilities"])} for row in rows]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_predict_writes_a_row_an_image(
    suffix: str, finished: Path, photos: Path, tmp_path: Path, command: Command, refused: Any
) -> None:
    out, torn = tmp_path / f"answers{suffix}", tmp_path / "torn.png"
    torn.write_bytes(b"\x89PNG")
    images = [photos / "test", torn]
    done = command("predict", finished / "student.onnx", *images, "--out", out)
    assert (done.code, done.out) == (0, "")
    skipped, summary = done.err.splitlines()
    assert skipped.startswith(f"skipped {torn}: ")
    expected, _ = api.predict(finished / "student.onnx", [photos / "test"])
    counts = Counter(row.label for row in expected)
    assert summary.startswith("19 images, 1 of them skipped: ")
    assert summary.endswith(f"; written to {out}")
    assert all(f"{name} ({count})" in summary for name, count in counts.items())
    rows = [{k: v for k, v in vars(row).items() if k != "rejected"} for row in expected]
    assert read_rows(out) == (list(map(as_in_csv, expected)) if suffix == ".csv" else rows)
    before = out.read_bytes()
    there = "exists; choose another name, or delete it first"
    refused(there, "predict", finished, *images, "--out", out)
    assert out.read_bytes() == before


def test_pseudo_label_counts_for_people_and_for_programs(
    finished: Path, photos: Path, tmp_path: Path, command: Command, refused: Any
) -> None:
    out, manifest = tmp_path / "labels", tmp_path / "accepted.csv"
    words = ["pseudo-label", finished, photos / "unlabeled", "--out", out]
    done = command(*words, "--json")
    found = json.loads(done.out)
    assert (done.code, found) == (0, json.loads((out / "label.json").read_text()))
    assert f"{found['images']} images: {found['labelled']} labelled" in done.err
    expected, _ = api.predict(finished, [photos / "unlabeled"], reject=True)
    assert found["labelled"] == len(expected) > 0
    assert found["unknown"] == sum(bool(row.rejected) for row in expected)
    sure = [row for row in expected if row.confidence >= 0.95 and not row.rejected]
    assert found["accepted"] == len(sure)
    assert command(*words, "--accepted", manifest, "--quiet") == (0, "", "")
    assert len(manifest.read_text().splitlines()) == 1 + found["accepted"]
    refused("accepted.csv exists", *words, "--accepted", manifest, "--quiet")


def test_a_threshold_is_kept_by_the_exported_model(
    finished: Path, photos: Path, tmp_path: Path, refused: Any
) -> None:
    model, images = finished / "student", [photos / "test"]
    plain, _ = api.predict(model, images)
    least = float(np.median([row.probabilities["disc"] for row in plain]))
    text = f"disc={least}"
    wanted = [row.probabilities["disc"] >= least for row in plain]
    asked, _ = api.predict(model, images, threshold=text)
    assert [row.label == "disc" for row in asked] == wanted
    assert [row.confidence for row in asked] == [row.probabilities[row.label] for row in asked]
    kept = tmp_path / "kept.onnx"
    assert api.export(model, kept, threshold=text)["threshold"].startswith("disc=")
    rows, _ = api.predict(kept, images)
    assert [row.label for row in rows] == [row.label for row in asked]
    right = np.mean([row.label == Path(row.image).parent.name for row in rows])
    assert api.evaluate(kept, photos)["accuracy"] == pytest.approx(right)
    known = "classes: disc, square, triangle"
    refused(known, "predict", kept, *images, "--threshold", "rust=0.3")
    refused("no place for a threshold", "export", model, "--format", "timm", "--threshold", text)


def test_a_model_without_a_threshold_cannot_reject(
    finished: Path, photos: Path, tmp_path: Path, command: Command
) -> None:
    old = shutil.copytree(finished / "student", tmp_path / "old")
    fields = json.loads((old / "model.json").read_text())
    assert isinstance(fields.pop("unknown_threshold"), float)
    (old / "model.json").write_text(json.dumps(fields))
    words = ("predict", old, photos / "test" / "disc" / "disc0.png")
    assert command(*words).code == 0
    done = command(*words, "--reject")
    assert done.code == 2
    assert "has no threshold for unknown images" in done.err
    assert "leave out --reject" in done.err


def test_predict_prints_and_checks_the_suffix_first(
    finished: Path, photos: Path, tmp_path: Path, command: Command, refused: Any
) -> None:
    image = photos / "test" / "disc" / "disc0.png"
    (row,), _ = api.predict(finished, [image])
    done = command("predict", finished, image)
    assert (done.code, done.out) == (0, f"{image}\t{row.label}\t{row.confidence:.4f}\n")
    told = json.loads(command("predict", finished, image, "--json").out)
    assert told == {name: value for name, value in vars(row).items() if name != "rejected"}
    suffixes = "the suffix must be one of .csv, .jsonl, .parquet"
    refused(suffixes, "predict", "absent.onnx", image, "--out", tmp_path / "a.txt")
    (tmp_path / "torn.png").write_bytes(b"")
    refused("none of the images could be read", "predict", finished, tmp_path / "torn.png")


def test_predict_prints_rows_for_programs_and_a_summary_for_people(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path / "m.onnx")
    Image.new("RGB", (4, 4), "red").save(tmp_path / "붉은 색.png")
    monkeypatch.chdir(tmp_path)
    for number in range(SKIPPED_SHOWN + 2):
        (tmp_path / f"torn{number:02d}.png").touch()
    done = command("predict", model, "*.png")
    assert (done.code, done.out) == (0, "붉은 색.png\tr\t1.0000\n")
    *skipped, more, summary = done.err.splitlines()
    assert skipped[0] == "skipped torn00.png: the file is empty"
    assert len(skipped) == SKIPPED_SHOWN
    assert more == "skipped 2 more"
    assert summary == f"{SKIPPED_SHOWN + 3} images, {SKIPPED_SHOWN + 2} of them skipped: r (1)"
    done = command("predict", model, "붉은*", "--json", "--out", "a.csv")
    assert json.loads(done.out)["label"] == "r"
    assert done.err == "1 image: r (1); written to a.csv\n"


def test_the_end_of_a_command_looks_at_no_object_again() -> None:
    told = "atexit.register(lambda: print(gc.get_freeze_count() > 1000))"
    work = "from tutelage.cli import main; main(['predict', 'absent', 'x.jpg'])"
    assert python(f"import atexit, gc; {told}; {work}").stdout == "True\n"


def test_a_threshold_that_the_model_keeps_is_told(tmp_path: Path, command: Command) -> None:
    model, data = write_model(tmp_path / "m.onnx"), tmp_path / "data"
    with_threshold(model, ("g", 0.1))
    for name, colour in (("r", (200, 50, 0)), ("g", (0, 200, 0))):
        (data / "test" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4), colour).save(data / "test" / name / "1.png")
    told = "1 answer is not the likeliest class, because the model keeps a decision threshold"
    assert command("predict", model, data).err.splitlines() == ["2 images: g (2)", told]
    asked = command("predict", model, data, "--threshold", "g=0.1")
    assert asked.err.splitlines() == ["2 images: g (2)"]
    done = command("evaluate", model, data, "--json")
    assert json.loads(done.out)["threshold"] == "g=0.1"
    assert done.err == "decision threshold that the model keeps: g=0.1\n"


def with_threshold(model: Path, threshold: tuple[str, float]) -> None:
    """Give an exported file a decision threshold."""
    onnx = pytest.importorskip("onnx")
    changed = onnx.load(str(model))
    entry = changed.metadata_props.add()
    entry.key, entry.value = "tutelage.decision_threshold", json.dumps(threshold)
    onnx.save(changed, str(model))


def test_evaluate_prints_for_people_and_for_programs(
    finished: Path, photos: Path, command: Command
) -> None:
    expected = api.evaluate(finished, photos)
    assert json.loads(command("evaluate", finished, photos, "--json").out) == expected
    first, accuracy, *rest = command("evaluate", finished, photos).out.splitlines()
    assert first == "18 test images"
    width = max(map(len, FIGURES.values()))
    assert accuracy.startswith(f"{'accuracy':<{width}}  {expected['accuracy']:.4f}  [")
    assert rest == [f"{words:<{width}}  {expected[name]:.4f}" for name, words in FIGURES.items()]


def test_export_prints_what_it_checked(
    finished: Path, tmp_path: Path, command: Command, refused: Any
) -> None:
    out = tmp_path / "m.onnx"
    words = ["export", finished / "student", "--out", out, "--threshold", "disc=0.3"]
    first, described, threshold = command(*words).out.splitlines()
    assert first.startswith(f"{out}: {SAME}; probabilities differ by at most ")
    assert described == f"{out}.json: classes, sizes and thresholds, for other programs"
    kept = "decision threshold: disc=0.3; predict and serve use it when they are given"
    assert threshold == f"{kept} {out}"
    refused("m.onnx exists; choose another name", *words, "--json")
    out.unlink()
    result = json.loads(command(*words, "--int8", "--json").out)
    assert (result["path"], result["top1_agreement"]) == (str(out), 1.0)
    for written in tmp_path.glob("*.onnx"):
        written.unlink()
    assert command(*words, "--int8").out.splitlines()[3].startswith("int8 takes ")


def test_export_says_why_an_int8_file_has_no_reference(capsys: pytest.CaptureFixture[str]) -> None:
    checked = {"images": "training images", "path": "m.onnx", "n": 3, "max_difference": 0.0}
    int8 = {"reason": "int8 takes 1 ms", "path": "m.int8.onnx", "without_reference": "the run went"}
    result = {**checked, "top1_agreement": 1.0, "int8": int8}
    output.print_result("export", result, {"web": None}, as_json=False)
    *_, file, why = capsys.readouterr().out.splitlines()
    assert file == "int8 takes 1 ms; use m.int8.onnx"
    assert why == "tutelage watch m.int8.onnx needs --reference DATA: the run went"


def test_export_says_why_timms_model_answers_otherwise(
    capsys: pytest.CaptureFixture[str],
) -> None:
    figures = {"n": 64, "top1_agreement": 61 / 64, "max_difference": 0.068, "loss": 0.004}
    output._print_export({"path": "m-timm", "images": "training images", **figures})
    assert capsys.readouterr().out == (
        "m-timm: gives the same class as tutelage for 61 of 64 training images; probabilities "
        "differ by at most 0.068\n"
        "timm resizes images in its own way; estimated loss of accuracy 0.4 points\n"
    )


def test_export_prints_each_form_and_warns_of_the_images_that_go_with_them(
    finished: Path, tmp_path: Path, command: Command
) -> None:
    done = command("export", finished, "--portable", "--view", "--out", tmp_path / "m.onnx")
    _, portable, view, _, golden = done.out.splitlines()
    assert portable.startswith(f"{tmp_path / 'm.portable.onnx'}: {SAME}")
    assert view.startswith(f"{tmp_path / 'm.view.onnx'}: {SAME}")
    assert golden == (
        f"{tmp_path / 'golden'}: ten of these training images with their answers, to test a port; "
        "think before you pass your images on"
    )


# --- the base install

BASE = """
import contextlib, io, json, sys

EXTRAS = {"torch", "torchvision", "timm", "pyarrow", "matplotlib", "onnx", "safetensors"}

sys.modules.update(dict.fromkeys(EXTRAS))  # an import of None fails like that of no package
from tutelage import cli
results = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(words)
    results.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(results))
"""


def test_the_base_install_runs_an_exported_model_and_names_the_extra(
    finished: Path, photos: Path, tmp_path: Path
) -> None:
    onnx, data, out = str(finished / "student.onnx"), str(photos), str(tmp_path / "run")
    test = str(photos / "test")
    bare = str(finished / "stages" / "probe")  # a model folder without an exported file
    commands = [
        ["predict", onnx, test, "--out", str(tmp_path / "a.csv")],
        ["evaluate", onnx, data, "--json"],
        ["predict", str(finished), test],
        ["predict", str(finished / "student"), test],
        ["predict", onnx, test, "--out", str(tmp_path / "a.parquet")],
        ["predict", bare, test],
        ["export", str(finished / "student"), "--out", str(tmp_path / "m.onnx")],
        *([verb, data, "--out", out] for verb in ("run", "transfer", "self-train")),
        ["distill", data, "--out", out, "--teacher", str(finished / "teacher")],
        ["ladder", data, "--out", out],
    ]
    done = python(BASE, json.dumps(commands))
    assert done.returncode == 0, done.stderr
    written, evaluated, printed, of_folder, *refused = json.loads(done.stdout)
    expected, _ = api.predict(onnx, [test])
    assert written[:2] == [0, ""]
    assert written[2].startswith("18 images: ")
    assert read_rows(tmp_path / "a.csv") == list(map(as_in_csv, expected))
    assert evaluated[0] == 0
    assert json.loads(evaluated[1]) == api.evaluate(onnx, data)
    assert printed[0] == 0
    assert len(printed[1].splitlines()) == 18
    assert of_folder == printed
    for (code, said, error), words in zip(refused, commands[4:], strict=True):
        assert code == 2, words
        assert said == ""
        why = f"{bare} has no exported .onnx file: " if bare in words else ""
        assert error.startswith(f"tutelage {words[0]}: {why}this needs the package '"), words
        assert error.endswith('install it with: pip install "tutelage[train]"\n'), words
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv"]


def test_what_is_refused_is_refused_before_torch_is_imported(
    finished: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("precious")
    (tmp_path / "bad.csv").write_text('a,b\n"')
    data, out, gone = str(photos), str(tmp_path / "out"), str(tmp_path / "gone")
    refused = [
        ["run", data, "--out", out, "--minutes", "0"],
        ["run", gone, "--out", out],
        ["run", str(tmp_path / "bad.csv"), "--out", out],
        ["transfer", data, "--out", str(tmp_path / "thesis")],
        ["self-train", data, "--out", str(finished)],
        ["distill", data, "--out", out],
        ["demo", "--out", out, "--minutes", "0"],
        ["augment", gone, "--out", out],
        ["suggest", gone, "--out", out, "--budget", "3"],
        ["ladder", gone, "--out", out],
        ["ladder", data, "--out", out, "--seeds", "1"],
        ["ladder", data, "--out", out, "--arms", "probes"],
    ]
    finished_already = ["run", data, "--out", str(finished), *as_options(FINISHED)]
    before = contents(finished)
    done = python(BASE, json.dumps([*refused, finished_already]))
    assert done.returncode == 0, done.stderr
    *results, told = json.loads(done.stdout)
    for words, (code, said, error) in zip(refused, results, strict=True):
        assert (code, said) == (2, ""), words
        assert "install" not in error, error
    assert told == [0, "", f"already finished: report {finished / 'report.html'}\n"]
    assert contents(finished) == before
    assert not Path(out).exists()


def test_a_training_command_prints_its_metrics_where_asked(
    finished: Path, photos: Path, tmp_path: Path, command: Command
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")  # the same command trains nothing
    done = command("run", photos, "--out", run, *as_options(FINISHED), "--json", "--quiet")
    assert done.code == 0
    assert json.loads(done.out) == json.loads((run / "metrics.json").read_text())


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_shell_learns_the_commands(shell: str, command: Command) -> None:
    done = command("completion", shell)
    assert done.code == 0
    assert "labels-per-class" in done.out
    if shutil.which(shell):
        read = subprocess.run([shell, "-n"], input=done.out, text=True, capture_output=True)
        assert read.returncode == 0, read.stderr


@pytest.fixture
def hostile(tmp_path: Path, photos: Path) -> Path:
    """Test images of the shapes, some of which are none, or are called as no image is."""
    folder = tmp_path / "hostile" / "test" / "disc"
    folder.mkdir(parents=True)
    good = next((photos / "test" / "disc").iterdir())
    (tmp_path / "hostile" / "train").mkdir()
    for name in ("good.png", "=1+1.png", "a\n\x1b[31m\t.png", "\u202egnp.png", "n" * 251 + ".png"):
        shutil.copy(good, folder / name)
    shutil.copy(good, folder / os.fsdecode(b"\xff.png"))
    os.mkfifo(folder / "pipe.png")
    (folder / "dangling.png").symlink_to("nowhere")
    (folder / "up").symlink_to(tmp_path)
    (folder / "page\n.jpg").write_text("<html>")
    return tmp_path / "hostile"


@pytest.mark.parametrize("suffix", [None, ".csv", ".jsonl", ".parquet"])
def test_predict_answers_for_what_is_good_of_a_hostile_folder(
    suffix: str | None,
    hostile: Path,
    finished: Path,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(hostile / "test" / "disc")
    out = tmp_path / f"answers{suffix}"
    wanted = ("--out", out) if suffix else ()
    done = command("predict", finished / "student.onnx", ".", *wanted)
    assert done.code == 0
    skipped = [line for line in done.err.splitlines() if line.startswith("skipped ")]
    assert [line.partition(": ")[0] for line in skipped] == [
        "skipped dangling.png", r"skipped page\n.jpg", "skipped pipe.png"
    ]  # fmt: skip
    names = {"good.png", "=1+1.png", "a\n\x1b[31m\t.png", "\u202egnp.png", "n" * 251 + ".png",
             r"\xff.png"}  # fmt: skip
    if suffix is None:
        rows = [line.split("\t") for line in done.out.splitlines()]
        assert {row[0] for row in rows} == {printable(name) for name in names}
        assert {len(row) for row in rows} == {3}
    else:
        assert {row["image"] for row in read_rows(out)} == names
        warned = ("a cell of" in done.err, "a spreadsheet takes for a formula" in done.err)
        assert warned == ((suffix == ".csv",) * 2)


def test_evaluate_says_what_it_could_not_read_and_why(
    hostile: Path, finished: Path, command: Command
) -> None:
    done = command("evaluate", finished, hostile)
    assert done.code == 0
    assert done.out.startswith("6 test images\n")
    note, *skipped = done.err.splitlines()
    assert note.startswith("note: folders that are links or cannot be opened are left out: 1 (")
    assert skipped == [
        "skipped test/disc/dangling.png: No such file or directory",
        r"skipped test/disc/page\n.jpg: the file is not a JPEG, PNG, WebP, BMP, TIFF or GIF image, "
        "or its header is damaged",
        "skipped test/disc/pipe.png: it is a pipe, a device or a socket, not a file",
    ]
    figures = api.evaluate(finished, hostile)
    assert figures["skipped"] == len(figures["reasons"]) == 3


@pytest.mark.parametrize(
    ("name", "content"),
    [("metrics.json", "[]"), ("metrics.json", "{"), ("config.json", "[]"), ("config.json", "{}")],
)
def test_export_from_a_damaged_run_is_refused(
    name: str, content: str, finished: Path, tmp_path: Path, refused: Any
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / name).write_text(content)
    refused(name, "export", run / "student", "--format", "hub", "--out", tmp_path / "hub")
    assert not (tmp_path / "hub").exists()
