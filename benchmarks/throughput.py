"""How fast the recipes train: `python -m benchmarks.throughput EXPERIMENT GAME … [--profile full] [--accelerator cpu]`.

Prints, for each game, milliseconds per step, images per second, and the share of the wall clock that is spent in kernels: on a
GPU those of the device, on a CPU PyTorch's operators. What is missing to 1 is Python, launches and waiting.
"""

import argparse
import dataclasses
import json
import time

import torch
from lightning_fabric import Fabric
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from avb_core import recipes
from avb_core.runs import provenance
from avb_core.training import TrainingConfig, train


def throughput(of: recipes.Recipe, fabric: Fabric, steps: int) -> dict[str, float]:
    """Milliseconds per step, images per second and the share of time in kernels, after as many steps to warm up."""
    game, images = of.build().to(fabric.device), of.data("train")
    config = dataclasses.replace(of.config(), steps=steps, log_every=steps)
    on_gpu = fabric.device.type == "cuda"

    def seconds(config: TrainingConfig) -> float:
        """Wall clock of a training, which ends by looking at its losses: so by waiting for the device."""
        return train(game, images, config, fabric=fabric)[-1]["seconds"]

    seconds(config)
    unwatched = seconds(config)
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as watched:
        start = time.perf_counter()
        train(game, images, config, fabric=fabric)
        wall = time.perf_counter() - start
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    kernels = [event for event in watched.key_averages() if event.device_type == kind]
    busy = sum(
        each.self_device_time_total if on_gpu else each.self_cpu_time_total
        for each in kernels
        if on_gpu or each.key.startswith("aten::")
    )
    return {
        "ms_per_step": 1e3 * unwatched / steps,
        "images_per_second": config.batch_size * steps / unwatched,
        "share_in_kernels": 1e-6 * busy / wall,
    }


def main() -> None:
    """Print the figures of the games that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", choices=sorted(recipes.EXPERIMENTS))
    parser.add_argument("games", nargs="+", choices=sorted(recipes.GAMES))
    parser.add_argument("--profile", default="full")
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"])
    parser.add_argument("--steps", type=int, default=100)
    chosen = parser.parse_args()
    fabric = Fabric(accelerator=chosen.accelerator, devices=1, precision=chosen.precision)
    measured = {
        game: throughput(recipes.recipe(chosen.experiment, game, chosen.profile), fabric, chosen.steps)
        for game in chosen.games
    }
    print(json.dumps({**measured, "threads": torch.get_num_threads(), **provenance(fabric.device)}, indent=2))


if __name__ == "__main__":
    main()
