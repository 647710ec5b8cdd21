"""What a run says."""

import pytest
import torch

from fullconv import fcn8s
from fullconv.training.config import OptimSection
from fullconv.training.state import dead_scores
from fullconv.training.words import never_seen, one_class_only, rate_in_words

NAMES = ["background", "cat"]


def test_classes_without_a_pixel():
    assert never_seen(torch.tensor([5, 1]), NAMES) == []
    assert "no training mask holds cat" in never_seen(torch.tensor([5, 0]), NAMES)[0]


@pytest.mark.parametrize(
    ("predicted", "said"),
    [
        ([[0], [0]], False),
        ([[0], [0], [0]], True),
        ([[0, 1], [0], [0], [0]], True),
        ([[0], [0], [0], [0, 1]], False),
        ([[0], [1], [0]], False),
        ([[], [], []], False),
    ],
)
def test_one_class_everywhere(predicted, said):
    records = [{"predicted": classes} for classes in predicted] + [{"loss": 1.0}]
    lines = one_class_only(records, NAMES)
    assert bool(lines) == said
    if said:
        assert "every pixel was predicted as background in the last 3 evaluations" in lines[0]


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


def test_rates_in_both_units():
    """The same steps: a rate on the sum is that rate × pixels on the mean."""
    heavy = rate_in_words(
        OptimSection(optimiser="sgd", rate=1e-10, momentum=0.99, loss="sum", weight_decay=0), 180_000.0
    )
    assert "1e-10 on the summed loss, as 1.8e-05 on the mean" in heavy and "0.0018" in heavy
    mean = rate_in_words(OptimSection(optimiser="sgd", rate=1.8e-5, momentum=0.9, loss="mean"), 180_000.0)
    assert "1.8e-05 (weight_decay 0.01) on the mean loss, as 1e-10 (weight_decay 1.8e+03) on the sum over" in mean
    adam = rate_in_words(OptimSection(jaccard=0.5), 10.0)
    assert adam == (
        "rate 0.001 (jaccard 0.5) on the mean loss, as 0.001 (jaccard 5) on the sum over about 10 pixels a step "
        "(AdamW: the same rate for both)"
    )
