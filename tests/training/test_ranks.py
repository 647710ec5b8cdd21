"""Two processes train what one trains."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
import yaml
from safetensors.torch import load_file

from commands import free_port, start
from fullconv import train
from fullconv.data import open_dataset, write_shapes
from fullconv.evaluation import evaluate

SETTINGS = {
    "model.trunk": "small",
    "model.context": "none",
    "model.dropout": 0,
    "data.crop": 32,
    "optim.average": 0,
    "optim.jaccard": 0,
    "optim.optimiser": "sgd",
    "optim.precision": "fp32",
    # Low, as a high rate makes chaos of the last bit, in which even equal steps end differently.
    "optim.rate": 0.002,
    "epochs": 2,
    "evaluations": 2,
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, count=24, sizes=(40, 48))
    return folder


def command(data, run, settings):
    changes = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return ["train", data, "--out", run, *changes]


def train_on_two_ranks(words, output, code=0, meanwhile=None, restarts=0):
    """Start two ranks with the environment that torchrun would give them, and return what both said.

    Args:
        words: Of the command.
        output: File for what they say.
        code: With which they must end; or each of them.
        meanwhile: Called with the two processes.
        restarts: How often torchrun would have started them again; or each of them.
    """
    output.touch()
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    counts = restarts if isinstance(restarts, tuple) else (restarts, restarts)
    if counts[0] != counts[1]:
        group["GROUP_WORLD_SIZE"] = "2"  # They are of two machines.
    ranks = [
        start(
            *words,
            out=output,
            err=output,
            environment=group | {"RANK": rank, "LOCAL_RANK": rank, "TORCHELASTIC_RESTART_COUNT": str(count)},
        )
        for rank, count in zip("01", counts, strict=True)
    ]
    try:
        if meanwhile:
            meanwhile(ranks)
        for rank, end in zip(ranks, code if isinstance(code, tuple) else (code, code), strict=True):
            rank.join(150)
            assert rank.exitcode == end, output.read_text()
    finally:
        for rank in ranks:
            rank.kill()
    return output.read_text()


def kill_two_ranks(words, run, output):
    """Start two ranks, and kill both once the state was kept."""

    def kill(ranks):
        while not list(run.glob("checkpoints/0*.ckpt")):
            assert all(rank.is_alive() for rank in ranks), output.read_text()
            time.sleep(0.01)
        for rank in ranks:
            rank.kill()

    train_on_two_ranks(words, output, code=-signal.SIGKILL, meanwhile=kill)


def test_who_waits_for_a_rank_that_has_ended_is_not_to_blame(shapes, tmp_path):
    def kill(ranks):
        while not list((tmp_path / "run").glob("checkpoints/0*.ckpt")):
            assert all(rank.is_alive() for rank in ranks)
            time.sleep(0.01)
        ranks[1].kill()

    words = command(shapes, tmp_path / "run", SETTINGS | {"epochs": 100, "checkpoint_minutes": 0})
    output = train_on_two_ranks(words, tmp_path / "output.txt", code=(1, -signal.SIGKILL), meanwhile=kill)
    assert re.search(r"fullconv: another rank has ended, or cannot be reached; .*gloo", output), output
    assert "internal error" not in output


@pytest.fixture
def launched():
    """Start two ranks by torchrun; none outlives the test."""
    processes = []

    def launch(data, run, settings, *options):
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options]
        process = subprocess.Popen(
            [*launcher, "-m", "fullconv", *map(str, command(data, run, settings))],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        return process

    yield launch
    for process in processes:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="module")
def begun(shapes, tmp_path_factory):
    """A trained network: to fresh ones, with scores of zero, it makes no difference what gradients the trunk has."""
    run = tmp_path_factory.mktemp("begun") / "run"
    train(shapes, run, settings=SETTINGS | {"data.batch_size": 4, "epochs": 4, "optim.optimiser": "adamw"}, quiet=True)
    return run


def weights(run):
    return load_file(run / "last" / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch_norm", "batch", "accumulate", "more"),
    [
        ("frozen", 2, 2, {}),
        ("frozen", 4, 1, {}),
        ("synchronised", 4, 1, {}),
        ("frozen", 4, 1, {"optim.sharded": True, "optim.clip": 0.5}),
        ("frozen", 2, 2, {"optim.sharded": True, "optim.average": 0.9}),
        ("frozen", 4, 1, {"optim.sharded": True, "optim.trunk_rate": 0}),
        ("frozen", 4, 1, {"optim.sharded": True, "model.recompute": True}),
        ("synchronised", 4, 1, {"model.recompute": True}),
    ],
)
def test_two_ranks_equal_one(shapes, begun, tmp_path, batch_norm, batch, accumulate, more):
    """Twenty steps; with accumulation each rank takes one of the two batches, else half of the one."""
    settings = SETTINGS | {
        **more,
        "model.init": str(begun),
        "epochs": 4,
        "optim.batch_norm": batch_norm,
        "data.batch_size": batch,
        "data.accumulate": accumulate,
    }
    one = train(shapes, tmp_path / "one", settings=settings, quiet=True)
    output = train_on_two_ranks(command(shapes, tmp_path / "two", settings), tmp_path / "two.txt")
    expected, found = weights(tmp_path / "one"), weights(tmp_path / "two")
    # Of biases and normalisations, which do not decay: gradients alone move them, much further than may be apart.
    before = load_file(begun / "best" / "model.safetensors")
    moved = [
        name
        for name, value in expected.items()
        if value.ndim == 1 and "running" not in name and not torch.allclose(before[name], value, rtol=0, atol=1e-4)
    ]
    assert any(name.startswith("heads") for name in moved)
    assert any(name.startswith("trunk") for name in moved) == (more.get("optim.trunk_rate") != 0)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: name + text)
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4), "of both ranks' images"
    assert output.count("val mean IU") == 1, "only the first speaks"
    assert "5 steps of 4 an epoch" in output
    assert "Warning" not in output
    assert f"{one.scores.mean_iu:.4f}" in output


RESTARTED = SETTINGS | {"data.batch_size": 4, "checkpoint_minutes": 0, "model.dropout": 0.3}


def same_weights(one, other):
    return len({(run / "last" / "model.safetensors").read_bytes() for run in (one, other)}) == 1


@pytest.mark.slow
def test_a_killed_rank_is_started_again_and_ends_equal(shapes, tmp_path, launched):
    whole, run = tmp_path / "whole", tmp_path / "run"
    settings = RESTARTED | {"epochs": 10}  # Enough of them for a rank to be killed before the last.
    train_on_two_ranks(command(shapes, whole, settings), tmp_path / "whole.txt")
    process = launched(shapes, run, settings, "--max-restarts", "2")
    while not (run / "checkpoints").is_dir():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    workers = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True).stdout
    os.kill(int(workers.split()[-1]), signal.SIGKILL)
    output, _ = process.communicate(timeout=150)
    assert process.returncode == 0, output
    assert output.count("5 steps of 4 an epoch") == 2
    assert same_weights(whole, run)


@pytest.mark.slow
def test_killed_ranks_that_hold_a_share_each_go_on_and_end_equal(shapes, tmp_path):
    """As torchrun would start them again."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    settings = RESTARTED | {"optim.sharded": True, "optim.optimiser": "adamw", "optim.average": 0.9}
    train_on_two_ranks(command(shapes, whole, settings), tmp_path / "whole.txt")

    kill_two_ranks(command(shapes, run, settings), run, tmp_path / "run.txt")
    assert not (run / "summary.json").is_file()
    train_on_two_ranks(command(shapes, run, settings), tmp_path / "again.txt", restarts=1)
    assert same_weights(whole, run)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [{"optim.batch_norm": "frozen"}, {"optim.batch_norm": "synchronised", "epochs": 4}],
    ids=["frozen", "synchronised"],
)
def test_a_signal_to_one_rank_ends_both(shapes, tmp_path, more):
    """In a step of eight passes; those of synchronised statistics are of both ranks. Resumed, the run ends equal."""
    settings = SETTINGS | {"data.batch_size": 1, "data.accumulate": 16, "epochs": 10, "data.crop": 64, **more}
    settings |= {"checkpoint_minutes": 0}
    whole, run = tmp_path / "whole", tmp_path / "run"
    train_on_two_ranks(command(shapes, whole, settings), tmp_path / "whole.txt")

    def stop(ranks):
        while not list(run.glob("checkpoints/0*.ckpt")):
            assert all(rank.is_alive() for rank in ranks), (tmp_path / "run.txt").read_text()
            time.sleep(0.01)
        os.kill(ranks[1].pid, signal.SIGTERM)

    output = train_on_two_ranks(command(shapes, run, settings), tmp_path / "run.txt", code=143, meanwhile=stop)
    assert "SIGTERM: saved" in output
    assert (run / "checkpoints").is_dir() and not (run / "summary.json").is_file()
    train_on_two_ranks(["train", "--resume", run], tmp_path / "resumed.txt")
    assert same_weights(whole, run)


