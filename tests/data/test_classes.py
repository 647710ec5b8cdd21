import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fullconv.data.classes import ClassEntry, ClassTable, infer_entries, read_classes
from fullconv.errors import DataError
from fullconv.files.masks import MaskFile, RawMask
from reference.colour_masks import by_table

WHERE = Path("set/classes.txt")
ENTRIES = [
    ClassEntry(7, "sky", (1, 2, 3)),
    ClassEntry(2, "tree", (3, 2, 1)),
    ClassEntry(0, "void", (9, 9, 9)),
    ClassEntry(900, "sea", (0, 0, 0)),
]


def saved(folder: Path, mask: np.ndarray, name: str = "m.png") -> Path:
    Image.fromarray(mask).save(folder / name)
    return folder / name


def read(path: Path) -> tuple[RawMask, Path]:
    return MaskFile(path).read(), path


def test_classes_are_numbered_by_ascending_id() -> None:
    table = ClassTable.of(ENTRIES, WHERE)
    assert table.labels.names == ("tree", "sky", "sea")
    assert table.labels.palette == ((3, 2, 1), (1, 2, 3), (0, 0, 0))
    assert table.ids == {255: 255, 0: 255, 2: 0, 7: 1, 900: 2}


@given(st.integers(0, 2**31))
@settings(deadline=None, max_examples=10)
def test_ids_and_colours_equal_the_slow_reference(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = ClassTable.of(ENTRIES, WHERE, label_map={40: "sea", 41: 7, 42: "void"})
    folder = tmp_path_factory.mktemp("masks")
    ids = rng.choice(np.array([0, 2, 7, 40, 41, 42, 255, 900]), (5, 9)).astype(np.uint16)
    truth = {0: 255, 2: 0, 7: 1, 40: 2, 41: 1, 42: 255, 255: 255, 900: 2}
    assert np.array_equal(table.target(*read(saved(folder, ids))).numpy(), by_table(ids, truth))
    palette = np.array([(1, 2, 3), (3, 2, 1), (9, 9, 9), (0, 0, 0), (224, 224, 192)], np.uint8)
    colours = palette[rng.integers(0, 5, (5, 9))]
    named = {(1, 2, 3): 1, (3, 2, 1): 0, (9, 9, 9): 255, (0, 0, 0): 2, (224, 224, 192): 255}
    assert np.array_equal(table.target(*read(saved(folder, colours))).numpy(), by_table(colours, named))


@pytest.mark.parametrize(
    ("count", "void_id", "ignore_index"),
    [(3, 255, 255), (3, 0, 255), (3, 9, 9), (3, None, 255), (300, 255, 65535), (3, 65535, 65535)],
)
def test_there_is_one_ignore_index_outside_the_classes(count: int, void_id: int | None, ignore_index: int) -> None:
    entries = [ClassEntry(index + (void_id == 0), f"class {index}") for index in range(count)]
    table = ClassTable.of(entries, WHERE, void_id)
    assert table.labels.ignore_index == ignore_index
    assert sorted(set(table.ids.values())) == [
        *range(count),
        *([ignore_index] if void_id is not None and count == 3 else []),
    ]


@pytest.mark.parametrize("void_id", [-9999, -1, 65536, 2**31 - 1])
def test_ids_that_are_declared_may_be_negative_or_large(void_id: int) -> None:
    table = ClassTable.of(
        [ClassEntry(-7, "a"), ClassEntry(0, "b"), ClassEntry(70000, "c")], WHERE, void_id, {-5: "b", 99999: "void"}
    )
    ids = np.array([[-7, 0, 70000, void_id, -5, 99999]], np.int32)
    assert table.target(ids, WHERE).tolist() == [[0, 1, 2, 255, 1, 255]]
    message = "holds id -6, 66000, which is none of the 3 classes; .*: {-6: void} or ignore_index: -6"
    with pytest.raises(DataError, match=message):
        table.target(np.array([[0, 66000, void_id, -6]], np.int32), WHERE)


def test_void_stays_an_id_unless_a_class_has_it() -> None:
    entries = [ClassEntry(0, "background"), ClassEntry(255, "object")]
    assert ClassTable.of(entries, WHERE).ids == {0: 0, 255: 1}


@pytest.mark.parametrize(
    ("entries", "label_map", "message"),
    [
        ([ClassEntry(1, "a"), ClassEntry(1, "b")], {}, "id 1 stands for more than one class; give each"),
        ([ClassEntry(0, "a", (1, 1, 1)), ClassEntry(1, "b", (1, 1, 1))], {}, r"colour \(1, 1, 1\) stands for more"),
        ([ClassEntry(0, "a"), ClassEntry(1, "a")], {}, "class name 'a' stands for more than one class; rename"),
        ([ClassEntry(0, "void")], {}, "a label set needs at least one class; give names"),
        ([ClassEntry(0, "a", (0, 0, 300))], {}, "colour of class 'a' is .*; give red"),
        ([ClassEntry(0, "a")], {5: "b"}, "label_map sends 5 to 'b', which is no class; give a class name, id or void"),
        ([ClassEntry(0, "a")], {5: 5}, "label_map sends 5 to 5, which is no class"),
    ],
)
def test_impossible_tables(entries: list[ClassEntry], label_map: dict[int, int | str], message: str) -> None:
    with pytest.raises(DataError, match=f"set/classes.txt: {message}"):
        ClassTable.of(entries, WHERE, label_map=label_map)


@pytest.mark.parametrize("ids", [[0, 2, 8], [0, 70000, 8]])
def test_an_id_that_is_no_class(tmp_path: Path, ids: list[int]) -> None:
    path = tmp_path / "m.tif"
    Image.fromarray(np.array([ids], np.int32)).save(path)
    wrong = ", ".join(str(number) for number in sorted(set(ids) - {0, 2}))
    first = min(set(ids) - {0, 2})
    message = (
        rf"m.tif: holds id {wrong}, which is none of the 3 classes; add it to set/classes.txt, or in a dataset.yaml "
        rf"set label_map: {{{first}: void}} or ignore_index: {first}"
    )
    with pytest.raises(DataError, match=message):
        ClassTable.of(ENTRIES, WHERE).target(*read(path))


def test_a_colour_that_is_no_class(tmp_path: Path) -> None:
    mask = np.zeros((4, 4, 3), np.uint8)
    mask[0, :3] = 5
    mask[1, 0] = 6
    message = (
        r"m.png: has the colour \(5, 5, 5\) on 3 pixels \(and 1 more such colours\), which is no class; "
        r"add its class to set/classes.txt, or a class named void"
    )
    with pytest.raises(DataError, match=message):
        ClassTable.of(ENTRIES, WHERE).target(*read(saved(tmp_path, mask)))


@pytest.mark.parametrize(
    ("where", "form"), [("classes.txt", "sky 128 192 255"), ("set.yaml", r"sky: \[128, 192, 255\]")]
)
def test_a_colour_mask_where_classes_have_no_colours(tmp_path: Path, where: str, form: str) -> None:
    table = ClassTable.of([ClassEntry(0, "a"), ClassEntry(1, "b")], Path(where))
    with pytest.raises(
        DataError, match=f"m.png: is an RGB mask, and the classes have no colours; write {where} .*{form}"
    ):
        table.target(*read(saved(tmp_path, np.zeros((2, 2, 3), np.uint8))))


@pytest.mark.parametrize(
    ("rest", "colours"),
    [
        ([1, 1, 1, 2, 2, 2], [(9, 8, 7), (6, 5, 4), (1, 1, 1), (2, 2, 2)]),
        ([1, 1, 1], [(9, 8, 7), (6, 5, 4), (1, 1, 1), None]),
        ([0, 0, 0] * 254, [None] * 4),
    ],
)
def test_classes_are_inferred_with_their_palette(
    tmp_path: Path, rest: list[int], colours: list[tuple[int, int, int] | None]
) -> None:
    """One that is filled up gives none: its colours would not tell the classes apart."""
    image = Image.fromarray(np.array([[0, 3, 255]], np.uint8))
    image.putpalette([9, 8, 7, 6, 5, 4, *rest])
    image.save(tmp_path / "b.png")
    entries = infer_entries(
        [MaskFile(saved(tmp_path, np.array([[1]], np.uint8))), MaskFile(tmp_path / "b.png")], WHERE, frozenset({255})
    )
    assert [entry.name for entry in entries] == ["class 0", "class 1", "class 2", "class 3"]
    assert [entry.colour for entry in entries] == colours
    assert ClassTable.of(entries, WHERE).labels.num_classes == 4


@pytest.mark.parametrize(
    ("ids", "void", "learned"),
    [
        ([0, 1, 3], {0}, [1, 2, 3]),
        ([0, 1, 2, 3], {2, 9}, [0, 1, 3]),
        (range(300), {255}, [*range(255), *range(256, 300)]),
    ],
)
def test_void_among_the_ids_is_no_class(tmp_path: Path, ids: Sequence[int], void: set[int], learned: list[int]) -> None:
    mask = MaskFile(saved(tmp_path, np.array([ids], np.uint16)))
    entries = infer_entries([mask], WHERE, frozenset(void))
    assert [(entry.id, entry.name) for entry in entries] == [(number, f"class {number}") for number in learned]
    target = ClassTable.of(entries, WHERE, min(void)).target(mask.read(), mask.path)
    assert (target >= len(learned)).sum() == 1


@pytest.mark.parametrize(
    ("ids", "void"),
    [([0, 255], 255), ([0, 255], 0), ([255], 255), ([0], 255), ([0, 65535], 255), ([0, 100, 200, 300], 255)],
)
def test_masks_that_tell_no_classes(tmp_path: Path, ids: list[int], void: int) -> None:
    some = ", ".join(map(str, ids)) + (rf" \(void: {void}\)" if void in ids else "")
    with pytest.raises(DataError, match=f"the masks hold only the ids {some}, .*; list the ids in a dataset.yaml"):
        infer_entries([MaskFile(saved(tmp_path, np.array([ids], np.uint16)))], WHERE, frozenset({void}))


def test_a_huge_id_is_refused_before_the_ids_are_counted_up(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.array([[0, 1, 1 << 18]]))
    tracemalloc.start()
    with pytest.raises(DataError, match="the masks hold only the ids 0, 1, 262144, which tell no classes; list"):
        infer_entries([MaskFile(tmp_path / "m.npy")], WHERE, frozenset({255}))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_too_many_colours_tell_no_classes(tmp_path: Path) -> None:
    shades = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    message = "m.png: with it the masks hold more than 256 colours.*; write set/classes.txt .*sky 128 192 255"
    with pytest.raises(DataError, match=message):
        infer_entries([MaskFile(saved(tmp_path, shades))], WHERE, frozenset())


def test_classes_txt(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("\ufeff# my classes\nsky\n\ntraffic light 250 170 30  # rare\nroute 66\nvoid 0 0 0\n", "utf-8")
    assert read_classes(path) == [
        ClassEntry(0, "sky"),
        ClassEntry(1, "traffic light", (250, 170, 30)),
        ClassEntry(2, "route 66"),
        ClassEntry(3, "void", (0, 0, 0)),
    ]


@pytest.mark.parametrize(
    ("contents", "message"),
    [(b"# nothing\n", "holds no class; write one"), (b"\xff\xfe\x00", "cannot be read as text .*; save it as UTF-8")],
)
def test_broken_classes_txt(tmp_path: Path, contents: bytes, message: str) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes(contents)
    with pytest.raises(DataError, match=f"classes.txt: {message}"):
        read_classes(path)
