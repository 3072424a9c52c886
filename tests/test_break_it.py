"""The gallery of bugs keeps its word: each bug, put into the library, fails the test that the chapter names beside it."""

import ast
import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

import jupytext
import pytest
import torch
from torch import nn

from avb_core import bounds, divergences, gaussian
from avb_core.critics import InnerProductCritic, PairCritic
from avb_core.data import four_points
from avb_core.decoders import BernoulliDecoder, GaussianDecoder
from avb_core.evaluation import log_likelihood_quadrature
from avb_core.games import AVB, AdaptiveContrastAVB, vae
from avb_core.games.game import Game
from avb_core.networks import MLP, ConcatenationMLP
from avb_core.posteriors import GaussianPosterior, ImplicitPosterior
from tools.book import ROOT

CHAPTER = ROOT / "chapters" / "19_break_it.md"
# A row names a file of this folder and a test in it, or a function of the chapter and the section where it stands.
ROW = re.compile(
    r"^\| \d+ \| (?P<bug>[^|]+) \| [^|]+ \| (?:`(?P<file>\w+\.py)` )?`(?P<test>\w+)`(?P<where>, section \d+)? \|$",
    re.MULTILINE,
)
GALLERY = {
    match["bug"]: f"tests/{match['file']}::{match['test']}" if match["file"] else match["test"]
    for match in ROW.finditer(CHAPTER.read_text(encoding="utf-8"))
}
DIAGNOSTICS = {bug: test for bug, test in GALLERY.items() if "::" not in test}
Patch = pytest.MonkeyPatch


# --- the bugs, put into the library -----------------------------------------------------------------------------------


def a_mean_over_pixels(patch: Patch) -> None:
    right = GaussianDecoder.log_prob
    patch.setattr(GaussianDecoder, "log_prob", lambda self, x, z: right(self, x, z) / x.shape[-1])


def the_encoder_in_the_critic_s_loss(patch: Patch) -> None:
    def critic_loss(self: AVB, x: torch.Tensor) -> torch.Tensor:
        z = self.posterior.sample(x)
        on_q, on_p = self.critic(x, torch.stack([z, torch.randn_like(z)]))
        return self.objective.critic_loss(on_q, on_p)

    patch.setattr(AVB, "critic_loss", critic_loss)


def the_critic_in_the_model_s_loss(patch: Patch) -> None:
    """One optimizer for everybody."""
    patch.setattr(Game, "parameters_of", lambda self, player: [p for p in self.parameters() if p.requires_grad])


def a_detach_too_many(patch: Patch) -> None:
    def model_loss(self: AVB, x: torch.Tensor) -> torch.Tensor:
        z = self.posterior.sample(x).detach()
        return (self.log_ratio(x, z) - self.decoder.log_prob(x, z)).mean()

    patch.setattr(AVB, "model_loss", model_loss)


def labels_swapped(patch: Patch) -> None:
    def critic_loss(self: AVB, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            z = self.posterior.sample(x)
        on_q, on_p = self.critic(x, torch.stack([z, torch.randn_like(z)]))
        return self.objective.critic_loss(on_p, on_q)

    patch.setattr(AVB, "critic_loss", critic_loss)


def replace_code(patch: Patch, function: Callable, broken: Callable) -> None:
    """Break a function for everybody, those who imported it by name included."""
    patch.setattr(function, "__code__", broken.__code__)


def probabilities_for_logits(patch: Patch) -> None:
    replace_code(patch, divergences.logistic.loss_on_q, lambda t: -torch.log(torch.sigmoid(t) + 1e-8))
    replace_code(patch, divergences.logistic.loss_on_p, lambda t: -torch.log(1 - torch.sigmoid(t) + 1e-8))


def a_variance_for_a_standard_deviation(patch: Patch) -> None:
    patch.setattr(vae, "kl_standard_normal", lambda mean, std: gaussian.kl_standard_normal(mean, std.square()))


def one_noise_for_all_samples(patch: Patch) -> None:
    def sample_with_log_prob(self, x, shape=()):
        mean, std = self(x)
        z = mean + std * torch.randn_like(mean).expand(*shape, *mean.shape)
        return z, gaussian.log_prob_diagonal(z, mean, std)

    patch.setattr(GaussianPosterior, "sample_with_log_prob", sample_with_log_prob)


def a_mean_of_logs(patch: Patch) -> None:
    replace_code(patch, bounds.iwlb, lambda log_weights: log_weights.mean(0))


def a_logarithm_undone(patch: Patch) -> None:
    replace_code(patch, bounds.iwlb, lambda log_weights: log_weights.exp().mean(0).log())


def a_contrast_held_still_in_one_place(patch: Patch) -> None:
    def normalized(self, x, z, of_image=None):
        mean, std = self.posterior.moments(x, of_image)
        u = (z - mean) / std
        return u, gaussian.log_prob_standard_normal(u) - std.detach().log().sum(-1)

    patch.setattr(AdaptiveContrastAVB, "normalized", normalized)


# With the parameters of the test for which the bug is put in, where it has some.
BUGS: dict[str, tuple[Callable[[Patch], None], str]] = {
    "a mean over pixels": (a_mean_over_pixels, ""),
    "the encoder in the critic's loss": (the_encoder_in_the_critic_s_loss, "[build_avb]"),
    "the critic in the model's loss": (the_critic_in_the_model_s_loss, "[AVB]"),
    "a detach too many": (a_detach_too_many, "[alternating-AVB]"),
    "labels swapped": (labels_swapped, "[0]"),
    "probabilities for logits": (probabilities_for_logits, ""),
    "a variance for a standard deviation": (a_variance_for_a_standard_deviation, ""),
    "one noise for all samples": (one_noise_for_all_samples, ""),
    "a mean of logs": (a_mean_of_logs, "[0]"),
    "a logarithm undone": (a_logarithm_undone, ""),
    "a contrast held still in one place": (a_contrast_held_still_in_one_place, "[diagonal]"),
}


class Outcomes:
    """A plugin of pytest that records how each test ended."""

    def __init__(self) -> None:
        self.raised: list[type[BaseException] | None] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo) -> Iterator[Any]:
        report = yield
        if call.when == "call" or call.excinfo is not None:
            self.raised.append(call.excinfo.type if call.excinfo else None)
        return report


