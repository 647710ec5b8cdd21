"""Every defect of the benchmark, injected into the generated data set: found in its file, and nothing else."""

import importlib.util
import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fullconv
from fullconv.data import write_shapes
from fullconv.data.generated import SHAPES
from fullconv.data.problems import KINDS, Problem
from fullconv.doctor import refuse_bad, report
from fullconv.errors import DataError
from fullconv.files.images import image_size, read_image
from fullconv.training import train

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "doctor.py"
spec = importlib.util.spec_from_file_location("doctor_benchmark", BENCHMARK)
benchmark = importlib.util.module_from_spec(spec)
spec.loader.exec_module(benchmark)

ABOUT_THE_SET = {"class_never_present", "class_in_one_split", "extreme_imbalance"}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    write_shapes(root, count=24, sizes=(96, 128))
    return root


@pytest.fixture
def corpus(shapes, tmp_path):
    return benchmark.write_clean(shapes, tmp_path / "set", 24, random.Random(0), set())


def findings(root):
    diagnosis = fullconv.check(root)
    return {(problem.kind, file.name) for problem in diagnosis.problems for file in problem.files}


def test_a_clean_set_has_no_problems(corpus):
    diagnosis = fullconv.check(corpus.root)
    assert diagnosis.problems == () and not diagnosis.has_errors


@pytest.mark.parametrize("name", benchmark.DEFECTS)
def test_every_defect_is_found_where_it_is(corpus, name):
    stem = corpus.free.pop()
    benchmark.DEFECTS[name](corpus, stem)
    found = findings(corpus.root)
    assert corpus.expected <= found
    kinds = {kind for kind, _ in corpus.expected}
    assert {kind for kind, _ in found} - ABOUT_THE_SET <= kinds
    assert all(stem in file or file.endswith(".txt") for kind, file in found if kind in kinds)


NEEDS_A_TABLE = {"off_by_one_ids", "stray_ids"}


@pytest.mark.parametrize("name", [name for name in benchmark.DEFECTS if name not in NEEDS_A_TABLE])
def test_every_defect_is_found_without_a_table_of_classes_too(corpus, name):
    (corpus.root / "classes.txt").unlink()
    benchmark.DEFECTS[name](corpus, corpus.free.pop())
    assert corpus.expected <= findings(corpus.root)


def test_a_stray_id_makes_no_class(tmp_path):
    write_shapes(tmp_path / "set", count=60, sizes=(40, 40))
    (tmp_path / "set" / "classes.txt").unlink()
    mask = sorted((tmp_path / "set" / "masks").iterdir())[7]
    ids = np.array(Image.open(mask))
    ids[:3] = 77
    Image.fromarray(ids).save(mask)
    assert fullconv.open_dataset(tmp_path / "set").labels.num_classes == 6
    assert findings(tmp_path / "set") == {("stray_ids", mask.name)}


def test_masks_of_0_and_255_are_explained(tmp_path):
    for folder, mode in (("images", "RGB"), ("masks", "L")):
        (tmp_path / folder).mkdir()
        for number in range(4):
            pixels = np.random.default_rng(number).integers(0, 2, (40, 50), np.uint8) * 255
            Image.fromarray(pixels).convert(mode).save(tmp_path / folder / f"{number}.png")
    diagnosis = fullconv.check(tmp_path)
    problem = next(problem for problem in diagnosis.problems if problem.kind == "binary_255_mask")
    assert len(problem.files) == 4 and "ignore_index: null" in problem.remedy
    (tmp_path / "dataset.yaml").write_text("classes: {0: background, 255: object}\nignore_index: null")
    assert not fullconv.check(tmp_path).has_errors


