"""figures/claims.json says of every published number what the stored runs say, by rules that made-up runs put to the test."""

import json
import math
import re
import shlex
import statistics
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avb_core import recipes
from avb_core.runs import CorruptFile, read_json, write_json
from avb_core.training import TrainingConfig
from tools.book import CHAPTERS, ROOT
from tools.claims import (
    ANY_RUN,
    FIGURES,
    TARGET,
    VERDICTS,
    BadClaim,
    Claim,
    Run,
    command,
    judge,
    judged,
    margin,
    median_stderr,
    other_runs,
    read_claims,
    row,
    runs_for,
)

CLAIMS = read_claims()


def test_the_committed_file_is_what_the_committed_runs_say():
    assert json.loads(TARGET.read_text(encoding="utf-8")) == judged(), "run make claims"


def test_every_row_says_what_the_design_asks():
    for entry in judged():
        wanted = {"claim", "published", "source", "ours", "stderr", "seeds", "device", "run", "verdict"}
        assert wanted <= entry.keys()
        assert entry["verdict"] in VERDICTS
        assert (entry["verdict"] == "not run") == (entry["ours"] is None)
        for folder in [entry["run"], *entry["runs"]]:
            assert folder is None or (ROOT / folder).is_dir()


def test_ids_are_unique_and_as_announced():
    ids = [claim.id for claim in CLAIMS]
    assert len(set(ids)) == len(ids)
    assert {"table1.avb.log_likelihood", "mnist.conv32.avb_ac.log_likelihood"} <= set(ids)
    assert all(re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+){2,3}", id) for id in ids)


def test_every_claim_has_a_source_and_says_how_it_was_checked():
    keys = set(re.findall(r"^@\w+\{(\S+),", (CHAPTERS / "references.bib").read_text(encoding="utf-8"), re.MULTILINE))
    for claim in CLAIMS:
        assert claim.source in keys, f"{claim.id}: {claim.source} is not in references.bib"
        assert claim.where and claim.checked and claim.what and claim.unit


def test_table_1_is_as_printed():
    """The eight numbers of Mescheder et al., table 1, copied a second time."""
    printed = {claim.id: float(claim.printed) for claim in CLAIMS if claim.id.startswith("table1.")}
    assert printed == {
        "table1.optimum.log_likelihood": -1.386,
        "table1.vae.log_likelihood": -1.593,
        "table1.avb.log_likelihood": -1.462,
        "table1.vae.reconstruction": 0.091,
        "table1.avb.reconstruction": 0.021,
        "table1.vae.elbo": -1.700,
        "table1.avb.elbo": -1.483,
        "table1.vae.kl": 0.175,
        "table1.avb.kl": 0.028,
    }


def test_every_stored_run_answers_a_number_or_is_listed_besides():
    listed = {run.folder for runs in other_runs().values() for run in runs}
    answered = {folder.removeprefix("figures/") for entry in judged() for folder in entry["runs"]}
    assert not listed & answered
    stored = [path.parent for path in FIGURES.glob("*/*/result.json") if set(ANY_RUN) <= set(read_json(path))]
    assert listed | answered == {folder.relative_to(FIGURES).as_posix() for folder in stored}


def test_mnist_is_judged_by_a_log_likelihood_of_the_full_networks():
    profiles = tomllib.loads(recipes.BOOK.read_text(encoding="utf-8"))["profiles"]
    schedule = {"steps", "learning_rates", "initialization", "log_every", "checkpoint_every"}
    of_mnist = [claim for claim in CLAIMS if claim.id.startswith("mnist.")]
    assert of_mnist
    for claim in of_mnist:
        # The released code's approximate ELBO is a critic's, and held against a critic's: no side of it is better.
        critic = claim.id == "mnist.conv32_simple.avb_ac.elbo"
        assert (claim.quantity, claim.better) == (
            ("elbo_of_critic", "equal") if critic else ("log_likelihood", "higher")
        )
        assert {"data.name", "profile", "game", "settings.latent_dim"} <= claim.match.keys()
        assert claim.match["profile"] in ("cpu", "full", "long") and claim.match["data.name"] == "mnist"
        if claim.match["profile"] == "cpu":  # the same networks for fewer steps
            short, full = (
                profiles[name][Path(claim.runs).parent.name][claim.match["game"]] for name in ("cpu", "full")
            )
            assert {key for key in short.keys() | full.keys() if short.get(key) != full.get(key)} <= schedule
        assert Path(claim.runs).name == f"{claim.match['game']}-*"
        assert claim.match.get("settings.architecture") == ("convolutional" if "conv" in claim.id else None)