def outcomes(test: str) -> list[type[BaseException] | None]:
    """What each of the named tests raised, None where it passed, in a run of pytest within this one."""
    recorder = Outcomes()
    quiet = ["-q", "--no-header", "--no-summary", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:benchmark"]
    pytest.main([str(ROOT / test), f"--rootdir={ROOT}", f"--config-file={ROOT / 'pyproject.toml'}", *quiet], [recorder])
    assert recorder.raised, f"{test} does not exist"
    return recorder.raised


def test_the_gallery_lists_the_bugs_that_are_tried_here():
    rows = re.findall(r"^\| \d+ \|", CHAPTER.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(GALLERY) == len(rows) == 14, "a row of the table could not be read"
    assert set(GALLERY) == set(BUGS) | set(DIAGNOSTICS)
    assert set(DIAGNOSTICS.values()) == {"lag", "overclaim", "looks_around"}


@pytest.mark.parametrize("bug", BUGS)
def test_the_named_test_fails_with_the_bug_and_passes_without(bug, monkeypatch):
    inject, parameters = BUGS[bug]
    test = GALLERY[bug] + parameters
    assert set(outcomes(test)) == {None}, f"{test} fails on the library as it is"
    with monkeypatch.context() as patch:
        inject(patch)
        raised = outcomes(test)
    caught = [error for error in raised if error is not None]
    assert caught, f"{test} does not see {bug}"
    assert all(issubclass(error, AssertionError) for error in caught), f"{test} stumbles over {bug}: {caught}"


# --- the chapter's own functions, on a right and a broken critic ------------------------------------------------------


def of_chapter(name: str) -> Callable[..., float]:
    """A function of the chapter, of ten lines at most, with what it calls."""
    cells = [cell.source for cell in jupytext.read(CHAPTER).cells if cell.cell_type == "code"]
    defined = {node.name: node for cell in cells for node in ast.parse(cell).body if isinstance(node, ast.FunctionDef)}
    assert (defined[name].end_lineno or 0) - defined[name].lineno < 10
    names: dict[str, Any] = {"copy": copy, "torch": torch, "log_likelihood_quadrature": log_likelihood_quadrature}
    for function in {"reported", name} & set(defined):
        exec(ast.unparse(defined[function]), names)
    return names[name]


@pytest.fixture
def game():
    torch.manual_seed(0)
    posterior = ImplicitPosterior(ConcatenationMLP((4, 2), [32], 2), 2, noise_dim=2)
    return AVB(posterior, BernoulliDecoder(MLP(2, [32], 4)), InnerProductCritic(MLP(4, [32], 8), MLP(2, [32], 8)))


def test_lag_tells_a_critic_that_has_not_kept_up(game):
    lag = of_chapter("lag")
    x = four_points().batch(torch.arange(4)).repeat(64, 1)
    with torch.no_grad():
        game.posterior.network.mlp[-1].bias += 2  # the codes have moved, and the critic has not seen it
    before = [parameter.detach().clone() for parameter in game.parameters()]
    assert lag(game, x, steps=300, rate=1e-2) > 0.5
    assert all(torch.equal(old, new) for old, new in zip(before, game.parameters(), strict=True))
    adam = torch.optim.Adam(game.parameters_of("critic"), lr=1e-2)
    for _ in range(600):
        adam.zero_grad()
        game.critic_loss(x).backward()
        adam.step()
    assert lag(game, x, steps=300, rate=1e-2) < 0.1


def test_overclaim_tells_a_critic_that_flatters(game):
    overclaim = of_chapter("overclaim")
    x = four_points().batch(torch.arange(4)).repeat(64, 1)
    honest = overclaim(game, x)
    assert abs(honest) < 0.2  # nothing has been learned, and nothing is claimed
    links = game.critic.links
    game.critic.links = lambda x, z: links(x, z) - 1
    assert overclaim(game, x) == pytest.approx(honest + 1, abs=0.1)


@pytest.mark.parametrize("normalized", [False, True], ids=["plain", "batch norm"])
def test_looks_around_tells_a_critic_that_judges_batches(normalized):
    looks_around = of_chapter("looks_around")
    torch.manual_seed(0)

    class Side(nn.Module):
        def __init__(self):
            super().__init__()
            norm = nn.BatchNorm1d(16) if normalized else nn.Identity()
            self.layers = nn.Sequential(nn.Linear(2, 16), norm, nn.ReLU(), nn.Linear(16, 1))

        def forward(self, x, z):
            return self.layers(torch.cat([x, z], -1))

    x = torch.randn(64, 1)
    change = looks_around(PairCritic(Side()), x, x + 3)
    assert change > 0.1 if normalized else change < 1e-5
