"""Files cut short and with flipped bits: the right value, or one line that names the file; never anything else."""

from __future__ import annotations

import hashlib
import json
import pickle
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save as save_tensors

from trainables import champion, probing, records, teacher_training
from trainables import teacher as teachers
from trainables.checkpoint import STATE, read_newest, read_state, write_state
from trainables.data import shelf, store
from trainables.data.splits import Facts, prepare
from trainables.evaluation import official
from trainables.precision import PLAIN
from trainables.stages import BY_RULE
from trainables.teacher import Teacher, build_for
from tuner import confirm, league, settings_file, students
from tuner.control import SETTINGS
from tuner.journal import FILE, VERSION, Journal, Student, story
from tuner.progress import Board
from tuner.settings import make
from tuner.tracked import STATE as TRACKING
from tuner.tracked import State

STEADY = settings(deadline=None, derandomize=True, max_examples=60)
Harm = Callable[[bytes], bytes]


def cut(place: float) -> Harm:
    return lambda content: content[: int(place * len(content))]


def flip(place: float, bits: int) -> Harm:
    def harm(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[int(place * len(content))] ^= bits
        return bytes(changed)

    return harm


PLACES = st.floats(0, 1, exclude_max=True)
HARMS = st.builds(cut, PLACES) | st.builds(flip, PLACES, st.integers(1, 255))


class File(NamedTuple):
    """A file of ours, whole, and what reads it."""

    path: Path
    read: Callable[[], Any]
    content: bytes

    def harmed(self, harm: Harm) -> Any:
        """What is read of the harmed file; afterwards it is whole again."""
        self.path.write_bytes(harm(self.content))
        try:
            return self.read()
        finally:
            self.path.write_bytes(self.content)


def file(path: Path, read: Callable[[], Any]) -> File:
    return File(path, read, path.read_bytes())


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    root = tmp_path_factory.mktemp("data")
    return prepare("digits", root, root)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, facts: Facts) -> dict[str, File]:
    """One of each kind whose damage is an error."""
    root = tmp_path_factory.mktemp("files")
    wanted = make({"method": "kd", "name": "mine"}).model_dump(mode="json")
    records.write(root / SETTINGS, wanted, settings_file.VERSION)
    records.write(root / league.RECORD, {"searches": [wanted]}, league.VERSION)
    journal = Journal(root)
    journal.write("search", version=VERSION, name="mine")
    for number in range(3):
        journal.write("teacher", number=number)
    journal.close()
    student = build_for("convnet4", facts)
    about = {"student": "convnet4", "teacher": "convnet4", "method": "kd", "hyper": {}}
    champion.save_champion(root, about, facts, {"student": student.state_dict()})
    write_state(root, {"epoch": 3, "weights": torch.arange(4.0)})
    a_teacher(root, facts)
    own = Path(facts.folder)
    return {
        "settings": file(root / SETTINGS, lambda: settings_file.read(root)),
        "league": file(root / league.RECORD, lambda: league.read_record(root)),
        "journal": file(root / FILE, lambda: story(root)),
        "champion": file(root / champion.RECORD, lambda: champion.read_record(root)),
        "weights": file(root / champion.WEIGHTS, lambda: shown(champion.load_champion(root))),
        "state": file(root / STATE, lambda: shown(read_state(root))),
        "checksum": file(root / f"{STATE}.sha256", lambda: shown(read_state(root))),
        "teacher": file(root / teachers.RECORD, lambda: teachers.read_record(root)),
        "data": file(own / shelf.RECORD, lambda: shelf.read_record(own)),
        "images": file(own / "train.arrow", lambda: images(own / "train.arrow", facts)),
    }


def a_teacher(folder: Path, facts: Facts) -> Teacher:
    """A teacher's folder, not trained."""
    content = save_tensors(build_for("convnet4", facts).state_dict())
    sha256 = hashlib.sha256(content).hexdigest()
    made = Teacher(
        str(folder), "convnet4", 0.9, sha256, 6, (0.5,), (0.2,), nll=1.0, calibrated_nll=1.0
    )
    (folder / teachers.WEIGHTS).write_bytes(content)
    records.write(folder / teachers.RECORD, asdict(made), teachers.VERSION)
    return made


def shown(found: Any) -> str:
    """A state or a network as text, for comparison."""
    state = found.state_dict() if isinstance(found, torch.nn.Module) else found
    return str({k: x.tolist() if isinstance(x, torch.Tensor) else x for k, x in state.items()})


