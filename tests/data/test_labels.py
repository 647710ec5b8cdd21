import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullconv.data.labels import LabelSet, voc_palette
from fullconv.errors import UsageError

COLOURS = st.tuples(*[st.integers(0, 255)] * 3)


@st.composite
def settings_of_label_sets(draw: st.DrawFn) -> tuple[list[str], list[tuple[int, int, int]], int]:
    names = draw(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=6, unique=True))
    palette = draw(st.lists(COLOURS, min_size=len(names), max_size=len(names)))
    return names, palette, draw(st.integers(len(names), 300))


def test_palette_is_the_published_one() -> None:
    published = {1: (128, 0, 0), 2: (0, 128, 0), 7: (128, 128, 128), 15: (192, 128, 128), 20: (0, 64, 128)}
    palette = voc_palette(256)
    assert {index: palette[index] for index in published} == published
    assert palette[255] == (224, 224, 192)
    assert len(set(palette)) == 256


@given(settings_of_label_sets())
@settings(deadline=None, max_examples=25)
def test_json_and_back_is_the_same(options: tuple) -> None:
    labels = LabelSet.of(*options)
    assert LabelSet.from_dict(json.loads(json.dumps(labels.to_dict()))) == labels


@given(settings_of_label_sets())
@settings(deadline=None, max_examples=25)
def test_png_palette_holds_classes_void_and_voc(options: tuple) -> None:
    labels = LabelSet.of(*options)
    flat = labels.png_palette()
    colours = list(zip(flat[::3], flat[1::3], flat[2::3], strict=True))
    assert len(flat) == 768
    assert tuple(colours[: labels.num_classes]) == labels.palette
    if labels.ignore_index < 256:
        assert colours[labels.ignore_index] == (224, 224, 192)
    rest = set(range(labels.num_classes, 256)) - {labels.ignore_index}
    published = voc_palette(256)
    assert all(colours[index] == published[index] for index in rest)


def test_more_classes_than_a_palette_png_holds() -> None:
    labels = LabelSet.of([f"class {index}" for index in range(459)], ignore_index=65535)
    assert labels.num_classes == 459
    assert len(labels.png_palette()) == 768


@pytest.mark.parametrize(
    ("names", "palette", "ignore_index", "message"),
    [
        ([], None, 255, "at least one class"),
        (["sky", "sky"], None, 255, "'sky' stands for more than one class; rename"),
        (["sky"], [(0, 0, 0), (1, 1, 1)], 255, "2 colours for 1 classes; give one each"),
        (["sky"], [(0, 0, 256)], 255, r"colour of class 'sky' is \[0, 0, 256\]; give"),
        (["sky"], [(0, 0)], 255, r"palette colour is \(0, 0\); it must be"),
        (["sky", "tree"], None, 1, "ignore_index 1 is class 'tree'; choose one outside 0–1"),
    ],
)
def test_impossible_label_sets(
    names: list[str], palette: list[tuple[int, ...]], ignore_index: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        LabelSet.of(names, palette, ignore_index)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": "sky"}, "names is 'sky'; it must be a list of text"),
        ({"names": [1]}, "must be a list of text"),
        ({"palette": 3}, "palette is 3; it must be a list"),
        ({"palette": [[0, 0, True]]}, "whole numbers"),
        ({"ignore_index": "255"}, "ignore_index is '255'; it must be a whole number"),
        ({"colour": 1}, "it needs exactly"),
    ],
)
def test_from_dict_names_the_key(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LabelSet.from_dict(LabelSet.of(["sky"]).to_dict() | change)


def test_from_dict_wants_every_key() -> None:
    with pytest.raises(UsageError, match=r"has keys \['names'\]; it needs exactly"):
        LabelSet.from_dict({"names": ["sky"]})
