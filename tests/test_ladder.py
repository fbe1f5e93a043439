"""``tutelage ladder``: paired draws, what is compared with what, the folder, and the figures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm")

import silent_checks as checks
import tiny

from tutelage import api, cli, ladder, pipeline, plan, runs, trunk
from tutelage.config import RunConfig, make_config
from tutelage.data.catalog import read_catalog
from tutelage.data.split import load_split
from tutelage.errors import TutelageError
from tutelage.loader import Canvases
from tutelage.plan import Work
from tutelage.report.ladder import HELPS, HURTS, UNCLEAR

SETTINGS = {**checks.SETTINGS, "minutes": 0.7, "trunk": "frozen"}


@pytest.fixture(autouse=True)
def _quick(own_cache: Path) -> Iterator[None]:
    with quick():
        yield


@contextmanager
def quick() -> Iterator[None]:
    """A known machine, and trainings of four steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "measure_speed", lambda *_: checks.SPEED)
        patch.setattr(plan, "STEPS", (4,))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("ladder") / "data")


@pytest.fixture(scope="module")
def climbed(
    data: Path, own_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """An undisturbed ladder over two draws; tests only read it."""
    out = tmp_path_factory.mktemp("climbed") / "ladder"
    with quick():
        return out, api.ladder(data, out, seeds=2, quiet=True, **SETTINGS)


def figures(content: dict[str, Any]) -> dict[str, Any]:
    """What two equal ladders share: all but the clock's figures and the command."""
    arms = [
        {k: v for k, v in arm.items() if k not in ("seconds", "latency_ms")}
        for arm in content["arms"]
    ]
    return {"arms": arms} | {k: content[k] for k in ("seeds", "n_test", "differences", "verdict")}


# --- the draws


def test_arms_share_their_seeds_split_and_seeds_differ(
    climbed: tuple[Path, dict[str, Any]], data: Path
) -> None:
    out, content = climbed
    assert content["seeds"] == [0, 1]
    catalog = read_catalog(data)
    roles = []
    for seed in content["seeds"]:
        folder = out / f"seed-{seed}"
        split = load_split(folder / "split.parquet", catalog)
        assert len(split.indices("labeled")) == 8
        roles.append(split.roles)
        stored = {path.name for path in (folder / "stages").iterdir()}
        assert stored == {"probe", "transfer", "self-train-1", "fine-tune", "student-alone",
                          "student"}  # fmt: skip
        config = json.loads((folder / "config.json").read_text())
        assert config["request"]["settings"]["data"]["seed"] == seed
    test = roles[0] == "test"
    assert test.sum() == content["n_test"] == 12
    assert np.array_equal(test, roles[1] == "test")
    assert not np.array_equal(roles[0] == "labeled", roles[1] == "labeled")
    plans = [json.loads((out / f"seed-{s}" / "config.json").read_text())["plan"] for s in (0, 1)]
    assert plans[0] == plans[1]


def test_the_extra_arms_get_the_same_rows_views_and_steps(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(data, tmp_path)
    fits = checks.captured_fits(monkeypatch)
    ladder.climb(pipeline.Chain(run), ladder.ARMS)
    assert len(fits) == 3
    fine_tune, alone, distilled = fits
    labeled = set(run.task.labeled.tolist())
    for fit in (fine_tune, alone):
        assert {int(r) for e, _ in fit.loader.streams for r in e.rows} == labeled
    pool = {int(row) for row in run.task.pool}
    assert {int(r) for e, _ in distilled.loader.streams for r in e.rows} == labeled | pool
    assert {fit.settings.steps for fit in fits} == {4}
    assert {fit.loader.views.size for fit in fits} == {run.plan.student.size}
    assert len({repr(fit.loader.views.policy) for fit in fits}) == 1
    assert {fit.loader.seed for fit in fits} == {run.config.data.seed}
    assert any(p.requires_grad for p in fine_tune.model.trunk.parameters())
    shapes = [{n: p.shape for n, p in fit.model.named_parameters()} for fit in (alone, distilled)]
    assert shapes[0] == shapes[1]


def prepared(data: Path, tmp_path: Path, **settings: Any) -> runs.Run:
    config = make_config("ladder", {**SETTINGS, **settings})
    catalog = read_catalog(data)
    return runs.prepare("ladder", catalog, str(data), tmp_path / "run", config, quiet=True)


@pytest.mark.parametrize(
    ("transfer", "rounds", "expected"),
    [
        ("frozen", ("frozen",), (300, 32)),
        ("frozen", ("frozen", "trained"), (200, 64)),
        ("trained", ("online",), (100, 64)),
    ],
)
def test_fine_tuning_works_as_the_plan_trains_a_trunk_or_else_the_student(
    transfer: Any, rounds: Any, expected: tuple[int, int], data: Path
) -> None:
    chosen = plan.Plan(
        minutes=1, size=64, views=2, folds=4, judged_folds=2, estimated_seconds=1,
        transfer=Work(transfer, 100, 64, 96), rounds=tuple(Work(r, 200, 64, 96) for r in rounds),
        student=Work("trained", 300, 32, 64),
    )  # fmt: skip
    work = ladder.fine_tune_work(chosen)
    assert (work.trunk, work.steps, work.batch_size) == ("trained", *expected)


def test_test_images_are_looked_at_after_the_last_stage_and_once_by_each(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[Any] = []
    take, save = Canvases.take, pipeline._save_stage

    def watched(self: Canvases, rows: Any) -> Any:
        log.append([int(row) for row in rows])
        return take(self, rows)

    def noted(folder: Path, done: pipeline.Finished) -> None:
        log.append(done.name)
        save(folder, done)

    monkeypatch.setattr(Canvases, "take", watched)
    monkeypatch.setattr(pipeline, "_save_stage", noted)
    catalog, out = read_catalog(data), tmp_path / "run"
    config = make_config("ladder", SETTINGS)
    ladder.run_seed(catalog, str(data), out, config, ladder.ARMS, quiet=True)
    test = set(np.flatnonzero(catalog.splits == "test").tolist())
    last = max(place for place, entry in enumerate(log) if isinstance(entry, str))
    assert log[last] == "student"
    assert not any(test & set(entry) for entry in log[:last] if not isinstance(entry, str))
    looks = [entry for entry in log[last + 1 :] if test & set(entry)]
    # One for all heads on the untouched trunk, one each for fine-tune and the two students.
    assert len(looks) == 4
    assert all(set(look) == test for look in looks)


# --- the folder


def test_a_second_call_trains_nothing_and_finds_the_same(
    climbed: tuple[Path, dict[str, Any]],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, content = climbed
    copy = tmp_path / "ladder"
    shutil.copytree(out, copy)
    monkeypatch.setattr(runs, "prepare", never)
    again = api.ladder(data, copy, seeds=2, quiet=True, **SETTINGS)
    assert again | {"created": ""} == content | {"created": "", "command": again["command"]}


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("this was finished")


def test_a_ladder_that_was_cut_off_goes_on(
    climbed: tuple[Path, dict[str, Any]],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, content = climbed
    copy = tmp_path / "ladder"
    shutil.copytree(out, copy)
    # As a kill in the second draw's student leaves it.
    for name in ("ladder.json", "ladder.html", "seed-1/metrics.json"):
        (copy / name).unlink()
    shutil.rmtree(copy / "seed-1" / "stages" / "student")
    before = (copy / "seed-1" / "stages" / "fine-tune" / "stage.json").read_bytes()
    trained = counted(monkeypatch)
    again = api.ladder(data, copy, seeds=2, quiet=True, **SETTINGS)
    assert trained == ["student"]
    assert figures(again) == figures(content)
    assert (copy / "seed-1" / "stages" / "fine-tune" / "stage.json").read_bytes() == before
    for seconds in zip(again["arms"][:-1], content["arms"][:-1], strict=True):
        assert seconds[0]["seconds"] == seconds[1]["seconds"]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the trainings from now on."""
    trained: list[str] = []
    fit: Callable[..., Any] = trunk.fit

    def noted(shop: Any, model: Any, step: Any, loader: Any, settings: Any, label: str) -> Any:
        trained.append(label)
        return fit(shop, model, step, loader, settings, label)

    monkeypatch.setattr(trunk, "fit", noted)
    return trained


def test_other_arms_are_another_ladder_and_more_seeds_are_the_same(
    climbed: tuple[Path, dict[str, Any]],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, content = climbed
    with pytest.raises(TutelageError, match="holds another run: its arms is"):
        api.ladder(data, out, seeds=2, arms=["probe"], quiet=True, **SETTINGS)
    copy = tmp_path / "ladder"
    shutil.copytree(out, copy)
    third = copy / "seed-2" / "metrics.json"  # as if it had been run
    third.parent.mkdir()
    known = json.loads((copy / "seed-1" / "metrics.json").read_text())
    third.write_text(json.dumps(known | {"seed": 2}))
    monkeypatch.setattr(runs, "prepare", never)
    more = api.ladder(data, copy, seeds=3, quiet=True, **SETTINGS)
    assert more["seeds"] == [0, 1, 2]
    for arm, before in zip(more["arms"], content["arms"], strict=True):
        assert arm["each"] == [*before["each"], before["each"][1]]


def test_arms_that_are_left_out_are_not_trained(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(data, tmp_path)
    fits = checks.captured_fits(monkeypatch)
    expected = set[str]()
    for arms, trained in ((("student-alone",), {"student-alone"}), (("probe",), {"probe"})):
        done, seconds = ladder.climb(pipeline.Chain(run), arms)
        expected |= trained | ({"transfer"} if "probe" in arms else set())
        assert (tuple(done), tuple(seconds)) == (arms, arms)
        assert {path.name for path in run.folder.stages.iterdir()} == expected
    assert len(fits) == 1


def test_what_cannot_be_climbed_is_refused_before_anything_is_written(
    data: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(data / "train", bare)
    out = tmp_path / "out"
    for call, words in (
        ((bare, {}), "needs labelled test images .* the splits are: train. Put some into test/"),
        ((data, {"seeds": 1}), "--seeds is 1, expected 2 or more"),
        ((data, {"arms": ["probe", "prob"]}), "no arm called 'prob'; --arms takes some of probe,"),
        ((data, {"arms": []}), "no arms given"),
        ((data, {"alhpa": 1}), "'ladder' has no setting 'alhpa'; did you mean 'alpha'"),
        ((data, {"weights": "nowhere"}), "nowhere"),
    ):
        where, changed = call
        with pytest.raises(TutelageError, match=words):
            api.ladder(where, out, quiet=True, **{**SETTINGS, **changed})
        assert not out.exists()


def test_the_command_line_gives_arms_and_seeds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {}

    def noted(**options: Any) -> dict[str, Any]:
        given.update(options)
        return {"arms": []}

    monkeypatch.setattr(api, "ladder", noted)
    words = ["ladder", "photos", "--out", "l", "--arms", "probe,student", "--json", "--seed", "3"]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out) == {"arms": []}
    assert given == {"data": "photos", "out": "l", "seeds": 5, "arms": ["probe", "student"],
                     "quiet": False, "seed": 3}  # fmt: skip


# --- the figures


def seed_of(number: int, **accuracy: float) -> dict[str, Any]:
    """The content of a seed's metrics.json, made up."""
    arms = [
        {
            "arm": name.replace("_", "-"),
            "stage": name,
            "kept": number > 0 if name == "transfer" else None,
            "seconds": float(number),
            "parameters": 100,
            "latency_ms": 2.0 if number == 0 else None,
            "test": {"n": 100, "accuracy": value, "ece": 0.1 * number},
        }
        for name, value in accuracy.items()
    ]
    note = {"notes": ["odd"] if number == 1 else ["same"]}
    return {"seed": number, "labeled": 4, "versions": {"torch": "1"}, "arms": arms} | note


SEEDS = [
    seed_of(0, probe=0.50, fine_tune=0.52, transfer=0.60, student=0.40),
    seed_of(1, probe=0.60, fine_tune=0.61, transfer=0.69, student=0.51),
    seed_of(2, probe=0.70, fine_tune=0.73, transfer=0.80, student=0.59),
]
T2 = 4.302653  # 97.5% point of Student's t with 2 degrees of freedom


def test_the_figures_of_three_draws_by_hand() -> None:
    arms, differences = ladder.summarise(SEEDS)
    assert [arm.name for arm in arms] == ["probe", "fine-tune", "transfer", "student"]
    probe, _, transfer, _ = arms
    assert probe.each == [0.5, 0.6, 0.7]
    half = T2 * 0.1 / 3**0.5  # standard deviation 0.1
    assert probe.mean == pytest.approx((0.6, 0.6 - half, 0.6 + half), abs=1e-6)
    assert (probe.ece, probe.seconds) == (pytest.approx(0.1), 1.0)
    assert (probe.parameters, probe.latency_ms, probe.kept) == (100, 2.0, None)
    assert transfer.kept == 2
    by_pair = {(d.arm, d.minus): d for d in differences}
    change = by_pair["transfer", "fine-tune"]  # 8, 8 and 7 points; deviation 1 / sqrt(3)
    assert change.each == pytest.approx([0.08, 0.08, 0.07])
    mean, half = 0.23 / 3, T2 * (0.01 / 3**0.5) / 3**0.5
    assert change.mean == pytest.approx((mean, mean - half, mean + half), abs=1e-6)
    assert change.verdict == HELPS
    assert by_pair["fine-tune", "probe"].verdict == UNCLEAR  # 2, 1, 3 points: 2 +- 2.5
    assert by_pair["student", "fine-tune"].verdict == HURTS  # -12, -10, -14
    assert by_pair["student", "transfer"].verdict == HURTS


def test_pairing_sees_what_the_spread_of_the_arms_hides() -> None:
    (_, fine_tune, transfer, _), differences = ladder.summarise(SEEDS)
    assert fine_tune.mean.high > transfer.mean.low  # the arms' own intervals overlap
    assert {(d.arm, d.minus): d.verdict for d in differences}["transfer", "fine-tune"] == HELPS


def test_an_arm_that_a_seed_lacks_is_left_out_for_all() -> None:
    lacking = [*SEEDS[:2], {**SEEDS[2], "arms": SEEDS[2]["arms"][:3]}]
    arms, differences = ladder.summarise(lacking)
    assert [arm.name for arm in arms] == ["probe", "fine-tune", "transfer"]
    assert "student" not in {d.arm for d in differences}


def test_differences_without_spread_are_no_proof() -> None:
    alike = [seed_of(n, probe=0.5, transfer=0.6) for n in range(3)]
    (change,) = ladder.summarise(alike)[1]
    assert change.mean.low == change.mean.high > 0
    assert change.verdict == UNCLEAR


def test_each_arm_is_compared_with_the_one_before_its_teacher_and_fine_tuning() -> None:
    assert list(ladder.pairs(ladder.ARMS)) == [
        ("fine-tune", "probe"),
        ("transfer", "fine-tune"),
        ("self-train", "transfer"),
        ("self-train", "fine-tune"),
        ("student-alone", "self-train"),
        ("student-alone", "fine-tune"),
        ("student", "student-alone"),
        ("student", "self-train"),
        ("student", "fine-tune"),
    ]
    assert list(ladder.pairs(["probe", "transfer", "student-alone", "student"])) == [
        ("transfer", "probe"),
        ("student-alone", "transfer"),
        ("student", "student-alone"),
        ("student", "transfer"),
    ]
    assert list(ladder.pairs(["probe"])) == []


def test_notes_say_what_the_draws_share_and_whose_a_note_is(data: Path) -> None:
    def page(config: RunConfig) -> Any:
        return ladder.make_page(SEEDS, read_catalog(data), config, command="c", created="d")

    everything = page(RunConfig())
    assert everything.notes[0].startswith("Every draw had all labels")
    assert everything.notes[-2:] == ["same (seed 0, 2)", "odd (seed 1)"]
    few = page(make_config("ladder", {"labels_per_class": 4}))
    assert not any("all labels" in note for note in few.notes)
    assert few.title == "tutelage ladder: ant, bee"


def test_the_page_and_the_file_say_the_same(climbed: tuple[Path, dict[str, Any]]) -> None:
    out, content = climbed
    assert json.loads((out / "ladder.json").read_text()) == content
    text = (out / "ladder.html").read_text()
    assert content["verdict"].replace("'", "&#39;") in text
    for change in content["differences"]:
        assert change["verdict"] in (HELPS, HURTS, UNCLEAR)
        assert change["mean"] == pytest.approx(np.mean(change["each"]))
    assert content["command"].endswith("--seeds 2")
    assert content["arms"][-1]["latency_ms"] > 0
    assert content["settings"]["data"]["labels_per_class"] == 4


def test_all_seeds_share_the_choice_of_a_student(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = []
    monkeypatch.setattr(ladder, "run_seed", lambda *_, **k: shared.append(k["shared"].path) or {})
    config = make_config("ladder", SETTINGS)
    ladder.run_seeds(read_catalog(data), "data", tmp_path / "all", config, ["probe"], 2, quiet=True)
    assert shared == [tmp_path / "all"] * 2