@pytest.mark.parametrize("table", ["", "ground 0 0 0\nwater 255 255 255\n"])
@pytest.mark.parametrize("others", ["RGB", "L"])
def test_white_stored_as_grey_is_no_void(tmp_path, table, others):
    """Where other grey masks tell classes by their ids, it is."""
    write_shapes(tmp_path, count=6, sizes=(48, 64))
    (tmp_path / "classes.txt").unlink()
    if table:
        (tmp_path / "classes.txt").write_text(table)
    for number, path in enumerate(sorted((tmp_path / "masks").iterdir())):
        drawn = np.array(Image.open(path)) > 0
        white = Image.fromarray(drawn.astype(np.uint8) * 255)
        if number == 1 and others == "L":
            white = Image.fromarray(drawn.astype(np.uint8))
        (white if number < 2 else white.convert("RGB")).save(path)
    kinds = {problem.kind: len(problem.files) for problem in fullconv.check(tmp_path).problems}
    assert kinds.get("binary_255_mask") == (2 if others == "RGB" else None)


def zeros_and_void(corpus, stem):
    Image.fromarray(np.where(corpus.ids(stem) == 0, 0, 255).astype(np.uint8)).save(corpus.mask(stem))


def test_void_beside_class_0_is_no_problem_where_other_masks_tell_more(corpus):
    """Neither in the set's own masks nor in a further task's; its pixels count."""
    before = fullconv.check(corpus.root).pixels["train"]
    stem = (corpus.root / "train.txt").read_text().split("\n")[0]
    kept = (corpus.ids(stem) == 0).sum()
    zeros_and_void(corpus, stem)
    task = "tasks: {more: {masks: masks, classes: [a, b, c, d, e, f, g]}}"
    (corpus.root / "dataset.yaml").write_text(task)
    diagnosis = fullconv.check(corpus.root)
    assert {problem.kind for problem in diagnosis.problems} <= ABOUT_THE_SET
    assert kept and diagnosis.pixels["train"][0] == before[0]
    refuse_bad(diagnosis.source, diagnosis.source.splits)


def test_masks_of_0_and_255_alone_are_a_problem_whatever_classes_are_listed(corpus):
    for path in (corpus.root / "masks").iterdir():
        zeros_and_void(corpus, path.stem)
    [problem] = [problem for problem in fullconv.check(corpus.root).problems if problem.severity == "error"]
    assert problem.kind == "binary_255_mask" and len(problem.files) == 24
    with pytest.raises(DataError, match="holds only 0 and 255"):
        refuse_bad(fullconv.open_dataset(corpus.root), ["train"])


@pytest.mark.parametrize("described", ["ignore_index: null", "classes: {1: a, 2: b, 3: c, 4: d, 5: e}"])
def test_0_and_255_that_are_not_known_stay_a_problem(corpus, described):
    (corpus.root / "dataset.yaml").write_text(described)
    stem, *others = corpus.free
    zeros_and_void(corpus, stem)
    for other in others:
        ids = corpus.ids(other)
        Image.fromarray(np.where((ids == 0) | (ids == 255), 1, ids).astype(np.uint8)).save(corpus.mask(other))
    assert {(kind, file) for kind, file in findings(corpus.root) if KINDS[kind] == "error"} == {
        ("binary_255_mask", f"{stem}.png")
    }


def with_palette(corpus, stem, order, palette):
    """Number a mask's ids anew in this order, each with its own colour of a palette."""
    ids = corpus.ids(stem)
    image = Image.fromarray(np.array([order.index(number) for number in range(256)], np.uint8)[ids])
    image.putpalette([channel for number in order for channel in palette[3 * number : 3 * number + 3]])
    image.save(corpus.mask(stem))


def coloured(corpus):
    """Give the corpus's classes the colours of its palette, and return that."""
    palette = SHAPES.png_palette()
    names = (corpus.root / "classes.txt").read_text().split()
    lines = [f"{name} {' '.join(map(str, palette[3 * i : 3 * i + 3]))}" for i, name in enumerate(names)]
    (corpus.root / "classes.txt").write_text("\n".join(lines))
    return palette


OPTIMISED = [255, 5, 4, 3, 2, 1, 0, *range(6, 255)]


