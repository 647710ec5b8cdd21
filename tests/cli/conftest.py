import pytest

from commands import run
from fullconv.data.generated import write_shapes


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """A tiny data set, a run on it, and nothing that a test may change."""
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder / "data", count=16, sizes=(48, 64))
    run("train", folder / "data", "--out", folder / "run", "--recipe", "demo", "--epochs", 1, "--set", "data.crop=48")
    return folder


@pytest.fixture
def data(tmp_path):
    """A data set for one test to break."""
    write_shapes(tmp_path / "data", count=6, sizes=(40, 48))
    return tmp_path / "data"
