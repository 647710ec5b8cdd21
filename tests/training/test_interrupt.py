"""A signal in a pass: it is left there."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader

import fullconv
from fullconv import fcn8s
from fullconv.data import write_shapes
from fullconv.errors import UsageError
from fullconv.training import budget, range_test
from fullconv.training.config import load_config
from fullconv.training.feed import naming_dead_workers
from fullconv.training.interrupt import Abandoned, Interrupt, deaf_to_signals, interruptible, leaving_passes
from fullconv.training.network import build_model
from training.stopped_runs import settings

TINY = {"model.trunk": "small", "model.context": "none", "data.crop": 32, "optim.precision": "fp32"}


class Stopped(Exception):
    """What the handler of a signal raises."""


@pytest.fixture
def stopping():
    """Let SIGTERM raise ``Stopped``, as it ends a command."""

    def stop(*_):
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def model():
    return fcn8s("small", num_classes=4, context="none").train()


def learned(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def signalled_backwards(model):
    """Send SIGTERM from another thread when gradients have begun to flow back: as from another process."""
    scores, begun = model(torch.rand(4, 3, 256, 256) * 255), threading.Event()
    scores.register_hook(lambda _: begun.set())

    def send():
        begun.wait()
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        scores.sum().backward()
    finally:
        thread.join()


def test_forwards(model):
    """It is left before the next layer; but to evaluate a network in between is no pass of training."""
    interrupt, ran = Interrupt(), []
    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)]
    for layer in layers:
        layer.register_forward_hook(lambda layer, *_: ran.append(layer))
    layers[3].register_forward_hook(lambda *_: setattr(interrupt, "number", signal.SIGTERM))
    images = torch.rand(2, 3, 40, 48) * 255
    with leaving_passes(model, interrupt), pytest.raises(Abandoned):
        model(images)
    assert ran == layers[:4]
    model(images)
    with leaving_passes(model.eval(), interrupt):
        model(images)


def test_backwards(model):
    """It is left after the next gradient: the deepest weights get none. Frozen ones never do."""
    next(model.trunk.parameters()).requires_grad_(False)
    with interruptible() as interrupt, leaving_passes(model, interrupt), pytest.raises(Abandoned):
        signalled_backwards(model)
    assert interrupt.number == signal.SIGTERM
    assert any(parameter.grad is None for parameter in learned(model))
    model(torch.rand(2, 3, 40, 48) * 255).sum().backward()
    assert all(parameter.grad is not None for parameter in learned(model))


@pytest.mark.parametrize("command", ["--time", "--find-lr"])
def test_in_steps_that_are_only_measured(tmp_path, monkeypatch, stopping, command):
    models, config = [], load_config("modern", TINY)
    source = write_shapes(tmp_path / "data", count=6, sizes=(40, 48))

    def step(model, *_):
        models.append(model)
        signalled_backwards(model.train())

    module = budget if command == "--time" else range_test
    monkeypatch.setattr(module, "train_step", step)
    with pytest.raises(Stopped):
        if command == "--time":
            budget.measured(60.0, build_model(source, config), source, config, tmp_path)
        else:
            range_test.find_rate(source, tmp_path / "run", settings=TINY)
    assert any(parameter.grad is None for parameter in learned(models[-1]))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_worker_is_deaf_to_its_terminal(number):
    """Also one that was not forked, and so has no handler of the run's: a terminal sends it to all of them."""
    worker = os.fork()
    if not worker:
        signal.signal(number, signal.SIG_DFL)
        deaf_to_signals(os.getppid(), 0)
        os.kill(os.getpid(), number)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 7


def test_only_ctrl_c_ends_a_run_that_is_saving_its_state():
    """Schedulers and torchrun send SIGTERM again."""
    with interruptible() as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.number == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


class Unsendable:
    """A batch for which there is no shared memory, say."""

    def __reduce__(self):
        raise RuntimeError("unable to allocate shared memory")


def test_a_batch_that_cannot_be_sent_ends_the_run():
    """Python would drop it, and wait."""
    loader = DataLoader(
        [0, 1],
        num_workers=1,
        collate_fn=lambda samples: Unsendable(),
        worker_init_fn=partial(deaf_to_signals, os.getpid()),
        multiprocessing_context="fork",
        timeout=30,
    )
    with (
        pytest.raises(UsageError, match="a process that reads images was ended, often for want of memory"),
        naming_dead_workers(),
    ):
        next(iter(loader))


@pytest.mark.parametrize(("before", "noted"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)])
def test_a_terminal_that_is_closed_ends_a_run_unless_it_is_to_outlive_it(before, noted):
    kept = signal.signal(signal.SIGHUP, before)
    try:
        with interruptible() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupt.number == (signal.SIGHUP if noted else 0)
        assert signal.getsignal(signal.SIGHUP) == before
        if noted:
            with pytest.raises(fullconv.Interrupted, match="SIGHUP: saved; go on") as ended:
                interrupt.stop("go on")
            assert ended.value.exit_code == 129
    finally:
        signal.signal(signal.SIGHUP, kept)


def test_a_handler_that_is_not_pythons_stays(monkeypatch):
    """As of a program in C that runs Python: it could not be put back."""
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(signal, "getsignal", lambda number: None)
        with interruptible():
            patch.undo()
            assert signal.getsignal(signal.SIGTERM) is before
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interruption_comes_from_another_process_as_it_was():
    error = pickle.loads(pickle.dumps(fullconv.Interrupted(signal.SIGTERM, "SIGTERM: saved")))
    assert (error.number, error.exit_code, str(error)) == (signal.SIGTERM, 143, "SIGTERM: saved")


def test_a_signal_to_the_whole_group_does_not_kill_the_workers(shapes, tmp_path):
    """As a terminal, torchrun and most schedulers send it; workers that die would be an error of the run's."""
    words = ["train", shapes, "--out", tmp_path / "run", "--epochs", 1000, *settings(**{"data.workers": 2})]
    process = subprocess.Popen(
        [sys.executable, "-m", "fullconv", *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        began = time.monotonic()
        while not (tmp_path / "run" / "last" / "model.safetensors").is_file():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() - began < 120
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 143, output
    assert "SIGTERM: saved" in output and list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))


def test_workers_end_with_a_process_that_has_forgotten_them(shapes):
    """As after an error in a notebook, whose traceback holds them to the end."""
    program = (
        "from fullconv import open_dataset; from fullconv.training.feed import build_feed; "
        "from fullconv.training.config import load_config; "
        "changes = {'data.workers': 2, 'data.crop': 32, 'data.batch_size': 2, 'model.trunk': 'small'}; "
        f"feed = build_feed(open_dataset({str(shapes)!r}), load_config('modern', changes)); "
        "batches = iter(feed.loader); next(batches)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
