"""Recipes: which experiment, game, networks and training make up a run of the book. The settings stand in `book.toml`."""

import inspect
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor

from avb_core._validate import is_number, is_whole
from avb_core.data import Dataset, Split
from avb_core.evaluation import Estimate
from avb_core.experiments import EXPERIMENTS, Experiment
from avb_core.games import LatentVariableGame
from avb_core.models import ARCHITECTURES, GAMES, INITIALIZATIONS, Convolutional, FullyConnected
from avb_core.runs import CorruptFile, load_tensors, provenance, read_json, save_tensors, write_json
from avb_core.training import TrainingConfig, train

BOOK = Path(__file__).parents[1] / "book.toml"
TRAINING_FIELDS = {field.name for field in fields(TrainingConfig)}
ARCHITECTURE_FIELDS = {field.name for kind in (FullyConnected, Convolutional) for field in fields(kind)} - {"pixels"}
LIKELIHOOD_FIELDS = {"likelihood", "scales"}  # of pictures, see experiments.intensities
NOT_SET = {"networks", "likelihood", "pixels"}  # of the builders' arguments, but given by the experiment
MAY_BE_NONE_OF = {"extra", "units"}  # counts that may be 0
NOT_OF_THE_GAME = TRAINING_FIELDS | ARCHITECTURE_FIELDS | LIKELIHOOD_FIELDS | {"initialization", "architecture"}


def profile() -> str:
    """The profile that chapters run under: `$AVB_PROFILE`, or quick. Raises ValueError for an unknown one."""
    return require_profile(os.environ.get("AVB_PROFILE") or "quick")


def require_profile(name: str) -> str:
    """The name itself; raises ValueError if book.toml has no such profile."""
    return _require("profile", name, _book()["profiles"])


@dataclass(frozen=True)
class Recipe:
    """One experiment with one game under one profile: everything but the seed."""

    experiment: str
    game: str
    profile: str
    settings: Mapping[str, Any]

    @property
    def definition(self) -> Experiment:
        """The experiment's data, likelihood and measures."""
        return EXPERIMENTS[self.experiment]

    @property
    def architecture(self) -> str:
        """The kind of its networks: one of the `ARCHITECTURES`."""
        return cast(str, self.settings.get("architecture", "fully_connected"))

    @property
    def initialization(self) -> str:
        """How the weights are drawn: one of the `INITIALIZATIONS`."""
        return cast(str, self.settings.get("initialization", "pytorch"))

    def data(self, split: Split) -> Dataset:
        """The experiment's data."""
        return self.definition.data(split)

    def config(self, seed: int = 0) -> TrainingConfig:
        """How the game is trained."""
        return TrainingConfig(**{key: self.settings[key] for key in self.settings.keys() & TRAINING_FIELDS}, seed=seed)

    def build(self, seed: int = 0, features: int | None = None) -> LatentVariableGame:
        """The game with fresh weights; the global random state is left as it was.

        It takes data of so many `features` as are given, or of those that the experiment's data have on this machine.
        """
        of_game = {key: self.settings[key] for key in self.settings.keys() - NOT_OF_THE_GAME}
        kind = ARCHITECTURES[self.architecture]
        of_networks = {key: self.settings[key] for key in self.settings.keys() & ARCHITECTURE_FIELDS}
        with torch.random.fork_rng(devices=[]):
            features = features or self.data("test").batch(torch.arange(1)).shape[-1]
            torch.default_generator.manual_seed(seed)  # and no other device's, which would not be given back
            networks = kind(features, **of_networks)
            of_likelihood = {key: self.settings[key] for key in self.settings.keys() & LIKELIHOOD_FIELDS}
            likelihood = partial(self.definition.likelihood, networks, of_game["latent_dim"], **of_likelihood)
            game: LatentVariableGame = GAMES[self.game](networks, likelihood, **of_game)
            INITIALIZATIONS[self.initialization](game)
            return game