@pytest.mark.slow
def test_what_two_ranks_see_of_the_validation_split_is_what_one_sees(shapes, tmp_path):
    """An odd number of images, by weights that do not move: the very histogram."""
    source = open_dataset(shapes)
    splits = {"train": source.splits["train"], "val": source.splits["val"][:3]}
    write_lists(tmp_path / "data.yaml", source.root, splits)
    settings = SETTINGS | {"optim.rate": 1e-30, "optim.batch_norm": "frozen", "data.batch_size": 4, "epochs": 1}
    train(tmp_path / "data.yaml", tmp_path / "one", settings=settings, quiet=True)
    train_on_two_ranks(command(tmp_path / "data.yaml", tmp_path / "two", settings), tmp_path / "two.txt")
    one, two = (json.loads((tmp_path / name / "summary.json").read_text())["confusion"] for name in ("one", "two"))
    assert one == two and sum(map(sum, one)) > 0


@pytest.mark.slow
def test_two_ranks_with_statistics_of_their_own_score_the_network_that_is_kept(shapes, tmp_path):
    """The first one's, in all images of the split."""
    settings = SETTINGS | {"data.batch_size": 4, "optim.rate": 0.05, "model.context": 8, "epochs": 3}
    train_on_two_ranks(command(shapes, tmp_path / "two", settings), tmp_path / "two.txt")
    scored = torch.tensor(json.loads((tmp_path / "two" / "summary.json").read_text())["confusion"])
    found = evaluate(tmp_path / "two", shapes, "val").confusion
    assert scored.sum() == found.sum() and (scored - found).abs().sum() < 0.002 * scored.sum()


