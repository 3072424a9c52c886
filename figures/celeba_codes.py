"""Store celeba_codes.safetensors, codes that the stored models' faces are decoded from: `python -m figures.celeba_codes`.

They are drawn from a Gaussian with the moments of each encoder's codes of held-out photographs, where its decoder makes
faces; they are nobody's, and neither are the faces. `codes` are the VAE's of 10,000 steps, from which the explorers start; the
others have their game's name. celebA has to be at hand.
"""

from pathlib import Path
from typing import cast

import torch

from avb_core.data import Images
from avb_core.experiments import codes_of, gaussian_of
from avb_core.recipes import load_model, recipe_of
from avb_core.runs import save_tensors

ROOT = Path(__file__).parents[1]
RUNS = {
    "codes": "celeba_long/vae-0",
    "avb_ac": "celeba_long/avb_ac-0",
    "avb": "celeba/avb-0",
    "aae": "celeba/aae-0",
}
TARGET = Path(__file__).with_suffix(".safetensors")


@torch.no_grad()
def main() -> None:
    codes = {}
    for name, run in RUNS.items():
        torch.manual_seed(0)
        folder = ROOT / "figures" / run
        of = recipe_of(folder)
        fitted = gaussian_of(codes_of(load_model(of, folder), cast(Images, of.data("test"))))
        codes[name] = fitted.sample(torch.Size([24]))
    save_tensors(TARGET, codes, {"run": f"figures/{RUNS['codes']}"})


if __name__ == "__main__":
    main()
