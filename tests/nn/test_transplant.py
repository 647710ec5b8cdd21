import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fullconv.errors import UsageError
from fullconv.nn.convert import linear_to_conv
from fullconv.nn.transplant import transplant

shapes = st.sampled_from([(), (1,), (2,), (4,), (2, 4), (4, 2), (2, 2, 2), (1, 4, 1), (8,), (2, 4, 1, 1)])


class Tensors(nn.Module):
    """A module whose parameters have the given names and shapes."""

    def __init__(self, **shapes):
        super().__init__()
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.zeros(shape)))


def test_equal_shapes_are_copied_with_their_buffers():
    source, target = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    source(torch.randn(4, 3, 5, 5))
    report = transplant(source.state_dict(), target)
    assert set(report.copied) == set(target.state_dict())
    assert all(torch.equal(tensor, target.state_dict()[name]) for name, tensor in source.state_dict().items())
    assert not (report.reshaped or report.left_new or report.unused or report.mismatched)


def test_fully_connected_weights_become_a_convolution_and_back():
    linear, conv, back = nn.Linear(2 * 3 * 4, 5), nn.Conv2d(2, 5, (3, 4)), nn.Linear(24, 5)
    report = transplant(linear.state_dict(), conv)
    assert (report.reshaped, report.copied) == (("weight",), ("bias",))
    assert torch.equal(conv.weight, linear_to_conv(linear, 2, (3, 4)).weight)
    transplant(conv.state_dict(), back)
    assert torch.equal(back.weight, linear.weight)


@pytest.mark.parametrize(
    ("source", "target"),
    [((1, 1, 4, 6), (4, 6)), ((1, 1, 1, 4), (4,)), ((1, 6), (1, 2, 3, 1)), ((4, 6), (4, 2, 3, 1)), ((), (1,))],
)
def test_shapes_that_hold_the_same_weights(source, target):
    module, tensor = Tensors(a=target), torch.randn(source)
    assert transplant({"a": tensor}, module).reshaped == ("a",)
    assert torch.equal(module.a.flatten(), tensor.flatten())


@pytest.mark.parametrize(("source", "target"), [((6, 4), (4, 6)), ((4, 6), (4, 7)), ((4, 6), (2, 2, 6)), ((3,), (4,))])
def test_shapes_that_do_not_fit_are_left_alone(source, target):
    module = Tensors(a=target)
    report = transplant({"a": torch.ones(source)}, module)
    assert report.mismatched == (("a", source, target),)
    assert not (report.copied or report.reshaped or report.left_new or report.unused)
    assert not module.a.any()


def test_names_without_partner_and_renaming():
    module = Tensors(a=(2,), b=(2,), c=(2,))
    source = {"old.a": torch.ones(2), "old.b": torch.full((2,), 2.0), "z": torch.ones(2)}
    report = transplant(source, module, lambda name: name.removeprefix("old."))
    assert (report.copied, report.left_new, report.unused) == (("a", "b"), ("c",), ("z",))
    assert module.b.tolist() == [2, 2]


def test_two_tensors_of_one_name():
    with pytest.raises(UsageError, match=r"'x\.a' and 'y\.a' into 'a'"):
        transplant({"x.a": torch.ones(1), "y.a": torch.ones(1)}, Tensors(a=(1,)), lambda name: name[2:])


@pytest.mark.parametrize("source", [torch.float16, torch.bfloat16, torch.float64])
def test_takes_the_precision_of_the_target(source):
    module = Tensors(a=(3,))
    transplant({"a": torch.tensor([0.5, 1.5, -2.0], dtype=source)}, module)
    assert module.a.dtype == torch.float32
    assert module.a.tolist() == [0.5, 1.5, -2.0]


def test_shares_no_memory_and_keeps_training_possible():
    module, tensor = Tensors(a=(3,)), torch.ones(3)
    transplant({"a": tensor}, module)
    tensor.zero_()
    assert module.a.tolist() == [1, 1, 1]
    assert module.a.requires_grad
    assert module.a.is_leaf


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.sampled_from("abcde"), shapes), st.dictionaries(st.sampled_from("abcde"), shapes))
def test_every_name_is_accounted_for_once(source, target):
    module = Tensors(**target)
    report = transplant({name: torch.ones(shape) for name, shape in source.items()}, module)
    misfits = [name for name, _, _ in report.mismatched]
    assert sorted([*report.copied, *report.reshaped, *report.left_new, *misfits]) == sorted(target)
    assert sorted([*report.copied, *report.reshaped, *report.unused, *misfits]) == sorted(source)
    filled = {name for name, tensor in module.named_parameters() if tensor.all()}
    assert filled == {*report.copied, *report.reshaped}


def test_summary():
    module = Tensors(a=(2,), b=(2, 3), c=(4,), **{f"n{index}": (1,) for index in range(6)})
    source = {"a": torch.ones(2), "b": torch.ones(2, 3, 1), "c": torch.ones(5), "z": torch.ones(())}
    assert str(transplant(source, module)).splitlines() == [
        "copied 1 tensors",
        "reshaped 1: b",
        "left new 6: n0, n1, n2, n3, … 2 more",
        "unused 1: z",
        "do not fit 1: c (5 → 4)",
    ]
