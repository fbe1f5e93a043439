"""The list of teachers: true of timm, of the benchmark, and of this machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import scripts

from tutelage import api
from tutelage.models import teachers
from tutelage.models.teachers import OFFERED, Teacher, describe, list_teachers


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub with two of timm's models, a half of one, and another's."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for repository, file in (
        ("timm--resnet18.a1_in1k", "model.safetensors"),
        ("timm--resnet10t.c3_in1k", "pytorch_model.bin"),
        ("timm--resnet34.a1_in1k", "config.json"),
        ("someone--resnet50.a1_in1k", "model.safetensors"),
    ):
        snapshot = tmp_path / f"models--{repository}" / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (snapshot / file).write_bytes(b"1")
    return tmp_path


def test_installed_come_first_then_cached_then_offered(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Path("weights.pth")
    monkeypatch.setattr(
        teachers, "embedded_file", lambda name: here if name.endswith("lite1") else None
    )
    rows = list_teachers()
    status = {row["name"]: row["status"] for row in rows}
    assert [row["name"] for row in rows][:2] == ["tf_efficientnet_lite1", "resnet18"]
    assert status["resnet18"] == "cached"
    assert status["resnet10t.c3_in1k"] == "cached"
    assert status["tf_efficientnet_lite0"] == "offered"
    assert not [name for name in status if name.startswith(("resnet34", "resnet50"))]
    assert len(rows) == len(OFFERED) + 1


def test_without_a_cache_nothing_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    assert teachers.cached_weights() == set()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as in the base install
    assert teachers.cached_weights() == set()


@pytest.mark.usefixtures("hub")
def test_people_read_every_teacher_and_its_terms() -> None:
    rows = list_teachers()
    text = describe(rows)
    assert all(row["name"] in text and row["terms"] in text for row in rows)
    assert text.index("in the hub's cache") < text.index("resnet10t.c3_in1k")
    assert text.index("resnet18") < text.index("on timm's hub")


@pytest.mark.parametrize(
    ("licence", "terms"),
    [
        ("mit", "mit"),
        ("cc-by-nc-4.0", "cc-by-nc-4.0 (non-commercial)"),
        ("dinov3-license", "dinov3-license (read its terms first)"),
        (None, "see its page on the hub"),
    ],
)
def test_terms(licence: str | None, terms: str) -> None:
    assert Teacher("a", "b", licence, None, None, None, "").terms == terms


@pytest.mark.parametrize("teacher", OFFERED, ids=lambda teacher: teacher.name)
def test_the_list_is_true_of_timm(teacher: Teacher) -> None:
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    config = timm.get_pretrained_cfg(teacher.name)
    assert (config.tag, config.license) == (teacher.weights, teacher.licence)
    assert config.hf_hub_id is not None
    with torch.device("meta"):
        body = timm.create_model(teacher.name, num_classes=0)
    assert sum(p.numel() for p in body.parameters()) == teacher.parameters


def test_sides_and_times_are_those_of_the_benchmark() -> None:
    pytest.importorskip("timm")
    with scripts.importable():
        import teachers as benchmark
    rows = {row["architecture"]: row for row in benchmark.recorded()}
    for teacher in OFFERED:
        row = rows[teacher.name]
        assert (teacher.size, teacher.milliseconds) == (row["size"], row["milliseconds"])
    assert {row["architecture"] for row in rows.values()} == set(benchmark.ARCHITECTURES)
    assert not [row["problems"] for row in rows.values() if row["problems"]]


def test_the_command_prints_both_forms_without_torch_and_timm() -> None:
    code = (
        "import sys; from tutelage import cli; cli.main(sys.argv[1:]); "
        "sys.exit(bool({'torch', 'timm'} & set(sys.modules)))"
    )
    shown = [
        subprocess.run([sys.executable, "-c", code, "teachers", *more], capture_output=True,
                       text=True, check=True).stdout
        for more in ([], ["--json"])
    ]  # fmt: skip
    assert json.loads(shown[1]) == api.teachers()
    assert shown[0].strip() == describe(api.teachers())
