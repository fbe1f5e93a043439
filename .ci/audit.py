"""What a user installs: known vulnerabilities, licences, and a bill of materials.

python .ci/audit.py

Looks at the packages in this environment that ``pip install tutelage``, ``[train]`` and ``[demo]``
bring, not at the tools of the tests. Fails on a known vulnerability or a licence that
``audit.toml`` does not let pass. Where nobody can be asked about vulnerabilities it says NOT DONE,
which fails only with --require: a network that is down must not stop the tests.
The bill is CycloneDX 1.6, ``dist/sbom.cdx.json``.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from fnmatch import fnmatch
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from license_expression import ExpressionError, get_spdx_licensing
from packaging.requirements import Requirement

HERE = Path(__file__).parent
EXTRAS = ("train", "demo")
# Asked about first, since a mirror of PyPI may answer without knowing any vulnerability.
CANARY = "starlette==0.40.0"  # CVE-2025-62727
SERVICES = ("pypi", "osv")
SECONDS = 15  # for one answer

Found = Callable[[str], Distribution]


def installed(root: str, extras: Iterable[str], found: Found = distribution) -> list[Distribution]:
    """The packages here that ``root`` with these extras needs, without itself, by name.

    Those that the markers leave out, and those that are not installed, are not among them.
    """
    wanted: dict[str, set[str]] = {}
    packages: dict[str, Distribution] = {}
    todo = [(root, set(extras))]
    while todo:
        name, asked = todo.pop()
        name = canonical(name)
        if name in wanted and asked <= wanted[name]:
            continue
        try:
            packages[name] = found(name)
        except PackageNotFoundError:
            continue
        known = wanted.setdefault(name, set())
        known |= asked
        for text in packages[name].requires or []:
            need = Requirement(text)
            if need.marker is None or any(
                need.marker.evaluate({"extra": extra}) for extra in ("", *known)
            ):
                todo.append((need.name, set(need.extras)))
    packages.pop(canonical(root), None)
    return [packages[name] for name in sorted(packages)]


def canonical(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


# --- licences


def licence_of(package: Distribution, words: Mapping[str, str]) -> str:
    """An SPDX expression: the package's own, or what its ``words`` stand for; "" if unknown."""
    about = package.metadata
    if about["License-Expression"]:
        return str(about["License-Expression"])
    told = [
        text.rpartition(" :: ")[2]
        for text in about.get_all("Classifier") or []
        if text.startswith("License :: ")
    ]
    told = told or [(about["License"] or "").strip()]
    known = [words.get(text, text) for text in told if text and "\n" not in text]
    return " AND ".join(known) if len(known) == len(told) else ""


def permitted(expression: str, allowed: Iterable[str]) -> bool:
    """Whether an SPDX expression can be met with allowed licences alone."""
    spdx = _spdx()
    try:
        parsed = spdx.parse(expression, validate=True)
    except ExpressionError:
        return False
    if parsed is None:
        return False
    known = set(allowed)

    def met(part: Any) -> bool:
        if isinstance(part, spdx.AND):
            return all(map(met, part.args))
        if isinstance(part, spdx.OR):
            return any(map(met, part.args))
        # An exception ("WITH") only ever permits more.
        return str(getattr(part, "license_symbol", part)) in known

    return met(parsed)


def check_licences(packages: Sequence[Distribution], rules: Mapping[str, Any]) -> list[str]:
    """What is wrong with the licences, one sentence a package."""
    excepted = [entry["package"] for entry in rules["exceptions"] if entry["reason"]]
    wrong = []
    for package in packages:
        name = canonical(package.metadata["Name"])
        expression = licence_of(package, rules["words"])
        if any(fnmatch(name, pattern) for pattern in excepted):
            continue
        if not permitted(expression, rules["allowed"]):
            wrong.append(
                f"{name} {package.version}: licence {expression or 'unknown'!r} is not allowed; "
                "replace the package, or say in audit.toml why it may stay"
            )
    return wrong


@functools.cache
def _spdx() -> Any:
    """Every SPDX licence; they take a while to load."""
    return get_spdx_licensing()


# --- vulnerabilities


