import os
import subprocess
import sys
from pathlib import Path

from fullconv.data import write_shapes

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, *words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, EXAMPLES / name, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_has_a_test():
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert all(f'"{name}"' in Path(__file__).read_text() for name in names)


def test_train_and_predict(tmp_path):
    write_shapes(tmp_path / "data", count=10, sizes=(48, 56))
    assert "mean IU" in run("train_and_predict.py", tmp_path / "data", tmp_path / "out", 1)
    assert (tmp_path / "out" / "overlay.png").exists()


def test_geometry_of_any_network():
    text = run("geometry_of_any_network.py")
    assert "layer4: stride 32, offset 0, receptive field 427" in text
    assert "avgpool: global pooling" in text


def test_dense_classifier():
    text = run("dense_classifier.py")
    assert float(text.split("224×224: ")[1].split()[0]) < 1e-4
    assert "a map of (6, 10) answers" in text
