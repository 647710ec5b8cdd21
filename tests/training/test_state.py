"""The state of a run: what of it is kept and taken on again, when, and what ranks agree on."""

import os
import shutil
import signal

import pytest
import torch

from fullconv import fcn8s, open_dataset, train
from fullconv.errors import ModelError, NotFinite
from fullconv.training import state
from fullconv.training.checkpoint import Checkpoints
from fullconv.training.config import load_config
from fullconv.training.feed import names_digest
from fullconv.training.interrupt import Interrupt, Interrupted
from fullconv.training.loop import check_same_step
from fullconv.training.network import build_model
from fullconv.training.runlog import RunLog
from fullconv.training.runtime import Runtime
from fullconv.training.state import Clock, Session, TrainState, check_weights, dead_scores
from training.stopped_runs import EPOCHS, TINY, digests, stopped


def test_a_state_that_is_on_the_disk_is_not_written_again(shapes, tmp_path, monkeypatch):
    """A signal while a checkpoint is written ends the run as soon as that is done."""
    written, real = [], Checkpoints.write

    def stopping(self, checkpoint):
        real(self, checkpoint)
        written.append(checkpoint.step)
        if len(written) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Checkpoints, "write", stopping)
    with pytest.raises(Interrupted):
        train(shapes, tmp_path / "run", settings=TINY | {"checkpoint_minutes": 0}, epochs=EPOCHS, quiet=True)
    assert written == [1, 2]


def test_a_checkpoint_of_other_settings_is_not_gone_on_from(shapes, tmp_path, monkeypatch):
    """Edited by hand, or on another data set."""
    run = tmp_path / "run"
    stopped(monkeypatch, "validate", shapes, run, settings=TINY, epochs=EPOCHS)
    other = shutil.copytree(shapes, tmp_path / "other")
    (other / "classes.txt").write_text((shapes / "classes.txt").read_text().replace("disc", "plate"))
    with pytest.raises(ModelError, match="of a run on other classes; resume it on its own data set"):
        train(other, resume=run, quiet=True)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("optimiser: adamw", "optimiser: sgd"))
    with pytest.raises(ModelError, match=r"of a run with AdamW, not SGD; put optim\.optimiser back"):
        train(resume=run, quiet=True)
    (run / "config.yaml").write_text(config.replace("trunk_rate: 1.0", "trunk_rate: 0"))
    with pytest.raises(ModelError, match=r"other weights \(not trunk\.body\.\S+ in both\); put the settings back"):
        train(resume=run, quiet=True)
    (run / "config.yaml").write_text(config.replace("epochs: 2.5", "epochs: 4.0"))
    with pytest.raises(ModelError, match="of a run of 12 steps, 5 an epoch; the data set or the settings have changed"):
        train(resume=run, quiet=True)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_momenta_go_to_the_weights_that_they_are_of(shapes, tmp_path, monkeypatch, layout):
    """Also where an edited setting lists the weights in another order, and however weights lie here, they as these."""
    run = tmp_path / "run"
    stopped(monkeypatch, "validate", shapes, run, settings=TINY, epochs=EPOCHS)
    kept = RunLog(run).checkpoints.latest()
    source = open_dataset(shapes)
    config = load_config(str(run / "config.yaml"), {"optim.layer_decay": 0.9})
    model = build_model(source, config).to(memory_format=layout)
    state = TrainState(model, config, *reversed(kept.facts["steps"]), Runtime(), names_digest(source, "val"))
    state.restore(kept)
    names = [name for name, _ in state.model.named_parameters()]
    order = [id(p) for group in state.optimiser.param_groups for p in group["params"]]
    assert order != [id(p) for p in state.model.parameters()]
    for name, parameter in state.model.named_parameters():
        torch.testing.assert_close(
            state.optimiser.state[parameter]["exp_avg"], kept.tensors[f"optimiser.{name}.exp_avg"]
        )
        assert state.optimiser.state[parameter]["exp_avg"].stride() == parameter.stride()
    assert len(names) > 10


@pytest.mark.parametrize(("ranks", "lockstep", "pieces"), [(2, False, 1), (2, True, 2), (3, False, 2)])
def test_ranks_that_wait_for_each_other_part_batches_alike(shapes, tmp_path, monkeypatch, ranks, lockstep, pieces):
    """Where the memory of one did not suffice before they did so; and other ranks than those before."""
    run = tmp_path / "run"
    stopped(monkeypatch, "validate", shapes, run, settings=TINY, epochs=EPOCHS)
    kept, source = RunLog(run).checkpoints.latest(), open_dataset(shapes)
    kept.facts["pieces"] = [1, 2]
    config, first = load_config(str(run / "config.yaml")), Runtime()
    steps, scored_on = reversed(kept.facts["steps"]), names_digest(source, "val")
    state = TrainState(build_model(source, config), config, *steps, first, scored_on)
    first.ranks, first.lockstep = ranks, lockstep
    state.restore(kept)
    assert first.pieces == pieces


