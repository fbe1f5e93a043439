"""The model card says what the page says, and names from disk stay names."""

import re
from typing import Any

from tutelage.report.html import render_card as render

STAGES = {"probe": (0.7, True), "transfer": (0.6, False), "student": (0.8, True)}


def test_it_holds_the_figures(make_report: Any, full_fields: dict[str, Any]) -> None:
    counts = {"labeled": 40, "unlabeled": 1200, "val": 0, "test": 200}
    text = render(make_report(STAGES, counts=counts, **full_fields))
    assert text.startswith("---\nlicense: other\n")
    assert "| accuracy | 80.0% (95% interval 75.0% to 80.0%) |" in text
    assert "on 40 labelled and 1,200 unlabelled images" in text
    assert "| ant | 100 | 80.0% (" in text
    assert "**transfer** (rejected)" in text
    assert "tutelage run photos --out runs/a" in text
    assert not re.search(r"\n{3,}", text)
    for row in re.findall(r"^\|.*\|$", text, re.M):
        assert row.count("|") in (3, 5), row


def test_images_of_three_roles_are_joined_in_a_sentence(make_report: Any) -> None:
    counts = {"labeled": 40, "unlabeled": 1200, "val": 60}
    text = " ".join(render(make_report(STAGES, counts=counts)).split())
    assert "It was trained on 40 labelled, 1,200 unlabelled and 60 held-out images." in text
    assert "It was trained" not in render(make_report(STAGES))


def test_without_test_images_it_says_so(make_report: Any) -> None:
    text = render(make_report(STAGES, test=False))
    assert "They may be too low, because the models that were judged learned from fewer" in text
    assert "| student on held-out labelled images |" in text
    assert "| accuracy | 80.0% (95% interval 75.0% to 80.0%) |" in text
    assert "holds for images like the labelled ones. Before" in text
    assert "like the test images" not in text


def test_an_unjudged_student_has_its_teachers_figures(
    make_report: Any, without_figures: Any
) -> None:
    text = render(without_figures(make_report(STAGES, test=False), "student"))
    assert "The teacher (probe) classifies 70.0% of the 40 held-out labelled images" in text
    assert "**The student, which is what you ship, was not judged: there are no test" in text
    assert "into `test/<class>/` and run `tutelage evaluate RUN DATA`." in text
    assert "no accuracy to report" not in text
    assert "| teacher (probe) on held-out labelled images |" in text
    assert "| accuracy | 70.0% (95% interval 65.0% to 70.0%) |" in text
    assert "and for the teacher (probe): nobody has tested the student. Before" in text


def test_without_any_figures_nobody_has_tested_it(make_report: Any, without_figures: Any) -> None:
    text = render(without_figures(make_report(STAGES, test=False), *STAGES))
    assert "it is not known how good it is" in text
    assert "- Nobody has tested the model." in text
    assert "The accuracy holds" not in text


def test_why_a_student_is_delivered_is_told(make_report: Any) -> None:
    text = render(make_report(STAGES, reasons={"student": "its last layer was fitted"}))
    assert re.search(
        r"\*\*student\*\* \(kept\): .*\. Not judged .*\. Its last layer was fitted\.\n", text
    )


def test_names_are_no_markup(make_report: Any) -> None:
    names = ("# big", "a|b", "<img src=x>", "x\n\n# y", "*z*")
    text = render(make_report(STAGES, classes=names))
    for name in (r"\# big", r"a\|b", r"\<img src=x\>", r"x \# y", r"\*z\*"):
        assert name in text
    assert "<img" not in text.replace(r"\<img", "")
    assert not re.search(r"^# (big|y)", text, re.M)


def test_it_is_plain_text_not_html(make_report: Any) -> None:
    text = render(make_report(STAGES, classes=("R&D", "it's")))
    assert "R&D" in text
    assert "it's" in text
    assert "&amp;" not in text
