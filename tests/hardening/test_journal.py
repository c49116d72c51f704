"""The time that pieces took outlives the process."""

import pytest

from kerasrobust.hardening import journal
from kerasrobust.hardening.journal import Journal


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [0.0]
    monkeypatch.setattr(journal.time, "perf_counter", lambda: now[0])
    return now


def test_what_was_finished_keeps_its_seconds(tmp_path, clock):
    first = Journal(tmp_path / "journal.json", "a run")
    with first.piece("one"):
        clock[0] += 120
    with pytest.raises(KeyboardInterrupt), first.piece("two"):
        clock[0] += 60
        raise KeyboardInterrupt
    again = Journal(tmp_path / "journal.json", "a run")
    assert again.seconds == {"one": 120.0} and again.minutes == 2.0
    with again.piece("one"):
        clock[0] += 1  # it was only read
    with again.piece("two"):
        clock[0] += 30
    assert Journal(tmp_path / "journal.json", "a run").seconds == {"one": 120.0, "two": 30.0}


def test_another_run_begins_anew(tmp_path, clock):
    with Journal(tmp_path / "journal.json", "a run").piece("one"):
        clock[0] += 1
    assert Journal(tmp_path / "journal.json", "another").seconds == {}
    (tmp_path / "journal.json").write_text("{")
    assert Journal(tmp_path / "journal.json", "a run").seconds == {}
