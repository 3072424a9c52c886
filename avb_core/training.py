"""The one training loop: it plays any game, whoever its players are.

Two rules hold by construction. A player's update differentiates that player's loss in that player's parameters and in no
others. And all randomness of step t, of rank r, is a function of (seed, r, t) alone: a run that was killed and resumed from
its checkpoint ends bit for bit where one that was not would have ended, and what is measured in between changes nothing.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from avb_core._validate import NotANumber, is_number, is_whole
from avb_core.data import Dataset
from avb_core.games import Game, LatentVariableGame
from avb_core.runs import digest_of, load_tensors, read_json_lines, save_tensors, write_atomically, write_json

Monitor = Callable[[Any], Mapping[str, float]]  # of the game that is played


class TrainingDiverged(RuntimeError):
    """A player's loss was NaN or infinite; the message names step, player and the last good checkpoint."""


class WrongCheckpoint(ValueError):
    """A checkpoint belongs to another game or configuration than the one that would resume from it."""


@dataclass(frozen=True)
class TrainingConfig:
    """How a game is played. A step is one round in which every player moves, in the game's order.

    `updates` gives the moves per round of players that make more than one, as the k of 'k discriminator steps'. With
    `simultaneous`, all players differentiate at the same point before anyone moves, as printed in AVB's algorithm 1, and each
    moves once. During the first `warm_up` of the steps, a share, the weight of the KL rises from 0 to 1 in equal parts (Bowman
    et al., 2016): a decoder that does not know yet what a code is good for would have codes given up that it could use later.
    `average` is the decay of an exponential moving average of all weights, which is what training returns.
    """

    steps: int
    batch_size: int
    learning_rates: Mapping[str, float]
    updates: Mapping[str, int] = field(default_factory=dict)
    simultaneous: bool = False
    betas: tuple[float, float] = (0.5, 0.999)
    schedule: Literal["constant", "cosine"] = "constant"
    average: float | None = None
    warm_up: float = 0.0
    seed: int = 0
    log_every: int = 100
    checkpoint_every: int = 1000

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "checkpoint_every"):
            if not is_whole(value := getattr(self, name), least=1):
                raise ValueError(f"{name}: expected a whole number, at least 1, got {value!r}")
        for name, values in (("learning_rates", self.learning_rates), ("updates", self.updates)):
            if not isinstance(values, Mapping):
                raise ValueError(f"{name}: expected a number for each player, by name, got {values!r}")
            for player, value in values.items():
                if not is_number(value) or not 0 < value < math.inf:
                    raise ValueError(f"{name}[{player!r}]: expected a positive number, got {value!r}")
                if name == "updates" and not isinstance(value, int):
                    raise ValueError(f"updates[{player!r}]: expected a whole number, got {value}")
        if not is_whole(self.seed, least=0) or self.seed >= 2**63:
            raise ValueError(f"seed: expected a whole number from 0 to 2^63 − 1, got {self.seed!r}")
        if not isinstance(self.simultaneous, bool):
            raise ValueError(f"simultaneous: expected true or false, got {self.simultaneous!r}")
        betas: object = self.betas
        if not (isinstance(betas, list | tuple) and len(betas) == 2 and all(_is_share(beta) for beta in betas)):
            raise ValueError(f"betas: expected two numbers in [0, 1), got {betas!r}")
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(f"schedule: expected 'constant' or 'cosine', got {self.schedule!r}")
        if self.simultaneous and any(count != 1 for count in self.updates.values()):
            raise ValueError(f"updates: expected one update per player when simultaneous, got {dict(self.updates)}")
        if not _is_share(self.warm_up):
            raise ValueError(f"warm_up: expected a share of the steps in [0, 1), got {self.warm_up!r}")
        if self.average is not None and not _is_share(self.average):
            raise ValueError(f"average: expected a decay in [0, 1), got {self.average!r}")

    def require_players(self, game: Game) -> None:
        """Raise ValueError unless every player of the game has a learning rate and nobody else, and the game can warm up."""
        if self.warm_up and not isinstance(game, LatentVariableGame):
            raise ValueError(f"warm_up: a {type(game).__name__} has no KL whose weight could rise; expected 0")
        players, rated = set(game.players), set(self.learning_rates)
        if players != rated or not set(self.updates) <= players:
            raise ValueError(
                f"learning_rates, updates: the players are {sorted(players)}, got learning rates for {sorted(rated)} "
                f"and updates for {sorted(self.updates)}"
            )


