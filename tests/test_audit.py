"""The audit of .ci/run: what it lets pass and what it fails on, on made-up packages."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import tomllib
from collections.abc import Callable
from datetime import date
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("license_expression")

CI = Path(__file__).parents[1] / ".ci"
spec = importlib.util.spec_from_file_location("audit", CI / "audit.py")
assert spec is not None
assert spec.loader is not None
audit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(audit)

RULES: dict[str, Any] = tomllib.loads((CI / "audit.toml").read_text())["licences"]
TODAY = date(2026, 6, 1)
Packages = Callable[..., Distribution]


@pytest.fixture
def package(tmp_path: Path) -> Packages:
    def made(name: str, *lines: str, version: str = "1.0") -> Distribution:
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        head = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}"]
        (folder / "METADATA").write_text("\n".join([*head, *lines]) + "\n")
        return Distribution.at(folder)

    return made


def test_what_a_user_installs_is_followed_through_extras_and_markers(package: Packages) -> None:
    here = {
        "top": package(
            "Top",
            'Requires-Dist: Base_One[fast]>=1; python_version > "3"',
            'Requires-Dist: other; sys_platform == "nowhere"',
            'Requires-Dist: trained; extra == "train"',
            'Requires-Dist: tester; extra == "test"',
        ),
        "base-one": package("base.one", 'Requires-Dist: quick; extra == "fast"'),
        "quick": package("quick", "Requires-Dist: top", "Requires-Dist: absent"),
        "trained": package("trained", "Requires-Dist: base-one"),
        "tester": package("tester"),
        "other": package("other"),
    }

    def found(name: str) -> Distribution:
        if name not in here:
            raise PackageNotFoundError(name)
        return here[name]

    names = [p.metadata["Name"] for p in audit.installed("top", ("train",), found)]
    assert names == ["base.one", "quick", "trained"]


@pytest.mark.parametrize(
    ("lines", "passes"),
    [
        (["License-Expression: MIT"], True),
        (["License-Expression: MIT AND Apache-2.0 WITH LLVM-exception"], True),
        (["License-Expression: GPL-3.0-only OR BSD-3-Clause"], True),
        (["License-Expression: MIT AND (GPL-3.0-only OR LGPL-2.1-only)"], False),
        (["License-Expression: AGPL-3.0-or-later"], False),
        (["License-Expression: LicenseRef-Secret"], False),
        (["License: MPL-2.0"], True),
        (["License: Free for friends"], False),
        (["Classifier: License :: OSI Approved :: BSD License"], True),
        (["Classifier: License :: OSI Approved :: BSD License",
          "Classifier: License :: Other/Proprietary License"], False),
        ([], False),
    ],
)  # fmt: skip
def test_licences(lines: list[str], passes: bool, package: Packages) -> None:
    wrong = audit.check_licences([package("thing", *lines)], RULES)
    assert (not wrong) == passes, wrong
    if not passes:
        assert wrong[0].startswith("thing 1.0: licence ")


def test_an_exception_is_for_the_package_that_it_names(package: Packages) -> None:
    rules = {**RULES, "exceptions": [{"package": "odd-*", "reason": "ours"}]}
    wrong = audit.check_licences([package("Odd_Thing"), package("thing")], rules)
    assert [sentence.split()[0] for sentence in wrong] == ["thing"]


CANARY = {"name": "starlette", "version": "0.40.0", "vulns": [{"id": "CVE-1"}]}


def answering(*entries: dict[str, Any]) -> Callable[..., Any]:
    def asking(pins: list[str], service: str) -> tuple[list[dict[str, Any]], str]:
        return ([CANARY] if pins == [audit.CANARY] else list(entries)), ""

    return asking


def hole(*, aliases: tuple[str, ...] = ()) -> dict[str, Any]:
    found = {"id": "PYSEC-1", "aliases": list(aliases), "fix_versions": ["1.1"]}
    return {"name": "Thing", "version": "1.0", "vulns": [found]}


@pytest.mark.parametrize(
    ("entry", "passes"),
    [
        ({}, True),
        ({"id": "CVE-9"}, True),  # an alias
        ({"expires": TODAY}, True),
        ({"expires": date(2026, 5, 31)}, False),
        ({"id": "PYSEC-2"}, False),
        ({"package": "other"}, False),
        ({"reason": ""}, False),
    ],
)
def test_a_vulnerability_passes_with_a_reason_until_a_day(
    entry: dict[str, Any], passes: bool, package: Packages
) -> None:
    usual = {"id": "PYSEC-1", "package": "thing", "reason": "not used", "expires": date(2026, 7, 1)}
    wrong, undone = audit.check_vulnerabilities(
        [package("Thing")], [usual | entry], TODAY, answering(hole(aliases=("CVE-9",)))
    )
    assert undone == []
    assert wrong == [] or not passes
    if not passes:
        past = "; the exception ended on 2026-05-31" if "expires" in entry else ""
        assert wrong == [f"thing 1.0: PYSEC-1, mended in 1.1{past}"]


def test_a_service_that_knows_no_vulnerability_is_no_audit(package: Packages) -> None:
    def mirror(pins: list[str], service: str) -> tuple[list[dict[str, Any]], str]:
        if service == "osv":
            return [], "no route to host"
        return [{"name": pin.partition("=")[0], "version": "1", "vulns": []} for pin in pins], ""

    wrong, undone = audit.check_vulnerabilities([package("thing")], [], TODAY, mirror)
    assert wrong == []
    assert undone == [
        "no service answers (pypi: does not know a vulnerability that is known; "
        "osv: no route to host)"
    ]


def test_packages_that_a_service_does_not_know_are_named(package: Packages) -> None:
    asked = []

    def asking(pins: list[str], service: str) -> tuple[list[dict[str, Any]], str]:
        asked.append(pins)
        return answering({"name": "thing", "skip_reason": "not found"})(pins, service)

    local = package("thing", version="2.9.1+cpu")
    wrong, undone = audit.check_vulnerabilities([local], [], TODAY, asking)
    assert (wrong, undone) == ([], ["not known to pypi: thing"])
    assert asked[-1] == ["thing==2.9.1"]


@pytest.mark.parametrize(
    ("stdout", "stderr", "reason"),
    [
        ('{"dependencies": [{"name": "a", "vulns": []}]}', "", ""),
        ("", "Traceback\nConnectionError: no network\n", "ConnectionError: no network"),
        ("", "", "pip-audit ended with 1"),
    ],
)
def test_an_answer_that_does_not_come_has_a_reason(
    stdout: str, stderr: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = SimpleNamespace(stdout=stdout, stderr=stderr, returncode=1)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: said)
    answer, why = audit.ask(["a==1"], "pypi")
    assert why == reason
    assert len(answer) == (not reason)


def test_the_bill_holds_what_a_user_installs_and_no_tool_of_the_tests() -> None:
    part = {"name": "numpy", "bom-ref": "numpy==2"}
    whole = {
        "metadata": {"component": {"bom-ref": "root"}},
        "components": [part, {"name": "PyTest", "bom-ref": "pytest==9"}],
        "dependencies": [
            {"ref": "root", "dependsOn": ["numpy==2", "pytest==9"]},
            {"ref": "numpy==2"},
            {"ref": "pytest==9"},
        ],
    }
    kept = audit.only(whole, {"numpy"})
    assert kept["components"] == [part]
    assert kept["dependencies"] == [
        {"ref": "root", "dependsOn": ["numpy==2"]}, {"ref": "numpy==2", "dependsOn": []},
    ]  # fmt: skip


@pytest.mark.parametrize(("require", "code"), [(False, 0), (True, 1)])
def test_an_audit_that_was_not_done_says_so_and_fails_where_it_must(
    require: bool,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(audit, "installed", lambda *_: [])
    monkeypatch.setattr(audit, "check_vulnerabilities", lambda *_: ([], ["no service answers"]))
    monkeypatch.setattr(audit, "bill", lambda _packages, out: out.write_text(json.dumps({})))
    words = ["audit.py", "--sbom", str(tmp_path / "bill.json"), *["--require"] * require]
    monkeypatch.setattr("sys.argv", words)
    assert audit.main() == code
    said = capsys.readouterr().out
    assert "vulnerabilities: NOT DONE: no service answers" in said
    assert "found" not in said