@pytest.mark.parametrize("described", ["", "ignore_index: null", "label_map: {5: 4}"])
def test_palettes_numbered_anew_are_a_problem(corpus, described):
    stem = (corpus.root / "train.txt").read_text().split("\n")[0]
    palette = coloured(corpus)
    (corpus.root / "dataset.yaml").write_text(described)
    with_palette(corpus, stem, OPTIMISED, palette)
    errors = {(kind, file) for kind, file in findings(corpus.root) if KINDS[kind] == "error" and stem in file}
    assert errors == {("palette_order", f"{stem}.png")}
    if not described:
        with pytest.raises(DataError, match=f"{stem}.png: is a palette image whose indices .*; save it as RGB, or"):
            refuse_bad(fullconv.open_dataset(corpus.root), ["train"])


@pytest.mark.parametrize("described", ["", "label_map: {5: 4, 3: void}"])
@pytest.mark.parametrize("palette", [SHAPES.png_palette(), list(np.random.default_rng(0).permutation(768) % 256)])
def test_palettes_of_the_classes_or_for_display_are_none(corpus, palette, described):
    coloured(corpus)
    (corpus.root / "dataset.yaml").write_text(described)
    for path in (corpus.root / "masks").iterdir():
        with_palette(corpus, path.stem, list(range(256)), palette)
    assert {kind for kind, _ in findings(corpus.root)} <= ABOUT_THE_SET


def test_the_colour_of_void_may_be_a_class_by_its_id(corpus):
    palette = coloured(corpus)
    (corpus.root / "dataset.yaml").write_text("label_map: {255: 0}")
    for path in (corpus.root / "masks").iterdir():
        with_palette(corpus, path.stem, list(range(256)), palette)
    assert {kind for kind, _ in findings(corpus.root)} <= ABOUT_THE_SET


@pytest.mark.parametrize("described", ["ignore_index: -1", "label_map: {-1: void}"])
def test_ids_that_are_declared_may_be_negative(corpus, described):
    for path in (corpus.root / "masks").iterdir():
        ids = corpus.ids(path.stem).astype(np.int16)
        path.unlink()
        ids[:9] = -1
        np.save(path.with_suffix(".npy"), np.where(ids == 255, -1, ids))
    assert "label_map: {-1: void}" in {problem.remedy for problem in fullconv.check(corpus.root).problems}.pop()
    (corpus.root / "dataset.yaml").write_text(described)
    assert fullconv.check(corpus.root).problems == ()


def test_what_blocks_training_is_what_training_says(corpus, tmp_path):
    benchmark.DEFECTS["stray_ids"](corpus, (corpus.root / "train.txt").read_text().split("\n")[0])
    error = next(problem for problem in fullconv.check(corpus.root).problems if problem.severity == "error")
    with pytest.raises(DataError) as raised:
        train(corpus.root, tmp_path / "run", settings={"model.trunk": "small"}, quiet=True)
    assert str(raised.value) == str(error)
    assert not (tmp_path / "run").exists()


def test_a_sample_on_two_lists_is_told(corpus):
    """As in the plainest leak: it counts in both splits, and once among the images."""
    before = fullconv.check(corpus.root)
    lists = [corpus.root / f"{split}.txt" for split in ("train", "test")]
    leaked = lists[0].read_text().split("\n")[:2]
    lists[1].write_text("\n".join([*lists[1].read_text().split("\n"), *leaked]))
    diagnosis = fullconv.check(corpus.root)
    [problem] = diagnosis.problems
    assert problem.kind == "duplicate_across_splits" and problem.seen == "stands in train and in test"
    assert sorted(file.stem for file in problem.files) == sorted(leaked)
    assert np.array_equal(diagnosis.pixels["train"], before.pixels["train"])
    counts = sum(np.bincount(corpus.ids(stem).ravel(), minlength=256)[:6] for stem in leaked)
    assert np.array_equal(diagnosis.pixels["test"], before.pixels["test"] + counts)
    assert (diagnosis.sizes, diagnosis.mean) == (before.sizes, before.mean)


