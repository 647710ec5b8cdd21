import re
import shlex
from importlib import resources
from itertools import takewhile
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from fullconv.cli.main import app
from fullconv.errors import UsageError
from fullconv.training import config as module
from fullconv.training.config import (
    CALLED_ELSEWHERE,
    all_settings,
    load_config,
    named_settings,
    parse_settings,
    recipe_names,
)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid_and_says_its_command(name):
    """And its time and score, in the header."""
    assert load_config(name).recipe == name
    text = (resources.files("fullconv") / "recipes" / f"{name}.yaml").read_text()
    header = list(takewhile(lambda line: line.startswith("#"), text.splitlines()))
    _, _, command, *words = shlex.split(header[0])
    given = get_command(app).commands[command].make_context(command, words).params
    assert command == name == "demo" or given["recipe"] == name
    assert {line.split(":")[0] for line in header} >= {"# Time", "# Score"}


PAPER = {
    "model": {"trunk": "vgg16", "padding": "paper", "dropout": 0.5, "learnable_upsampling": False, "input_scale": 1},
    "data": {"crop": "none", "scale": (1, 1), "flip": 0, "colour": 0, "batch_size": 1, "patches": "none", "keep": 1},
    "optim": {"optimiser": "sgd", "weight_decay": 5e-4, "bias_rate": 2, "schedule": "constant", "warmup": 0}
    | {"balance": 0, "jaccard": 0, "label_smoothing": 0, "average": 0, "loss_stride": 1, "trunk_rate": 1, "clip": 0},
}
HEAVY = {"optim.loss": "sum", "optim.momentum": 0.99, "data.replacement": True, "data.accumulate": 1}


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("paper-heavy", HEAVY | {"optim.rate": 1e-10, "model.finest_stride": 32, "model.scaled_skips": False}),
        (
            "paper-accumulate",
            {"optim.loss": "mean", "optim.momentum": 0.9, "optim.rate": 1e-4}
            | {"data.accumulate": 20, "data.replacement": False, "model.finest_stride": 32},
        ),
        ("at-once", HEAVY | {"optim.rate": 1e-10, "model.finest_stride": 8, "model.scaled_skips": True}),
        ("staged", HEAVY | {"model.scaled_skips": False}),
    ],
)
def test_the_papers_recipes_are_the_papers(name, own):
    """Section 3 of the specification."""
    config = load_config(name)
    for section, settings in PAPER.items():
        found = getattr(config, section).model_dump()
        assert {key: found[key] for key in settings} == settings
    for key, value in own.items():
        section, _, setting = key.partition(".")
        assert getattr(getattr(config, section), setting) == value, key


def test_recipes_of_one_image_a_pass_freeze_the_statistics():
    """One image's are not the data set's."""
    single = [config for config in map(load_config, recipe_names()) if config.data.batch_size == 1]
    assert {config.recipe: config.optim.batch_norm for config in single} == dict.fromkeys(
        ("at-once", "paper-accumulate", "paper-heavy", "staged"), "frozen"
    )


def test_the_stages_are_the_papers():
    """Section 2.3 of the specification: each at a hundredth of the rate before."""
    stages = [(stage["model.finest_stride"], stage["optim.rate"]) for stage in load_config("staged").stages]
    assert stages == [(32, 1e-10), (16, 1e-12), (8, 1e-14)]


def test_settings_come_on_top_of_the_recipe():
    config = load_config("modern", {"optim.rate": 0.5, "data.crop": [64, 96], "epochs": 3})
    assert (config.optim.rate, config.data.crop, config.epochs) == (0.5, (64, 96), 3)


def test_a_table_changes_only_what_it_names():
    """In a recipe's stage as on the line."""
    config = load_config("modern", {"optim": {"rate": 0.5}, "stages": [{"model": {"finest_stride": 16}}]})
    assert config.optim == load_config("modern", {"optim.rate": 0.5}).optim
    assert config.stages == ({"model.finest_stride": 16},)


def test_a_setting_is_given_once():
    assert all_settings({"optim.rate": 1}, {"epochs": 2}) == {"optim.rate": 1, "epochs": 2}
    for settings, named in (({"model": {"trunk": "small"}}, {"trunk": "vgg16"}), ({"minutes": 3}, {"minutes": 1.0})):
        with pytest.raises(UsageError, match=r"(model\.trunk|minutes) is given twice"):
            all_settings(settings, named)


