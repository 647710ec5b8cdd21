import json

from commands import run


def test_inspect_prints_the_published_numbers():
    record = json.loads(run("inspect", "vgg16", "--finest-stride", 8, "--padding", "paper", "--json").stdout)
    assert set(record) == {"trunk", "padding", "taps", "crops", "parameters"}
    assert record["crops"] == [5, 9, 31]
    assert record["parameters"] == 134_346_581 + 10_773 + 5_397
    assert record["taps"][-1] == {
        "name": "fc7",
        "channels": 4096,
        "stride": 32,
        "receptive_field": 404,
        "offset": 12.5,
    }
    assert "5, 9, 31" in run("inspect", "vgg16").stdout
