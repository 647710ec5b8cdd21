import pytest

from fullconv import fcn, fcn4s, fcn8s
from fullconv.errors import UsageError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "option tasks.semantic"),
        ({"num_classes": 2, "finest_stride": 5}, "finest stride 5 is not one of this trunk's: 2, 4, 8, 16, 32"),
        ({"num_classes": 2, "paddin": "same"}, "option paddin"),
        ({"num_classes": 2, "dropout": 1.5}, "option dropout"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        fcn("resnet18", **options)


def test_scaled_skips_are_not_known_for_finer_taps():
    with pytest.raises(UsageError, match="factors for the strides 16 and 8, but finest_stride is 4"):
        fcn4s("small", 3, scaled_skips=True)


@pytest.mark.parametrize("task", ["type", "a.b", "", "forward"])
def test_words_that_torch_keeps_for_itself_are_no_tasks(task):
    with pytest.raises(UsageError, match="is no name for a task"):
        fcn8s("small", {task: 3}, context="none")
