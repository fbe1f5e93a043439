"""Settings are told in words that need no knowledge of the code."""

from __future__ import annotations

from tutelage.report.settings import in_words


def test_planned_rounds_are_counted_by_kind() -> None:
    frozen, trained = {"trunk": "frozen", "steps": 0}, {"trunk": "trained", "steps": 90}
    plan = {"size": 96, "rounds": [frozen, frozen, trained]}
    said = "2 on the frozen trunk, then 1 with the trunk trained"
    assert in_words({"plan": plan}) == {"plan": {"size": 96, "rounds": said}}
    assert in_words({"plan": {"rounds": []}}) == {"plan": {"rounds": "none"}}


def test_the_agreement_of_clusters_is_explained() -> None:
    told = in_words({"clusters": {"agreement": 0.169, "likelier": False, "doubt": ""}})
    assert told["clusters"] == (
        "agreement with the teacher: 0.17 (Cohen's kappa; 1 is full agreement, 0 is chance)"
    )


def test_what_a_resumed_run_alone_reads_is_left_out() -> None:
    kept = {"request": {"command": "run"}, "place": "photos"}
    internal = {"shortened": {"student, training 1": [[7, 8]]}, "images": "9080d908"}
    assert in_words({**kept, **internal, "notes": ["a note"], "finished": ["a"]}) == kept