@pytest.mark.parametrize("experiment", ["mnist", "mnist_conv8"])
def test_a_run_on_mnist_answers_whatever_its_experiment_is_called(tmp_path, experiment):
    of_vae = next(claim for claim in CLAIMS if claim.id == "mnist.conv8.vae.log_likelihood")
    settings = {"architecture": "convolutional", "latent_dim": 8}
    measured = {
        "ais": {"value": -80.0, "stderr": 5.0},
        "ais_gap": {"value": 0.1, "stderr": 0.1},
        "log_likelihood": {"value": -90.5, "stderr": 0.2},
    }
    for seed, game in enumerate(("vae", "avb")):
        path = tmp_path / "mnist_conv8" / f"vae-{seed}" / "result.json"
        about = {"experiment": experiment, "game": game, "profile": "cpu"}
        made = store(tmp_path, seed, 0.0, **about, settings=settings, measured=measured)
        path.parent.mkdir(parents=True)
        made.rename(path)
    entry = row(of_vae, tmp_path)
    assert (entry["ours"], entry["margin"], entry["verdict"]) == (-90.5, 0.9, "reproduced")
    assert entry["left_out"] == ["mnist_conv8/vae-1: game 'avb'"]


def test_runs_of_no_recipe_are_listed_with_the_benchmark_that_made_them(tmp_path):
    """NUTS has no profile and measures bare numbers; what is no run at all is passed over."""
    nuts = {
        "experiment": "ring",
        "game": "nuts",
        "seed": 1,
        "settings": {"warm_up": 500},
        "measured": {"energy_distance": 0.01, "divergences": 0},
        "provenance": {"commit": "abc", "device": "a machine"},
    }
    write_json(tmp_path / "ring" / "nuts-1" / "result.json", nuts)
    write_json(tmp_path / "ring" / "nuts-0" / "result.json", nuts | {"seed": 0})
    write_json(tmp_path / "ring" / "other" / "result.json", {"seconds": 3})
    store(tmp_path, 0, -1.0)
    found = other_runs(tmp_path)
    assert {name: [run.seed for run in runs] for name, runs in found.items()} == {"made/vae": [0], "ring/nuts": [0, 1]}
    assert found["ring/nuts"][0].measured("energy_distance") == (0.01, None)
    with pytest.raises(BadClaim, match="no divergences"):  # a count
        found["ring/nuts"][0].measured("divergences")
    assert command(found["ring/nuts"][0]) == "python benchmarks/nuts.py figures"
    assert (ROOT / "benchmarks" / "nuts.py").exists()


def test_the_line_that_computes_a_run_again_gives_its_settings():
    """For the runs that answer no published number: theirs differ from book.toml."""
    for runs in other_runs().values():
        for run in (run for run in runs if "profile" in run.result):
            words = shlex.split(command(run))
            overrides = tomllib.loads("\n".join(words[i + 1] for i, word in enumerate(words) if word == "--set"))
            experiment, game, profile = (run.result[key] for key in ("experiment", "game", "profile"))
            settings = dict(recipes.recipe(experiment, game, profile, overrides).settings)
            assert {key: settings[key] for key in run.result["settings"]} == run.result["settings"]
            later = recipes.TRAINING_FIELDS & (settings.keys() - run.result["settings"].keys())
            assert all(settings[key] == getattr(TrainingConfig(1, 1, {}), key) for key in later)
            assert words[:5] == ["python", "-m", "avb_core", "train", experiment]


