"""Checkpoints: what is damaged is noticed, and the one before is used."""

import hashlib
import random

import pytest
import torch
from safetensors.torch import save_file

from fullconv.errors import ModelError, UsageError
from fullconv.files import tensors
from fullconv.training import checkpoint as module
from fullconv.training.checkpoint import KEPT, Checkpoint, Checkpoints
from fullconv.training.runlog import RunLog, TrainResult


def checkpoint(step: int) -> Checkpoint:
    weights = torch.arange(120.0).view(2, 3, 4, 5) + step
    tensors = {
        "a": torch.arange(12.0).view(3, 4) + step,
        "channels last": weights.to(memory_format=torch.channels_last),
        "channels first": weights,
        "rng": torch.arange(5, dtype=torch.uint8),
    }
    return Checkpoint(step, tensors, {"losses": [0.1, 1 / 3], "records": []})


def same(one: Checkpoint, other: Checkpoint) -> bool:
    pairs = [(tensor, other.tensors[name]) for name, tensor in one.tensors.items()]
    tensors = all(torch.equal(tensor, found) and tensor.stride() == found.stride() for tensor, found in pairs)
    return tensors and (one.step, one.facts) == (other.step, other.facts)


def test_what_is_written_is_read(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest() is None
    for step in (3, 20, 100):
        checkpoints.write(checkpoint(step))
        assert same(checkpoints.latest(), checkpoint(step))
    assert len(list((tmp_path / "checkpoints").iterdir())) == KEPT
    half = tmp_path / "checkpoints" / ".000000200-1a2b3c4d.ckpt"
    half.write_bytes(b"half")
    assert same(checkpoints.latest(), checkpoint(100))
    half.unlink()
    checkpoints.remove()
    assert not (tmp_path / "checkpoints").exists()


def test_weights_are_written_from_where_they_lie(tmp_path, monkeypatch):
    written = {}

    def save(tensors, path, metadata):
        written.update(tensors)
        return save_file(tensors, path, metadata)

    monkeypatch.setattr(tensors, "save_file", save)
    kept = checkpoint(1)
    Checkpoints(tmp_path).write(kept)
    for name in ("a", "channels last", "channels first"):
        assert written[name].data_ptr() == kept.tensors[name].data_ptr()


def test_every_cut_and_flip_is_noticed_and_the_one_before_used(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(checkpoint(1))
    checkpoints.write(checkpoint(2))
    newest = tmp_path / "000000002.ckpt"
    whole, chance = newest.read_bytes(), random.Random(0)
    for number in range(1000):
        if number % 2:
            damaged = whole[: chance.randrange(len(whole))]
        else:
            place = chance.randrange(len(whole))
            damaged = whole[:place] + bytes([whole[place] ^ 1 << chance.randrange(8)]) + whole[place + 1 :]
        newest.write_bytes(damaged)
        with pytest.warns(UserWarning, match=r"000000002\.ckpt: damaged checkpoint .* passed over"):
            assert same(checkpoints.latest(), checkpoint(1))


def test_where_all_were_damaged_those_of_the_new_beginning_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (90, 100):
        checkpoints.write(checkpoint(step))
        (tmp_path / f"{step:09d}.ckpt").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="damaged checkpoint"):
        assert checkpoints.latest() is None
    for step in (10, 20):
        checkpoints.write(checkpoint(step))
        assert same(checkpoints.latest(), checkpoint(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000010.ckpt", "000000020.ckpt"]


def test_one_of_another_version_is_not_passed_over(tmp_path, monkeypatch):
    """Nor does the run start anew: nothing of it is damaged."""
    monkeypatch.setattr(module, "SCHEMA", module.SCHEMA - 1)
    Checkpoints(tmp_path).write(checkpoint(1))
    monkeypatch.undo()
    with pytest.raises(ModelError, match=r"000000001\.ckpt: written by another version of fullconv"):
        Checkpoints(tmp_path).latest()


@pytest.mark.parametrize("payload", [b"", b"\x02" + bytes(7) + b"{}", bytes(8) + b"[]"])
def test_what_is_whole_and_no_state_is_named(tmp_path, payload):
    (tmp_path / "000000001.ckpt").write_bytes(payload + hashlib.sha256(payload).digest())
    with pytest.raises(ModelError, match=r"000000001\.ckpt: holds no state of a run"):
        Checkpoints(tmp_path).latest()


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, small_files):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(checkpoint(1))
    larger = Checkpoint(2, {"a": torch.zeros(100_000)}, {})
    with (
        small_files(100_000),
        pytest.raises(UsageError, match=r"000000002\.ckpt: cannot be written: .*File too large.*; make room, and"),
    ):
        checkpoints.write(larger)
    assert same(checkpoints.latest(), checkpoint(1)) and len(list(tmp_path.iterdir())) == 1


def test_files_of_others_stay(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    (tmp_path / "mine.ckpt").write_bytes(b"not ours")
    for step in (1, 3, 5):
        checkpoints.write(checkpoint(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000003.ckpt", "000000005.ckpt", "mine.ckpt"]


def test_one_that_cannot_be_read_is_not_passed_over(tmp_path):
    """Nothing says that it is damaged: of another user's, the run would begin anew and remove it."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(checkpoint(1))
    (tmp_path / "000000002.ckpt").mkdir()
    with pytest.raises(ModelError, match=r"000000002\.ckpt: cannot be read \(.*or remove it to do without"):
        checkpoints.latest()


def test_a_folder_that_may_not_be_listed_is_not_empty(tmp_path, monkeypatch):
    def forbidden(path):
        raise PermissionError(13, "Permission denied")

    Checkpoints(tmp_path).write(checkpoint(1))
    monkeypatch.setattr(type(tmp_path), "iterdir", forbidden)
    with pytest.raises(ModelError, match=rf"{tmp_path}: cannot be read \(Permission denied\)"):
        Checkpoints(tmp_path).latest()


def test_who_may_read_one_is_as_for_other_files(tmp_path):
    Checkpoints(tmp_path).write(checkpoint(1))
    (tmp_path / "other").touch()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_an_old_one_that_cannot_be_removed_now_is_removed_later(tmp_path, monkeypatch):
    """As Windows refuses while another program reads it."""
    real = type(tmp_path).unlink

    def refused(path, missing_ok=False):
        if path.suffix == ".ckpt" and not path.name.startswith("."):
            raise PermissionError(13, "The process cannot access the file")
        real(path, missing_ok)

    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.write(checkpoint(step))
    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "unlink", refused)
        checkpoints.write(checkpoint(3))
    assert len(list(tmp_path.glob("*.ckpt"))) == 3
    checkpoints.write(checkpoint(4))
    assert sorted(path.stem for path in tmp_path.glob("*.ckpt")) == ["000000003", "000000004"]


def test_what_a_run_goes_on_from_stays_until_its_end_is_written(tmp_path):
    """Or it could neither be resumed nor be known as finished."""
    log = RunLog(tmp_path)
    log.checkpoints.write(checkpoint(3))
    (tmp_path / "summary.json").mkdir()
    with pytest.raises(UsageError, match=r"summary\.json: cannot be written"):
        log.finish(TrainResult(tmp_path, None, 1.0, 1.0))
    assert log.checkpoints.exist()
    (tmp_path / "summary.json").rmdir()
    log.finish(TrainResult(tmp_path, None, 1.0, 1.0))
    assert not log.checkpoints.exist()
