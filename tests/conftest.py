import os
import resource
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch

SHARED = Path(os.environ.get("FULLCONV_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data sets and weights, which are not part of the product."""
    if not SHARED.is_dir():
        pytest.skip(f"real data and weights are not here ({SHARED}); set FULLCONV_SHARED")
    return SHARED


@pytest.fixture(scope="session")
def noisy():
    """Give a network random scores, in place: fresh ones are zero, and every pixel is then the first class.

    Each score's mean over an image of noise is 0: features are positive, and without that one class is often
    the largest at every pixel, so that nothing changes a prediction.
    """

    def centre(score, inputs, scores):
        score.bias.data.sub_(scores.mean((0, 2, 3)))

    def randomise(model):
        model.eval()
        hooks = []
        for score in model.heads["semantic"].score.values():
            torch.nn.init.normal_(score.weight)
            hooks.append(score.register_forward_hook(centre))
        with torch.no_grad():
            model(torch.randn(1, 3, 64, 64))
        for hook in hooks:
            hook.remove()
        return model

    return randomise


@cache
def _on_meta(build, name, options):
    with torch.device("meta"):
        return build(name, **dict(options))


@pytest.fixture(scope="session")
def on_meta():
    """Build a trunk or network without weights, once for all tests: enough for geometry and shapes."""

    def build(function, name, **options):
        if name.startswith("timm:"):
            pytest.importorskip("timm", reason="needs the extra 'timm'")
        return _on_meta(function, name, tuple(sorted(options.items())))

    return build


@pytest.fixture(scope="session")
def small_files():
    """Let no file grow beyond so many bytes: a full disk, as the system tells of it."""

    @contextmanager
    def limit(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit
