"""Store mnist_ten.safetensors, ten test images of MNIST for the explorers: `python -m figures.mnist_ten`.

The first of each digit, from 0 to 9, in the fixed binarization that the book measures on.
"""

from pathlib import Path

import torch

from avb_core.data import mnist
from avb_core.runs import save_tensors

TARGET = Path(__file__).with_suffix(".safetensors")


def main() -> None:
    test = mnist("test")
    assert test.labels is not None
    indices = torch.tensor([int((test.labels == digit).nonzero()[0]) for digit in range(10)])
    images = test.binarized().pixels[indices]
    save_tensors(TARGET, {"images": images}, {"data": test.name, "digest": test.digest, "indices": indices.tolist()})


if __name__ == "__main__":
    main()
