import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fullconv.data.formats import open_dataset
from fullconv.data.source import DataSource, Record, made_splits
from fullconv.doctor import refuse_bad
from fullconv.errors import DataError
from fullconv.files.masks import MaskFile
from fullconv.files.pictures import ImageFile
from reference.three_images import TRUTHS, one_hot, read_back, write_image, write_mask

Write = type(open_dataset)


def refuse(source: DataSource) -> None:
    refuse_bad(source, source.splits)


def stems(source: DataSource) -> dict[str, list[str]]:
    return {split: [record.stem for record in records] for split, records in source.splits.items()}


def replace_mask(root: Path, stem: str, mask: np.ndarray) -> None:
    Image.fromarray(mask).save(root / "masks" / f"{stem}.png")


def test_lists_name_the_splits(imitation: Write) -> None:
    root = imitation("abcd", train_txt="b\n\n a \r\n", test_txt="\ufeffc\n", classes_txt="x\ny\nz\n")
    source = open_dataset(root)
    assert stems(source) == {"train": ["b", "a"], "test": ["c"]}
    assert source.labels.names == ("x", "y", "z")
    assert source.image_size(source.records("test")[0]) == (4, 6)


def test_trainval_is_for_training_where_there_is_no_train(imitation: Write) -> None:
    assert stems(open_dataset(imitation("abc", trainval_txt="a\nb", test_txt="c"))) == {
        "train": ["a", "b"],
        "test": ["c"],
    }
    assert stems(open_dataset(imitation("abc", trainval_txt="a\nb", train_txt="a", test_txt="c")))["train"] == ["a"]


def test_samples_are_images_with_class_ids(imitation: Write) -> None:
    root = imitation(train_txt="a")
    dataset = open_dataset(str(root)).dataset("train")
    sample = dataset[0]
    assert len(dataset) == 1 and sample.stem == "a" and sample.ignore_index == 255
    assert torch.equal(sample.target, torch.tensor([0, 1, 2, 255] * 6).view(4, 6))
    assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), np.array(Image.open(root / "images" / "a.png")))
    mirrored = open_dataset(root).dataset(
        "train", lambda sample: type(sample)("t", sample.image, sample.target.flip(1))
    )
    assert torch.equal(mirrored[0].target, sample.target.flip(1)) and mirrored[0].stem == "t"


def test_class_pixels_are_counted_without_void(imitation: Write) -> None:
    source = open_dataset(imitation("ab", train_txt="a\nb", classes_txt="x\ny\nz\nnever\n"))
    assert source.class_pixels("train").tolist() == [12, 12, 12, 0]


def test_a_folder_per_split(imitation: Write) -> None:
    imitation("ab", folder="set/train")
    root = imitation("b", folder="set/val").parent
    assert stems(open_dataset(root)) == {"train": ["a", "b"], "val": ["b"]}
    (root / "classes.txt").write_text("x\ny\nz")
    assert open_dataset(root).labels.names == ("x", "y", "z")


def test_without_lists_a_hash_splits(imitation: Write) -> None:
    root = imitation([f"s{index}" for index in range(40)])
    split = stems(open_dataset(root))
    assert split == stems(open_dataset(root))
    assert set(split) == {"train", "val", "test"} and sum(map(len, split.values())) == 40


@given(st.sets(st.text("abcdef", min_size=1, max_size=6), min_size=1, max_size=30))
@settings(deadline=None, max_examples=60)
def test_every_hash_split_is_a_partition_with_train_and_val(names: set[str]) -> None:
    records = [Record(name, ImageFile(Path(name)), MaskFile(Path(name))) for name in sorted(names)]
    split = made_splits(records)
    assert sorted((r for part in split.values() for r in part), key=lambda r: r.stem) == records
    assert split == made_splits(records[::-1])
    assert "train" in split and ("val" in split or len(names) == 1)


def test_hash_split_has_the_published_proportions() -> None:
    split = made_splits([Record(str(index), ImageFile(Path()), MaskFile(Path())) for index in range(3000)])
    assert [round(len(split[name]) / 3000, 1) for name in ("train", "val", "test")] == [0.8, 0.1, 0.1]


