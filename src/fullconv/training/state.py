"""The state of a run between two steps: what a checkpoint keeps, and when it is kept."""

import math
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError, NotFinite, in_one_line
from ..models import FCN
from .checkpoint import Checkpoint, Checkpoints
from .config import TrainConfig
from .interrupt import Interrupt
from .optim import WeightAverage, build_optimiser, rate_factor, set_rates
from .runlog import RunLog
from .runtime import Runtime, share_of, whole

EPOCH_END_MINUTES = 0.5
"""An epoch's end keeps the state only if it was last kept so long ago: epochs of few images are short."""


class TrainState:
    """Weights, optimiser with its rates, and how far the run has come. Chance needs no keeping: see ``Runtime.seed``.

    Args:
        model: The network, already where it trains; shared out among the ranks if that is asked for.
        config: How it is trained.
        steps_an_epoch: Steps of an epoch.
        steps: Steps of the whole run; its last epoch may be a part of one.
        runtime: Where it trains.
        scored_on: How often which images are scored: their names' digest.

    Attributes:
        step: Steps taken so far.
        losses: Of the steps of the epoch in progress.
        best: Histogram [truth, prediction] of the best evaluation so far; None before the first.
        records: Lines of the log so far.
        kept: What was ``reached`` at the last checkpoint; None before the first.
    """

    def __init__(
        self,
        model: FCN,
        config: TrainConfig,
        steps_an_epoch: int,
        steps: int,
        runtime: Runtime,
        scored_on: str = "",
    ) -> None:
        self.model = model
        self._runtime = runtime
        self._scored_on = scored_on
        self.steps_an_epoch, self.steps = steps_an_epoch, steps
        sharded = config.optim.sharded and runtime.ranks > 1
        self.average = WeightAverage(model, config.optim.average, apart=sharded)
        if sharded:
            runtime.shard(model)
        self.optimiser = build_optimiser(model, config.optim)
        self._optim = config.optim
        self.step = 0
        self._set_rates()
        self.losses: list[float] = []
        self.best: Tensor | None = None
        self.records: list[dict[str, Any]] = []
        self.kept: tuple[int, int] | None = None
        self._dead: list[str] | None = None

    @property
    def dead_scores(self) -> list[str]:
        """Warnings of score layers without a gradient in the last step, also where another process took it."""
        return dead_scores(self.model) if self._dead is None else self._dead

    @property
    def _trained(self) -> list[str]:
        return sorted(name for name, parameter in self.model.named_parameters() if parameter.requires_grad)

    @property
    def _classes(self) -> dict[str, list[str]]:
        return {task: list(table.names) for task, table in self.model.labels.items()}

    @property
    def reached(self) -> tuple[int, int]:
        """How far the run has come: steps taken, and epochs closed."""
        return self.step, len(self.records)

    @property
    def finished(self) -> bool:
        """Whether all steps are taken and the last epoch is closed."""
        return self.step == self.steps and not self.losses

    @property
    def epoch(self) -> int:
        """The epoch in progress, from 1: the one the last losses belong to, until they are closed."""
        return (self.step - len(self.losses)) // self.steps_an_epoch + 1

    def advance(self, loss: float) -> None:
        """Count a step that was taken."""
        self._dead = None
        self.average.update()
        self.step += 1
        self._set_rates()
        self.losses.append(loss)

    def close_epoch(self, record: dict[str, Any]) -> None:
        """End the epoch in progress with its line in the log."""
        self.records.append(record)
        self.losses = []

    def checkpoint(self, seconds: float) -> Checkpoint:
        """Return everything by which another process can go on. Collective: every rank must call it.

        Its tensors are the state itself where that lies in main memory: write it before the next step.

        Args:
            seconds: Time spent so far.

        Raises:
            NotFinite: A weight is not finite.
        """
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.average.decay:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            kept = self.optimiser.state.get(parameter, {})
            tensors |= {f"optimiser.{name}.{key}": value for key, value in kept.items() if value is not None}
        if self.best is not None:
            tensors["best"] = self.best
        config = self.average.model.config
        facts = {
            "normalisation": config and config.normalisation,
            "losses": self.losses,
            "records": self.records,
            "seconds": seconds,
            "dead_scores": self.dead_scores,
            "optimiser": type(self.optimiser).__name__,
            "trained": self._trained,
            "classes": self._classes,
            "scored_on": self._scored_on,
            "steps": [self.steps, self.steps_an_epoch],
            "pieces": self._runtime.of_each(self._runtime.pieces),
        }
        gathered = {}
        for name in sorted(tensors):  # Ranks gather their shares in one order, whatever that of a checkpoint read.
            tensor = whole(tensors[name].detach())
            if self._runtime.rank == 0 or "running_" in name:  # All else is the first's, who writes it.
                gathered[name] = tensor.cpu()
        weights = (tensor for name, tensor in gathered.items() if not name.startswith("optimiser."))
        check_weights(weights, self._runtime)
        return Checkpoint(self.step, gathered, facts)

    def go_on_from(self, checkpoints: Checkpoints) -> float:
        """Take on the newest state that was kept, and return the seconds spent until then; 0 where there is none.

        Nothing of what was read stays in memory.

        Raises:
            ModelError: It is of another run, or another version wrote it.
        """
        checkpoint = checkpoints.latest()
        if checkpoint is None:
            return 0.0
        self.restore(checkpoint)
        return float(checkpoint.facts["seconds"])

    def _check_same_run(self, facts: dict[str, Any]) -> None:
        theirs, ours = facts["optimiser"], type(self.optimiser).__name__
        others = {*facts["trained"]} ^ {*self._trained}
        if facts["classes"] != self._classes:
            seen = "on other classes; resume it on its own data set"
        elif theirs != ours:
            seen = f"with {theirs}, not {ours}; put optim.optimiser back"
        elif others:
            seen = f"that trained other weights (not {min(others)} in both); put the settings back"
        elif facts["steps"] != [self.steps, self.steps_an_epoch]:
            seen = "of {} steps, {} an epoch; the data set or the settings have changed since: put them back"
            seen = seen.format(*facts["steps"])
        else:
            return
        raise ModelError(
            f"the checkpoint is of a run {seen}, or start another run from this one's weights (model.init)"
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take on the state of a checkpoint of the same run.

        Raises:
            ModelError: It is of another run: other weights, or others trained, classes, optimiser, or number of steps.
        """
        self._check_same_run(checkpoint.facts)
        groups = _grouped(checkpoint.tensors)
        mean, std = checkpoint.facts["normalisation"]
        try:
            for model in (self.model, self.average.model):  # Begun without, or with other weights, it has another.
                model.normalise_as((tuple(mean), tuple(std)))
            own = self.model.state_dict()
            self.model.load_state_dict({name: share_of(kept, own[name]) for name, kept in groups["model"].items()})
            self.average.model.load_state_dict(groups["average" if self.average.decay else "model"])
        except (RuntimeError, KeyError) as error:
            raise ModelError(f"the checkpoint is of another network ({in_one_line(error)})") from error
        self._restore_optimiser(groups.get("optimiser", {}))
        self.step = self.average.steps = checkpoint.step
        self.losses, self.records = checkpoint.facts["losses"], checkpoint.facts["records"]
        self.best = checkpoint.tensors.get("best")
        if self.best is not None and checkpoint.facts["scored_on"] != self._scored_on:
            self.best = None
            what = "the val split, or how often it is scored (evaluations), has changed since"
            warnings.warn(f"{what}: what was best before no longer counts", stacklevel=2)
        self._dead = checkpoint.facts["dead_scores"]
        self.kept = self.reached
        # Batches that were too much for the memory go on in their parts; other ranks than before, and those that wait
        # for each other within passes, in the most of them.
        pieces = checkpoint.facts["pieces"]
        runtime = self._runtime
        each = len(pieces) == runtime.ranks and not runtime.lockstep
        runtime.pieces = pieces[runtime.rank] if each else max(pieces)
        self._set_rates()

    def _set_rates(self) -> None:
        """Let the next step have the rates of its place in the run."""
        set_rates(self.optimiser, rate_factor(self._optim, min(self.step, self.steps - 1), self.steps))

    def _restore_optimiser(self, kept: dict[str, Tensor]) -> None:
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        parameters = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        numbers = {names[parameter]: number for number, parameter in enumerate(parameters)}
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in kept.items():
            name, _, what = key.rpartition(".")
            parameter = parameters[numbers[name]]
            if value.shape == parameter.shape:
                # Fused optimisers want a weight and its state in one layout in memory.
                value = torch.empty_like(parameter).copy_(share_of(value, parameter))
            state.setdefault(numbers[name], {})[what] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})


class Clock:
    """Time spent on a run, also by the processes before this one.

    Attributes:
        past: Seconds before this process.
    """

    def __init__(self) -> None:
        self.past = 0.0
        self._start = self._kept = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds spent so far."""
        return self.past + time.monotonic() - self._start

    def due(self, minutes: float) -> bool:
        """Return whether that much time has passed since the state was last kept, or since the start."""
        return time.monotonic() - self._kept >= 60 * minutes

    def note_kept(self) -> None:
        """Note that the state was kept."""
        self._kept = time.monotonic()


@dataclass(frozen=True)
class Session:
    """A run in progress, where it is kept, and what may end it."""

    state: TrainState
    log: RunLog
    clock: Clock
    runtime: Runtime
    interrupt: Interrupt

    def keep(self) -> None:
        """Write the state from which ``--resume`` goes on, unless it was written as it is. Collective.

        Raises:
            NotFinite: A weight is not finite.
            UsageError: It cannot be written.
        """
        if self.state.kept != self.state.reached:
            self.log.write_checkpoint(self.state.checkpoint(self.clock.seconds))
            self.state.kept = self.state.reached
            self.clock.note_kept()

    def keep_if_due(self, minutes: float) -> bool:
        """Keep the state if that was last done so long ago, and return whether it was.

        Raises:
            NotFinite: As :meth:`keep`.
            UsageError: See there.
        """
        due = bool(self.runtime.largest(self.log.writes and self.clock.due(minutes)))
        if due:
            self.keep()
        return due

    def leaves_steps(self) -> bool:
        """Return whether this rank leaves the step that it has begun: after a signal, unless others wait for it."""
        return bool(self.interrupt.number) and not self.runtime.lockstep

    def stop_if_asked(self) -> None:
        """End the run, with its state saved, if a signal came to any rank.

        Raises:
            Interrupted: A signal came to one of the ranks.
            NotFinite: One did, and as :meth:`keep`.
            UsageError: See there.
        """
        # One that comes to this rank meanwhile stays noted, for the next time.
        if number := self.runtime.largest(self.interrupt.number):
            self.interrupt.number = number
            self.keep()
            self.runtime.wait()  # Once a rank has ended, torchrun ends the others, also one that is still writing.
            self.interrupt.stop(self.log.going_on())


def mean_loss(losses: list[float]) -> float:
    """Return the mean, summed without rounding, so that it does not depend on where a run was resumed."""
    return math.fsum(losses) / len(losses)


def _grouped(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(".")
        groups.setdefault(group, {})[rest] = tensor
    return groups


def check_weights(tensors: Iterable[Tensor], runtime: Runtime) -> None:
    """Stop a run whose weights are no numbers, or so large that their norm is none, before they are written.

    Collective, as running statistics may be each one's own.

    Raises:
        NotFinite: A weight is not finite.
    """
    norm = float(torch.nn.utils.get_total_norm([tensor for tensor in tensors if tensor.is_floating_point()]))
    if runtime.largest(not math.isfinite(norm)):
        raise NotFinite("the norm of the weights is not finite, and they were not written: lower optim.rate")


def dead_scores(model: FCN) -> list[str]:
    """Return a warning where the last step's gradients of all score layers of a task are zero: of their weights.

    Biases learn what is frequent even where all features are zero; where they have none, no pixel was labelled.
    """
    lines = []
    for task, head in model.heads.items():
        scores = {name: p.grad for name, p in head.named_parameters() if name.startswith("score.")}
        alive = {name.rpartition(".")[2] for name, grad in scores.items() if grad is not None and whole(grad).any()}
        if alive == {"bias"}:
            lines.append(
                f"warning: the scores of {task} get no gradient, though their biases do: are all features zero, the "
                f"rate being too high?"
            )
    return lines
