"""The public door is narrow and watched."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import fullconv

PACKAGES = [
    name
    for name in (f"fullconv.{info.name}" for info in pkgutil.iter_modules(fullconv.__path__) if info.ispkg)
    if hasattr(importlib.import_module(name), "__all__")
]


def test_public_names_exist_once():
    assert len(set(fullconv.__all__)) == len(fullconv.__all__)
    for name in fullconv.__all__:
        assert getattr(fullconv, name) is not None
    assert set(fullconv.__all__) <= set(dir(fullconv))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'fcn64s'"):
        fullconv.fcn64s  # noqa: B018


@pytest.mark.parametrize("package", ["fullconv", *PACKAGES])
def test_every_public_name_is_documented(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{package}.{name} has no docstring"


def test_every_module_says_what_it_is():
    for info in pkgutil.walk_packages(fullconv.__path__, "fullconv."):
        if not info.name.endswith("__main__"):
            assert importlib.import_module(info.name).__doc__, info.name


def test_importing_fullconv_does_not_import_torch():
    code = "import sys, fullconv; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