def test_a_description_says_where_everything_is(imitation: Write, tmp_path: Path) -> None:
    root = imitation("abc", ids=(0, 1, 5, 9))
    (root / "images").rename(root / "photos")
    (root / "train_stems").write_text("c")
    (tmp_path / "here").mkdir()
    yaml = tmp_path / "here" / "my.yaml"
    yaml.write_text(
        "path: ../set\nimages: photos\nsplits: {train: train_stems, extra: [a, b]}\n"
        "classes: {1: one, 5: five}\nlabel_map: {0: void, 9: five}\n"
    )
    source = open_dataset(yaml)
    assert stems(source) == {"train": ["c"], "extra": ["a", "b"]}
    assert source.labels.names == ("one", "five")
    assert torch.equal(source.dataset("train")[0].target[0], torch.tensor([255, 0, 1, 1, 255, 0]))
    refuse(source)


def test_a_folder_with_a_description_is_what_it_describes(imitation: Write) -> None:
    root = imitation(ids=(0, 1, 2), dataset_yaml="classes: [x, y, z]\nsplits: {train: [a], val: [b]}")
    assert open_dataset(root).labels.names == ("x", "y", "z")


@pytest.mark.parametrize(
    ("ids", "described", "names", "target"),
    [
        ((0, 1, 77, 80), "ignore_index: 77\nlabel_map: {80: class 1}", ("class 0", "class 1"), [0, 1, 77, 1]),
        ((0, 1, 2), "ignore_index: 0", ("class 1", "class 2"), [255, 0, 1]),
        ((0, 1, 2), "label_map: {1: void}", ("class 0", "class 2"), [0, 255, 1]),
    ],
)
def test_inference_skips_what_the_description_maps(
    imitation: Write, ids: tuple[int, ...], described: str, names: tuple[str, ...], target: list[int]
) -> None:
    source = open_dataset(imitation(ids=ids, dataset_yaml=described))
    assert source.labels.names == names
    assert source.dataset("train")[0].target.ravel()[: len(ids)].tolist() == target
    refuse(source)


@pytest.mark.parametrize("ignored", [0, 1, 2])
def test_no_class_is_learned_of_an_id_that_is_ignored(imitation: Write, ignored: int) -> None:
    source = open_dataset(imitation(ids=(0, 1, 2), dataset_yaml=f"ignore_index: {ignored}"))
    assert source.labels.names == tuple(f"class {number}" for number in range(3) if number != ignored)
    target = source.read_target(source.splits["train"][0])
    assert target[0, ignored] == source.labels.ignore_index and target[0, :3].unique().numel() == 3


def test_classes_are_learned_of_ids_that_a_map_exchanges(imitation: Write) -> None:
    source = open_dataset(imitation(ids=(0, 1, 2), dataset_yaml="label_map: {0: 1, 1: 0, 2: void}"))
    assert source.labels.names == ("class 0", "class 1")
    assert source.read_target(source.splits["train"][0])[0, :3].tolist() == [1, 0, source.labels.ignore_index]


def test_other_files_do_not_count(imitation: Write) -> None:
    root = imitation(train_txt="a")
    (root / "images" / "Thumbs.db").write_text("x")
    (root / "images" / "._a.png").write_text("x")
    (root / "train.txt").unlink()
    assert sum(map(len, stems(open_dataset(root)).values())) == 3


def test_lists_make_unlisted_files_irrelevant(imitation: Write) -> None:
    root = imitation("abc", train_txt="a\nb")
    (root / "masks" / "c.png").unlink()
    (root / "images" / "c.jpg").write_bytes(b"")
    refuse(open_dataset(root))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"nowhere: no such folder; give a folder with images/ and masks/ .*dataset.yaml"
    ):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"images: no such folder; give a folder with images/"):
        open_dataset(tmp_path)
    (tmp_path / "d.yaml").write_text("path: gone")
    with pytest.raises(DataError, match=r"gone: no such folder, but .*d.yaml names it as path"):
        open_dataset(tmp_path / "d.yaml")


def test_empty_folders(imitation: Write) -> None:
    root = imitation("a")
    (root / "images" / "a.png").unlink()
    (root / "masks" / "a.png").unlink()
    with pytest.raises(DataError, match=r"images: holds no image files \(.*.jpg.*\); give"):
        open_dataset(root)


def test_masks_missing_altogether(imitation: Write) -> None:
    root = imitation()
    shutil.rmtree(root / "masks")
    with pytest.raises(DataError, match=r"masks: no such folder; give"):
        open_dataset(root)


