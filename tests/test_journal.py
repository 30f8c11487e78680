"""The search's memory: what is written is read back, and what is damaged is never believed."""

from __future__ import annotations

import json
import math
import tempfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.journal import FILE, VERSION, Event, Journal, Story, read, story

STEADY = settings(deadline=None, derandomize=True)
EVENTS: list[dict[str, Any]] = [
    {"event": "search", "version": VERSION, "name": "kd-digits-1"},
    {"event": "epoch", "id": "kd-000", "metrics": {"val/accuracy": 0.5, "val/loss": 1.25}},
    {"event": "end", "id": "kd-000", "status": "finished", "reason": "ä 漢字 \n \u2028"},
]


def written(folder: Path, events: list[dict[str, Any]]) -> Path:
    journal = Journal(folder)
    for event in events:
        journal.write(**event)
    journal.close()
    return folder / FILE


def events_in(path: Path) -> list[Event]:
    return [{k: v for k, v in event.items() if k != "time"} for event, _ in read(path)]


def student(identity: str = "kd-000", number: int = 0, **more: Any) -> Event:
    known = {"id": identity, "number": number, "kind": "search", "role": "trial", "method": "kd"}
    return {"event": "student", **known, "seed": 0, "hyper": {"alpha": 0.9}, "epochs": 4, **more}


def epoch(accuracy: float, identity: str = "kd-000") -> Event:
    return {"event": "epoch", "id": identity, "metrics": {"val/accuracy": accuracy}}


def end(status: str, identity: str = "kd-000", **more: Any) -> Event:
    return {"event": "end", "id": identity, "status": status, **more}


def told(*events: Event) -> Story:
    found = Story()
    for event in events:
        found.add(event)
    return found


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    assert events_in(written(tmp_path, EVENTS)) == EVENTS


def test_write_gives_back_what_read_will(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    entries = [journal.write(**event, sync=True) for event in EVENTS]
    journal.close()
    assert [event for event, _ in read(tmp_path / FILE)] == entries


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@STEADY
@given(st.lists(JSON, max_size=4))
def test_any_json_survives(contents: list[Any]) -> None:
    """Identity, for whatever text and numbers a trial reports."""
    with tempfile.TemporaryDirectory() as folder:
        events = [{"event": "e", "content": content} for content in contents]
        assert events_in(written(Path(folder), events)) == events


def test_nan_and_infinity_survive(tmp_path: Path) -> None:
    """A diverged student's numbers."""
    path = written(tmp_path, [{"event": "epoch", "x": math.nan, "y": -math.inf}])
    (found,) = events_in(path)
    assert math.isnan(found["x"])
    assert found["y"] == -math.inf


def test_what_is_no_json_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    path = written(tmp_path, EVENTS)
    journal = Journal(tmp_path)
    with pytest.raises(TypeError):
        journal.write("bad", content=object())
    journal.close()
    assert events_in(path) == EVENTS


def test_a_reader_goes_on_from_its_offset(tmp_path: Path) -> None:
    """Read one at a time, from the offset behind the last, against reading all at once."""
    path = written(tmp_path, EVENTS)
    offset, found = 0, []
    while following := next(read(path, offset), None):
        event, offset = following
        found.append(event)
    assert found == [event for event, _ in read(path)]
    assert offset == path.stat().st_size


def test_a_line_is_there_as_soon_as_it_is_written(tmp_path: Path) -> None:
    """Before the writer closes: a killed driver has lost nothing."""
    journal = Journal(tmp_path)
    journal.write(**EVENTS[0])
    assert events_in(tmp_path / FILE) == EVENTS[:1]
    journal.close()


def test_half_a_last_line_is_cut_by_the_next_writer(tmp_path: Path) -> None:
    """kill -9 in mid-write: readers ignore the half, the next driver's first event stands in its place."""
    path = written(tmp_path, EVENTS)
    path.write_bytes(path.read_bytes()[:-7])
    assert events_in(path) == EVENTS[:2]
    assert events_in(written(tmp_path, EVENTS[:1])) == [*EVENTS[:2], EVENTS[0]]


def test_a_file_of_nothing_but_half_a_line(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"0123abcd {")
    assert events_in(tmp_path / FILE) == []
    assert events_in(written(tmp_path, EVENTS)) == EVENTS


def test_every_truncation_is_a_prefix(tmp_path: Path) -> None:
    """At every length; the number of events is the number of whole lines."""
    path = written(tmp_path, EVENTS)
    content = path.read_bytes()
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        assert events_in(path) == EVENTS[: content[:length].count(b"\n")]


@STEADY
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_a_flipped_bit_is_an_error_or_changes_nothing(place: float, bits: int) -> None:
    """Any bits of any byte: ValueError naming the file, or a prefix of what was written, never anything else."""
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), EVENTS)
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] ^= bits
        path.write_bytes(content)
        found = []
        try:
            for event, _ in read(path):
                found.append({k: v for k, v in event.items() if k != "time"})
        except ValueError as error:
            assert str(path) in str(error)
        assert found == EVENTS[: len(found)]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_damage_is_named_by_its_place(tmp_path: Path, number: int) -> None:
    path = written(tmp_path, EVENTS)
    lines = path.read_bytes().splitlines(keepends=True)
    place = sum(len(line) for line in lines[:number])
    content = bytearray(b"".join(lines))
    content[place + 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"got a damaged one at byte {place} of .*{FILE}"):
        list(read(path))


