"""The loop: resumed runs end bit for bit where unbroken ones do, faults stop a run with its last good checkpoint named."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from avb_core.critics import InnerProductCritic
from avb_core.data import Images, four_points
from avb_core.decoders import BernoulliDecoder, GaussianDecoder
from avb_core.divergences import kl
from avb_core.games import AVB, GAN, IWAE, VAE
from avb_core.networks import MLP, ConcatenationMLP
from avb_core.posteriors import GaussianPosterior, ImplicitPosterior, SemiImplicitPosterior
from avb_core.runs import CorruptFile, load_tensors, save_tensors
from avb_core.training import TrainingConfig, TrainingDiverged, WrongCheckpoint, batch_indices, train

ROOT = Path(__file__).parents[1]
CHECKPOINT = "checkpoint.safetensors"


def build_vae(seed=0):
    torch.manual_seed(seed)
    return VAE(GaussianPosterior(MLP(4, [6], 4), 2), BernoulliDecoder(MLP(2, [6], 4)))


def build_avb(seed=0, **options):
    torch.manual_seed(seed)
    return AVB(
        ImplicitPosterior(ConcatenationMLP((4, 3), [6], 2), 2, 3),
        BernoulliDecoder(MLP(2, [6], 4)),
        InnerProductCritic(MLP(4, [6], 5), MLP(2, [6], 5)),
        **options,
    )


def grey_images(n=50):
    """Images that are binarized anew at every use: noise in the data, too."""
    pixels = torch.randint(0, 256, (n, 4), generator=torch.Generator().manual_seed(7)).to(torch.uint8)
    return Images("grey", pixels, (2, 2), binarization="dynamic")


def config(players=("critic", "model"), **changes):
    settings = {
        "steps": 23,
        "batch_size": 8,
        "learning_rates": dict.fromkeys(players, 1e-2),
        "log_every": 5,
        "checkpoint_every": 7,
    }
    return TrainingConfig(**{**settings, **changes})


VAE_CONFIG = config(["model"])
AVB_CONFIG = config(updates={"critic": 2})
RUNS = {
    "vae": (build_vae, four_points, VAE_CONFIG),
    "vae-averaged-cosine": (build_vae, grey_images, config(["model"], average=0.9, schedule="cosine")),
    "avb": (build_avb, four_points, AVB_CONFIG),
    "avb-averaged-cosine": (build_avb, grey_images, config(updates={"critic": 2}, average=0.9, schedule="cosine")),
    "avb-warmed-up": (build_avb, grey_images, config(warm_up=0.6)),
    "avb-simultaneous": (build_avb, grey_images, config(simultaneous=True, average=0.5, schedule="cosine")),
}
every_run = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())


class Killed(BaseException):
    """Stands for the power cut: nothing catches it."""


def on_call(game, number, act):
    """From its `number`-th call on (of this process), the model's loss is what `act` makes of it."""
    original, calls = game.model_loss, itertools.count()
    game.model_loss = lambda x: act(original(x)) if next(calls) >= number else original(x)
    return game


def killed(loss):
    raise Killed


def weights(game):
    return {name: tensor.clone() for name, tensor in game.state_dict().items()}


def same_weights(game, other):
    return all(torch.equal(game.state_dict()[name], tensor) for name, tensor in other.state_dict().items())


def timeless(metrics):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in metrics]


def stored_metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# --- resuming ---------------------------------------------------------------------------------------------------------


@every_run
@pytest.mark.parametrize("death", [3, 11, 18, 22], ids=lambda step: f"at-step-{step}")
def test_a_killed_and_resumed_run_is_the_unbroken_one(run, death, tmp_path):
    """Killed between steps that log and steps that checkpoint; weights and metrics agree bit for bit."""
    build, data, how = run
    assert death % how.log_every and death % how.checkpoint_every
    unbroken = build()
    expected = train(unbroken, data(), how)
    with pytest.raises(Killed):
        train(on_call(build(), death, killed), data(), how, folder=tmp_path)
    resumed = build(seed=1)  # its weights come from the checkpoint, if there is one
    if death < how.checkpoint_every:
        resumed = build()
    metrics = train(resumed, data(), how, folder=tmp_path)
    assert same_weights(resumed, unbroken)
    assert timeless(metrics) == timeless(expected)
    assert stored_metrics(tmp_path) == metrics
    assert [row["step"] for row in metrics] == [5, 10, 15, 20, 23]
    assert all(later["seconds"] >= row["seconds"] for row, later in itertools.pairwise(metrics))


