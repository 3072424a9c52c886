"""Store mnist_drawn.safetensors, images that a stored model drew, and their codes: `python -m figures.mnist_drawn`.

The chapter on MNIST and its explorers start from them, so that both run where MNIST is not, and nobody's images are passed on.
For an image that the model itself drew, the code it came from is an exact sample of the posterior.
"""

from pathlib import Path
from typing import cast

import torch

from avb_core.decoders import Decoder
from avb_core.recipes import load_model, recipe_of
from avb_core.runs import save_tensors

ROOT = Path(__file__).parents[1]
RUN = ROOT / "figures" / "mnist_long" / "avb_ac-0"
TARGET = Path(__file__).with_suffix(".safetensors")


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    game = load_model(recipe_of(RUN), RUN, features=784)
    codes = torch.randn(100, game.posterior.latent_dim)
    images = cast(Decoder, game.decoder).sample(codes)
    save_tensors(
        TARGET, {"images": (255 * images).to(torch.uint8), "codes": codes}, {"run": RUN.relative_to(ROOT).as_posix()}
    )


if __name__ == "__main__":
    main()
