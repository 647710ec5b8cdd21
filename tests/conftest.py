import resource
from contextlib import contextmanager
from functools import cache

import pytest
import torch

pytest.register_assert_rewrite("commands", "reference.three_images")


@pytest.fixture(autouse=True)
def chance():
    """Let no test depend on what those before it drew."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def noisy():
    """Give a network random scores, in place: fresh ones are zero, and every pixel is then the first class.

    Over the image given, or one of noise, each score's mean is 0 and its deviation 1: features are positive, and
    without that one class is often the largest at every pixel, so that nothing changes a prediction.
    """

    def standardise(score, inputs, scores):
        deviation, mean = torch.std_mean(scores, (0, 2, 3))
        score.weight.data.div_(deviation[:, None, None, None])
        score.bias.data.sub_(mean).div_(deviation)

    def randomise(model, image=None):
        model.eval()
        seed = torch.Generator().manual_seed(0)
        hooks = []
        for score in model.heads["semantic"].score.values():
            torch.nn.init.normal_(score.weight, generator=seed)
            hooks.append(score.register_forward_hook(standardise))
        with torch.no_grad():
            model(torch.randn(1, 3, 64, 64, generator=seed) if image is None else image)
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
