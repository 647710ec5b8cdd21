"""``fullconv`` as a process of its own, forked from one that has imported torch: a fresh one takes seconds for that."""

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

WARM = multiprocessing.get_context("forkserver")
WARM.set_forkserver_preload(
    ["fullconv.cli.main", "fullconv.doctor", "fullconv.evaluation", "fullconv.inference", "fullconv.training", "timm"]
)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONUNBUFFERED": ""}


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def start(
    *words: object,
    out: str | Path = os.devnull,
    err: str | Path = os.devnull,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> BaseProcess:
    """Start ``fullconv`` with ``words``; what it prints goes to the files ``out`` and ``err``."""
    arguments = ([str(word) for word in words], str(out), str(err), dict(environment))
    process = WARM.Process(target=_main, args=arguments)
    process.start()
    return process


def call(*words: object) -> Done:
    """Run ``fullconv`` to its end, which must come within five minutes."""
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = start(*words, out=out, err=err)
        process.join(300)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"fullconv {words}")
        return Done(process.exitcode, out.read_text(), err.read_text())


def fresh(*words):
    """Run a command as a user does, in a new interpreter."""
    command = [sys.executable, "-m", "fullconv", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)


def run(*words, code=0, call=call):
    """Run a command; it must end with ``code`` and, on failure, with one line on standard error and no traceback."""
    done = call(*words)
    assert done.returncode == code, done.stderr + done.stdout
    if code not in (0, 5):
        lines = [line for line in done.stderr.splitlines() if line.startswith("fullconv: ")]
        assert len(lines) == 1, done.stderr
        assert "Traceback" not in done.stderr
    return done


def first(folder):
    """Return the first file of a folder, by name."""
    return sorted(folder.iterdir())[0]


def free_port():
    """Return a port at which processes can meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def _main(words: list[str], out: str, err: str, environment: dict[str, str]) -> None:
    for stream, path in ((sys.stdout, out), (sys.stderr, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream.fileno())
    os.environ |= {"COLUMNS": "200"} | environment
    # The system's own way: by this process's, each of its children would import torch anew.
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    from fullconv.cli.main import main

    main(words)
