import json
from pathlib import Path

import pytest

from tutelage.system.console import Console, printable


def events(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_lines_go_to_stderr_and_to_the_events(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(tmp_path / "events.jsonl")
    console.say("größer: 1 < 2", stage="probe")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "größer: 1 < 2\n"
    (row,) = events(tmp_path / "events.jsonl")
    assert row.pop("time") > 1.6e9
    assert row == {"event": "message", "text": "größer: 1 < 2", "stage": "probe"}


def test_quiet_prints_nothing_but_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(tmp_path / "events.jsonl", quiet=True)
    console.say("hello")
    with console.bar("work", 3) as done:
        done(3)
    assert capsys.readouterr() == ("", "")
    assert [row["event"] for row in events(tmp_path / "events.jsonl")] == [
        "message", "start", "end",
    ]  # fmt: skip


def test_events_are_appended(tmp_path: Path) -> None:
    for number in range(2):
        Console(tmp_path / "events.jsonl", quiet=True).record("stage", number=number)
    assert [row["number"] for row in events(tmp_path / "events.jsonl")] == [0, 1]


def test_bar_counts_what_is_done_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    console = Console(tmp_path / "events.jsonl")
    with console.bar("decoding", 10, "image") as done:
        for count in (4, 10):
            done(count)
    shown = capsys.readouterr().err
    assert "decoding" in shown
    start, end = events(tmp_path / "events.jsonl")
    assert (start["label"], start["total"], end["label"]) == ("decoding", 10, "decoding")


def test_without_a_file_nothing_is_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.say("hello")
    with console.bar("work", 1) as done:
        done(1)
    assert "hello" in capsys.readouterr().err


def test_an_event_that_cannot_be_recorded_is_said_once_and_leaves_no_half_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resource = pytest.importorskip("resource")
    console = Console(tmp_path / "events.jsonl", quiet=True)
    console.record("start", label="probe")
    whole = (tmp_path / "events.jsonl").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 4, limits[1]))  # four bytes still fit
    try:
        console.say("kept")
        console.say("kept, too")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"not recorded: {tmp_path / 'events.jsonl'}: File too large; free some space" in said
    assert (tmp_path / "events.jsonl").read_bytes() == whole
    console.record("end", label="probe")
    assert [row["event"] for row in events(tmp_path / "events.jsonl")] == ["start", "end"]


def test_a_name_cannot_move_the_cursor_or_turn_the_line() -> None:
    assert printable("a\n\x1b[31mb\t\x7f\x9b") == r"a\n\x1b[31mb\t\x7f\x9b"
    assert printable("a\n\tb\r", keep="\n\t") == "a\n\tb\\r"
    assert printable("\u202egnp.exe\u2066") == r"\u202egnp.exe\u2066"
    assert printable("\udcff") == r"\udcff"
    for kept in ("ü 蜂 👨\u200d👩\u200d👧", "蜂\u200c蜂", "naïve=+1"):
        assert printable(kept) == kept


def test_what_is_said_is_printable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Console().say("2 files (first: \x1b]0;x\x07.jpg)\nand more")
    assert capsys.readouterr().err == "2 files (first: \\x1b]0;x\\x07.jpg)\nand more\n"


@pytest.mark.parametrize("plain", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}, None])
def test_words_have_color_on_a_terminal_that_has_it_and_none_in_the_events(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    plain: dict[str, str] | None,
) -> None:
    monkeypatch.setattr("os.name", "posix")
    monkeypatch.setattr("sys.stderr.isatty", lambda: plain is not None, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in (plain or {}).items():
        monkeypatch.setenv(name, value)
    console = Console(tmp_path / "events.jsonl")
    console.say("probe: kept (kept)", {"kept": "green"})
    console.note("few")
    painted = plain == {}
    kept, note = ("\x1b[32mkept\x1b[0m", "\x1b[33mnote:\x1b[0m") if painted else ("kept", "note:")
    assert capsys.readouterr().err == f"probe: {kept} (kept)\n{note} few\n"
    rows = events(tmp_path / "events.jsonl")
    assert [row["text"] for row in rows] == ["probe: kept (kept)", "note: few"]
    assert "paint" not in rows[0]