@pytest.mark.parametrize(("folder", "kind"), [("masks", "mask"), ("images", "image")])
def test_unpaired_files(imitation: Write, folder: str, kind: str) -> None:
    root = imitation("abcdef")
    for stem in "bcde":
        (root / folder / f"{stem}.png").unlink()
    other = {"masks": "images", "images": "masks"}[folder]
    message = rf"{other}/b.png: has no {kind} of the same stem in .*{folder}; add the {kind}, remove .*3 more problems"
    with pytest.raises(DataError, match=message):
        open_dataset(root)


@pytest.mark.parametrize(("folder", "kind"), [("masks", "mask"), ("images", "image")])
def test_a_list_that_names_what_is_not_there(imitation: Write, folder: str, kind: str) -> None:
    root = imitation("ab", train_txt="a\nb")
    (root / folder / "b.png").unlink()
    with pytest.raises(
        DataError, match=rf"train.txt: names 'b', but .*{folder} holds no {kind} of that stem; add the file"
    ):
        open_dataset(root)


def test_lists_that_make_no_sense(imitation: Write) -> None:
    with pytest.raises(DataError, match=r"val.txt: lists no stem; write one per line, or remove the file"):
        open_dataset(imitation(train_txt="a", val_txt=" \n\n"))
    with pytest.raises(DataError, match=r"train.txt: names 'a' twice; remove one"):
        open_dataset(imitation(train_txt="a\nb\na", val_txt="b"))
    with pytest.raises(DataError, match=r"split 'train' is empty; list at least one stem"):
        open_dataset(imitation(dataset_yaml="splits: {train: []}"))
    with pytest.raises(DataError, match=r"gone.txt: no such file; create it"):
        open_dataset(imitation(dataset_yaml="splits: {train: gone.txt}"))


def test_two_files_of_one_stem(imitation: Write) -> None:
    root = imitation("ab", train_txt="a")
    (root / "images" / "a.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match=r"a.jpg: 2 files have the stem 'a' \(a.jpg, a.png\); keep one of them"):
        open_dataset(root)


def test_an_unknown_split(imitation: Write) -> None:
    source = open_dataset(imitation(train_txt="a"))
    with pytest.raises(DataError, match=r"set: has no split 'val'; choose one of train, or add val.txt"):
        source.dataset("val")
    with pytest.raises(DataError, match="no split 'val'"):
        refuse_bad(source, ["val"])


def test_sizes_that_differ(imitation: Write) -> None:
    root = imitation("ab", train_txt="a\nb")
    source = open_dataset(root)
    replace_mask(root, "b", np.zeros((4, 5), np.uint8))
    message = (
        r"b.png: mask is 4×5 \(height × width\), its image .*b.png is 4×6; export the mask again at the image's size"
    )
    for look in (lambda: refuse(source), lambda: source.dataset("train")[1]):
        with pytest.raises(DataError, match=message):
            look()


def test_a_mask_that_was_drawn_before_its_image_was_turned(imitation: Write) -> None:
    root = imitation("ab", train_txt="a\nb")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(root / "images" / "b.png", exif=exif)
    with pytest.raises(DataError, match=r"b.png: mask is 4×6 .* is 6×4 once turned by its EXIF orientation; turn the"):
        refuse(open_dataset(root))


def test_a_mask_turned_like_its_image_fits(imitation: Write) -> None:
    root = imitation("ab", train_txt="a\nb")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((6, 4, 3), np.uint8)).save(root / "images" / "b.png", exif=exif)
    source = open_dataset(root)
    refuse(source)
    assert source.dataset("train")[1].image.shape == (3, 4, 6)


def test_the_check_reports_the_first_problem_and_counts_the_rest(imitation: Write) -> None:
    root = imitation("abcd", train_txt="a\nb\nc", val_txt="d", classes_txt="x\ny\nz")
    source = open_dataset(root)
    refuse(source)
    for stem in "bd":
        replace_mask(root, stem, np.full((4, 6), 9, np.uint8))
    (root / "images" / "c.png").write_bytes(b"")
    message = r"b.png: holds id 9, which is none of the 3 classes; add it to .*classes.txt, .* \(2 more problems: .*\)$"
    with pytest.raises(DataError, match=message):
        refuse(source)
    with pytest.raises(DataError, match=r"d.png: holds id 9, [^;]*; [^;]*$"):
        refuse_bad(source, ["val"])


def test_a_target_can_be_read_alone(imitation: Write) -> None:
    root = imitation()
    source = open_dataset(root)
    assert source.read_target(source.splits["train"][0]).dtype == torch.int64


