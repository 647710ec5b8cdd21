"""``dataset.yaml``: where a data set's files are and what the ids in its masks mean."""

import difflib
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    ValidationError,
)
from torch import nn

from ..errors import DataError, in_one_line
from ..files.atomic import write_atomically
from ..files.text import parse_yaml, read_text
from .classes import VOID, ClassEntry
from .labels import DEFAULT_TASK

_UNION_TAG = re.compile(r"list\[.*\]|str|int|\[key\]")
_CLASS_FORMS = "a list of names, id: name, or name: [red, green, blue]"
_Channel = Annotated[int, Field(ge=0, le=255)]


def _ascending(limits: tuple[float, float]) -> tuple[float, float]:
    if not 0 < limits[1] - limits[0] < math.inf:
        raise ValueError("give two finite values, the smaller first")
    return limits


_Range = Annotated[tuple[float, float], AfterValidator(_ascending)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: StrictStr
    color: tuple[_Channel, _Channel, _Channel] | None = None
    id: StrictInt | None = None


def _as_rows(classes: object) -> object:
    if isinstance(classes, dict):
        return [_as_row(key, value) for key, value in classes.items()]
    if isinstance(classes, list):
        return [row if isinstance(row, dict) else {"name": row} for row in classes]
    raise ValueError(f"write {_CLASS_FORMS}")


def _as_row(key: object, value: object) -> dict[str, object]:
    if isinstance(key, int) and not isinstance(key, bool):
        return {"id": key, "name": value}
    return {"name": key, "color": value}


def _not_default(task: str) -> str:
    if task == DEFAULT_TASK:
        raise ValueError("is what the data set's own masks are called")
    if hasattr(nn.ModuleDict, task) or hasattr(nn.Module(), task):
        raise ValueError("is a word that torch keeps for itself; choose another")
    return task


_Task = Annotated[str, Field(pattern=r"^[A-Za-z]\w*$"), AfterValidator(_not_default)]


class TaskDescription(BaseModel):
    """A further task on the same images: as the keys of the same names of a ``dataset.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    masks: StrictStr
    classes: Annotated[list[_Entry], BeforeValidator(_as_rows)]
    ignore_index: StrictInt | None = 255
    label_map: dict[StrictInt, StrictInt | StrictStr] = {}


class Description(BaseModel):
    """The keys of a ``dataset.yaml``; all have defaults.

    Attributes:
        path: The data set's folder, relative to the YAML file; all other paths are relative to this folder.
        format: How the folder is laid out; by default recognised by looking.
        images: Folder of the images; by default one of the usual names.
        masks: Folder of the masks: for every image one of the same stem; by default one of the usual names.
        splits: Split → a text file of stems, or the stems. By default ``train.txt``, ``val.txt``,
            ``test.txt`` where they exist, else 80/10/10 % by a hash of the stem.
        classes: A list of names; a list of ``{name, color, id}``; a mapping id in the mask → name; or a
            mapping name → colour. Classes are numbered 0 … in the order of their ids; one named ``void`` is
            ignored. By default ``classes.txt``, else inferred from the masks.
        ignore_index: Id in the masks that is void; ``null`` for none.
        label_map: Other id in the masks → class name, class id (as in ``classes``), or ``void``.
        bands: Which bands of the image files are the channels, from 1; by default all of a GeoTIFF, an ``.npy`` file or
            with ``range``, else red, green, blue.
        range: The values in the image files that become 0 and 255; by default 0 and the largest of
            their integer type of at most 16 bits.
        stack: Folder of files of the same stems whose bands are further channels, such as depth → the values that
            become 0 and 255 (null for 0 and the largest of their integer type of at most 16 bits).
        tasks: Further tasks on the same images: name → ``masks``, ``classes``, ``ignore_index``, ``label_map``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: StrictStr = "."
    format: StrictStr | None = None
    images: StrictStr | None = None
    masks: StrictStr | None = None
    splits: dict[StrictStr, StrictStr | list[StrictStr]] | None = None
    classes: Annotated[list[_Entry], BeforeValidator(_as_rows)] | None = None
    ignore_index: StrictInt | None = 255
    label_map: dict[StrictInt, StrictInt | StrictStr] = {}
    bands: Annotated[list[Annotated[StrictInt, Field(ge=1)]], Field(min_length=1)] | None = None
    range: _Range | None = None
    stack: dict[StrictStr, _Range | None] = {}
    tasks: dict[_Task, TaskDescription] = {}

    def of_task(self, task: str) -> "Description":
        """Return the description of a further task alone."""
        own = {"tasks", "masks", "classes", "ignore_index", "label_map"}
        shared = self.model_dump(exclude=own, exclude_unset=True)
        return Description.model_validate(shared | self.tasks[task].model_dump(exclude_unset=True))

    def entries(self) -> list[ClassEntry] | None:
        """Return the classes with their ids in the masks (by default the position), or None."""
        if self.classes is None:
            return None
        return [
            ClassEntry(position if row.id is None else row.id, row.name, row.color)
            for position, row in enumerate(self.classes)
        ]

    def completed(
        self, format: str, entries: Sequence[ClassEntry], ignore_index: int | None, label_map: Mapping[int, int | str]
    ) -> "Description":
        """Return the same description with what was found in the data set said outright.

        An ``ignore_index`` that is a class is none.
        """
        if any(entry.id == ignore_index and entry.name != VOID for entry in entries):
            ignore_index = None
        rows = [_Entry(name=entry.name, color=entry.colour, id=entry.id) for entry in entries]
        found = {"format": format, "classes": rows, "ignore_index": ignore_index, "label_map": dict(label_map)}
        return self.model_copy(update=found)

    def write(self, path: str | Path, root: Path) -> None:
        """Write a ``dataset.yaml`` for the data in ``root``, whole or not at all; it may lie anywhere.

        Raises:
            UsageError: It cannot be written.
        """
        path = Path(path)
        try:
            place = Path(os.path.relpath(root, path.parent))
        except ValueError:  # On another drive.
            place = root.resolve()
        tree = {"path": place.as_posix(), **self.model_dump(mode="json", exclude={"path"})}
        tree["tasks"] = {name: task.model_dump(mode="json", exclude_unset=True) for name, task in self.tasks.items()}
        tree = {key: value for key, value in tree.items() if value not in (None, {}) or key == "ignore_index"}
        for part in (tree, *tree.get("tasks", {}).values()):
            if part.get("label_map"):  # JSON knows only text for keys.
                part["label_map"] = {int(key): name for key, name in part["label_map"].items()}
        tree["classes"] = [{key: value for key, value in row.items() if value is not None} for row in tree["classes"]]
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
        write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"), "choose another --write")


def read_description(path: Path) -> Description:
    """Read a ``dataset.yaml``.

    Raises:
        DataError: The file is missing or not YAML, a key is unknown (the nearest name is given), or a value
            is not of its kind.
    """
    try:
        tree = parse_yaml(read_text(path))
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not valid YAML: {in_one_line(error)}; correct that line") from error
    if not isinstance(tree, dict | None):
        raise DataError(f"{path}: holds no keys; write some of {', '.join(Description.model_fields)}")
    try:
        return Description.model_validate(tree or {})
    except ValidationError as error:
        raise DataError(f"{path}: {_explain(error)}") from error


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]["loc"][:2]
    # Where a value may be one thing or another, pydantic complains once for each: the deepest complaint is the closest.
    problem = max((p for p in error.errors() if p["loc"][:2] == first), key=lambda p: len(p["loc"]))
    place = [str(part) for part in problem["loc"] if not _UNION_TAG.fullmatch(str(part))]
    if problem["type"] == "extra_forbidden":
        known = _KNOWN.get(place[0], Description).model_fields
        near = difflib.get_close_matches(place[-1], known, 1, 0.4)
        return f"unknown key {'.'.join(place)!r}; " + (
            f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(known)}"
        )
    value = problem["input"]
    return f"{'.'.join(place)}: {problem['msg']}, not {value!r}; {_remedy(place[0], value)}"


_KNOWN: dict[str, type[BaseModel]] = {"classes": _Entry, "tasks": TaskDescription}


def _remedy(key: str, value: Any) -> str:
    if isinstance(value, bool | int | float) and key in ("classes", "splits"):
        return "put names that YAML takes for numbers or truth values in quotes"
    forms = {
        "classes": _CLASS_FORMS,
        "splits": "a text file of stems or a list of stems",
        "label_map": "id: class name",
    }
    return f"write {forms.get(key, 'a value of that kind')}"
