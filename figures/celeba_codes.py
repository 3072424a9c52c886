"""Store celeba_codes.safetensors, codes that a stored VAE's faces are decoded from: `python -m figures.celeba_codes`.

The explorers of faces start from them. They are drawn from a Gaussian with the moments of the encoder's codes of held-out
photographs, where its decoder makes faces; they are nobody's, and neither are the faces. celebA has to be at hand.
"""

from pathlib import Path
from typing import cast

import torch

from avb_core.data import Images
from avb_core.experiments import codes_of, gaussian_of
from avb_core.recipes import load_model, recipe_of
from avb_core.runs import save_tensors

ROOT = Path(__file__).parents[1]
RUN = ROOT / "figures" / "celeba" / "vae-0"
TARGET = Path(__file__).with_suffix(".safetensors")


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    of = recipe_of(RUN)
    fitted = gaussian_of(codes_of(load_model(of, RUN), cast(Images, of.data("test"))))
    save_tensors(TARGET, {"codes": fitted.sample(torch.Size([24]))}, {"run": RUN.relative_to(ROOT).as_posix()})


if __name__ == "__main__":
    main()
