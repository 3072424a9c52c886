"""The command line: every recipe of the book, at any profile, resumable."""

import json
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from lightning_fabric import Fabric

from avb_core import data, recipes
from avb_core.celeba import fetch_celeba
from avb_core.runs import CorruptFile, read_json
from avb_core.training import TrainingDiverged, WrongCheckpoint

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)

TestImages = Annotated[int | None, typer.Option(min=2, help="Test images to measure on, of those that there are.")]
Annealed = Annotated[int | None, typer.Option(min=0, help="Images of these for annealed importance sampling.")]


@app.command()
def train(
    experiment: Annotated[str, typer.Argument(help=f"One of: {', '.join(recipes.EXPERIMENTS)}.")],
    game: Annotated[str, typer.Option(help=f"One of: {', '.join(recipes.GAMES)}.")] = "avb",
    profile: Annotated[str, typer.Option(help="quick, cpu, full or long; see book.toml.")] = "quick",
    seed: Annotated[int, typer.Option(help="Seed of weights, data order and noise.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; if not given, runs/EXPERIMENT-GAME-PROFILE-SEED.")
    ] = None,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="Processes, one on each device.")] = 1,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Another value for a setting, as in book.toml: --set steps=500.")
    ] = None,
    precision: Annotated[str, typer.Option(help="32-true or bf16-mixed.")] = "32-true",
    images: TestImages = None,
    annealed: Annealed = None,
    tensorboard: Annotated[bool, typer.Option(help="Write the metrics for TensorBoard as well.")] = False,
) -> None:
    """Train a recipe and measure it. Started again with the same folder, it resumes where it was stopped."""
    try:
        _require(accelerator, devices)
        chosen = recipes.recipe(experiment, game, profile, _settings(set_ or []))
        folder = out or Path("runs") / f"{experiment}-{game}-{profile}-{seed}"
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            strategy="ddp" if devices > 1 else "auto",
            precision=precision,  # type: ignore[arg-type]
        )
        fabric.launch()
        on_log = _tensorboard_of(folder) if tensorboard and fabric.is_global_zero else None
        if fabric.is_global_zero and (source := getattr(chosen.data("train"), "source", "")):
            typer.echo(f"Data: {source}", err=True)
        measuring = _given(images=images, annealed=annealed)
        result = recipes.run(chosen, seed, folder, fabric=fabric, on_log=on_log, measuring=measuring)
    except (ValueError, OSError, CorruptFile, WrongCheckpoint, TrainingDiverged) as error:
        raise typer.Exit(_complain(error)) from error
    if fabric.is_global_zero:
        typer.echo(json.dumps(result["measured"], indent=2))
        typer.echo(f"Kept in {folder}, trained on the data {result['data']['name']}")


def _tensorboard_of(folder: Path) -> Callable[[Mapping[str, float]], None]:
    """What writes rows of metrics as events into the run's folder; raises ValueError where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(f"--tensorboard: needs another package, `pip install tensorboard` ({error})") from error
    writer = SummaryWriter(str(folder))

    def on_log(row: Mapping[str, float]) -> None:
        for name in row.keys() - {"step"}:
            writer.add_scalar(name, row[name], int(row["step"]))
        writer.flush()

    return on_log


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="A finished run, such as figures/table1/avb-0.")],
    images: TestImages = None,
    annealed: Annealed = None,
    temperatures: Annotated[int | None, typer.Option(min=1, help="Temperatures of the annealing.")] = None,
    on: Annotated[
        str | None, typer.Option(help="Another experiment, such as mnist, on whose test data it is measured.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A folder that gets what is measured; by default none does.")] = None,
    inception: Annotated[
        Path | None, typer.Option(help="Weights for the Fréchet inception distance of pictures, of torch-fidelity.")
    ] = None,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Measure a finished run anew from its weights, beside what is stored of it."""
    try:
        _require(accelerator)
        device = Fabric(accelerator=accelerator, devices=1).device
        options = _given(images=images, annealed=annealed, temperatures=temperatures, inception=inception)
        measured = recipes.evaluate(folder, on=on, out=out, device=device, **options)
        stored = read_json(folder / "result.json")["measured"]
    except (ValueError, OSError, CorruptFile) as error:
        raise typer.Exit(_complain(error)) from error
    for name, value in measured.items():
        now, then = (_with_error(each) for each in (value, stored.get(name)))
        typer.echo(f"{name:<20} {now:>22}   stored: {then}")


@app.command()
def halve(
    folder: Annotated[Path, typer.Argument(help="A finished run that is to be passed on.")],
    images: TestImages = 200,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Round a finished run's weights to 16 bits, in place, and tell by how much that changes its bound."""
    try:
        _require(accelerator)
        device = Fabric(accelerator=accelerator, devices=1).device
        told = recipes.halve(folder, device=device, images=images, annealed=0)
    except (ValueError, OSError, CorruptFile) as error:
        raise typer.Exit(_complain(error)) from error
    changed, of = _with_error(told["iwlb_changed_by"]), told["images"]
    typer.echo(f"{folder / 'model.safetensors'}: 16 bits; the bound on {of} images changed by {changed} nats")


def _settings(given: list[str]) -> dict[str, Any]:
    """What `--set` says, as in a TOML file; raises ValueError for what is none, with an example."""
    for each in given:
        try:
            tomllib.loads(each)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(
                f"--set: expected NAME=VALUE, text in quotes (name='text'), got {each!r} ({error})"
            ) from error
    try:
        return tomllib.loads("\n".join(given))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"--set: expected each setting once, got {', '.join(given)}") from error


def _require(accelerator: str, devices: int = 1) -> None:
    """Raise ValueError for a kind of device that is not known, or of which PyTorch does not have as many here."""
    if accelerator not in {"auto", "cpu", "cuda", "gpu"}:
        raise ValueError(f"accelerator: expected auto, cpu or cuda, got {accelerator!r}")
    if accelerator in {"cuda", "gpu"} and not torch.cuda.is_available():
        raise ValueError(f"accelerator: PyTorch finds no CUDA device here, got {accelerator!r}; take auto or cpu")
    on_gpus = accelerator != "cpu" and torch.cuda.is_available()
    there = torch.cuda.device_count() if on_gpus else os.cpu_count() or 1
    if devices > there:
        raise ValueError(f"devices: expected at most {there}, as many as there are here, got {devices}")


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given on the command line."""
    return {name: value for name, value in options.items() if value is not None}


def _with_error(value: Any) -> str:
    """A measured quantity in one word: with its standard error if it has one."""
    if isinstance(value, dict):
        numbers = [f"{number:.4f}" for name, number in value.items() if name in ("value", "stderr")]
        return " ± ".join(numbers) if numbers else json.dumps(value)
    return "–" if value is None else str(value)


@app.command()
def fetch(dataset: Annotated[str, typer.Argument(help="mnist or celeba.")]) -> None:
    """Download a data set into the user's cache, with checksums."""
    fetches = {"mnist": data.fetch_mnist, "celeba": fetch_celeba}
    if dataset not in fetches:
        raise typer.Exit(_complain(ValueError(f"dataset: expected mnist or celeba, got {dataset!r}")))
    try:
        typer.echo(f"{dataset} is in {fetches[dataset]()}")
    except (OSError, CorruptFile) as error:
        raise typer.Exit(_complain(error)) from error


def _complain(error: Exception) -> int:
    """One line (or a few) on stderr in place of a traceback; the exit status."""
    typer.echo(f"Error: {error}", err=True)
    return 2