def test_killed_again_and_again(tmp_path):
    unbroken = build_avb()
    expected = train(unbroken, grey_images(), AVB_CONFIG)
    for survived in (9, 2, 8, 1):
        with pytest.raises(Killed):
            train(on_call(build_avb(), survived, killed), grey_images(), AVB_CONFIG, folder=tmp_path)
    resumed = build_avb()
    assert timeless(train(resumed, grey_images(), AVB_CONFIG, folder=tmp_path)) == timeless(expected)
    assert same_weights(resumed, unbroken)


@every_run
def test_a_finished_run_is_loaded_and_not_played_again(run, tmp_path):
    build, data, how = run
    first = build()
    metrics = train(first, data(), how, folder=tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    second = on_call(build(seed=5), 0, killed)
    assert train(second, data(), how, folder=tmp_path) == metrics
    assert same_weights(first, second)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_folder_changes_nothing(tmp_path):
    kept, free = build_avb(), build_avb()
    assert timeless(train(kept, grey_images(), AVB_CONFIG, folder=tmp_path / "new" / "folder")) == timeless(
        train(free, grey_images(), AVB_CONFIG)
    )
    assert same_weights(kept, free)


BOOK = """
[profiles.quick.four_points.avb]
latent_dim = 2
noise_dim = 3
widths = [8]
steps = 23
batch_size = 8
learning_rates = { critic = 1e-2, model = 1e-2 }
updates = { critic = 2 }
schedule = "cosine"
average = 0.9
log_every = 5
checkpoint_every = 7
"""

KILLED_BY_ITSELF = """
import os, signal, sys
from pathlib import Path
from avb_core import cli, recipes, training
recipes.BOOK = Path(sys.argv.pop(1))
play_round = training._Play.play_round
def play_until_killed(table, data):
    if table.step == 17:
        os.kill(os.getpid(), signal.SIGKILL)
    play_round(table, data)
training._Play.play_round = play_until_killed
cli.app(prog_name="python -m avb_core")
"""


def test_a_process_that_is_really_killed(tmp_path, monkeypatch):
    """SIGKILL amid `python -m avb_core train`, then the same command again: as if nothing had happened."""
    from typer.testing import CliRunner

    from avb_core import cli, experiments, recipes

    book, killed_folder, unbroken_folder = tmp_path / "book.toml", tmp_path / "killed", tmp_path / "unbroken"
    book.write_text(BOOK)
    arguments = ["train", "four_points", "--accelerator", "cpu", "--out"]
    process = subprocess.run(
        [sys.executable, "-c", KILLED_BY_ITSELF, str(book), *arguments, str(killed_folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert load_tensors(killed_folder / CHECKPOINT)[1]["step"] == 14
    assert not (killed_folder / "result.json").exists()

    monkeypatch.setattr(recipes, "BOOK", book)
    monkeypatch.setattr(experiments, "measure_four_points", lambda game: ({}, {}))
    for folder in (killed_folder, unbroken_folder):
        result = CliRunner().invoke(cli.app, [*arguments, str(folder)])
        assert result.exit_code == 0, result.output
    for name in (CHECKPOINT, "model.safetensors"):
        resumed, unbroken = load_tensors(killed_folder / name)[0], load_tensors(unbroken_folder / name)[0]
        assert resumed.keys() == unbroken.keys()
        assert all(torch.equal(resumed[key], unbroken[key]) for key in resumed)
    assert timeless(stored_metrics(killed_folder)) == timeless(stored_metrics(unbroken_folder))


# --- divergence -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(value, tmp_path):
    """Named are the step, the player and the last good checkpoint, which is untouched and from which one can go on."""
    game = on_call(build_avb(), 16, lambda loss: loss * value)
    with pytest.raises(TrainingDiverged, match=rf"'model' at step 16; last good checkpoint: {tmp_path / CHECKPOINT}"):
        train(game, four_points(), AVB_CONFIG, folder=tmp_path)
    tensors, about = load_tensors(tmp_path / CHECKPOINT)
    assert about["step"] == 14
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    unbroken, resumed = build_avb(), build_avb()
    expected = train(unbroken, four_points(), AVB_CONFIG)
    assert timeless(train(resumed, four_points(), AVB_CONFIG, folder=tmp_path)) == timeless(expected)
    assert same_weights(resumed, unbroken)


def test_divergence_before_the_first_checkpoint(tmp_path):
    for folder in (tmp_path, None):
        game = on_call(build_avb(), 2, lambda loss: loss * math.nan)
        with pytest.raises(TrainingDiverged, match="step 2; no checkpoint was kept"):
            train(game, four_points(), AVB_CONFIG, folder=folder)
    assert not (tmp_path / CHECKPOINT).exists()


@pytest.mark.parametrize("checkpoint_every", [17, 100], ids=["seen-at-a-checkpoint", "seen-at-a-log-step"])
def test_a_finite_loss_with_a_gradient_that_is_not(checkpoint_every, tmp_path):
    """√0 = 0, and its slope is infinite: the loss shows nothing, the weights are NaN, and no checkpoint may hold them."""
    how = config(["model"], checkpoint_every=checkpoint_every)

    def poison(loss):
        return loss + (0 * loss).sqrt()

    with pytest.raises(TrainingDiverged, match="'model'"):
        train(on_call(build_vae(), 16, poison), four_points(), how, folder=tmp_path)
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_gradient_that_is_not_finite_in_the_last_step(tmp_path):
    game = on_call(build_vae(), 22, lambda loss: loss + (0 * loss).sqrt())
    with pytest.raises(TrainingDiverged, match="'model'"):
        train(game, four_points(), VAE_CONFIG)


def test_nan_that_the_mathematics_refuses(tmp_path):
    """The densities raise at NaN before there is a loss; the run says so as a divergence, with step and player."""

    class Poisoned(MLP):
        calls = 0

        def forward(self, x):
            Poisoned.calls += 1
            return super().forward(x) * (math.nan if Poisoned.calls > 9 else 1)

    torch.manual_seed(0)
    game = VAE(GaussianPosterior(Poisoned(4, [6], 4), 2), BernoulliDecoder(MLP(2, [6], 4)))
    with pytest.raises(TrainingDiverged, match=r"NaN \(mean: .*\) for player 'model' at step 9; last good checkpoint"):
        train(game, four_points(), VAE_CONFIG, folder=tmp_path)
    assert load_tensors(tmp_path / CHECKPOINT)[1]["step"] == 7


def test_a_learning_rate_that_explodes():
    how = config(["model"], steps=200, learning_rates={"model": 1e18})
    with pytest.raises(TrainingDiverged, match="'model' at step"):
        train(build_vae(), four_points(), how)


def test_a_wrong_call_is_not_taken_for_divergence():
    torch.manual_seed(0)
    wrong = VAE(GaussianPosterior(MLP(4, [6], 6), 3), BernoulliDecoder(MLP(2, [6], 4)))
    with pytest.raises(RuntimeError) as caught:
        train(wrong, four_points(), VAE_CONFIG)
    assert not isinstance(caught.value, TrainingDiverged)


# --- checkpoints that are not this run's ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build, data, how, named",
    [
        (build_avb, four_points, config(updates={"critic": 3}), r"config\.updates\.critic: 2 there, 3 here"),
        (build_avb, four_points, config(updates={"critic": 2}, seed=1), r"config\.seed: 0 there, 1 here"),
        (build_avb, four_points, config(updates={"critic": 2}, steps=50), r"config\.steps: 23 there, 50 here"),
        (build_avb, four_points, config(updates={"critic": 2}, average=0.5), r"config\.average: None there, 0.5 here"),
        (build_avb, grey_images, AVB_CONFIG, r"data\.digest: .*; data\.name: four_points there, grey here"),
        (build_vae, four_points, VAE_CONFIG, r"game: AVB there, VAE here"),
        (lambda: build_avb(objective=kl), four_points, AVB_CONFIG, r"network: "),
    ],
    ids=["updates", "seed", "steps", "average", "data", "game", "objective"],
)
def test_a_checkpoint_of_another_run(build, data, how, named, tmp_path):
    train(build_avb(), four_points(), AVB_CONFIG, folder=tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    game = build()
    untouched = weights(game)
    with pytest.raises(WrongCheckpoint, match=named) as caught:
        train(game, data(), how, folder=tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in game.state_dict().items())
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_checkpoint_that_is_older_than_a_setting(tmp_path):
    """It resumes where the setting has its default, and nowhere else."""
    unbroken = train(build_vae(), four_points(), VAE_CONFIG)
    with pytest.raises(Killed):
        train(on_call(build_vae(), 10, killed), four_points(), VAE_CONFIG, folder=tmp_path)
    tensors, about = load_tensors(tmp_path / CHECKPOINT)
    del about["identity"]["config"]["warm_up"]
    save_tensors(tmp_path / CHECKPOINT, tensors, about)
    with pytest.raises(WrongCheckpoint, match=r"config\.warm_up: 0.0 there, 0.5 here"):
        train(build_vae(), four_points(), config(["model"], warm_up=0.5), folder=tmp_path)
    assert timeless(train(build_vae(), four_points(), VAE_CONFIG, folder=tmp_path)) == timeless(unbroken)


def test_what_looks_the_same_and_is_not(tmp_path):
    """Equal shapes, another game: the prior taken off the critic, another activation, width, or number of noises."""
    torch.manual_seed(0)
    plain = build_avb()
    train(plain, four_points(), AVB_CONFIG, folder=tmp_path / "prior")
    shifted = build_avb()
    shifted.critic.subtract_log_prior = True
    with pytest.raises(WrongCheckpoint, match="network: "):
        train(shifted, four_points(), AVB_CONFIG, folder=tmp_path / "prior")
    for std in (0.5, 0.6):
        wide = VAE(GaussianPosterior(MLP(4, [6], 4), 2), GaussianDecoder(MLP(2, [6], 4), std=std))
        if std == 0.5:
            train(wide, four_points(), VAE_CONFIG, folder=tmp_path / "std")
    with pytest.raises(WrongCheckpoint, match="network: "):
        train(wide, four_points(), VAE_CONFIG, folder=tmp_path / "std")
    for extra in (1, 2):
        mixture = SemiImplicitPosterior(ConcatenationMLP((4, 1), [6], 4), latent_dim=2, noise_dim=1, extra=extra)
        game = IWAE(mixture, GaussianDecoder(MLP(2, [6], 4), std=0.5), k=1)
        if extra == 1:
            train(game, four_points(), VAE_CONFIG, folder=tmp_path / "extra")
    with pytest.raises(WrongCheckpoint, match="network: "):
        train(game, four_points(), VAE_CONFIG, folder=tmp_path / "extra")
    smooth = build_avb()
    smooth.decoder.network[1] = nn.Softplus()
    with pytest.raises(WrongCheckpoint, match="network: "):
        train(smooth, four_points(), AVB_CONFIG, folder=tmp_path / "prior")


def truncate(content):
    return content[: len(content) // 2]


def flip(content):
    return content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]


@pytest.mark.parametrize("spoil", [truncate, flip, lambda content: b"", lambda content: b"no checkpoint"])
def test_a_damaged_checkpoint_is_never_loaded(spoil, tmp_path):
    train(build_avb(), four_points(), AVB_CONFIG, folder=tmp_path)
    path = tmp_path / CHECKPOINT
    path.write_bytes(spoil(path.read_bytes()))
    game = build_avb()
    untouched = weights(game)
    with pytest.raises(CorruptFile, match=CHECKPOINT):
        train(game, four_points(), AVB_CONFIG, folder=tmp_path)
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in game.state_dict().items())


def test_damaged_metrics_are_named(tmp_path):
    train(build_avb(), four_points(), AVB_CONFIG, folder=tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "sec')
    with pytest.raises(CorruptFile, match=r"metrics\.jsonl"):
        train(build_avb(), four_points(), AVB_CONFIG, folder=tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=f"cannot write into {tmp_path / 'file'}"):
        train(build_avb(), four_points(), AVB_CONFIG, folder=tmp_path / "file" / "run")


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"steps": 0}, "steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"log_every": 0}, "log_every"),
        ({"checkpoint_every": -1}, "checkpoint_every"),
        ({"learning_rates": {"model": 0.0}}, r"learning_rates\['model'\]"),
        ({"learning_rates": {"model": math.nan}}, r"learning_rates\['model'\]"),
        ({"updates": {"critic": 0}}, r"updates\['critic'\]"),
        ({"updates": {"critic": 1.5}}, r"updates\['critic'\]"),
        ({"schedule": "linear"}, "schedule"),
        ({"simultaneous": True, "updates": {"critic": 2}}, "updates"),
        ({"average": 1.0}, "average"),
        ({"average": -0.1}, "average"),
        ({"warm_up": 1.0}, "warm_up"),
        ({"warm_up": -0.1}, "warm_up"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"seed": True}, "seed"),
        ({"steps": True}, "steps"),
        ({"learning_rates": {"model": "a"}}, r"learning_rates\['model'\]"),
        ({"learning_rates": {"model": math.inf}}, r"learning_rates\['model'\]"),
        ({"updates": {"critic": True}}, r"updates\['critic'\]"),
        ({"betas": [0.5]}, "betas"),
        ({"betas": 3}, "betas"),
        ({"betas": (0.5, 1.0)}, "betas"),
        ({"betas": ["a", "b"]}, "betas"),
        ({"simultaneous": 3}, "simultaneous"),
        ({"warm_up": "a"}, "warm_up"),
        ({"average": "x"}, "average"),
    ],
)
def test_settings_that_make_no_sense(changes, named):
    with pytest.raises(ValueError, match=f"^{named}: "):
        config(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rates": {"critic": 1e-3}},
        {"learning_rates": {"critic": 1e-3, "model": 1e-3, "encoder": 1e-3}},
        {"updates": {"encoder": 2}},
    ],
    ids=["missing", "unknown", "unknown-updates"],
)
def test_every_player_needs_a_learning_rate_and_nobody_else(changes):
    with pytest.raises(ValueError, match=r"the players are \['critic', 'model'\], got"):
        train(build_avb(), four_points(), config(**changes))