def train(
    game: Game,
    data: Dataset,
    config: TrainingConfig,
    *,
    folder: Path | None = None,
    fabric: Fabric | None = None,
    monitor: Monitor | None = None,
    on_log: Callable[[Mapping[str, float]], None] | None = None,
    progress: bool = False,
    began_as: Mapping[str, Any] | None = None,
) -> list[dict[str, float]]:
    """Play `game` on `data` in place and return the logged metrics, a dictionary for each log step.

    Logged are `step`, `seconds`, each player's mean loss since the last log step (`<player>_loss`, nats; while the game warms
    up, with the KL as it was weighed), and what `monitor` returns for the game; each row is handed to `on_log` as well. With a
    `folder`, metrics and checkpoints are kept there and a run that was stopped resumes; a finished one is loaded. At the end
    the game holds the averaged weights if `config.average` is set. `began_as` is what game, data and configuration do not tell
    of how the game began, and a checkpoint must agree on as well.

    Raises TrainingDiverged at a loss that is not finite, WrongCheckpoint if the folder holds a run of another game, data or
    configuration, CorruptFile if its checkpoint was altered, ValueError if the configuration does not fit the game.
    """
    config.require_players(game)
    fabric = fabric or Fabric(accelerator="cpu", devices=1)
    if config.batch_size % fabric.world_size:
        raise ValueError(
            f"batch_size: expected a multiple of the {fabric.world_size} processes, got {config.batch_size}"
        )
    game.to(fabric.device)
    data = data.to(fabric.device)
    play = _Play(game, config, fabric, folder, {**_identity(game, data, config), **(began_as or {})})
    play.resume()
    hidden = None if progress and fabric.is_global_zero else True  # None: shown on a terminal only
    bar = tqdm(total=config.steps, initial=play.step, disable=hidden, unit="step", desc=data.name)
    # The global generators are seeded at every step; the caller's are given back as they were.
    with torch.random.fork_rng([fabric.device] if fabric.device.type == "cuda" else []), bar:
        while play.step < config.steps:
            play.play_round(data)
            bar.update()
            last = play.step == config.steps
            if last or play.step % config.log_every == 0:
                play.log(monitor)
                if on_log is not None and fabric.is_global_zero:
                    on_log(play.metrics[-1])
            if last or play.step % config.checkpoint_every == 0:
                play.save()
    play.finish()
    return play.metrics


def _is_share(value: object) -> bool:
    return is_number(value) and 0 <= cast(float, value) < 1