def test_of_the_state_of_a_rank_that_writes_nothing_only_its_own_is_looked_at():
    """The rest is the first one's; running statistics may be each one's own."""
    runtime, network = Runtime(device="cpu"), fcn8s("small", 3, context="none")
    runtime.rank, runtime.of_each = 1, lambda number: [number, number]
    state = TrainState(network, load_config("modern"), 2, 4, runtime)
    names = state.checkpoint(0.0).tensors.keys()
    assert names and all("running_" in name for name in names)
    next(buffer for name, buffer in network.named_buffers() if "running_var" in name).fill_(torch.inf)
    with pytest.raises(NotFinite):
        state.checkpoint(0.0)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_weights_that_are_no_numbers_are_not_written(number):
    tensors = [torch.zeros(0), torch.tensor(7), torch.full((2, 3), -1e18), torch.ones(4)]
    check_weights(tensors, Runtime(device="cpu"))
    tensors[2][1, 1] = number
    with pytest.raises(NotFinite, match=r"the norm of the weights is not finite, and they were not written"):
        check_weights(tensors, Runtime(device="cpu"))


class Ranks(Runtime):
    """As if there were another rank that has 0 to say; a signal comes while they ask each other."""

    def __init__(self, interrupt=None):
        super().__init__(device="cpu")
        self.interrupt = interrupt

    def largest(self, number):
        if self.interrupt:
            self.interrupt.number = 15
        return number

    def of_each(self, number):
        return [number, 0]

    def wait(self):
        self.waited = True


def at_step(number):
    """A state of which no more than that is known, and that it was kept."""
    state = TrainState.__new__(TrainState)
    state.step, state.records, state.kept = number, [], (number, 0)
    return state


def test_a_signal_while_ranks_ask_each_other_is_not_lost():
    interrupt = Interrupt()
    ranks = Ranks(interrupt)
    session = Session(at_step(3), RunLog("run"), Clock(), ranks, interrupt)
    session.stop_if_asked()
    with pytest.raises(Interrupted, match="SIGTERM: saved"):
        session.stop_if_asked()
    assert ranks.waited, "torchrun ends the others as soon as one has ended"


def test_ranks_that_would_go_on_from_different_steps_do_not():
    check_same_step(at_step(0), Ranks())
    with pytest.raises(ModelError, match=r"ranks would go on from different steps \(7, 0\)"):
        check_same_step(at_step(7), Ranks())


def test_a_rank_keeps_its_share_of_the_state_when_the_first_does():
    """Whatever its own clock says."""
    ranks = Ranks()
    for minutes, said in ((0.0, 0), (5.0, 1)):
        ranks.largest = lambda number, said=said: said
        session = Session(at_step(3), RunLog("run"), Clock(), ranks, Interrupt())
        assert session.keep_if_due(minutes) == bool(said)


def test_scores_without_gradient():
    model = fcn8s("small", num_classes=2, context="none").eval()
    image, target = torch.rand(1, 3, 32, 32), torch.ones(1, 32, 32, dtype=torch.long)
    torch.nn.functional.cross_entropy(model(image), target).backward()
    assert dead_scores(model) == []
    with torch.no_grad():
        for parameter in model.trunk.parameters():
            parameter.zero_()
    model.zero_grad()
    torch.nn.functional.cross_entropy(model(image), target).backward()
    assert "the scores of semantic get no gradient" in dead_scores(model)[0], "though their biases do"
    model.zero_grad()
    torch.nn.functional.cross_entropy(model(image), target - 101, ignore_index=-100, reduction="sum").backward()
    assert dead_scores(model) == [], "no pixel is labelled"


def test_dead_scores_are_said_after_a_stop_as_well(shapes, tmp_path, monkeypatch):
    """They show in gradients of a step that another process took."""

    def dead(model):
        return ["warning: dead"] if any(parameter.grad is not None for parameter in model.parameters()) else []

    monkeypatch.setattr(state, "dead_scores", dead)
    train(shapes, tmp_path / "whole", settings=TINY, epochs=EPOCHS, quiet=True)
    stopped(monkeypatch, "validate", shapes, tmp_path / "run", settings=TINY, epochs=EPOCHS)
    train(resume=tmp_path / "run", quiet=True)
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")
    assert "warning: dead" in (tmp_path / "run" / "log.jsonl").read_text()
