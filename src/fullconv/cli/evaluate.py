"""``fullconv evaluate``: how good a model is on a split."""

from typing import Annotated

import typer

from .options import DataPath, Json, Mirror, ModelPath, Scales, Task, print_json, print_scores, views


def evaluate(
    model: ModelPath,
    data: DataPath,
    split: Annotated[str | None, typer.Option(help="Split to score: by default test, else val, else train.")] = None,
    task: Task = None,
    scales: Scales = "1",
    mirror: Mirror = False,
    as_json: Json = False,
) -> None:
    """Score a model: pixel accuracy, mean accuracy, mean IU, frequency-weighted IU, and every class."""
    from ..evaluation import evaluate as run

    scores = run(model, data, split, task=task, views=views(scales, mirror))
    if as_json:
        print_json(scores.to_dict())
    else:
        print_scores(scores)