# --- what a run leaves alone ------------------------------------------------------------------------------------------


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(3)
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    game = build_avb()
    torch.random.set_rng_state(state)
    train(game, grey_images(), AVB_CONFIG)
    assert torch.equal(torch.random.get_rng_state(), state)
    with pytest.raises(Killed):
        train(on_call(game, 3, killed), grey_images(), AVB_CONFIG)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_the_callers_random_state_does_not_matter():
    first, second = build_avb(), build_avb()
    torch.manual_seed(1)
    expected = train(first, grey_images(), AVB_CONFIG)
    torch.manual_seed(2)
    assert timeless(train(second, grey_images(), AVB_CONFIG)) == timeless(expected)
    assert same_weights(first, second)


def test_the_seed_does():
    first, second = build_avb(), build_avb()
    train(first, grey_images(), AVB_CONFIG)
    train(second, grey_images(), config(updates={"critic": 2}, seed=1))
    assert not same_weights(first, second)


@pytest.mark.parametrize("average", [None, 0.9])
def test_watching_changes_nothing(average):
    how = config(updates={"critic": 2}, average=average)

    def monitor(game):
        return {"noise": float(torch.randn(()))}

    watched, alone = build_avb(), build_avb()
    metrics = train(watched, grey_images(), how, monitor=monitor)
    expected = train(alone, grey_images(), how)
    assert same_weights(watched, alone)
    assert [{key: value for key, value in row.items() if key != "noise"} for row in timeless(metrics)] == timeless(
        expected
    )


