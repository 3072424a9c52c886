"""Store celeba_codes.safetensors, codes that the stored models' faces are decoded from: `python -m figures.celeba_codes`.

They are drawn from a Gaussian with the moments of each encoder's codes of held-out photographs, where its decoder makes
faces; they are nobody's, and neither are the faces. `codes` are the VAE's, from which the explorers start; those of another
game have its name. celebA has to be at hand.
"""

from pathlib import Path
from typing import cast

import torch

from avb_core.data import Images
from avb_core.experiments import codes_of, gaussian_of
from avb_core.recipes import load_model, recipe_of
from avb_core.runs import save_tensors

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "figures" / "celeba"
TARGET = Path(__file__).with_suffix(".safetensors")


@torch.no_grad()
def main() -> None:
    codes = {}
    for run in sorted(RUNS.glob("*-0")):
        torch.manual_seed(0)
        of = recipe_of(run)
        fitted = gaussian_of(codes_of(load_model(of, run), cast(Images, of.data("test"))))
        codes["codes" if of.game == "vae" else of.game] = fitted.sample(torch.Size([24]))
    save_tensors(TARGET, codes, {"run": (RUNS / "vae-0").relative_to(ROOT).as_posix()})


if __name__ == "__main__":
    main()