class _Play:
    """The state of a run in progress, and the moves that change it."""

    def __init__(self, game: Game, config: TrainingConfig, fabric: Fabric, folder: Path | None, identity: dict) -> None:
        self.game = game
        self.config = config
        self.fabric = fabric
        self.folder = Path(folder) if folder is not None else None
        self.identity = identity
        self.step = 0
        self.seconds = 0.0
        self.started = time.perf_counter()
        self.metrics: list[dict[str, float]] = []
        self.losses: list[tuple[int, str, Tensor]] = []
        self.parameters = {player: game.parameters_of(player) for player in game.players}
        self.optimizers = {
            player: torch.optim.Adam(
                parameters, lr=config.learning_rates[player], betas=config.betas, fused=_can_fuse(fabric.device)
            )
            for player, parameters in self.parameters.items()
        }
        self.averaged = (
            None
            if config.average is None
            else AveragedModel(game, multi_avg_fn=get_ema_multi_avg_fn(config.average), use_buffers=True)
        )
        if fabric.world_size > 1:
            for tensor in game.state_dict().values():
                tensor.copy_(fabric.broadcast(tensor))

    # -- playing ----------------------------------------------------------------------------------------------------------

    def play_round(self, data: Dataset) -> None:
        self._seed()
        self._set_learning_rates()
        self._set_kl_weight()
        if self.config.simultaneous:
            x = self._batch(data, draw=self.step)
            for player in self.game.players:
                self._differentiate(player, x)
            for optimizer in self.optimizers.values():
                optimizer.step()
        else:
            draws_per_round = sum(self.config.updates.get(player, 1) for player in self.game.players)
            draw = self.step * draws_per_round
            for player in self.game.players:
                for _ in range(self.config.updates.get(player, 1)):
                    self._differentiate(player, self._batch(data, draw))
                    self.optimizers[player].step()
                    draw += 1
        self.step += 1
        if self.averaged is not None:
            self.averaged.update_parameters(self.game)

    def _differentiate(self, player: str, x: Tensor) -> None:
        """Put the gradient of the player's loss into the player's own parameters; nobody else's are touched."""
        parameters = self.parameters[player]
        self.optimizers[player].zero_grad()
        try:
            with self.fabric.autocast():
                loss = self.game.loss(player, x)
        except NotANumber as error:
            if self.fabric.world_size == 1:
                self._raise_if_diverged()
                raise TrainingDiverged(self._divergence(f"NaN ({error})", player, self.step)) from error
            # The others wait for this process's share: it gives them NaN, with which all stop when they next look.
            loss = torch.tensor(math.nan, device=self.fabric.device)
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, math.nan)
        else:
            loss.backward(inputs=parameters)
            loss = loss.detach()
        if self.fabric.world_size > 1:
            # The loss too: all processes log the same figures, and stop together where one of them has diverged.
            loss = self._mean_over_processes(loss)
            for parameter in parameters:
                if parameter.grad is None:  # another process may have one to give
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad.copy_(self._mean_over_processes(parameter.grad))
        self.losses.append((self.step, player, loss))

    def _mean_over_processes(self, tensor: Tensor) -> Tensor:
        return cast(Tensor, self.fabric.all_reduce(tensor, reduce_op="mean"))

    def _batch(self, data: Dataset, draw: int) -> Tensor:
        indices = batch_indices(len(data), self.config.batch_size, draw, self.config.seed)
        return data.batch(indices[self.fabric.global_rank :: self.fabric.world_size])

    def _seed(self) -> None:
        key = (self.config.seed, self.fabric.global_rank, self.step)
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        # Straight to the generators: torch.manual_seed would spend longer on looking for devices than a small step takes.
        torch.default_generator.manual_seed(seed)
        if self.fabric.device.type == "cuda":
            torch.cuda.default_generators[self.fabric.device.index or 0].manual_seed(seed)

    def _set_learning_rates(self) -> None:
        factor = 1.0
        if self.config.schedule == "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * self.step / self.config.steps))
        for player, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = factor * self.config.learning_rates[player]

    def _set_kl_weight(self) -> None:
        if isinstance(self.game, LatentVariableGame):
            warming = self.config.warm_up * self.config.steps
            self.game.kl_weight = min(1.0, self.step / warming) if warming else 1.0

    # -- measuring --------------------------------------------------------------------------------------------------------

    def log(self, monitor: Monitor | None) -> None:
        self._raise_if_diverged()
        row: dict[str, float] = {"step": self.step, "seconds": round(self._elapsed(), 3)}
        for player in self.game.players:
            losses = [loss for _, moved, loss in self.losses if moved == player]
            row[f"{player}_loss"] = float(torch.stack(losses).double().mean())
        self.losses.clear()
        if monitor is not None:
            row.update(monitor(self.averaged.module if self.averaged is not None else self.game))
        self.metrics.append(row)
        self._write_metrics()

    def _raise_if_diverged(self) -> None:
        for step, player, loss in self.losses:
            if not bool(loss.isfinite()):
                raise TrainingDiverged(self._divergence(f"the loss is {loss.item()}", player, step))
        # A finite loss may have a gradient that is not.
        for player, parameters in self.parameters.items():
            if not all(bool(parameter.isfinite().all()) for parameter in parameters):
                raise TrainingDiverged(self._divergence("a parameter is not finite", player, self.step))

    def _divergence(self, what: str, player: str, step: int) -> str:
        checkpoint = self._path("checkpoint.safetensors")
        kept = f"last good checkpoint: {checkpoint}" if checkpoint and checkpoint.exists() else "no checkpoint was kept"
        return f"{what} for player {player!r} at step {step}; {kept}"

    def _elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self.started

    # -- keeping ----------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        path = self._path("checkpoint.safetensors")
        if path is None:
            return
        self._raise_if_diverged()  # in all processes, or the others would wait for this one
        if not self.fabric.is_global_zero:
            return
        tensors = {f"game/{name}": tensor for name, tensor in self.game.state_dict().items()}
        if self.averaged is not None:
            tensors |= {f"averaged/{name}": tensor for name, tensor in self.averaged.state_dict().items()}
        for player, optimizer in self.optimizers.items():
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer/{player}/{index}/{name}": tensor for name, tensor in state.items()}
        # Losses since the last log step, so that the next logged mean is that of an unbroken run.
        for player in self.game.players:
            pending = [loss for _, moved, loss in self.losses if moved == player]
            tensors[f"pending/{player}"] = torch.stack(pending) if pending else torch.empty(0)
        save_tensors(path, tensors, {"step": self.step, "seconds": self._elapsed(), "identity": self.identity})

    def resume(self) -> None:
        if (path := self._path("checkpoint.safetensors")) is None:
            return
        if not path.exists():
            if self.fabric.is_global_zero:
                write_json(path.with_name("config.json"), self.identity)
            return
        tensors, about = load_tensors(path)
        self._require_same_identity(path, about["identity"])
        self.game.load_state_dict(_below("game/", tensors))
        if self.averaged is not None:
            self.averaged.load_state_dict(_below("averaged/", tensors))
        for player, optimizer in self.optimizers.items():
            states: dict[int, dict[str, Tensor]] = {}
            for key, tensor in _below(f"optimizer/{player}/", tensors).items():
                index, name = key.split("/")
                states.setdefault(int(index), {})[name] = tensor
            optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
        self.step, self.seconds = about["step"], about["seconds"]
        for player, pending in _below("pending/", tensors).items():
            self.losses += [(self.step, player, loss) for loss in pending.to(self.fabric.device)]
        metrics = path.with_name("metrics.jsonl")
        rows = read_json_lines(metrics) if metrics.exists() else []
        self.metrics = [row for row in rows if row["step"] <= self.step]

    def _require_same_identity(self, path: Path, stored: dict) -> None:
        # A run that is older than a setting was played with what is now the default.
        stored = stored | {"config": _as_stored(TrainingConfig(1, 1, {})) | stored["config"]}
        there, here = dict(_flat(stored)), dict(_flat(self.identity))
        differing = sorted(key for key in there | here if there.get(key) != here.get(key))
        if not differing:
            return
        details = "; ".join(f"{key}: {there.get(key)} there, {here.get(key)} here" for key in differing)
        raise WrongCheckpoint(f"{path} belongs to another run ({details}). Choose another folder or remove it.")

    def finish(self) -> None:
        if isinstance(self.game, LatentVariableGame):
            self.game.kl_weight = 1.0
        if self.averaged is not None:
            self.game.load_state_dict(self.averaged.module.state_dict())

    def _write_metrics(self) -> None:
        path = self._path("metrics.jsonl")
        if path is not None and self.fabric.is_global_zero:
            text = "".join(json.dumps(row) + "\n" for row in self.metrics)
            write_atomically(path, lambda temporary: temporary.write_text(text))

    def _path(self, name: str) -> Path | None:
        return self.folder / name if self.folder is not None else None


