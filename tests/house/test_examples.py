"""What docstrings show is what comes out."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

import fullconv

ROOT = Path(fullconv.__file__).parent
EXAMPLE = ">>> "
SOURCES = [path for path in sorted(ROOT.rglob("*.py")) if EXAMPLE in path.read_text("utf-8")]


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(ROOT)) for path in SOURCES])
def test_examples_of_docstrings(path):
    """As they stand in the file: doctest itself passes over what a decorator has wrapped."""
    module = importlib.import_module(".".join(path.relative_to(ROOT.parent).with_suffix("").parts))
    parser, runner, shown = doctest.DocTestParser(), doctest.DocTestRunner(), 0
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
            text, name = ast.get_docstring(node) or "", getattr(node, "name", module.__name__)
            runner.run(parser.get_doctest(text, dict(vars(module)), name, str(path), None))
            shown += text.count(EXAMPLE)
    assert runner.summarize(verbose=False) == (0, shown) and shown