def images(path: Path, facts: Facts) -> Any:
    """A stored part as a search takes it: checked, then read."""
    wrong = store.damage(path, facts.sha256["train"])
    if wrong:
        raise ValueError(f"{path} is damaged: {wrong}")
    found = store.read(path)
    return found.images.clone().tolist(), found.labels.tolist(), found.about


KINDS = (
    *("settings", "league", "journal", "champion", "weights", "state", "checksum", "teacher"),
    *("data", "images"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_harmed_is_right_or_an_error_that_names_the_file(
    kind: str, files: dict[str, File]
) -> None:
    """Against the whole file; of the journal a prefix is right where its last line is not whole."""
    one = files[kind]
    right = one.read()
    examples = settings(STEADY, max_examples=25 if kind in ("weights", "images") else 80)

    @examples
    @given(HARMS)
    def harmed(harm: Harm) -> None:
        try:
            found = one.harmed(harm)
        except ValueError as error:
            assert str(one.path.with_suffix("")) in str(error) and "\n" not in str(error)
            return
        if kind == "journal":
            assert found.results.get("teacher", {"number": -1})["number"] < 3
        else:
            assert found == right

    harmed()


@pytest.mark.parametrize("kind", ["settings", "league", "champion", "teacher", "data"])
def test_files_without_a_checksum_are_older_ones(kind: str, files: dict[str, File]) -> None:
    """What an earlier kdtune wrote, without a checksum and, of settings, without a version; a later one is refused."""
    one = files[kind]
    right = one.read()
    record = json.loads(one.content)
    record.pop(records.CHECKSUM)
    assert one.harmed(lambda _: json.dumps(record).encode()) == right
    later = json.dumps({**record, records.VERSION: 99}).encode()
    with pytest.raises(ValueError, match=f"{one.path} must be of version .*, got 99; "):
        one.harmed(lambda _: later)
    if kind == "settings":
        record.pop(records.VERSION)
        assert one.harmed(lambda _: json.dumps(record).encode()) == right


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"3", b"null", b"\xff\xfe", b"[" * 10**5])
@pytest.mark.parametrize("kind", ["settings", "league", "champion", "teacher", "data"])
def test_other_json_is_an_error_that_names_the_file(
    kind: str, content: bytes, files: dict[str, File]
) -> None:
    with pytest.raises(ValueError, match=str(files[kind].path)):
        files[kind].harmed(lambda _: content)


@STEADY
@given(HARMS)
def test_a_damaged_tracking_state_is_said(harm: Harm) -> None:
    """The right state, or a fresh one and a line that names the file: then MLflow is asked what it has."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / TRACKING
        right = State(offset=512, experiment="1", runs={"": "a", "kd-000": "b"}, open=["kd-000"])
        right.save(path)
        said: list[str] = []
        found = file(path, lambda: State.load(path, said.append)).harmed(harm)
        assert found == (State() if said else right)
        assert all(str(path) in line for line in said)


@settings(STEADY, max_examples=40)
@given(harm=HARMS)
def test_a_damaged_teacher_is_none_and_is_said(harm: Harm, facts: Facts) -> None:
    """The teacher, or none and a line that names its file: it is made again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        right = a_teacher(folder, facts)
        for part in (teachers.RECORD, teachers.WEIGHTS):
            one = file(folder / part, lambda: (teachers.find(folder), teachers.damage(folder)))
            found, damage = one.harmed(harm)
            assert (found, damage) == (right, "") or (
                found is None and str(folder / part) in damage
            )


