"""Who may import whom: imports only go down, and there are no cycles."""

import ast
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
ROOT = TOP / "src" / "fullconv"
LABELS = "data.labels"
MAY_IMPORT = {
    "errors": set(),
    "geometry": {"errors"},
    "metrics": {"errors"},
    "nn": {"errors", "geometry"},
    "losses": {"errors", "nn"},
    "trunks": {"errors", "geometry", "nn"},
    "files": {"errors"},
    "data": {"errors", "files"},
    "doctor": {"errors", "data", "files"},
    "models": {"errors", "geometry", "nn", "trunks", LABELS, "files"},
    "inference": {"errors", "nn", "models", LABELS, "files"},
    "evaluation": {"errors", "nn", "inference", "metrics", "models", "data", "files"},
    "training": {
        "errors",
        "nn",
        "models",
        "trunks",
        "files",
        "data",
        "doctor",
        "losses",
        "metrics",
        "evaluation",
        "inference",
    },
}
TRAINING = (
    {"config", "checkpoint", "interrupt", "kernels"},
    {"feed", "runtime", "events"},
    {"optim", "step", "network", "runlog"},
    {"state"},
    {"progress"},
    {"loop"},
    {"stages"},
    {"budget"},
    {"run"},
    {"range_test"},
)
"""Modules of training, each of which imports those of the rows before its own: docs/decisions/0014."""

AT_THE_TOP = ("cli", "__init__", "__main__")
"""Rooms that may import any other, and that no other may import."""

STANDARD_ONLY = ("errors", "geometry")


def modules():
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(ROOT.rglob("*.py"))}


def imports(name: str, path: Path):
    """Yield (imported module, is it ours) for every import in a file, resolved from relative form."""
    package = name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                assert (node.module or "").split(".")[0] != "fullconv", f"{name}: a neighbour is imported from dots"
                yield node.module or "", False
                continue
            base = [*package[: len(package) - node.level + 1], *((node.module or "").split(".") if node.module else [])]
            for alias in node.names:
                whole = ".".join([*base, alias.name])
                known = whole in modules() or f"{whole}.__init__" in modules()
                yield (whole if known else ".".join(base)), True


def test_imports_only_go_down():
    wrong = []
    for name, path in modules().items():
        room = name.split(".")[0]
        if room in AT_THE_TOP:
            continue
        for target, ours in imports(name, path):
            if ours and target and target.split(".")[0] != room:  # The package itself has names and a version alone.
                allowed = any(target == rule or target.startswith(f"{rule}.") for rule in MAY_IMPORT[room])
                if not allowed:
                    wrong.append(f"{name} imports {target}")
    assert not wrong


def test_training_imports_only_rows_above():
    rows = {f"training.{name}": number for number, row in enumerate(TRAINING) for name in row}
    inside = {name: path for name, path in modules().items() if name.startswith("training.") and "__init__" not in name}
    assert rows.keys() == inside.keys()
    for name, path in inside.items():
        targets = {target for target, ours in imports(name, path) if ours and target.startswith("training")}
        assert all(rows[target] < rows[name] for target in targets), name


def test_nothing_imports_the_command_line():
    rooms = {
        name: {target.split(".")[0] for target, ours in imports(name, path) if ours} for name, path in modules().items()
    }
    assert [
        name for name, targets in rooms.items() if "cli" in targets and name.split(".")[0] not in ("cli", "__main__")
    ] == []


@pytest.mark.parametrize("room", STANDARD_ONLY)
def test_the_core_needs_only_the_standard_library(room):
    import sys

    for name, path in modules().items():
        if name.split(".")[0] == room:
            foreign = {target.split(".")[0] for target, ours in imports(name, path) if not ours}
            assert foreign <= set(sys.stdlib_module_names)


def test_one_file_knows_of_other_processes():
    """What trains goes by it, and the command line asks it which process it is."""
    names = "torch.distributed", "from torch import distributed"
    knowing = [name for name, path in modules().items() if any(word in path.read_text() for word in names)]
    assert knowing == ["training.runtime"]


def test_there_are_no_cycles():
    graph = {}
    for name, path in modules().items():
        targets = {target for target, ours in imports(name, path) if ours}
        faces = {target if target in modules() else f"{target}.__init__" for target in targets}
        graph[name] = (faces & modules().keys()) - {name}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " → ".join([*trail, name])
        if name not in done:
            for target in graph[name]:
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_files_are_short():
    files = [path for folder in ("src", "tests", "benchmarks") for path in (TOP / folder).rglob("*.py")]
    lines = {str(path.relative_to(TOP)): len(path.read_text("utf-8").splitlines()) for path in files}
    assert len(lines) > len(modules())
    assert not {name: count for name, count in lines.items() if count > 400}


def test_functions_are_short_and_take_few_arguments():
    wrong = []
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or 0) - node.lineno + 1
                arguments = len(node.args.args) + len(node.args.kwonlyargs)
                most = 11 if name.startswith("cli.") else 8  # There, they are the options of a command.
                if lines > 60 or arguments > most:
                    wrong.append(f"{name}.{node.name}: {lines} lines, {arguments} arguments")
    assert not wrong
