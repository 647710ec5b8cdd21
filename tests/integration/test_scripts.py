"""What the scripts for people and machines do before they start."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ENVIRONMENT = Path(__file__).parents[2] / "scripts" / "environment"


def program(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(("version", "made_anew"), [((3, 10, 9), True), ((3, 11, 0), False), ((4, 0, 0), False)])
def test_an_environment_of_an_old_python_is_made_anew(tmp_path, version, made_anew):
    """With stand-ins for both Pythons: one tells another version, the other writes down what it is asked for."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ENVIRONMENT, tmp_path / "scripts")
    (tmp_path / "pyproject.toml").touch()
    code = f"import sys; sys.version_info = {version}; sys.argv[1] == '-c' and exec(sys.argv[2])"
    old = program(tmp_path / ".venv" / "bin" / "python", f'exec {sys.executable} -c "{code}" "$@"')
    new = program(tmp_path / "python", f'echo "$@" > {tmp_path}/asked; printf "#!/bin/sh\\n" > {old}')
    script = program(tmp_path / "scripts" / "some", '. "$(dirname "$0")/environment"')
    subprocess.run([script], env=os.environ | {"PYTHON": str(new)}, check=True)
    asked = (tmp_path / "asked").read_text() if (tmp_path / "asked").exists() else ""
    assert asked == ("-m venv --clear .venv\n" if made_anew else "")
