"""Mutated files crash nothing; ``benchmarks/hostile.py`` tries many more, in a watched process."""

from pathlib import Path

import mutants
import pytest
import scripts

with scripts.importable():
    from photos import generate

CASES = {"image": 264, "manifest": 60, "tar": 60, "model": 45}


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    return mutants.make_seeds(generate(4, 48), tmp_path_factory.mktemp("seeds"))


@pytest.mark.parametrize("kind", mutants.TRIES)
def test_what_is_whole_is_read(kind: str, seeds: mutants.Seeds, tmp_path: Path) -> None:
    for name, data in seeds[kind].items():
        assert mutants.TRIES[kind](name, data, tmp_path) == "", name


@pytest.mark.parametrize("kind", mutants.TRIES)
def test_mutants_are_read_or_refused_with_a_reason(
    kind: str, seeds: mutants.Seeds, tmp_path: Path
) -> None:
    reasons = []
    for number in range(CASES[kind]):
        name, data = mutants.mutant(seeds, kind, number)
        assert (name, data) == mutants.mutant(seeds, kind, number)
        reasons.append(mutants.TRIES[kind](name, data, tmp_path))  # what it raises fails the test
    assert "no reason" not in reasons
    assert len({*reasons}) > 5
