import pytest

from commands import run


@pytest.mark.parametrize("out", [".", "/"])
def test_a_demo_without_a_name(out):
    assert f"--out {out}: give the name of a folder" in run("demo", "--out", out, code=2).stderr
