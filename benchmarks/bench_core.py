"""Speed and memory of the core, on the machine at hand: `python -m benchmarks.bench_core [result.json]`.

One thread, in seconds of processor time: work that others do on the machine is not counted. Each timing is a median over
repeats; what is compared is repeated in turns.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from avb_core import data
from avb_core.annealing import Annealing, ais_log_likelihood
from avb_core.decoders import BernoulliDecoder
from avb_core.evaluation import CHUNK, iwlb_log_likelihood
from avb_core.games import Game
from avb_core.models import Architecture, FullyConnected, build_avb, build_vae
from avb_core.runs import provenance, write_json
from avb_core.training import TrainingConfig, batch_indices, train

BATCH = 128
RESULT = Path(__file__).with_name("results.json")
FOUR_POINTS_NETS = FullyConnected(4, [128, 128])
MNIST_NETS = FullyConnected(784, [300, 300], inject=True)


def bernoulli_decoder(networks: Architecture, latent_dim: int) -> Callable[[], BernoulliDecoder]:
    """What builds a game's decoder."""
    return lambda: BernoulliDecoder(networks.to_image(latent_dim))


GAMES: dict[str, Callable[[], Game]] = {
    "four_points.vae": lambda: build_vae(FOUR_POINTS_NETS, bernoulli_decoder(FOUR_POINTS_NETS, 2), 2),
    "four_points.avb": lambda: build_avb(FOUR_POINTS_NETS, bernoulli_decoder(FOUR_POINTS_NETS, 2), 2, noise_dim=16),
    "mnist.vae": lambda: build_vae(MNIST_NETS, bernoulli_decoder(MNIST_NETS, 32), 32),
    "mnist.avb": lambda: build_avb(MNIST_NETS, bernoulli_decoder(MNIST_NETS, 32), 32, noise_dim=64),
}


def images_like_mnist(n: int = 60_000) -> data.Images:
    """As many grey bytes as MNIST has: speed does not depend on what they show."""
    pixels = torch.randint(0, 256, (n, 784), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return data.Images("like MNIST", pixels, (28, 28), binarization="dynamic")


def bare_loop(game: Game, images: data.Images, steps: int) -> float:
    """Processor seconds per round of nothing but batch, forward, backward and step; the batches' order is ready beforehand."""
    optimizers = {
        player: torch.optim.Adam(game.parameters_of(player), lr=1e-4, betas=(0.5, 0.999), fused=True)
        for player in game.players
    }
    parameters = {player: game.parameters_of(player) for player in game.players}
    indices = [batch_indices(len(images), BATCH, draw, 0) for draw in range(steps * len(optimizers))]
    start = time.process_time()
    for _ in range(steps):
        for player, optimizer in optimizers.items():
            loss = game.loss(player, images.batch(indices.pop()))
            optimizer.zero_grad()
            loss.backward(inputs=parameters[player])
            optimizer.step()
    return (time.process_time() - start) / steps


def our_loop(game: Game, images: data.Images, steps: int) -> float:
    """Processor seconds per round of `train`, without a folder; a run's set-up, some 20 ms, is taken off."""

    def seconds(rounds: int) -> float:
        start = time.process_time()
        train(game, images, TrainingConfig(rounds, BATCH, dict.fromkeys(game.players, 1e-4)))
        return time.process_time() - start

    return (seconds(steps + 1) - seconds(1)) / steps


def steps_and_overhead(name: str, repeats: int = 9) -> dict[str, float]:
    """Milliseconds per round and the loop's overhead: the median over repeats of the ratio of neighbours in time."""
    images = data.four_points() if name.startswith("four_points") else images_like_mnist()
    images.digest  # noqa: B018 (taken once for each data set, not once for each step)
    steps = 100 if name.startswith("four_points") else 40
    game = GAMES[name]()
    bare_loop(game, images, 5), our_loop(game, images, 5)
    pairs = [(bare_loop(game, images, steps), our_loop(game, images, steps)) for _ in range(repeats)]
    return {
        "bare_ms": 1e3 * statistics.median(bare for bare, _ in pairs),
        "train_ms": 1e3 * statistics.median(ours for _, ours in pairs),
        "overhead": statistics.median(ours / bare for bare, ours in pairs) - 1,
    }


def images_per_second(repeats: int = 5) -> float:
    """The data path: indices, bytes to floats, binarization."""
    images = images_like_mnist()

    def seconds(batches: int = 200) -> float:
        start = time.process_time()
        for draw in range(batches):
            images.batch(batch_indices(len(images), BATCH, draw, 0))
        return time.process_time() - start

    return 200 * BATCH / statistics.median(seconds() for _ in range(repeats))


def iwlb_seconds_and_memory() -> dict[str, float]:
    """IWLB with k = 5,000 on 20 images by the MNIST VAE; memory is the process's peak, less what it was before."""
    torch.set_num_threads(1)
    game = build_vae(MNIST_NETS, bernoulli_decoder(MNIST_NETS, 32), 32)
    x = images_like_mnist(20).batch(torch.arange(20))
    iwlb_log_likelihood(game.decoder, game.posterior, x[:1], 10)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    iwlb_log_likelihood(game.decoder, game.posterior, x, 5000)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"k": 5000, "images": len(x), "chunk": CHUNK, "seconds_per_image": seconds / len(x), "peak_mib": peak / 1024}


def ais_seconds() -> dict[str, float]:
    """AIS on 50 images by a decoder of 200-200 units with 8 latents. Its cost is proportional to the temperatures: here 20."""
    decoder = BernoulliDecoder(FullyConnected(784, [200, 200]).to_image(8))
    x = images_like_mnist(50).batch(torch.arange(50))
    annealing = Annealing(temperatures=20)
    ais_log_likelihood(decoder, x[:1], 8, Annealing(temperatures=2, leapfrog=1, chains=1))
    start = time.process_time()
    ais_log_likelihood(decoder, x, 8, annealing)
    seconds = time.process_time() - start
    return {
        "temperatures": annealing.temperatures,
        "leapfrog": annealing.leapfrog,
        "chains": annealing.chains,
        "images": len(x),
        "seconds_per_image": seconds / len(x),
    }


def in_its_own_process(expression: str) -> object:
    """A peak of memory is the process's: what came before must not hide it."""
    code = f"import json; from benchmarks import bench_core; print(json.dumps(bench_core.{expression}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def main(path: Path) -> None:
    """Measure everything, print it and write it with its provenance."""
    torch.set_num_threads(1)
    rounds = {}
    for name in GAMES:
        rounds[name] = steps_and_overhead(name)
        print(name, rounds[name], flush=True)
    result = {
        "batch": BATCH,
        "rounds": rounds,
        "images_per_second": images_per_second(),
        "iwlb": in_its_own_process("iwlb_seconds_and_memory()"),
        "ais": ais_seconds(),
        "provenance": provenance(),
    }
    write_json(path, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULT)
