"""Store mnist_hundred.safetensors, the first hundred test images of MNIST: `python -m figures.mnist_hundred`.

In the fixed binarization that the book measures on, so that the chapter on MNIST can show stored models also on a machine
without MNIST; they are the first hundred of each run's `per_image.safetensors`.
"""

from pathlib import Path

import torch

from avb_core.data import mnist
from avb_core.runs import save_tensors

TARGET = Path(__file__).with_suffix(".safetensors")


def main() -> None:
    test = mnist("test")
    assert test.labels is not None
    content = {"images": test.binarized().pixels[:100], "labels": test.labels[:100].to(torch.uint8)}
    save_tensors(TARGET, content, {"data": test.name, "digest": test.digest})


if __name__ == "__main__":
    main()