def test_a_line_is_a_crc_and_json(tmp_path: Path) -> None:
    """The format, by hand: others may read it too."""
    line = written(tmp_path, EVENTS[1:2]).read_bytes()
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    assert checksum.decode() == f"{zlib.crc32(text):08x}"
    assert json.loads(text)["metrics"] == EVENTS[1]["metrics"]


def test_another_version_is_refused(tmp_path: Path) -> None:
    written(tmp_path, [{"event": "search", "version": VERSION + 1}])
    with pytest.raises(ValueError, match=f"must be of version {VERSION}, got {VERSION + 1}"):
        story(tmp_path)


def test_an_empty_journal_tells_nothing(tmp_path: Path) -> None:
    written(tmp_path, [])
    assert story(tmp_path) == Story()


def test_a_students_life() -> None:
    """Started, two epochs, stopped: as the journal would tell it."""
    found = told(
        student(), epoch(0.25), epoch(0.5), end("stopped"), {"event": "close", "status": "x"}
    )
    only = found.students["kd-000"]
    assert (only.status, only.accuracy, len(only.history)) == ("stopped", 0.5, 2)
    assert found.reports == [("kd-000", 1), ("kd-000", 2)]
    assert found.results["close"]["status"] == "x"


def test_going_on_keeps_the_history() -> None:
    """After an interruption: the epochs stay, the status starts anew, later epochs follow."""
    begun = told(student(), epoch(0.25), end("interrupted", reason="SIGTERM"), student())
    only = begun.students["kd-000"]
    assert (only.status, only.reason) == ("running", "")
    begun.add(epoch(0.75))
    assert [m["val/accuracy"] for m in only.history] == [0.25, 0.75]


@pytest.mark.parametrize("status", ["finished", "stopped", "diverged", "failed", "interrupted"])
def test_only_finished_students_are_complete(status: str) -> None:
    found = told(student(), epoch(0.9), end(status, reason="why")).students["kd-000"]
    assert (found.status, found.reason) == (status, "why")
    assert found.complete == (status == "finished")


def test_a_student_without_epochs_has_accuracy_0() -> None:
    assert told(student()).students["kd-000"].accuracy == 0.0


def test_of_kind_is_by_number_not_by_arrival() -> None:
    found = told(student("kd-002", 2), student("kd-000", 0), student("base", 1, kind="baseline"))
    assert [s.id for s in found.of_kind("search")] == ["kd-000", "kd-002"]
    assert [s.id for s in found.of_kind("search", "baseline")] == ["kd-000", "base", "kd-002"]


def test_the_last_of_every_other_event_is_kept() -> None:
    assert (
        told({"event": "answer", "n": 1}, {"event": "answer", "n": 2}).results["answer"]["n"] == 2
    )
