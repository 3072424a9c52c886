"""Sample the book's inference targets with Pyro's NUTS and keep how near the samples come to the truth in what time.

    python benchmarks/nuts.py figures

writes `TARGET/nuts-SEED/` with the samples, `metrics.jsonl` (seconds, warm-up included, and `energy_distance` of the first so
many samples) and `result.json`, in the form of the games' runs, so that they can be drawn in one plot.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import MCMC, NUTS

from avb_core.experiments import TARGETS, Target
from avb_core.runs import provenance, save_tensors, write_atomically, write_json

WARM_UP = 500
CHECKPOINTS = (125, 250, 500, 1000, 2000)


def sample(target: Target, dim: int, seed: int) -> tuple[torch.Tensor, list[float], int]:
    """Codes in the order they were drawn, the seconds at which each was there, and the number of divergent transitions."""
    pyro.set_rng_seed(seed)
    seconds: list[float] = []
    start = time.perf_counter()

    def watch(kernel: Any, samples: Any, stage: str, i: int) -> None:
        if stage == "Sample":
            seconds.append(time.perf_counter() - start)

    chain = MCMC(
        NUTS(potential_fn=lambda parameters: -target.log_joint(parameters["z"])),
        num_samples=CHECKPOINTS[-1],
        warmup_steps=WARM_UP,
        initial_params={"z": 0.1 * torch.randn(dim)},
        hook_fn=watch,
        disable_progbar=True,
    )
    chain.run()
    return chain.get_samples()["z"], seconds, len(chain.diagnostics()["divergences"]["chain 0"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    for name, target in TARGETS.items():
        for seed in range(arguments.seeds):
            folder = arguments.figures / name / f"nuts-{seed}"
            if (folder / "result.json").exists():
                continue
            dim = target.truth(1, torch.Generator()).shape[-1]
            codes, seconds, divergences = sample(target, dim, seed)
            rows = [
                {"samples": n, "seconds": round(seconds[n - 1], 3), "energy_distance": target.distance(codes[:n])}
                for n in CHECKPOINTS
            ]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            write_atomically(folder / "metrics.jsonl", partial(Path.write_text, data=lines))
            save_tensors(folder / "samples.safetensors", {"codes": codes}, {"experiment": name, "seed": seed})
            result = {
                "experiment": name,
                "game": "nuts",
                "seed": seed,
                "settings": {"warm_up": WARM_UP, "samples": CHECKPOINTS[-1], "pyro": pyro.__version__},
                "seconds": rows[-1]["seconds"],
                "measured": {"energy_distance": rows[-1]["energy_distance"], "divergences": divergences},
                "provenance": provenance(),
            }
            write_json(folder / "result.json", result)
            print(name, seed, rows[-1], "divergences:", divergences)


if __name__ == "__main__":
    main()