# The rules, on made-up runs


def claim(**fields: Any) -> Claim:
    made: dict[str, Any] = {
        "id": "made.up.number",
        "title": "t",
        "what": "w",
        "source": "s",
        "where": "w",
        "checked": "c",
        "published": "-1.50",
        "unit": "nats",
        "better": "higher",
        "runs": "made/vae-*",
        "match": {"profile": "full", "data.name": "mnist"},
        "quantity": "log_likelihood",
    }
    return Claim(**made | fields)


def store(figures: Path, seed: int, value: float, stderr: float | None = None, **fields: Any) -> Path:
    """One made-up run; returns its result.json."""
    made = {
        "experiment": "mnist",
        "game": "vae",
        "profile": "full",
        "seed": seed,
        "data": {"name": "mnist"},
        "settings": {},
        "measured": {"images": 10, "log_likelihood": {"value": value} | ({} if stderr is None else {"stderr": stderr})},
        "provenance": {"commit": "abc", "device": "a machine"},
    }
    path = figures / "made" / f"vae-{seed}" / "result.json"
    write_json(path, made | fields)
    return path


@pytest.mark.parametrize(
    "better, ours, verdict",
    [
        ("higher", -1.5, "reproduced"),
        ("higher", -1.4, "reproduced"),
        ("higher", -1.6, "reproduced"),
        ("higher", -1.2, "bettered"),
        ("higher", -1.8, "not reached"),
        ("lower", -1.2, "not reached"),
        ("lower", -1.8, "bettered"),
        ("equal", -1.4, "reproduced"),
        ("equal", -1.2, "not reached"),
        ("equal", -1.8, "not reached"),
    ],
)
def test_verdicts(better, ours, verdict):
    assert judge(claim(better=better), ours, within=0.2) == verdict


def test_nothing_stored_is_not_run(tmp_path):
    entry = row(claim(), tmp_path)
    assert entry["verdict"] == "not run"
    assert entry["ours"] is entry["stderr"] is entry["device"] is entry["run"] is None
    assert entry["seeds"] == entry["runs"] == []


def test_ours_is_the_median_over_seeds(tmp_path):
    for seed, value in enumerate((-1.0, -1.1, -9.0)):
        store(tmp_path, seed, value)
    entry = row(claim(), tmp_path)
    assert (entry["ours"], entry["seeds"], entry["device"], entry["commits"]) == (-1.1, [0, 1, 2], "a machine", ["abc"])
    assert (entry["run"], entry["runs"][0]) == ("figures/made", "figures/made/vae-0")
    assert entry["stderr"] == pytest.approx(
        math.sqrt(math.pi / 2) * statistics.stdev((-1.0, -1.1, -9.0)) / math.sqrt(3)
    )


def test_seeds_are_sorted_as_numbers(tmp_path):
    for seed in (10, 9, 2):
        store(tmp_path, seed, float(seed))
    assert row(claim(), tmp_path)["values"] == [2.0, 9.0, 10.0]


@pytest.mark.parametrize("value, verdict", [(-1.504, "reproduced"), (-1.49, "bettered"), (-1.52, "not reached")])
def test_one_seed_without_an_error_has_the_rounding_alone(tmp_path, value, verdict):
    store(tmp_path, 0, value)
    entry = row(claim(), tmp_path)
    assert (entry["verdict"], entry["stderr"], entry["margin"]) == (verdict, None, 0.005)