def test_a_recipe_may_be_a_file(tmp_path):
    """With sections of which all is commented out."""
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: 7\nmodel:\n  # trunk: vgg16\noptim: {}\n")
    config = load_config(str(path), {"model.trunk": "small", "model.recompute": True})
    assert (config.epochs, config.model.trunk, config.model.recompute) == (7, "small", True)


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("modren", {}, "unknown recipe 'modren'"),
        ("nowhere.yaml", {}, "no such recipe file"),
        ("modern", {"optim.rat": 1}, "unknown setting 'optim.rat'; did you mean 'optim.rate'"),
        ("modern", {"optim.learning_rate": 1}, "unknown setting 'optim.learning_rate'; did you mean 'optim.rate'"),
        ("modern", {"lr": 1}, "unknown setting 'lr'; did you mean 'optim.rate'"),
        ("modern", {"optimizer.lr": 1}, r"unknown setting 'optimizer\.lr'; did you mean 'optim\.rate'"),
        ("modern", {"train.epochs": 1}, r"unknown setting 'train\.epochs'; did you mean 'epochs'"),
        ("modern", {"model.rate": 1}, "unknown setting 'model.rate'; did you mean 'optim.rate'"),
        ("modern", {"optim.nothing_like_it": 1}, "unknown setting 'optim.nothing_like_it'$"),
        ("modern", {"optimm.rate": 1}, r"unknown setting 'optimm\.rate'; did you mean 'optim\.rate'"),
        ("modern", {"optim.rate": -1}, "setting optim.rate"),
        ("modern", {"optim.optimiser": "adam"}, "setting optim.optimiser"),
        ("modern", {"data.crop": "big"}, r"setting data\.crop: .*integer; or: .*; or: .*'auto' or 'none'"),
        ("modern", {"crop": 96}, r"unknown setting 'crop'; did you mean 'data\.crop'"),
        ("modern", {"data.scale": [2, 1]}, r"data\.scale=\[2, 1\]: give the smaller factor first"),
        ("modern", {"optim.jaccard": float("inf")}, r"setting optim\.jaccard"),
        ("modern", {"optim.loss_stride": 3}, r"optim.loss_stride=3 does not divide model.finest_stride=8"),
        ("modern", {"epochs.many": 3}, r"setting epochs: "),
        ("demo", {"epochs.many": 3}, "'epochs' has no parts"),
        ("modern", {"epochs.many": 3, "epochs": 1}, r"setting epochs has parts \(many\)"),
        ("modern", {"optim": 3}, r"setting optim has parts \(optimiser, "),
        ("modern", {"optim.rate": {}}, r"setting optim\.rate"),
        ("modern", {"optim": {"rate": {}}}, r"setting optim\.rate"),
        ("modern", {"optim.rate": True}, r"setting optim\.rate: this is nothing to be true or false"),
        ("modern", {"data.scale": [True, 2]}, r"setting data\.scale: this is nothing to be true or false"),
        ("modern", {"epochs": False}, r"setting epochs: this is nothing to be true or false"),
        ("modern", {"seed": 2**64}, r"setting seed"),
        ("modern", {"recipe": "staged"}, "recipe is no setting"),
        ("modern", {"data.patches": "class", "data.crop": "none"}, "patches need a size"),
    ],
)
def test_wrong_settings_are_named(recipe, settings, message):
    with pytest.raises(UsageError, match=message):
        load_config(recipe, settings)


def test_names_of_other_libraries_stand_for_settings_and_are_none():
    assert set(CALLED_ELSEWHERE.values()) <= set(module._KEYS)
    assert not set(CALLED_ELSEWHERE) & {name.rpartition(".")[2] for name in module._KEYS}


def test_a_recipe_that_is_no_text(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes("# größer".encode("latin-1"))
    with pytest.raises(UsageError, match=r"cannot be read as text .* save it as UTF-8"):
        load_config(str(path))


def test_settings_on_the_line():
    assert parse_settings(["a.b=1", "c=[1, 2]", "d=none"]) == {"a.b": 1, "c": [1, 2], "d": "none"}
    assert parse_settings(["model.init=2026-11-27", "b=2026-13-45"]) == {"model.init": "2026-11-27", "b": "2026-13-45"}
    files = {"model.init": "007", "model.trunk_weights": "1e3"}
    assert parse_settings([f"{name}={value}" for name, value in files.items()]) == files
    for wrong in ("novalue", "=3", "a=[1"):
        with pytest.raises(UsageError, match="--set"):
            parse_settings([wrong])


def test_a_file_may_be_a_path():
    assert load_config("modern", {"model.trunk_weights": Path("w.pth")}).model.trunk_weights == "w.pth"


def test_named_options():
    assert named_settings({"trunk": "vgg16", "epochs": None}) == {"model.trunk": "vgg16"}
    with pytest.raises(UsageError, match="unknown option 'epoch'; did you mean epochs"):
        named_settings({"epoch": 3})


def test_the_docs_list_every_setting_with_the_default_recipes_value():
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \|(.*?)\|", text, re.MULTILINE))
    tree = load_config("modern").model_dump(mode="json")
    values = {name: value for name, value in tree.items() if name not in ("recipe", "model", "data", "optim")}
    values |= {f"{part}.{name}": value for part in ("model", "data", "optim") for name, value in tree[part].items()}
    for name, value in values.items():
        assert yaml.safe_load(rows[name].strip(" `") or "null") == (value if value != [] else None), name


def test_the_help_lists_the_recipes():
    (option,) = (option for option in get_command(app).commands["train"].params if option.name == "recipe")
    assert set(option.help.split(";")[0].split(", ")) == set(recipe_names())


def test_a_recipe_file_may_have_dotted_keys_and_is_named_where_it_is_wrong(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("optim.rate: 2e-3\noptim:\n  clip: 1\n")
    optim = load_config(str(path)).optim
    assert (optim.rate, optim.clip) == (2e-3, 1)
    for text, message in (
        ("optim.rate: fast", "setting optim.rate"),
        ("optim.rat: 1", "unknown setting 'optim.rat'; did you mean 'optim.rate'"),
        ("optim:\n  rate: 1e-3\noptim:\n  clip: 1\n", "'optim' stands twice"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=rf"mine\.yaml: .*{message}"):
            load_config(str(path))


def test_recipes_are_read_whatever_the_systems_encoding(monkeypatch):
    real = Path.read_text

    def read_text(path, encoding=None, errors=None):
        return real(path, encoding or "ascii", errors)

    monkeypatch.setattr(Path, "read_text", read_text)
    for name in recipe_names():
        load_config(name)