# --- what a run does --------------------------------------------------------------------------------------------------


def test_logged_losses_are_means_since_the_last_log():
    how = config(updates={"critic": 2}, log_every=1)
    fine = train(build_avb(), grey_images(), how)
    coarse = train(build_avb(), grey_images(), AVB_CONFIG)
    for row, steps in zip(coarse, [(1, 5), (6, 10), (11, 15), (16, 20), (21, 23)], strict=True):
        assert row["step"] == steps[1]
        for player in ("critic_loss", "model_loss"):
            expected = np.mean([single[player] for single in fine[steps[0] - 1 : steps[1]]])
            assert row[player] == pytest.approx(expected, rel=1e-12)


def test_averaged_weights_are_the_moving_average():
    raw = []

    def collect(game):
        raw.append(torch.cat([tensor.double().flatten() for tensor in game.state_dict().values()]))
        return {}

    train(build_vae(), four_points(), config(["model"], log_every=1), monitor=collect)
    expected = raw[0]
    for later in raw[1:]:
        expected = 0.9 * expected + 0.1 * later
    game, raw[:] = build_vae(), []
    train(game, four_points(), config(["model"], log_every=1, average=0.9), monitor=collect)
    averaged = torch.cat([tensor.double().flatten() for tensor in game.state_dict().values()])
    torch.testing.assert_close(averaged, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(raw[-1], averaged)


def test_learning_rates_follow_a_cosine(monkeypatch):
    seen, step = {"critic": [], "model": []}, torch.optim.Adam.step
    game = build_avb()
    owners = {id(parameter): player for player in game.players for parameter in game.parameters_of(player)}

    def recording_step(optimizer, *arguments, **options):
        (group,) = optimizer.param_groups
        assert tuple(group["betas"]) == (0.5, 0.999)
        seen[owners[id(group["params"][0])]].append(group["lr"])
        return step(optimizer, *arguments, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", recording_step)
    how = config(updates={"critic": 2}, schedule="cosine", learning_rates={"critic": 4e-3, "model": 1e-3})
    train(game, four_points(), how)
    expected = [1e-3 * 0.5 * (1 + math.cos(math.pi * step / 23)) for step in range(23)]
    assert seen["model"] == pytest.approx(expected, rel=1e-12)
    assert seen["critic"] == pytest.approx(np.repeat(expected, 2) * 4, rel=1e-12)


def build_iwae(k=1):
    torch.manual_seed(0)
    return IWAE(GaussianPosterior(MLP(4, [6], 4), 2), BernoulliDecoder(MLP(2, [6], 4)), k)


@pytest.mark.parametrize("build", [build_vae, build_iwae, build_avb])
def test_the_weight_of_the_kl_rises_while_a_training_warms_up(build):
    seen = []

    def weigh(game):
        """The share of the KL in the loss, found by weighing it as it is weighed now, not at all, and whole."""
        kept, found = game.kl_weight, []
        for weight in (kept, 0.0, 1.0):
            game.kl_weight = weight
            torch.manual_seed(0)
            found.append(game.model_loss(four_points().batch(torch.arange(4))).item())
        game.kl_weight = kept
        seen.append((found[0] - found[1]) / (found[2] - found[1]))
        return {}

    game = build()
    how = config(list(game.players), steps=20, warm_up=0.5, log_every=1)
    train(game, four_points(), how, monitor=weigh)
    assert seen == pytest.approx([*(step / 10 for step in range(10)), *[1.0] * 10], abs=1e-3)
    assert game.kl_weight == 1


def test_without_a_kl_nothing_can_warm_up():
    game = GAN(MLP(2, [6], 4), MLP(4, [6], 1), latent_dim=2)
    with pytest.raises(ValueError, match="^warm_up: a GAN has no KL"):
        train(game, four_points(), config(["discriminator", "generator"], warm_up=0.5))


def test_a_vae_learns_the_four_points():
    """Below the least loss that is possible without a code: four independent pixels, each lit with probability ¼."""
    metrics = train(build_vae(), four_points(), config(["model"], steps=300, batch_size=64, log_every=100))
    assert metrics[-1]["model_loss"] < -4 * (0.25 * math.log(0.25) + 0.75 * math.log(0.75)) < 4 * math.log(2)


# --- minibatches ------------------------------------------------------------------------------------------------------


@settings(derandomize=True, database=None, deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_is_a_permutation(n, batch_size, epoch, seed):
    batches_per_epoch = max(1, n // batch_size)
    draws = [batch_indices(n, batch_size, epoch * batches_per_epoch + i, seed) for i in range(batches_per_epoch)]
    assert all(len(batch) == batch_size for batch in draws)
    counts = torch.bincount(torch.cat(draws), minlength=n)
    assert len(counts) == n
    if batch_size < n:
        assert counts.max() == 1
    else:
        assert counts.max() - counts.min() <= 1 and counts.min() == batch_size // n


def test_batches_are_a_pure_function_of_their_arguments():
    first = [batch_indices(20, 6, draw, 3).tolist() for draw in range(10)]
    backwards = [batch_indices(20, 6, draw, 3).tolist() for draw in reversed(range(10))]
    assert first == backwards[::-1]
    epochs = [sorted(itertools.chain(*first[i : i + 3])) for i in range(0, 9, 3)]
    assert first[:3] != first[3:6] and all(len(set(epoch)) == 18 for epoch in epochs)
    assert first != [batch_indices(20, 6, draw, 4).tolist() for draw in range(10)]


def test_every_point_is_drawn_equally_often():
    counts = torch.bincount(torch.cat([batch_indices(10, 3, draw, 0) for draw in range(3000)]), minlength=10)
    # 1,000 epochs, each of which leaves one point out: 900 expected of each, standard deviation √(1000 · 0.1 · 0.9).
    assert ((counts - 900).abs() < 5 * math.sqrt(90)).all()


# --- several processes ------------------------------------------------------------------------------------------------

TWO_PROCESSES = """
import sys
from pathlib import Path
import torch
from lightning_fabric import Fabric
from torch import nn
from avb_core._validate import NotANumber
from avb_core.data import Images
from avb_core.games import AVB, VAE
from avb_core.games.game import Game
from avb_core.runs import save_tensors, write_json
from avb_core.training import TrainingConfig, TrainingDiverged, train
sys.path.insert(0, str(Path(sys.argv[1]) / "tests"))

class Reconstruction(Game):
    '''No noise anywhere, so that one process and two compute the same up to rounding.'''
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 2), nn.Linear(2, 4)
    @property
    def players(self):
        return {"encoder": (self.encoder,), "decoder": (self.decoder,)}
    def encoder_loss(self, x):
        return (self.decoder(self.encoder(x)) - x).square().sum(-1).mean()
    def decoder_loss(self, x):
        return self.encoder_loss(x) + self.decoder.weight.square().sum()

def main(out, devices):
    from test_training import build_avb
    fabric = Fabric(accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto")
    fabric.launch()
    generator = torch.Generator().manual_seed(7)
    pixels = torch.randint(0, 256, (50, 4), generator=generator).to(torch.uint8)
    for name, how in (("alternating", {"updates": {"encoder": 2}}), ("simultaneous", {"simultaneous": True})):
        torch.manual_seed(fabric.global_rank)  # the ranks begin apart: rank 0's weights count
        game = Reconstruction()
        rates = {"encoder": 1e-2, "decoder": 1e-2}
        how = TrainingConfig(20, 8, rates, average=0.9, log_every=5, **how)
        metrics = train(game, Images("grey", pixels, (2, 2)), how, folder=out / name / str(devices), fabric=fabric)
        save_tensors(out / f"{name}-{devices}-{fabric.global_rank}", game.state_dict(), {"metrics": metrics})
    game = build_avb(seed=fabric.global_rank)
    data = Images("grey", pixels, (2, 2), binarization="dynamic")
    metrics = train(game, data, TrainingConfig(10, 8, {"critic": 1e-2, "model": 1e-2}, log_every=5), fabric=fabric)
    save_tensors(out / f"avb-{devices}-{fabric.global_rank}", game.state_dict(), {"metrics": metrics})
    try:
        train(build_avb(), data, TrainingConfig(10, 9, {"critic": 1e-2, "model": 1e-2}), fabric=fabric)
    except ValueError as error:
        write_json(out / f"odd-{devices}-{fabric.global_rank}.json", str(error))
    if devices == 1:
        return

    class Fails(Reconstruction):
        '''NaN in one process alone.'''
        moves = 0
        def encoder_loss(self, x):
            self.moves += 1
            if fabric.global_rank == 1 and self.moves > 12:  # a decoder's loss is an encoder's too
                raise NotANumber("mean: expected numbers")
            return super().encoder_loss(x)

    for every in (5, 4):  # whoever looks first: the log, or the checkpoint
        how = TrainingConfig(20, 8, rates, log_every=9 - every, checkpoint_every=every)
        try:
            train(Fails(), Images("grey", pixels, (2, 2)), how, folder=out / f"fails-{every}", fabric=fabric)
        except TrainingDiverged as error:
            write_json(out / f"fails-{every}-{fabric.global_rank}.json", str(error))

if __name__ == "__main__":
    main(Path(sys.argv[2]), int(sys.argv[3]))
"""


def test_two_processes_agree_with_each_other_and_with_one(tmp_path):
    script = tmp_path / "two_processes.py"
    script.write_text(TWO_PROCESSES)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for devices in ("1", "2"):
        process = subprocess.run(
            [sys.executable, str(script), str(ROOT), str(tmp_path), devices],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert process.returncode == 0, process.stderr
    for name in ("alternating", "simultaneous"):
        (one, about_one), (first, about_first), (second, about_second) = (
            load_tensors(tmp_path / f"{name}-{which}") for which in ("1-0", "2-0", "2-1")
        )
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert timeless(about_first["metrics"]) == timeless(about_second["metrics"])
        for key in one:
            torch.testing.assert_close(first[key], one[key], rtol=1e-4, atol=1e-5)
        for row, expected in zip(about_first["metrics"], about_one["metrics"], strict=True):
            assert row["encoder_loss"] == pytest.approx(expected["encoder_loss"], rel=1e-4)
    first, second = (load_tensors(tmp_path / f"avb-2-{rank}") for rank in (0, 1))
    assert all(torch.equal(first[0][key], second[0][key]) for key in first[0])
    assert timeless(first[1]["metrics"]) == timeless(second[1]["metrics"])
    assert json.loads((tmp_path / "odd-2-1.json").read_text()).startswith("batch_size: expected a multiple of the 2")
    # Where one process meets NaN, both stop there and name it.
    for every in (4, 5):
        for rank in (0, 1):
            told = json.loads((tmp_path / f"fails-{every}-{rank}.json").read_text())
            assert told == (
                "the loss is nan for player 'encoder' at step 6; last good checkpoint: "
                f"{tmp_path / f'fails-{every}' / CHECKPOINT}"
            )
        tensors, about = load_tensors(tmp_path / f"fails-{every}" / CHECKPOINT)
        assert about["step"] == every and all(tensor.isfinite().all() for tensor in tensors.values())