def test_the_margin_adds_up():
    values = [-1.0, -1.2, -1.1]
    over_seeds = 4.302653 * median_stderr(values)  # Student's 97.5% quantile for 2 degrees of freedom
    assert margin(claim(), values, 0.0) == pytest.approx(0.005 + over_seeds)
    assert margin(claim(tolerance=0.5, published_stderr=0.4), [-1.0], 0.3) == pytest.approx(0.5 + math.hypot(0.6, 0.8))
    assert margin(claim(published="≈ -82"), [-1.0], 0.0) == 0.5


def test_the_median_s_standard_error_is_not_too_small():
    """sqrt(pi/2) is the factor of many seeds; for few it is a little too large."""
    rng = np.random.default_rng(0)
    for n in (3, 5, 9):
        spread = np.median(rng.standard_normal((200_000, n)), axis=1).std()
        assert 0.85 < spread / math.sqrt(math.pi / 2 / n) < 1


@pytest.mark.parametrize(
    "fields, why",
    [
        ({"profile": "cpu"}, "profile 'cpu'"),
        ({"data": {"name": "digits"}}, "data.name 'digits'"),
        ({"data": {}}, "None"),
    ],
)
def test_another_profile_or_data_set_does_not_answer(tmp_path, fields, why):
    store(tmp_path, 0, -1.0)
    store(tmp_path, 1, -7.0, **fields)
    entry = row(claim(), tmp_path)
    assert (entry["ours"], entry["seeds"]) == (-1.0, [0])
    assert len(entry["left_out"]) == 1 and "made/vae-1" in entry["left_out"][0] and why in entry["left_out"][0]


def test_an_unfinished_run_is_left_out(tmp_path):
    (tmp_path / "made" / "vae-0").mkdir(parents=True)
    entry = row(claim(), tmp_path)
    assert (entry["verdict"], entry["left_out"]) == ("not run", ["made/vae-0: not finished"])


def test_half_a_result_is_refused_by_name(tmp_path):
    path = store(tmp_path, 0, -1.0)
    path.write_text(path.read_text()[:-40])
    with pytest.raises(CorruptFile, match=re.escape(str(path))):
        row(claim(), tmp_path)


@pytest.mark.parametrize("content", [{"seed": 0}, [], 3])
def test_what_is_no_result_is_refused_by_name(tmp_path, content):
    path = store(tmp_path, 0, -1.0)
    write_json(path, content)
    with pytest.raises(BadClaim, match=re.escape(f"{path}: not the result of a run")):
        row(claim(), tmp_path)


def test_a_missing_quantity_is_named(tmp_path):
    store(tmp_path, 0, -1.0)
    with pytest.raises(BadClaim, match="made/vae-0/result.json has no iwlb; it has log_likelihood"):
        row(claim(quantity="iwlb"), tmp_path)
    with pytest.raises(BadClaim, match="has no images; it has log_likelihood"):  # a count, and no measurement
        row(claim(quantity="images"), tmp_path)


def test_nan_is_refused(tmp_path):
    path = store(tmp_path, 0, -1.0)
    path.write_text(path.read_text().replace("-1.0", "NaN"))
    with pytest.raises(BadClaim, match="vae-0/result.json: log_likelihood is nan"):
        row(claim(), tmp_path)


def test_a_seed_does_not_count_twice(tmp_path):
    store(tmp_path, 0, -1.0)
    path = store(tmp_path, 1, -1.0)
    write_json(path, json.loads(path.read_text()) | {"seed": 0})
    with pytest.raises(BadClaim, match="two runs have the seed 0"):
        runs_for(claim(), tmp_path)


@pytest.mark.parametrize("fields", [{"better": "more"}, {"runs": ""}, {"exact": "-log 4"}, {"quantity": ""}])
def test_a_claim_that_makes_no_sense_is_refused(fields):
    with pytest.raises(BadClaim, match="made.up.number"):
        claim(**fields)


def test_a_commit_is_the_one_that_trained():
    assert Run("f", {"provenance": {"commit": "b"}}).commit == "b"
    assert Run("f", {"provenance": {"commit": "b", "trained_at_commit": "a"}}).commit == "a"