def test_a_further_task_is_joined_by_the_image_not_by_its_stem(imitation: Write) -> None:
    root = imitation("ab", folder="set/train").parent
    imitation("ab", folder="set/val")
    for split, number in (("train", 0), ("val", 1)):
        (root / split / "surfaces").mkdir()
        for stem in stems(open_dataset(root))[split]:
            Image.fromarray(np.full((4, 6), number, np.uint8)).save(root / split / "surfaces" / f"{stem}.png")
    tasks = "tasks: {surface: {masks: surfaces, classes: [flat, steep]}}"
    (root / "dataset.yaml").write_text(f"masks: masks\n{tasks}")
    source = open_dataset(root)
    assert source.dataset("train")[0].further["surface"].unique().tolist() == [0]
    assert source.dataset("val")[0].further["surface"].unique().tolist() == [1]
    assert source.further["surface"].dataset("train")[0].target.unique().tolist() == [0]
    refuse(source)
    Image.fromarray(np.full((4, 6), 9, np.uint8)).save(root / "train" / "surfaces" / "a.png")
    with pytest.raises(DataError, match=r"train/surfaces/a.png: holds id 9"):
        refuse_bad(open_dataset(root), ["train"])
    (root / "train" / "surfaces" / "a.png").unlink()
    with pytest.raises(DataError, match=r"train/images/a.png: has no mask .*surfaces; add the mask"):
        open_dataset(root)
    loose = open_dataset(root, strict=False)
    assert any(problem.kind == "missing_mask" for problem in loose.problems)
    with pytest.raises(DataError, match=r"train/images/a.png: has no mask of the task 'surface'; add it"):
        loose.dataset("train")[0]


@pytest.mark.parametrize(("train", "val"), [("training", "validation"), ("Train", "Valid"), ("train", "valid")])
def test_splits_by_other_words(imitation: Write, train: str, val: str) -> None:
    """As folders that hold both, as folders within both, and as lists."""
    nested = imitation("ab", folder=f"nested/{train}").parent
    imitation("c", folder=f"nested/{val}")
    inside = imitation("abc", folder="inside")
    for kind in ("images", "masks"):
        for split, names in ((train, "ab"), (val, "c")):
            (inside / kind / split).mkdir()
            for stem in names:
                (inside / kind / f"{stem}.png").rename(inside / kind / split / f"{stem}.png")
    listed = imitation("abc", folder="listed", **{f"{train.lower()}_txt": "a\nb", f"{val.lower()}_txt": "c"})
    for root in (nested, inside, listed):
        assert stems(open_dataset(root)) == {"train": ["a", "b"], "val": ["c"]}


def test_splits_of_a_table_and_of_a_description_by_other_words(imitation: Write) -> None:
    root = imitation("abc")
    (root / "dataset.yaml").write_text("splits: {training: [a], Valid: [b], holdout: [c]}")
    assert stems(open_dataset(root)) == {"train": ["a"], "val": ["b"], "holdout": ["c"]}
    (root / "dataset.yaml").write_text("splits: {train: [a], val: [b], valid: [c]}")
    assert stems(open_dataset(root)) == {"train": ["a"], "val": ["b"], "valid": ["c"]}, "two are two"
    rows = [
        f"images/{stem}.png,masks/{stem}.png,{split}"
        for stem, split in zip("abc", ("train", "valid", "Train"), strict=True)
    ]
    (root / "table.csv").write_text("\n".join(["image,mask,split", *rows]))
    assert stems(open_dataset(root / "table.csv")) == {"train": ["a", "c"], "val": ["b"]}


@pytest.mark.parametrize(
    "form", [lambda ids: ids, lambda ids: one_hot(ids, 0), lambda ids: one_hot(ids, 2).astype(np.uint8)]
)
def test_arrays(tmp_path, form):
    (tmp_path / "masks").mkdir()
    for stem, ids in TRUTHS.items():
        write_image(tmp_path / "images" / f"{stem}.jpg")
        np.save(tmp_path / "masks" / f"{stem}.npy", form(ids))
    read_back(tmp_path, "folder", ["class 0", "class 1", "class 2"])


def test_colours_are_learned_where_there_is_no_table(tmp_path):
    colours = np.array([(0, 0, 0), (0, 200, 0), (200, 0, 0)], np.uint8)
    for stem, ids in TRUTHS.items():
        write_image(tmp_path / "images" / f"{stem}.jpg")
        write_mask(tmp_path / "masks" / f"{stem}.png", colours[ids])
    read_back(tmp_path, "folder", ["#000000", "#00c800", "#c80000"])