def recipe(
    experiment: str, game: str, profile_name: str | None = None, overrides: Mapping[str, Any] | None = None
) -> Recipe:
    """Look a recipe up in book.toml; `overrides` replace some of its settings, or add one of its game, networks or training.

    Raises ValueError, with the known names, for an unknown experiment, game, profile or setting.
    """
    _require("experiment", experiment, EXPERIMENTS)
    _require("game", game, GAMES)
    name = profile() if profile_name is None else require_profile(profile_name)
    settings = _book()["profiles"][name].get(experiment, {}).get(game)
    if settings is None:
        there_are = [
            f"{with_game} ({of_profile})"
            for of_profile, experiments in _book()["profiles"].items()
            for with_game in experiments.get(experiment, {})
        ]
        raise ValueError(
            f"book.toml has no settings for {experiment} with {game} under the profile {name}; "
            f"for {experiment} it has {', '.join(there_are) or 'none'}"
        )
    defaults = {"initialization": "pytorch"}
    # The fields of an architecture are the arguments of its constructor.
    for builder in (GAMES[game], ARCHITECTURES[settings.get("architecture", "fully_connected")]):
        of_builder = inspect.signature(builder).parameters.values()
        defaults |= {each.name: each.default for each in of_builder if each.name not in NOT_SET}
    known = (settings.keys() | TRAINING_FIELDS | defaults.keys()) - {"seed"}  # which is not the recipe's
    for key, value in (overrides or {}).items():
        _require("setting", key, dict.fromkeys(known))
        _require_like(key, value, settings.get(key, defaults.get(key)))
        # A table, such as learning_rates, keeps the entries that are not named.
        settings[key] = settings.get(key, {}) | value if isinstance(value, Mapping) else value
    found = Recipe(experiment, game, name, settings)
    _require("initialization", found.initialization, INITIALIZATIONS)
    _require("architecture", found.architecture, ARCHITECTURES)
    found.config()
    return found


