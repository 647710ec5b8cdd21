"""Train on a folder of images and masks, score, predict. Usage: train_and_predict.py DATA OUT [EPOCHS]."""

import sys
from pathlib import Path

import fullconv
from fullconv.evaluation import default_split


def main(data: str, out: str, epochs: int = 20) -> None:
    """Leave ``OUT/run`` (the models), ``OUT/labels.png`` and ``OUT/overlay.png``."""
    result = fullconv.train(data, out=Path(out) / "run", trunk="small", epochs=epochs, seed=0)
    scores = fullconv.evaluate(result.run, data)
    print(f"mean IU {scores.mean_iu:.3f}, pixel accuracy {scores.pixel_accuracy:.3f}")
    source = fullconv.open_dataset(data)
    image = source.records(default_split(source))[0].image.path
    prediction = fullconv.load(result.run).predict(image)
    prediction.save(Path(out) / "labels.png")
    prediction.overlay().save(Path(out) / "overlay.png")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
