import pytest
import torch

from fullconv import fcn8s, train
from fullconv.data import Batch, write_shapes
from training.stopped_runs import EPOCHS, TINY, digests


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """A folder of twelve images, which no test may change."""
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, count=12, sizes=(40, 48))
    return folder


@pytest.fixture(scope="session")
def uninterrupted(shapes, tmp_path_factory):
    """What a run ended with that was not stopped."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(shapes, run, settings=TINY, epochs=EPOCHS, quiet=True)
    return digests(run)


@pytest.fixture
def model():
    """A network of four classes, whose scores are not zero."""
    torch.manual_seed(0)
    network = fcn8s("small", num_classes=4, context="none", dropout=0.0)
    for score in network.heads["semantic"].score.values():
        torch.nn.init.normal_(score.weight, std=0.1)
    return network.eval()


@pytest.fixture
def batch():
    """Six images of four classes."""
    targets = torch.randint(0, 4, (6, 40, 48))
    targets[0, :30] = 255  # Parts differ in how much of them is labelled.
    return Batch(torch.rand(6, 3, 40, 48) * 255, targets, tuple("abcdef"), 255)