def test_classes_are_judged_over_the_set(corpus):
    (corpus.root / "classes.txt").write_text((corpus.root / "classes.txt").read_text() + "\nnever\nonce\n")
    stem = (corpus.root / "test.txt").read_text().split("\n")[0]
    ids = corpus.ids(stem)
    ids[:2, :2] = 7
    Image.fromarray(ids).save(corpus.mask(stem))
    seen = {problem.kind: problem.seen for problem in fullconv.check(corpus.root).problems}
    assert "never" in seen["class_never_present"]
    assert "only test holds once" in seen["class_in_one_split"]
    assert "once" in seen["extreme_imbalance"]


@pytest.mark.parametrize("scale", [0.4, 0.77, 0.9, 1.3])
def test_a_picture_of_another_size_and_quality_is_nearly_the_same(shapes, scale):
    """Fine patterns that no integer box divides: thumbnails must weigh every pixel exactly."""
    from fullconv.doctor.diagnosis import NEAR_DUPLICATE
    from fullconv.doctor.examine import _thumbnail

    for path in sorted((shapes / "images").iterdir())[:6]:
        image = Image.open(path).convert("RGB").resize((317, 239), Image.Resampling.BICUBIC)
        size = (round(image.width * scale), round(image.height * scale))
        buffer = io.BytesIO()
        image.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=60)
        other = np.array(Image.open(buffer))
        assert _thumbnail(np.array(image)) @ _thumbnail(other) > NEAR_DUPLICATE


def test_numbers_are_those_of_the_pixels(corpus):
    diagnosis = fullconv.check(corpus.root)
    source = diagnosis.source
    pixels = sum(
        int((source.dataset(split)[i].target != 255).sum())
        for split in source.splits
        for i in range(len(source.splits[split]))
    )
    assert sum(int(counts.sum()) for counts in diagnosis.pixels.values()) == pixels > 0
    assert sum(diagnosis.sizes.values()) == 24
    assert diagnosis.frequencies.sum() == pytest.approx(1)
    weighted = diagnosis.class_weights * diagnosis.frequencies
    assert np.allclose(weighted[weighted > 0], weighted.max())
    # Of every fourth row and column, each image counting the same.
    images = [source.read_sample(record).image[:, ::4, ::4] for part in source.splits.values() for record in part]
    pixels_of = [image.reshape(3, -1).double().numpy() for image in images]
    mean = np.mean([values.mean(axis=1) for values in pixels_of], axis=0)
    square = np.mean([(values**2).mean(axis=1) for values in pixels_of], axis=0)
    assert np.allclose(diagnosis.mean, mean) and np.allclose(diagnosis.std, np.sqrt(square - mean**2))
    assert 1 >= diagnosis.upper_bound[4] > diagnosis.upper_bound[8] > diagnosis.upper_bound[32] > 0
    json.dumps(diagnosis.to_dict(), allow_nan=False)


def test_a_set_in_which_nothing_can_be_read_is_still_judged(corpus):
    for path in (corpus.root / "masks").iterdir():
        path.write_bytes(b"")
    diagnosis = fullconv.check(corpus.root)
    assert {problem.kind for problem in diagnosis.problems} == {"empty_file"}
    assert diagnosis.to_dict()["upper_bound"] == dict.fromkeys(["4", "8", "16", "32"])
    for path in (corpus.root / "images").iterdir():
        path.write_bytes(b"")
    record = json.loads(json.dumps(fullconv.check(corpus.root).to_dict(), allow_nan=False))
    assert record["mean"] == record["std"] == [None] * 3


def test_the_data_folder_stays_as_it_is(corpus):
    before = {path: path.read_bytes() for path in corpus.root.rglob("*") if path.is_file()}
    fullconv.check(corpus.root)
    assert {path: path.read_bytes() for path in corpus.root.rglob("*") if path.is_file()} == before


def test_what_is_no_files_name_has_no_picture(tmp_path):
    assert report._picture(tmp_path / f"{'a' * 300}.png") is None


