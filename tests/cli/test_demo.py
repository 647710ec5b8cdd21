import pytest
import typer

from commands import run
from fullconv.cli import demo as module


@pytest.mark.parametrize("out", [".", "/"])
def test_a_demo_without_a_name(out):
    assert f"--out {out}: give the name of a folder" in run("demo", "--out", out, code=2).stderr


@pytest.mark.slow
def test_the_demo(tmp_path, monkeypatch, capsys):
    """All of it, on few images, which are not enough for its mark; an earlier one stays as it is."""
    monkeypatch.setattr(module, "IMAGES", 12)
    monkeypatch.setattr(module, "PASS_MARK", 2)
    (tmp_path / "demo").mkdir()
    with pytest.raises(typer.Exit) as ended:
        module.demo(tmp_path / "demo", seed=0)
    assert ended.value.exit_code == 1 and not list((tmp_path / "demo").iterdir())
    assert {path.name for path in (tmp_path / "demo-2").iterdir()} == {"data", "run", "pictures"}
    said = capsys.readouterr()
    assert "mean iu" in said.out and "is below 2" in said.err
