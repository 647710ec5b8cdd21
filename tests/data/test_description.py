import os
from pathlib import Path

import pytest

from fullconv.data import open_dataset
from fullconv.data.classes import ClassEntry
from fullconv.data.description import Description, read_description
from fullconv.errors import DataError

BOMB = "\n".join(["a0: &a0 x", *(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]" for n in range(9))])


def described(folder: Path, text: str) -> Description:
    (folder / "dataset.yaml").write_text(text)
    return read_description(folder / "dataset.yaml")


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("classes: [sky, tree]", [ClassEntry(0, "sky"), ClassEntry(1, "tree")]),
        ("classes: {7: sky, 3: tree}", [ClassEntry(7, "sky"), ClassEntry(3, "tree")]),
        ("classes: {sky: [1, 2, 3]}", [ClassEntry(0, "sky", (1, 2, 3))]),
        (
            "classes: [{name: sky, color: [1, 2, 3]}, {name: tree, color: [3, 2, 1], id: 9}]",
            [ClassEntry(0, "sky", (1, 2, 3)), ClassEntry(9, "tree", (3, 2, 1))],
        ),
        ("", None),
    ],
)
def test_every_way_to_write_classes(tmp_path: Path, text: str, entries: list[ClassEntry] | None) -> None:
    assert described(tmp_path, text).entries() == entries


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clases: [a]", "unknown key 'clases'; did you mean 'classes'"),
        ("zzzz: 1", "unknown key 'zzzz'; the keys are path, format, images"),
        ("classes: [{name: a, colour: [1, 2, 3]}]", "unknown key 'classes.0.colour'; did you mean 'color'"),
        ("classes: [yes, no]", "not True; put names that YAML takes for numbers or truth values in quotes"),
        ("splits: {train: [0000047]}", "splits.train.0: .*, not 39; put names"),
        ("classes: 5", "classes: .*, not 5; .*names"),
        ("classes: {sky: [1, 2]}", "classes.0.color.*; write a list of names, id: name, or name:"),
        ("classes: {sky: [1, 2, 300]}", "classes.0.color.2: .* 255, not 300"),
        ("label_map: {a: void}", "label_map.*; write id: class name"),
        ("images: 5", "images: .*, not 5; write a value of that kind"),
        ("ignore_index: void", "ignore_index: .*, not 'void'"),
        ("classes: [a\nb: 1", "not valid YAML: .*line 2.*; correct that line"),
        ("classes: {0: sky, 1: car, 1: truck}", "not valid YAML: '1' stands twice"),
        ("tasks: {type: {masks: m, classes: [a]}}", "is a word that torch keeps for itself"),
        ("tasks: {items: {masks: m, classes: [a]}}", "is a word that torch keeps for itself"),
        ("- a", "holds no keys; write some of path, format, images"),
        ("[" * 600, "not valid YAML: RecursionError"),
        ("0x_", "not valid YAML: ValueError"),
        ("9" * 5000, "not valid YAML: ValueError"),
        ("!!bool x", "not valid YAML: KeyError"),
        ("!!timestamp x", "not valid YAML: AttributeError"),
        ("!!map x", "not valid YAML: ValueError"),
        ("a: &a [*a]", "not valid YAML: an alias stands inside"),
        (BOMB, "not valid YAML: aliases repeat more than 100000 values"),
    ],
)
def test_what_is_wrong_and_what_to_write(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=f"dataset.yaml: .*{message}") as caught:
        described(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_aliases_repeat(tmp_path: Path) -> None:
    tasks = "{one: &one {masks: m, classes: [a]}, two: {<<: *one, masks: n}}"
    text = f"splits: {{train: &all [a, b], val: *all}}\ntasks: {tasks}"
    read = described(tmp_path, text)
    assert read.splits["val"] == ["a", "b"] and [read.tasks[name].masks for name in ("one", "two")] == ["m", "n"]


def test_a_missing_description(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset.yaml: no such file; create it"):
        read_description(tmp_path / "dataset.yaml")


def test_dates_are_names(tmp_path: Path) -> None:
    found = described(tmp_path, "path: 2026-11-27\nsplits: {train: [2026-27-11]}")
    assert found.path == "2026-11-27" and found.splits == {"train": ["2026-27-11"]}


def test_a_description_for_data_on_another_drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(path: object, start: object) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", elsewhere)
    Description.model_validate({"classes": ["sky"]}).write(tmp_path / "dataset.yaml", tmp_path)
    assert read_description(tmp_path / "dataset.yaml").path == tmp_path.resolve().as_posix()


def test_an_unknown_format_in_a_description_is_an_error_of_the_data(tmp_path):
    (tmp_path / "dataset.yaml").write_text("format: foldr")
    with pytest.raises(DataError, match=r"dataset\.yaml: format 'foldr' is unknown; did you mean 'folder'"):
        open_dataset(tmp_path)
