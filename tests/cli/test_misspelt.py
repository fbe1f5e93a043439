import pytest

from tutelage import cli
from tutelage.cli.parser import build_parser, check_words

PARSER = build_parser()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("run photos --minuts 5", "tutelage run: there is no option --minuts; did you mean "
         "--minutes?"),
        ("run photos --Labels_per_class 3", "tutelage run: there is no option --Labels_per_class; "
         "did you mean --labels-per-class?"),
        ("run photos --outt=out", "tutelage run: there is no option --outt; did you mean --out?"),
        ("run photos --qqq 1", "tutelage run: there is no option --qqq"),
        ("run --qqq", "tutelage run: there is no option --qqq"),
        ("predict m a --minutes 3", "tutelage predict: there is no option --minutes"),
        ("evalaute m d", "tutelage: there is no command evalaute; did you mean evaluate? (tutelage "
         "--help lists the commands)"),
        ("paint", "tutelage: there is no command paint (tutelage --help lists the commands)"),
        ("help run", "tutelage: write --help after a command, as in tutelage run --help"),
        ("suggest d --budget 3 --classes ant bee", "tutelage suggest: 'bee' is a word too many; "
         "several values of an option are written with commas (ant,bee), and a name with spaces in "
         "quotes"),
    ],
)  # fmt: skip
def test_one_line_names_what_was_probably_meant(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words.split()) == 2
    assert capsys.readouterr().err == f"{said}\n"


def test_options_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "photos", "--min", "5"]) == 2
    assert "there is no option --min; did you mean --minutes?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    ["--help", "--version", "run photos --out=o --minutes=5", "predict m -", "run d --alpha -0.5",
     "predict m -- --photo.jpg", "run d --seed -1"],
)  # fmt: skip
def test_what_exists_and_what_is_no_option_passes(words: str) -> None:
    check_words(PARSER, words.split())