def test_a_report_shows_no_bombs_and_looks_at_no_more_than_it_shows(corpus, tmp_path, monkeypatch):
    bomb = corpus.root / "images" / f"{corpus.free.pop()}.png"
    Image.new("1", (9000, 9000)).save(bomb)
    diagnosis = fullconv.check(corpus.root)
    assert bomb in {file for problem in diagnosis.problems for file in problem.files}
    seen = []
    monkeypatch.setattr(report, "_data_url", lambda pixels: seen.append(pixels.shape) or "")
    fullconv.doctor.write_report(diagnosis, tmp_path / "page.html")
    assert seen and (9000, 9000, 3) not in seen
    monkeypatch.setattr(report, "OFFENDERS", 0)
    monkeypatch.setattr(report, "_picture", lambda path: pytest.fail("it is not shown"))
    fullconv.doctor.write_report(diagnosis, tmp_path / "page.html")


def test_kinds_of_problems_are_known():
    with pytest.raises(ValueError, match="unknown kind"):
        Problem("nonsense", (Path("a"),), "x", "y")
    assert set(KINDS.values()) == {"error", "warning"}


def test_what_may_not_be_read_is_said(corpus, monkeypatch):
    stem = corpus.free.pop()
    real = Path.read_bytes

    def refused(path):
        if path.stem == stem and path.parent.name.startswith("image"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    found = [problem for problem in fullconv.check(corpus.root).problems if problem.kind == "unreadable"]
    assert [file.stem for problem in found for file in problem.files] == [stem]
    assert found[0].seen == "may not be read (permission denied)"

    def closed(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(DataError, match=r"may not be read \(permission denied\)"):
        fullconv.open_dataset(corpus.root)


@pytest.mark.parametrize(("highest", "levels"), [(65535, 256), (4095, 17)])
def test_what_16_bits_become_is_said(tmp_path, highest, levels):
    write_shapes(tmp_path, count=12, sizes=(48, 64))
    path = next((tmp_path / "images").iterdir())
    wide = np.linspace(0, highest, 48 * 64).astype(np.uint16)
    Image.fromarray(np.resize(wide, image_size(path))).save(path)
    assert len(read_image(path).unique()) == levels
    [problem] = [problem for problem in fullconv.check(tmp_path).problems if problem.kind == "sixteen_bit_image"]
    few = highest < 65535
    assert (f"none a value above {highest}: read as 8 bits, that is {levels} levels" in problem.seen) == few
    assert (f"say range: [0, {highest}] in a dataset.yaml" == problem.remedy) == few


@pytest.mark.parametrize("share", [0.2, 0.8])
@pytest.mark.parametrize("bands", [1, 3, 5])
def test_arrays_among_picture_files_must_have_three_bands(corpus, bands, share):
    """Whichever are more: a network takes one number of channels."""
    stems = sorted(path.stem for path in (corpus.root / "images").iterdir())
    arrays = stems[: round(len(stems) * share)]
    for stem in arrays:
        pixels = read_image(corpus.image(stem)).permute(1, 2, 0).numpy()
        corpus.image(stem).unlink()
        np.save(corpus.root / "images" / f"{stem}.npy", np.resize(pixels, (*pixels.shape[:2], bands)))
    problems = [problem for problem in fullconv.check(corpus.root).problems if problem.severity == "error"]
    source = fullconv.open_dataset(corpus.root)
    if bands == 3:
        assert not problems
        return refuse_bad(source, source.splits)
    fewer, most = (f"{bands} bands", "3 bands") if share < 0.5 else ("3 bands", f"{bands} bands")
    [problem] = problems
    assert {file.stem for file in problem.files} == set(arrays if share < 0.5 else stems[len(arrays) :])
    assert problem.seen == f"has {fewer}, most images have {most}"
    with pytest.raises(DataError, match=f"has {fewer}, most images have {most}; export them alike"):
        refuse_bad(source, source.splits)