def batch_indices(n: int, batch_size: int, draw: int, seed: int) -> Tensor:
    """Indices of the `draw`-th minibatch of n data: without replacement within an epoch, shuffled anew for each.

    A batch as large as the data or larger holds every point equally often, the remainder drawn without replacement. A pure
    function of its arguments, so that nothing about the data's order has to be stored in a checkpoint.
    """
    if batch_size >= n:
        whole, rest = torch.arange(n).repeat(batch_size // n), batch_size % n
        return torch.cat([whole, _permutation(n, seed, draw)[:rest]]) if rest else whole
    epoch, position = divmod(draw, n // batch_size)
    return _permutation(n, seed, epoch)[position * batch_size : (position + 1) * batch_size]


_last_permutation: tuple[tuple[int, int, int], Tensor] | None = None


def _permutation(n: int, seed: int, epoch: int) -> Tensor:
    """A permutation of range(n) that depends on (seed, epoch); the last one is remembered, for an epoch has many batches."""
    global _last_permutation
    if _last_permutation is None or _last_permutation[0] != (n, seed, epoch):
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence((seed, epoch, n)).generate_state(1)[0]))
        _last_permutation = ((n, seed, epoch), torch.randperm(n, generator=generator))
    return _last_permutation[1]


def _identity(game: Game, data: Dataset, config: TrainingConfig) -> dict[str, Any]:
    """What a checkpoint must agree on with the run that resumes from it."""
    shapes = {name: list(tensor.shape) for name, tensor in game.state_dict().items()}
    return {
        "game": type(game).__name__,
        "network": digest_of([repr(game), shapes]),
        "data": {"name": data.name, "digest": data.digest},
        "config": _as_stored(config),
    }


def _as_stored(config: TrainingConfig) -> dict[str, Any]:
    """As a checkpoint holds it: no tuples, for one."""
    return cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(config))))


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested content with its keys joined by dots."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _can_fuse(device: torch.device) -> bool:
    return device.type in ("cpu", "cuda")
