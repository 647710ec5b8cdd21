"""Who holds a folder; that another process is refused is seen in tests/training/test_runlog.py."""

import pytest

from fullconv.errors import UsageError
from fullconv.files import lock
from fullconv.files.lock import locked


def test_a_folder_is_left_as_it_was(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "run", "busy"):
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
        raise KeyError
    assert not list((tmp_path / "run").iterdir())
    with locked(tmp_path / "run", "busy"):
        pass


@pytest.mark.parametrize("new", [False, True])
def test_a_lock_that_was_removed_is_none(tmp_path, monkeypatch, new):
    """Its holder ends just as another opens it; a third may have made a new one."""
    real = lock._taken

    def late(file):
        (tmp_path / ".lock").unlink()
        if new:
            (tmp_path / ".lock").touch()
        return real(file)

    monkeypatch.setattr(lock, "_taken", late)
    with pytest.raises(UsageError, match="busy; wait"), locked(tmp_path, "busy"):
        pass


def test_another_lock_in_the_place_of_ones_own_is_seen_and_left(tmp_path):
    """Not so that it is gone: programs that clean up remove old empty files."""
    with locked(tmp_path, "busy") as is_ours:
        assert is_ours()
        (tmp_path / ".lock").unlink()
        assert is_ours()
        (tmp_path / ".lock").touch()
        assert not is_ours()
    assert (tmp_path / ".lock").exists()


def test_another_folder_in_the_place_of_ones_own_is_seen(tmp_path):
    with locked(tmp_path / "run", "busy") as is_ours:
        (tmp_path / "run").rename(tmp_path / "moved")
        (tmp_path / "run").mkdir()
        assert not is_ours()


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UsageError, match=r"file: cannot be written: .*; look at who may use it"),
        locked(tmp_path / "file", ""),
    ):
        pass


def test_a_thread_keeps_another_out(tmp_path):
    """Locks of the system are the process's."""
    with locked(tmp_path / "run", "busy"):
        for folder in (tmp_path / "run", tmp_path / "." / "run" / ".." / "run"):
            with pytest.raises(UsageError, match="run: busy; wait until it has ended"), locked(folder, "busy"):
                pass
        assert (tmp_path / "run" / ".lock").is_file()
    with locked(tmp_path / "run", "busy"):
        pass
