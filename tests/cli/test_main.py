"""The command line as a whole: help, exit codes, and what becomes of errors."""

import errno
import os
import shlex
import subprocess
import sys

import pytest

from commands import ENVIRONMENT, first, fresh, run
from fullconv import evaluation
from fullconv.cli import main as main_module
from fullconv.training import runtime


def test_help_names_every_command():
    text = run("--help", call=fresh).stdout
    assert all(command in text for command in ("demo", "check", "train", "evaluate", "predict", "inspect"))


def test_help_does_not_import_torch():
    code = (
        "import sys\nfrom fullconv.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, env=ENVIRONMENT).returncode == 0


def test_no_command_is_a_question_for_help():
    assert run().stdout == run("--help").stdout and "Commands:" in run().stdout


def test_unknown_option():
    error = run("train", "data", "--out", "run", "--epoch", 3, code=2, call=fresh).stderr
    assert "--epoch" in error


def test_unknown_command():
    assert "trian" in run("trian", code=2, call=fresh).stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no file is called so there")
def test_names_do_not_work_the_terminal(shapes, data, tmp_path):
    name, shown = "a\x1b[2J\x9b2J.png", r"a\x1b[2J\x9b2J.png"
    for path in data.glob("*.txt"):
        path.unlink()
    for folder in ("images", "masks"):
        first(data / folder).rename(data / folder / name)
    (data / "masks" / name).write_bytes(b"")
    skipped = run("predict", shapes / "run", data / "masks" / name, "--out", tmp_path / "out", code=5)
    refused = run("train", tmp_path / name, "--out", tmp_path / "run", code=3)
    checked = run("check", data, code=3)
    for text in (skipped.stderr, refused.stderr, checked.stdout):
        assert shown in text and not {*"\x1b\x9b"} & {*text}


def test_debug_shows_the_traceback(tmp_path):
    done = fresh("--debug", "evaluate", tmp_path / "nowhere", tmp_path)
    assert done.returncode == 4
    assert "Traceback" in done.stderr


def test_ctrl_c_is_noted(shapes, tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "evaluate", interrupted)
    with pytest.raises(SystemExit) as ended:
        main_module.main(["evaluate", str(shapes / "run"), str(shapes / "data")])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "fullconv: interrupted\n"


def test_a_rank_that_fails_does_not_wait_for_the_others(monkeypatch, capsys):
    """They wait for it: so NCCL's clean end would last until they are ended."""
    codes = []
    monkeypatch.setattr(runtime.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(runtime.os, "_exit", codes.append)
    for backend in ("gloo", "nccl"):
        monkeypatch.setattr(runtime.dist, "get_backend", lambda backend=backend: backend)
        with pytest.raises(SystemExit):
            main_module.main(["train"])
        with pytest.raises(SystemExit):
            main_module.main(["--help"])
    monkeypatch.setattr(main_module, "app", lambda **_: sys.exit(143))  # As SIGTERM does.
    with pytest.raises(SystemExit):
        main_module.main(["train"])
    assert codes == [2, 143]


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 30 GiB"), RuntimeError("can't allocate memory")])
def test_memory_that_is_short_is_no_bug_of_ours(monkeypatch, capsys, error):
    def short(**_):
        raise error

    monkeypatch.setattr(main_module, "app", short)
    with pytest.raises(SystemExit) as ended:
        main_module.main(["train"])
    assert ended.value.code == 1
    assert f"out of memory: use smaller crops or batches (data.crop, data.batch_size), or smaller images ({error})" in (
        capsys.readouterr().err
    )


def test_a_path_that_may_not_be_looked_at_is_no_bug_of_ours(monkeypatch, capsys):
    def forbidden(**_):
        raise PermissionError(errno.EACCES, "Permission denied", "/secret/run")

    monkeypatch.setattr(main_module, "app", forbidden)
    with pytest.raises(SystemExit) as ended:
        main_module.main(["train"])
    assert ended.value.code == 2
    assert "fullconv: /secret/run: Permission denied; look at the path" in capsys.readouterr().err


def test_a_full_disk_behind_standard_output_is_no_bug_of_ours(shapes):
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("this system has no /dev/full")
    command = [sys.executable, "-m", "fullconv", "inspect", "resnet18"]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines() == [
        "fullconv: an output: cannot be written: No space left on device; make room, and try again"
    ]


def test_a_full_disk_behind_standard_error_changes_no_exit_code(tmp_path):
    """Python would end with 120, as it tries to write it once more."""
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("this system has no /dev/full")
    command = [sys.executable, "-m", "fullconv", "check", tmp_path / "nowhere"]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 3


def test_nobody_listens(shapes):
    """Standard output is closed, or a program that has read enough."""
    command = [sys.executable, "-m", "fullconv", "inspect", "resnet18", "--json"]
    closed = subprocess.run(["sh", "-c", f"{shlex.join(command)} >&-"], capture_output=True, text=True, env=ENVIRONMENT)
    assert "bug of ours" not in closed.stderr
    gone = subprocess.run(
        ["sh", "-c", f"{shlex.join(command)} | true"], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert gone.stderr == ""