@settings(STEADY, max_examples=40)
@given(HARMS)
def test_damaged_progress_is_no_progress(harm: Harm) -> None:
    """It is only shown: the right epoch, or none."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / teacher_training.PROGRESS
        records.write(path, {"epoch": 4, "accuracy": 0.5}, teacher_training.VERSION)
        found = file(path, lambda: teacher_training.progress(Path(name))).harmed(harm)
        assert found in ((4, 0.5), (0, 0.0))


def test_of_damaged_checkpoints_the_newest_good_one_is_taken(tmp_path: Path) -> None:
    """Five, the newer two damaged; the line names both. With none good it is from the beginning."""
    folders = [tmp_path / f"checkpoint_{number:06d}" for number in range(5)]
    for number, folder in enumerate(folders):
        folder.mkdir()
        write_state(folder, {"epoch": number})
    for folder in folders[3:]:
        (folder / STATE).write_bytes(b"cut short")
    state, said = read_newest(folders[4])
    assert state is not None and state["epoch"] == 2
    assert str(folders[3]) in said and str(folders[4]) in said
    assert read_newest(folders[2])[1] == ""
    (folders[0] / f"{STATE}.sha256").unlink()
    found, said = read_newest(folders[0])
    assert found is None and str(folders[0]) in said


@settings(STEADY, max_examples=12)
@given(harm=HARMS)
def test_a_damaged_split_is_made_again(harm: Harm, facts: Facts) -> None:
    """Against the facts from before."""
    root = Path(facts.folder).parents[1]
    one = file(Path(facts.split), lambda: prepare("digits", root, root))
    assert one.harmed(harm) == facts


@pytest.mark.parametrize("harm", [cut(0.5), flip(0.3, 1), cut(0)])
def test_a_damaged_probe_is_made_again_and_said(harm: Harm, facts: Facts, tmp_path: Path) -> None:
    def probe() -> Any:
        return probing.probed("convnet4", facts, 8, False, False, tmp_path)

    assert probe()[0] == PLAIN
    (path,) = tmp_path.glob("*.json")
    with pytest.warns(UserWarning, match=str(path)):
        assert file(path, probe).harmed(harm)[0] == PLAIN
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe()


def test_a_damaged_preparation_is_made_again_and_said(facts: Facts, tmp_path: Path) -> None:
    """An autoencoder on the teacher's maps: one bit flipped; what is made again is what there was."""
    a_folder = tmp_path / "teacher"
    a_folder.mkdir()
    made = a_teacher(a_folder, facts)

    def prepared() -> str:
        return teachers.prepare(
            "margin_relu", made, "convnet4", BY_RULE, facts, tmp_path / "prepared"
        )

    path = Path(prepared())
    content = path.read_bytes()
    path.write_bytes(flip(0.9, 4)(content))
    with pytest.warns(UserWarning, match=str(path)):
        assert prepared() == str(path)
    assert path.read_bytes() == content


def a_search(folder: Path, epochs: int) -> Any:
    """A plan with nothing but a folder, where one student has a checkpoint of each epoch."""
    for epoch in range(1, epochs + 1):
        place = folder / "checkpoints" / "kd-000" / f"checkpoint_{epoch:06d}"
        place.mkdir(parents=True)
        write_state(place, {"epoch": epoch})
    return SimpleNamespace(folder=folder)


def test_a_resumed_student_goes_on_where_journal_and_checkpoints_agree(tmp_path: Path) -> None:
    """Of three checkpoints the newest is damaged: it is named. Of a journal cut after one epoch, the first is taken."""
    planned, said = a_search(tmp_path, 3), []
    newest = tmp_path / "checkpoints" / "kd-000" / "checkpoint_000003" / STATE
    newest.write_bytes(b"cut short")
    found = students.newest_checkpoint(planned, "kd-000", 4, said.append)
    assert found is not None and found.name == "checkpoint_000002"
    assert len(said) == 1 and str(newest) in said[0]
    config = students.with_checkpoint(planned, {"id": "kd-000"}, 2, said.append)
    assert Path(config["restore_from"]).name == "checkpoint_000001"
    assert "restore_from" not in students.with_checkpoint(planned, {"id": "x"}, 2, said.append)


def test_a_confirmed_student_without_its_last_checkpoint_is_trained_again(tmp_path: Path) -> None:
    """Trained in full by the journal; its last state is damaged, so that it cannot be judged."""
    planned, board = a_search(tmp_path, 3), Board()
    known = {"kind": "confirm", "role": "default", "method": "kd", "seed": 1, "hyper": {}}
    student = Student("kd-000", 0, **known, epochs=3, status="finished")
    assert not confirm.lost(planned, student, board)
    (tmp_path / "checkpoints" / "kd-000" / "checkpoint_000003" / STATE).write_bytes(b"cut short")
    assert confirm.lost(planned, student, board)


@pytest.mark.parametrize("content", [b"", b"nonsense", pickle.dumps([1]), None])
def test_corrupted_images_that_are_cut_short(content: bytes | None, tmp_path: Path) -> None:
    """None is half of the array; pickles are not opened."""
    path = tmp_path / "fog.npy"
    np.save(path, np.zeros((10, 32, 32, 3), np.uint8))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match=f"{path} must be a whole NumPy array"):
        official.read(official.Official("cifar10_c", tmp_path, official.CIFAR, ()), "fog")