def ask(pins: Sequence[str], service: str) -> tuple[list[dict[str, Any]], str]:
    """What pip-audit answers about pinned packages, and why there is no answer (empty if one)."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text("\n".join(pins) + "\n")
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(listed), "--no-deps"]
        command += ["--disable-pip", "--format", "json", "--progress-spinner", "off"]
        command += ["--vulnerability-service", service, "--timeout", str(SECONDS)]
        try:
            said = subprocess.run(
                command, capture_output=True, text=True, timeout=20 + SECONDS + len(pins)
            )
            return json.loads(said.stdout)["dependencies"], ""
        except subprocess.TimeoutExpired:
            return [], "no answer in time"
        except (ValueError, KeyError):
            lines = said.stderr.strip().splitlines()
            return [], lines[-1][:100] if lines else f"pip-audit ended with {said.returncode}"


def check_vulnerabilities(
    packages: Sequence[Distribution],
    allowed: Sequence[Mapping[str, Any]],
    today: date,
    asking: Callable[[Sequence[str], str], tuple[list[dict[str, Any]], str]] = ask,
) -> tuple[list[str], list[str]]:
    """Vulnerabilities that are not let pass, and what was not done, in sentences."""
    # What follows + tells builds apart (2.9.1+cpu), which no index of vulnerabilities knows.
    pins = [f"{p.metadata['Name']}=={p.version.partition('+')[0]}" for p in packages]
    reasons = []
    for service in SERVICES:
        answer, reason = asking([CANARY], service)
        if not any(entry.get("vulns") for entry in answer):
            reasons.append(f"{service}: {reason or 'does not know a vulnerability that is known'}")
            continue
        answer, reason = asking(pins, service)
        if reason:
            reasons.append(f"{service}: {reason}")
            continue
        skipped = [entry["name"] for entry in answer if "vulns" not in entry]
        undone = [f"not known to {service}: {', '.join(skipped)}"] if skipped else []
        return _not_let_pass(answer, allowed, today), undone
    return [], [f"no service answers ({'; '.join(reasons)})"]


def _not_let_pass(
    answer: Sequence[Mapping[str, Any]], allowed: Sequence[Mapping[str, Any]], today: date
) -> list[str]:
    wrong = []
    for package in answer:
        for found in package.get("vulns", []):
            ids = {found["id"], *found.get("aliases", [])}
            name = canonical(package["name"])
            passes = [
                entry
                for entry in allowed
                if entry["id"] in ids and canonical(entry["package"]) == name and entry["reason"]
            ]
            if any(entry["expires"] >= today for entry in passes):
                continue
            past = f"; the exception ended on {passes[0]['expires']}" if passes else ""
            mend = ", ".join(found.get("fix_versions", [])) or "no release yet"
            wrong.append(f"{name} {package['version']}: {found['id']}, mended in {mend}{past}")
    return wrong


# --- bill of materials


def bill(packages: Sequence[Distribution], out: Path) -> None:
    """Write the CycloneDX bill of these packages.

    Raises:
        ValueError: it is not valid.
    """
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    command = [sys.executable, "-m", "cyclonedx_py", "environment", sys.executable]
    command += ["--pyproject", str(HERE.parent / "pyproject.toml"), "--output-reproducible"]
    command += ["--output-format", "JSON", "--spec-version", "1.6", "--no-validate"]
    whole = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    text = json.dumps(only(whole, {canonical(p.metadata["Name"]) for p in packages}), indent=1)
    if fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ValueError(f"the bill of materials is not CycloneDX 1.6: {fault}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text + "\n")


def only(whole: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    """A bill of an environment without what is not in ``names``: the tools of the tests."""
    kept = [part for part in whole["components"] if canonical(part["name"]) in names]
    refs = {part["bom-ref"] for part in kept} | {whole["metadata"]["component"]["bom-ref"]}
    needs = [
        {**entry, "dependsOn": [ref for ref in entry.get("dependsOn", []) if ref in refs]}
        for entry in whole["dependencies"]
        if entry["ref"] in refs
    ]
    return {**whole, "components": kept, "dependencies": needs}


def main() -> int:
    """Print what was found; 1 if something must be mended."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--require", action="store_true", help="fail where the audit is NOT DONE")
    parser.add_argument("--sbom", type=Path, default=HERE.parent / "dist" / "sbom.cdx.json")
    options = parser.parse_args()
    rules = tomllib.loads((HERE / "audit.toml").read_text(encoding="utf-8"))
    packages = installed("tutelage", EXTRAS)
    wrong = check_licences(packages, rules["licences"])
    print(f"audit: licences of {len(packages)} packages: {len(wrong)} not allowed")
    found, undone = check_vulnerabilities(packages, rules.get("vulnerabilities", []), date.today())
    for reason in undone:
        print(f"audit: vulnerabilities: NOT DONE: {reason}")
    if found or not undone:
        print(f"audit: vulnerabilities: {len(found)} found")
    bill(packages, options.sbom)
    print(f"audit: bill of materials: {options.sbom}")
    for sentence in (*wrong, *found):
        print(f"audit: {sentence}", file=sys.stderr)
    return int(bool(wrong or found or (undone and options.require)))


if __name__ == "__main__":
    raise SystemExit(main())
