"""Store celeba_codes.safetensors, codes that a stored VAE's faces are decoded from: `python -m figures.celeba_codes`.

The explorers of faces start from them. They are drawn from a Gaussian with the moments of the encoder's codes of held-out
photographs, where its decoder makes faces; they are nobody's, and neither are the faces. celebA has to be at hand.
"""

from pathlib import Path

import torch
from torch.distributions import MultivariateNormal

from avb_core.recipes import load_model, recipe_of
from avb_core.runs import save_tensors

ROOT = Path(__file__).parents[1]
RUN = ROOT / "figures" / "celeba" / "vae-0"
TARGET = Path(__file__).with_suffix(".safetensors")


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    of = recipe_of(RUN)
    game, photographs = load_model(of, RUN), of.data("test")
    indices = torch.arange(len(photographs)).split(256)
    codes = torch.cat([game.posterior.sample(photographs.batch(few)) for few in indices])
    fitted = MultivariateNormal(codes.mean(0), codes.T.cov())
    save_tensors(TARGET, {"codes": fitted.sample(torch.Size([24]))}, {"run": RUN.relative_to(ROOT).as_posix()})


if __name__ == "__main__":
    main()