def run(
    of: Recipe,
    seed: int,
    folder: Path,
    *,
    fabric: Fabric | None = None,
    on_log: Callable[[Mapping[str, float]], None] | None = None,
    measuring: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train and measure a recipe in `folder`, resuming what is there, and return the content of its `result.json`.

    `measuring` are options of the experiment's measure, as for `evaluate`. A result that is there already is kept if it is of
    these weights and was measured so.

    The folder then also holds the weights of encoder and decoder (`model.safetensors`) beside configuration and raw metrics,
    and for images what was measured on each of them (`per_image.safetensors`), from which runs can be compared pair by pair.

    Raises ValueError for an option that the measure does not have, or a precision other than 32-true and bf16-mixed, and else
    what `training.train` does.
    """
    measuring = dict(measuring or {})
    _require_options(of, measuring)
    fabric = fabric or Fabric(accelerator="cpu", devices=1)
    folder = Path(folder)
    made_by = provenance(fabric.device)  # of when it began: a checkout may move on while it trains
    with fabric.rank_zero_first():  # which may have to prepare them
        train_data = of.data("train")
    config, game = of.config(seed), of.build(seed)
    watch = of.definition.watch()
    precision = fabric.strategy.precision.precision
    # The weights stay in float32, and nothing here scales losses as half precision of another kind would ask for.
    _require("precision", precision, dict.fromkeys(("32-true", "bf16-mixed")))
    # What a checkpoint that is older than one of these says nothing of, is its default.
    defaults = {"initialization": "pytorch", "precision": "32-true", "processes": 1}
    values = {"initialization": of.initialization, "precision": precision, "processes": fabric.world_size}
    began_as = {name: value for name, value in values.items() if value != defaults[name]}
    began_as["experiment"] = of.experiment
    metrics = train(
        game,
        train_data,
        config,
        folder=folder,
        fabric=fabric,
        monitor=watch,
        on_log=on_log,
        progress=True,
        began_as=began_as,
    )
    about = _about(of, seed, train_data) | {"settings": dict(of.settings)}
    about |= {"measuring": {name: _as_json(value) for name, value in measuring.items()}} if measuring else {}
    weights = {f"posterior/{name}": tensor for name, tensor in game.posterior.state_dict().items()}
    weights |= {f"decoder/{name}": tensor for name, tensor in game.decoder.state_dict().items()}
    # The result of another run may be left where only that run's checkpoint was removed.
    if (folder / "result.json").exists() and _holds(folder / "model.safetensors", weights):
        finished = read_json(folder / "result.json")
        if about.items() <= finished.items() and finished.get("measuring", {}) == about.get("measuring", {}):
            return finished
    with torch.random.fork_rng([fabric.device] if fabric.device.type == "cuda" else []):
        torch.manual_seed(seed)
        measured, per_image = of.definition.measure(game, **measuring)
    result = {
        "seconds": metrics[-1]["seconds"],
        "data_per_second": round(config.steps * config.batch_size / max(metrics[-1]["seconds"], 1e-3), 1),
        "measured": measured,
        "provenance": provenance(fabric.device)
        | {"commit": made_by["commit"], "precision": precision, "processes": fabric.world_size},
    }
    if fabric.is_global_zero:
        save_tensors(folder / "model.safetensors", weights, {"experiment": of.experiment, "game": of.game})
        _store(folder, about, per_image, result)
    return about | result


def evaluate(
    folder: Path, *, on: str | None = None, out: Path | None = None, device: torch.device | str = "cpu", **options: Any
) -> dict[str, Any]:
    """Measure the finished run in `folder` anew from its stored weights and settings, and return what was measured.

    `on` names an experiment with data of the same size, whose measure and test data take the place of the run's own.
    `options` are those of the measure: for images, how many (`images`, `annealed`) and the `temperatures` of annealing. The
    folder `out` gets a `result.json`, and a `per_image.safetensors` where each image is measured; without one nothing is kept.
    What a critic believes is left out, for critics are not stored.

    Raises FileNotFoundError or CorruptFile where result or weights are missing or altered, and ValueError for an unknown
    experiment, one whose data the weights do not fit, an option that it does not have, or an `out` that holds a result.
    """
    folder = Path(folder).resolve()
    of, seed = recipe_of(folder), read_json(folder / "result.json")["seed"]
    if on is not None:
        of = replace(of, experiment=_require("experiment", on, EXPERIMENTS))
    _require_options(of, options)
    if out is not None:
        if (Path(out) / "result.json").exists():
            raise ValueError(f"out: expected a folder without a result, got {out}")
        Path(out).mkdir(parents=True, exist_ok=True)  # before anything takes its time
    game = load_model(of, folder).to(device)
    with torch.random.fork_rng([device] if torch.device(device).type == "cuda" else []):
        torch.manual_seed(seed)
        measured, per_image = (
            {name: value for name, value in values.items() if name != "elbo_of_critic"}
            for values in of.definition.measure(game, **options)
        )
    if out is not None:
        about = _about(of, seed, of.data("test")) | {"run": f"{folder.parent.name}/{folder.name}"}
        _store(Path(out), about, per_image, {"measured": measured, "provenance": provenance(torch.device(device))})
    return measured


def halve(folder: Path, *, device: torch.device | str = "cpu", **options: Any) -> dict[str, Any]:
    """Round the weights of the finished run in `folder` to 16 bits, in place, and tell how much that changed its bound.

    float16 keeps eleven binary digits, in half the room; what that costs is measured. `iwlb_changed_by` (nats, mean and
    standard error over images) is the importance weighted bound of the rounded model less that before, from the same images and
    random numbers; `result.json` keeps it as `weights`. `options` are those of the experiment's measure. Raises ValueError
    where it measures no `iwlb` of each image, or the weights have 16 bits already or are too large for them, and else what
    `evaluate` does.
    """
    folder = Path(folder)
    of, result = recipe_of(folder), read_json(folder / "result.json")
    if "annealed" not in inspect.signature(of.definition.measure).parameters:
        raise ValueError(f"folder: expected an experiment with a bound on each image, got {of.experiment}")
    _require_options(of, options)
    weights, about = load_tensors(folder / "model.safetensors")
    if any(tensor.dtype == torch.float16 for tensor in weights.values()):
        raise ValueError(f"folder: expected weights of 32 bits, got some of 16 in {folder / 'model.safetensors'}")
    rounded = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    if not all(tensor.isfinite().all() for tensor in rounded.values()):
        raise ValueError(
            f"folder: expected weights below 65504, as many as 16 bits hold, in {folder / 'model.safetensors'}"
        )
    bounds = []
    for tensors in (weights, rounded):
        game = _with_weights(of, tensors).to(device)
        with torch.random.fork_rng([device] if torch.device(device).type == "cuda" else []):
            torch.manual_seed(result["seed"])
            _, per_image = of.definition.measure(game, **options)
        bounds.append(per_image["iwlb"].double())
    changed = bounds[1] - bounds[0]
    told = {"dtype": "float16", "images": len(changed), "iwlb_changed_by": asdict(Estimate.of_mean(changed))}
    # In this order: where only the first was written, the weights still have 32 bits and another call does both.
    write_json(folder / "result.json", result | {"weights": told})
    save_tensors(folder / "model.safetensors", rounded, about)
    return told


def recipe_of(folder: Path) -> Recipe:
    """What the finished run in `folder` was made by, with the settings of then.

    Raises FileNotFoundError or CorruptFile where its result is missing or altered.
    """
    path = Path(folder) / "result.json"
    stored = read_json(path)
    if not isinstance(stored, dict):
        raise CorruptFile(f"{path}: not the result of a training, but a {type(stored).__name__}")
    if missing := {"experiment", "game", "profile", "seed", "settings"} - stored.keys():
        raise CorruptFile(f"{path}: not the result of a training, it has no {', '.join(sorted(missing))}")
    found = Recipe(stored["experiment"], stored["game"], stored["profile"], stored["settings"])
    try:
        for kind, name, known in (("experiment", found.experiment, EXPERIMENTS), ("game", found.game, GAMES)):
            _require(kind, name, known)
        _require("architecture", found.architecture, ARCHITECTURES)
        _require("initialization", found.initialization, INITIALIZATIONS)
        of_game = {key: value for key, value in found.settings.items() if key not in NOT_OF_THE_GAME}
        inspect.signature(GAMES[found.game]).bind(None, None, **of_game)
        found.config()
    except (ValueError, TypeError, AttributeError) as error:
        raise CorruptFile(f"{path}: not the result of a training that this version knows ({error})") from error
    return found


def load_model(of: Recipe, folder: Path, features: int | None = None) -> LatentVariableGame:
    """The game of a finished run with its trained encoder and decoder (a critic, if any, stays untrained).

    `features` is how many numbers its data have each, where those are not at hand: MNIST's images have 784, also on a machine
    without MNIST. Raises FileNotFoundError or CorruptFile where the weights are missing or altered, ValueError where they are
    for data of another size.
    """
    tensors, _ = load_tensors(Path(folder) / "model.safetensors")
    return _with_weights(of, tensors, features)


def _with_weights(of: Recipe, tensors: Mapping[str, Tensor], features: int | None = None) -> LatentVariableGame:
    game = of.build(features=features)
    for part in ("posterior", "decoder"):
        weights = {
            name.removeprefix(f"{part}/"): value for name, value in tensors.items() if name.startswith(f"{part}/")
        }
        try:
            getattr(game, part).load_state_dict(weights)
        except RuntimeError as error:
            one_of_them = str(error).splitlines()[-1].strip()
            raise ValueError(
                f"{of.experiment}: the stored weights are for data of another size: {one_of_them}"
            ) from error
    return game


def _require_options(of: Recipe, options: Mapping[str, Any]) -> None:
    measure = of.definition.measure
    given = {"game"} | getattr(measure, "keywords", {}).keys()  # by the loop, and by the experiment
    known = [name for name in inspect.signature(measure).parameters if name not in given]
    if unknown := options.keys() - set(known):
        raise ValueError(
            f"{', '.join(sorted(unknown))}: not for the experiment {of.experiment}, whose measure takes "
            f"{', '.join(known) or 'no options'}"
        )


def _holds(path: Path, weights: Mapping[str, Tensor]) -> bool:
    """Whether the file has just these weights, to the precision that it stores them in."""
    if not path.exists():
        return False
    stored, _ = load_tensors(path)
    return stored.keys() == weights.keys() and all(
        torch.equal(tensor, weights[name].cpu().to(tensor.dtype)) for name, tensor in stored.items()
    )


def _as_json(value: Any) -> Any:
    """An option of a measure as a result holds it."""
    if isinstance(value, Path):
        return str(value)
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _about(of: Recipe, seed: int, images: Dataset) -> dict[str, Any]:
    """Which run a result is of, and the data that it was trained or measured on."""
    return {
        "experiment": of.experiment,
        "game": of.game,
        "profile": of.profile,
        "seed": seed,
        "data": {"name": images.name, "digest": images.digest},
    }


def _store(folder: Path, about: Mapping[str, Any], per_image: Mapping[str, Tensor], result: Mapping[str, Any]) -> None:
    """What was measured on each image, if anything, and the result last: where there is one, all else is there."""
    if per_image:
        save_tensors(folder / "per_image.safetensors", per_image, about)
    write_json(folder / "result.json", {**about, **result})


def _book() -> dict[str, Any]:
    if not BOOK.is_file():
        raise FileNotFoundError(
            f"{BOOK}: the recipes stand in the book's checkout; install with `pip install -e .` there"
        )
    return tomllib.loads(BOOK.read_text(encoding="utf-8"))


def _require_like(key: str, value: Any, before: Any) -> None:
    """Raise ValueError unless a setting is of the kind of the one that it replaces."""
    least = 0 if key in MAY_BE_NONE_OF else 1
    is_count = partial(is_whole, least=least)
    expected, fits = {
        bool: ("true or false", type(value) is bool),
        int: (f"a whole number, at least {least}", is_count(value)),
        float: ("a number", is_number(value)),
        str: ("text", type(value) is str),
        list: ("whole numbers, at least 1 each", type(value) is list and bool(value) and all(map(is_count, value))),
        dict: ("a table", isinstance(value, Mapping)),
    }.get(type(before), ("", True))
    if not fits:
        raise ValueError(f"{key}: expected {expected}, such as {before!r}, got {value!r}")


def _require(kind: str, name: str, known: Mapping[str, Any]) -> str:
    if name not in known:
        raise ValueError(f"{kind}: expected one of {', '.join(sorted(known))}, got {name!r}")
    return name