def write_lists(path, root, splits):
    names = {split: [record.stem for record in records] for split, records in splits.items()}
    path.write_text(yaml.safe_dump({"path": str(root), "splits": names}))


@pytest.mark.slow
def test_a_rank_that_waits_for_one_that_never_comes_can_be_ended(shapes, tmp_path):
    """The first was refused. The wait is one call of C++, in which Python notes no signal."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        nobody.listen()
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(nobody.getsockname()[1]), "WORLD_SIZE": "2"}
        words, output = command(shapes, tmp_path / "run", SETTINGS), tmp_path / "output.txt"
        rank = start(*words, out=output, err=output, environment=group | {"RANK": "1", "LOCAL_RANK": "1"})
        nobody.settimeout(60)
        with nobody.accept()[0]:
            rank.terminate()
            rank.join(20)
            ended = rank.exitcode
            rank.kill()
    assert ended == -signal.SIGTERM, output.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_two_ranks_equal_one_in_bf16(shapes, tmp_path, sharded):
    """Depthwise layers move as far, by gradients of our own (see :mod:`fullconv.training.kernels`)."""
    pytest.importorskip("timm")
    settings = SETTINGS | {"model.trunk": "timm:mobilenetv3_small_050", "data.crop": 64, "data.batch_size": 4}
    train(shapes, tmp_path / "begun", settings=settings | {"epochs": 4, "optim.optimiser": "adamw"}, quiet=True)
    settings |= {"optim.batch_norm": "frozen", "optim.precision": "bf16", "optim.sharded": sharded}
    settings["model.init"] = str(tmp_path / "begun")
    train(shapes, tmp_path / "one", settings=settings, quiet=True)
    train_on_two_ranks(command(shapes, tmp_path / "two", settings), tmp_path / "two.txt")
    before = load_file(tmp_path / "begun" / "best" / "model.safetensors")
    depthwise = [name for name, value in before.items() if value.ndim == 4 and value.shape[1] == 1 < value.shape[2]]
    one, two = (
        torch.cat([(found[name] - before[name]).flatten() for name in depthwise if name.startswith("trunk")])
        for found in (weights(tmp_path / "one"), weights(tmp_path / "two"))
    )
    assert one.norm() > 0.01 and (one - two).norm() < 1e-3 * one.norm()


@pytest.mark.slow
def test_synchronised_statistics_of_bf16_activations(shapes, tmp_path):
    """They are sums of fp32, and so about those of one rank."""
    settings = SETTINGS | {"optim.batch_norm": "synchronised", "data.batch_size": 4, "optim.precision": "bf16"}
    train(shapes, tmp_path / "one", settings=settings, quiet=True)
    train_on_two_ranks(command(shapes, tmp_path / "two", settings), tmp_path / "two.txt")
    expected, found = weights(tmp_path / "one"), weights(tmp_path / "two")
    statistics = [name for name in expected if "running" in name]
    assert statistics
    for name in statistics:
        torch.testing.assert_close(found[name], expected[name], rtol=0.02, atol=0.02)


@pytest.mark.slow
def test_two_ranks_look_for_a_rate_and_one_speaks(shapes, tmp_path):
    settings = {key: value for key, value in SETTINGS.items() if key != "epochs"}
    settings |= {"data.batch_size": 4, "optim.rate": 1e6}
    words = [*command(shapes, tmp_path / "rates", settings), "--find-lr"]
    assert train_on_two_ranks(words, tmp_path / "rates.txt").count("suggested") == 1
    assert (tmp_path / "rates" / "find-lr.png").is_file()


@pytest.mark.slow
def test_two_ranks_go_from_stage_to_stage_and_agree_on_a_time(shapes, tmp_path):
    """The first one writes what the other starts from; both measure, and the slower one decides."""
    stages = "[{model.finest_stride: 16}, {model.finest_stride: 8}]"
    settings = SETTINGS | {"data.batch_size": 4, "stages": stages, "epochs": "auto"}
    words = [*command(shapes, tmp_path / "run", settings), "--time", "1s"]
    output = train_on_two_ranks(words, tmp_path / "run.txt")
    assert len(re.findall(r"minutes hold [\d.]+ \+ [\d.]+ epochs, by trial steps", output)) == 1, output
    assert [output.count(f"small, FCN-{stride}s") for stride in (16, 8)] == [1, 1]
    assert (tmp_path / "run" / "summary.json").is_file()


@pytest.mark.slow
def test_ranks_agree_that_they_were_started_again(shapes, tmp_path):
    """Machines count restarts each for itself: here only one has."""
    run = tmp_path / "run"

    words = command(shapes, run, RESTARTED)
    kill_two_ranks(words, run, tmp_path / "run.txt")
    train_on_two_ranks(words, tmp_path / "again.txt", restarts=(0, 1))
    assert (run / "summary.json").is_file()
