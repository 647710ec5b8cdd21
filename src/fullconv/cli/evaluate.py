"""``fullconv evaluate``: how good a model is on a split."""

from typing import Annotated

import typer

from ..errors import plain
from .options import DataPath, Json, Mirror, ModelPath, Scales, Task, print_json, print_scores, progress_bar, views


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
    from ..data import open_dataset
    from ..evaluation import as_predictor, default_split
    from ..evaluation import evaluate as run

    predictor, source = as_predictor(model, task, views(scales, mirror)), open_dataset(data)
    chosen = source.split_called(split) if split else default_split(source)
    with progress_bar("evaluating", hidden=as_json) as progress:
        scores = run(predictor, source, chosen, progress=progress)
    images = len(source.records(chosen))
    if as_json:
        print_json({"split": chosen, "images": images, **scores.to_dict()})
    else:
        known = split is None and chosen == "train"
        why = " (there is no test or val split; a model scores higher on what it was trained on)" if known else ""
        print(f"{plain(chosen)}: {images} images{why}")
        print_scores(scores)
