"""The augmentation benchmark, whose contenders all do the job, and the tables in the docs."""

import json
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scripts

torch = pytest.importorskip("torch")

from tutelage.augment.plan import COLOR_OPS  # noqa: E402
from tutelage.system.errors import TutelageError  # noqa: E402

with scripts.importable():
    import augment
    import augment_gpu
    import augment_peers as peers
    import suggest
    import tables
    import watch
    from augment import BATCH, check, interleave, measure
    from augment_peers import PEERS, POLICY, PUBLISHED, Job
    from augment_words import STAGES, describe
    from foreign import auroc
    from photos import choose_photos, generate, shrink, to_jpeg

HERE = [name for name in PEERS if peers.installed(name)]
FORMS = [(name, form) for name in HERE for form in PEERS[name]]
NAMES = {"tutelage", "copy", *PEERS}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark of seconds: its tables are as long, its figures mean nothing."""
    for name, value in {"BATCH": 8, "PHOTOS": 16, "ROUNDS": 2}.items():
        monkeypatch.setattr(augment, name, value)


# --- the result


@pytest.mark.usefixtures("small")
def test_the_result_holds_the_contract() -> None:
    result = measure(seconds=0.01)
    assert (result["device"], result["threads"]) == ("cpu", 1)
    assert set(result["absent"]) == set(PEERS) - set(HERE)
    here = ["tutelage", *HERE]
    for key, names in (("rows", [*here, "copy"]), ("uint8", here), ("limits", ["copy", "decode"])):
        found = [(row["size"], row["name"]) for row in result[key]]
        assert found == [(size, name) for size in (224, 32) for name in names], key
    for row in result["rows"]:
        assert row["name"] in NAMES
        assert 0 < row["min"] <= row["images_per_second"] <= row["max"]
        assert row["dtype"] == "float32"
        if row["name"] == "tutelage":
            assert row["ratio"] == 1
    both = next(row for row in result["rows"] if row["name"] == "torchvision")
    speeds = {form: rate["images_per_second"] for form, rate in both["forms"].items()}
    assert set(speeds) == {PUBLISHED, "Pillow images", "uint8 tensors"}
    assert both["published"] == speeds[PUBLISHED]
    assert speeds[both["form"]] == max(speeds.values())  # rounded, they may be equal
    assert next(row["threads"] for row in result["scaling"]) == 1
    assert [row["stage"] for row in result["breakdown"]] == list(STAGES)
    assert result["first_call_seconds"] > 0


@pytest.mark.usefixtures("small")
def test_the_breakdown_adds_up_to_plan_and_kernel() -> None:
    rates = {"plan": [1e6 / 20], "copy": [1e6 / 100], "crop": [1e6 / 90], "slant": [1e6 / 120],
             "color": [1e6 / 200], "normalise": [1e6 / 230], "gather": [1e6 / 70]}  # fmt: skip
    rows = {row["stage"]: row for row in augment._breakdown(rates)}
    cost = {stage: row["microseconds"] for stage, row in rows.items()}
    assert cost == {"plan": 20, "copy": 100, "crop": -10, "slant": 30, "color": 80,
                    "normalise": 30, "gather": 70}  # fmt: skip
    assert sum(row["share"] for stage, row in rows.items() if stage != "gather") == 1


@pytest.mark.usefixtures("small")
def test_people_read_who_is_absent_and_on_what_it_was_measured(
    photos: Path,
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(peers, "installed", lambda name: name not in ("kornia", "timm"))
    words = ["--images", str(photos), "--peers", "timm,kornia", "--seconds", "0.01"]
    augment.main(words)
    said = capsys.readouterr().out
    assert "absent: timm (not installed)\nabsent: kornia (not installed)\n" in said
    assert f"16 images of {photos}" in said
    assert "torchvision" not in said
    for line in ("256 -> 224 pixels, normalised float32", "32 -> 32 pixels, uint8"):
        assert line in said
    for start in ("  tutelage ", "  copy ", "  decode ", "    1 thread ", "first call"):
        assert re.search(f"^{start}", said, re.MULTILINE), start


@pytest.mark.usefixtures("small")
def test_of_several_runs_the_medians_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def measure_here(**options: Any) -> dict[str, Any]:
        measured.append(measure(**{**options, "only": ["timm"]}))
        return measured[-1]

    monkeypatch.setattr(augment, "_in_new_process", measure_here)
    path = tmp_path / "results.json"
    augment.main(["--seconds", "0.01", "--runs", "3", "--json", str(path)])
    (kept,) = json.loads(path.read_text())
    assert (kept["benchmark"], kept["runs"]) == ("augment_cpu", len(measured)) == ("augment_cpu", 3)
    for key in ("rows", "uint8", "limits", "scaling"):
        for number, row in enumerate(kept[key]):
            each = [run[key][number] for run in measured]
            assert row["ratio_each"] == [run["ratio"] for run in each]
            assert row["ratio"] == sorted(row["ratio_each"])[1]
            if row["name" if "name" in row else "threads"] == "timm":
                speeds = sorted(run["published"] for run in each)
                assert row["published"] == speeds[1]
            assert (row["min"], row["max"]) == (
                min(run["min"] for run in each),
                max(run["max"] for run in each),
            )
    assert list(kept["breakdown"]) == list(STAGES)
    assert tables.augment_cpu(kept).count("| tutelage | ") == 2


@pytest.mark.usefixtures("small")
def test_a_peer_that_raises_is_said_and_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(job: Job) -> Any:
        raise AttributeError("no RandAugment here")

    def wrong(job: Job) -> Any:
        return lambda rows: torch.zeros(8, 3, 4, 4)

    monkeypatch.setattr(peers, "PEERS", {"timm": {"old": broken}, "torchvision": {"new": wrong}})
    result = measure(seconds=0.01)
    assert result["absent"]["timm"] == "does not work here: AttributeError: no RandAugment here"
    assert "it made (8, 3, 4, 4) torch.float32, expected" in result["absent"]["torchvision"]
    assert {row["name"] for row in result["rows"]} == {"tutelage", "copy"}
    assert "absent: timm (does not work here" in describe(result)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--peers", "timm,dali"], "no peer is named ['dali']; there are: torchvision, timm, albu"),
        (["--seconds", "0"], "seconds is 0.0, expected more than 0"),
        (["--threads", "9999"], "threads is 9999, expected 1 to "),
        (["--images", "absent/"], "absent"),
        (["--runs", "0"], "--runs is 0, expected at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    words: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        augment.main(words)
    assert part in capsys.readouterr().err


def test_threads_are_given_back() -> None:
    torch.set_num_threads(1)
    with augment._threads(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1


def test_rounds_are_interleaved() -> None:
    calls: list[tuple[str, slice]] = []
    contest = {name: lambda rows, name=name: calls.append((name, rows)) for name in "ab"}
    rates = interleave(contest, 0.0, lambda: float(len(calls)))
    assert [name for name, _ in calls] == ["a", "b"] * augment.ROUNDS
    assert rates == {name: [BATCH] * augment.ROUNDS for name in "ab"}  # a call is a second
    assert calls[0][1] == slice(0, BATCH)


# --- the contenders


@pytest.fixture(scope="module")
def pixels() -> Any:
    return generate(BATCH, 256)


def run(build: Callable[[Job], Any], job: Job) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peers' own
        return build(job)(slice(0, BATCH))


@pytest.mark.parametrize(("name", "form"), [("tutelage", ""), *FORMS])
def test_every_contender_does_the_job(name: str, form: str, pixels: Any) -> None:
    build = PEERS[name][form] if form else peers.tutelage
    views = run(build, Job(pixels, 224, normalise=True))
    assert views.shape == (64, 3, 224, 224)
    assert views.dtype == torch.float32
    assert views.is_contiguous()
    assert abs(float(views.mean())) < 0.5  # the images' mean lies 0.1 from ImageNet's
    assert 0.7 < float(views.std()) < 1.5
    same = np.repeat(pixels[:1], BATCH, axis=0)
    each = run(build, Job(shrink(same, 32), 32, normalise=False))
    assert (each.shape, each.dtype) == ((64, 3, 32, 32), torch.uint8)
    assert len({view.numpy().tobytes() for view in each}) > 60  # draws of each image's own
    assert 60 < float(each.float().mean()) < 190


def test_peers_are_given_the_policys_amounts() -> None:
    plan = POLICY.plan(torch.ones(512), torch.Generator().manual_seed(0))
    codes, amounts = plan.ops.flatten(), plan.amounts.flatten()
    for name in ("brightness", "contrast", "saturation", "sharpness"):
        found = amounts[codes == COLOR_OPS.index(name)].unique()
        assert found.tolist() == pytest.approx([1 - peers._BLEND, 1 + peers._BLEND]), name
    posterize = amounts[codes == COLOR_OPS.index("posterize")].unique()
    assert posterize.round().tolist() == [peers._BITS]
    solarize = amounts[codes == COLOR_OPS.index("solarize")].unique()
    assert solarize.tolist() == pytest.approx([255 * peers._SOLARIZE])


def test_views_that_are_not_what_was_asked_for_are_refused(pixels: Any) -> None:
    job = Job(pixels, 4, normalise=True)
    views = torch.rand(BATCH, 3, 4, 4)
    check(views, job)
    for bad in (views[:2], views.double(), views.transpose(2, 3)):
        with pytest.raises(TutelageError, match="expected contiguous"):
            check(bad, job)
    with pytest.raises(TutelageError, match="64 of 64 views have one colour"):
        check(torch.ones(BATCH, 3, 4, 4), job)


# --- the photos


def test_generated_images_cost_what_photos_cost() -> None:
    images = generate(16, 256)
    assert np.array_equal(images, generate(16, 256))
    assert 100 < images.mean() < 150
    assert 40 < images.std() < 70
    assert all(len(np.unique(image)) > 150 for image in images)
    assert 15_000 < np.mean([len(file) for file in to_jpeg(images)]) < 30_000


def test_shrink_averages_blocks() -> None:
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    small = shrink(images, 2)
    assert small.shape == (2, 2, 2, 3)
    assert small[1, 0, 1, 2] == round(images[1, :2, 2:, 2].mean())


def test_few_photos_are_repeated(photos: Path, own_cache: Path) -> None:
    found = choose_photos(photos, 100, 64)
    assert found.pixels.shape == (100, 64, 64, 3)
    count = int(found.origin.partition(" ")[0])
    assert 0 < count < 100
    assert np.array_equal(found.pixels[0], found.pixels[count])


def test_peers_on_a_gpu_that_are_not_installed_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("kornia", "nvidia", "cvcuda"):
        monkeypatch.setitem(sys.modules, package, None)
    assert not augment_gpu.peers(torch.zeros(2, 8, 8, 3, dtype=torch.uint8), 4)
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" (")[0] for line in said] == [
        f"left out: {name}" for name in augment_gpu.PEERS
    ]


# --- watch


def test_one_class_of_a_batch_is_more_frequent_and_no_image_is_there_twice() -> None:
    labels = np.repeat(np.arange(4), 100)
    rows = np.random.default_rng(1).permutation(400)[:320]
    drawn = [watch.moved(rows, labels, 100, np.random.default_rng(seed)) for seed in range(40)]
    for found in drawn:
        assert len(set(found)) == 100
        assert set(found) <= set(rows)
    shares = np.sort([np.bincount(labels[found], minlength=4) for found in drawn], axis=1) / 100
    assert shares[:, -1].mean() == pytest.approx(0.45, abs=0.03)
    assert not watch.can_move(labels, 200)
    assert watch.can_move(labels, 50)


# --- the table in the docs


def test_the_docs_show_the_newest_results() -> None:
    for name, (_, document) in tables.TABLES.items():
        text = (tables.RESULTS / document).read_text()
        assert tables.filled(text, name) == text, "run: python benchmarks/tables.py"


def test_the_efficiency_table_compares_in_pairs() -> None:
    setting = efficiency_setting(limit=1000, minutes=5.0)
    accuracies = {
        "probe": {0: 0.5, 1: 0.6},
        "self-train": {0: 0.7, 1: 0.8},
        "student": {0: 0.63, 1: 0.72},
        "fine-tune": {1: 0.9},
    }
    rows = [
        {**setting, "arm": arm, "seed": seed, "accuracy": accuracy, "ece": 0.02}
        for arm, draws in accuracies.items()
        for seed, accuracy in draws.items()
    ]
    lines = tables.efficiency(rows).splitlines()
    half = 12.706 * 7.0711 / 2**0.5  # Student's t with one degree of freedom, in points
    assert lines[2] == (
        f"| x, 4 | at most 1,000 | 5 | 1 | 2 | 55.0 ± {half:.1f} | 90.0 |  | 75.0 ± {half:.1f} |  "
        f"| 67.5 ± {12.706 * 6.364 / 2**0.5:.1f} |"
    )
    assert lines[6] == "| x, 4 | at most 1,000 | 5 | 1 | +20.0 | -10.0 |  | 90.0% | 0.020 |"
    assert lines[7] == "| mean of the lines |  |  |  | +20.0 | -10.0 |  |  |  |"
    assert len(lines) == 8


def test_the_present_chain_is_compared_with_the_earlier_one_on_its_draws() -> None:
    def rows(teacher: str, **accuracies: dict[int, float]) -> list[dict[str, Any]]:
        setting = efficiency_setting(teacher=teacher)
        return [
            {**setting, "arm": arm.replace("_", "-"), "seed": seed, **figures_of(found)}
            for arm, draws in accuracies.items()
            for seed, found in draws.items()
        ]

    def figures_of(accuracy: float) -> dict[str, float]:
        return {"accuracy": accuracy, "balanced_accuracy": accuracy / 2, "ece": 0.04}

    present = rows("z", probe={0: 0.6, 1: 0.6}, self_train={0: 0.8, 1: 0.56}, student={0: 0.72})
    before = rows("y", probe={0: 0.5}, self_train={0: 0.7, 2: 0.1}, student={0: 0.74})
    lines = tables.compared(present, before).splitlines()
    half = 12.706 * 0.24 * 50 / 2  # Student's t with one degree of freedom, in points
    assert lines[2].split(" | ")[4:] == [
        "2", "60.0 ± 0.0", f"68.0 ± {2 * half:.1f}", "72.0",
        f"+8.0 ({8 - 2 * half:+.1f} to {8 + 2 * half:+.1f})",
        f"+4.0 ({4 - half:+.1f} to {4 + half:+.1f})",
        "+10.0", "-2.0", "90.0%", "0.040", "1", "0 |",
    ]  # fmt: skip
    assert lines[3].startswith("| mean of the lines |")
    assert lines[3].endswith("| +8.0 | +4.0 | +10.0 | -2.0 | 90.0% | 0.040 | 1 | 0 |")
    assert len(lines) == 4


def efficiency_setting(**changes: Any) -> dict[str, Any]:
    setting = {"data": "x", "labels_per_class": 4, "limit": None, "minutes": 4.0, "size": None}
    setting |= {"test": 2000, "device": "cpu", "threads": 1, "teacher": "y"}
    return {**setting, **changes}


def test_the_efficiency_table_keeps_settings_apart() -> None:
    rows = [
        {
            **efficiency_setting(minutes=minutes),
            "arm": "self-train",
            "seed": 0,
            "accuracy": accuracy,
        }
        for minutes, accuracy in ((4.0, 0.5), (8.0, 0.6))
    ]
    lines = tables.efficiency(rows).splitlines()
    assert lines[2] == "| x, 4 | all | 4 | 1 | 1 |  |  |  | 50.0 |  |  |"
    assert lines[3] == "| x, 4 | all | 8 | 1 | 1 |  |  |  | 60.0 |  |  |"
    other = {**rows[0], "test": 100}
    with pytest.raises(SystemExit, match="two settings"):
        tables.efficiency([*rows, other])


# --- which images to label first


def suggested_row(arm: str, seed: int, accuracy: float, **changes: Any) -> dict[str, Any]:
    cell = {"model": "probe", "teacher": "t", "data": "x", "each": 2, "minutes": None}
    cell |= {"limit": 9, "test": 9}
    figures = {"accuracy": accuracy, "macro_f1": accuracy - 0.1, "missed": 0, "pool": 1500}
    return {**cell, "arm": arm, "seed": seed, **figures, **changes}


def test_the_mean_over_draws_pairs_them_by_seed() -> None:
    cells = [("x", {0: 0.1, 1: 0.2, 2: 0.9}), ("y", {1: 0.4, 0: 0.3})]
    assert tables._over_draws(cells) == pytest.approx([0.2, 0.3])
    assert tables._over_draws([]) == []


def test_the_table_of_suggestions_compares_in_pairs() -> None:
    rows = [
        suggested_row("suggested", 0, 0.7),
        suggested_row("suggested", 1, 0.8),
        suggested_row("suggested", 2, 0.9),
        suggested_row("random", 0, 0.5, missed=1),
        suggested_row("random", 1, 0.6),
        suggested_row("balanced", 0, 0.75),
        suggested_row("balanced", 1, 0.85),
        suggested_row("suggested", 0, 0.5, data="y"),
        suggested_row("random", 0, 0.4, data="y"),
        suggested_row("suggested", 0, 0.1, model="chain", minutes=5.0),
        suggested_row("suggested", 0, 0.2, teacher="other"),
    ]
    x, y, over_draws, over_sets = tables.suggestions(rows, "probe", "t").splitlines()[2:]
    wide = 12.706 * 7.0711 / 2**0.5  # Student's t with one degree of freedom, in points
    assert x == (
        f"| x, 2 | 1,500 | 3 | 80.0 ± {4.3027 * 10 / 3**0.5:.1f} | 55.0 ± {wide:.1f} "
        f"| 80.0 ± {wide:.1f} | +20.0 | -5.0 | +20.0 | 0.0 | 0.5 |"
    )
    assert y == "| y, 2 | 1,500 | 1 | 50.0 | 40.0 |  | +10.0 |  | +10.0 | 0.0 | 0.0 |"
    assert over_draws == "| mean, interval over the draws |  |  |  |  |  | +15.0 |  |  |  |  |"
    low, high = (15 + sign * wide for sign in (-1, 1))
    assert over_sets == (
        "| mean, interval over the data sets |  |  |  |  |  "
        f"| +15.0 ({low:+.1f} to {high:+.1f}) | -5.0 |  |  |  |"
    )
    (chain, *_) = tables.suggestions(rows, "chain", "t").splitlines()[2:]
    assert chain.startswith("| x, 2, 5 minutes | 1,500 | 1 | 10.0 |  |")


@pytest.mark.parametrize("arm", suggest.ARMS)
def test_every_arm_labels_as_many(arm: str) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    features = rng.normal(size=(100, 8)).astype(np.float32) + 5 * np.eye(8)[labels]
    chosen = suggest.choose(arm, features, labels, each=3, seed=1)
    assert len(set(chosen.tolist())) == 9
    same = suggest.choose(arm, features, labels, each=3, seed=1)
    assert chosen.tolist() == same.tolist()
    assert chosen.tolist() != suggest.choose(arm, features[::-1], labels, 3, 2).tolist()
    if arm == "balanced":
        assert np.bincount(labels[chosen]).tolist() == [3, 3, 3]
    if arm == "random":
        assert not np.array_equal(np.bincount(labels[chosen], minlength=3), [3, 3, 3])


def test_a_missed_class_lowers_the_mean_f1() -> None:
    labels = np.array([0, 0, 0, 1])
    found = suggest.figures(np.zeros(4, dtype=np.int64), labels, 2)
    assert found == {"accuracy": 0.75, "macro_f1": pytest.approx((6 / 7 + 0) / 2)}


# --- how well the foreign images are told apart


def test_auroc_by_hand() -> None:
    outside = np.array([False, True, False, True])
    assert auroc(np.array([1.0, 2.0, 3.0, 4.0]), outside) == 3 / 4
    assert auroc(np.array([1.0, 3.0, 2.0, 4.0]), outside) == 1.0
    assert auroc(np.array([3.0, 1.0, 4.0, 2.0]), outside) == 0.0
    assert auroc(np.array([1.0, 1.0, 1.0, 1.0]), outside) == 0.5
    assert auroc(np.array([1.0, 1.0, 2.0, 2.0]), outside) == (0.5 + 0 + 1 + 0.5) / 4
