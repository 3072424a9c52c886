"""The tables of *Notation* hold what the book and its code hold, and the tool that says so can be trusted."""

import inspect
import re
from collections import Counter
from types import ModuleType

import pytest

import avb_core
from avb_core import (
    annealing,
    bounds,
    critics,
    decoders,
    divergences,
    evaluation,
    games,
    gaussian,
    models,
    networks,
    posteriors,
    testbeds,
)
from tools.book import CHAPTERS, chapters
from tools.notation import names, problems, read_tables, resolve, shapes_of

TITLES = {chapter.title: chapter.source for chapter in chapters()}
ROWS = read_tables((CHAPTERS / "16_notation.md").read_text(encoding="utf-8"))
CLASHES = {row["symbol"]: row["also means"] for row in ROWS if "also means" in row}


# The modules whose every public class and function must be in a table.
PARTS = (
    annealing,
    bounds,
    critics,
    decoders,
    divergences,
    evaluation,
    gaussian,
    models,
    networks,
    posteriors,
    testbeds,
)


def public(module: ModuleType) -> set[str]:
    """The classes and functions that a module defines for others."""
    defined = inspect.getmembers(module, lambda value: inspect.isclass(value) or inspect.isfunction(value))
    return {name for name, value in defined if value.__module__ == module.__name__ and not name.startswith("_")}


def formulas(text: str) -> list[str]:
    """What stands between dollars."""
    return [one or two for one, two in re.findall(r"\$\$(.+?)\$\$|\$([^$]+)\$", text, re.DOTALL)]


def tokens(formula: str) -> str:
    """A formula's LaTeX, token by token, without what only spaces it or groups it."""
    spacing = r"\\(?:[,;!: ]|(?:[bB]igg?[lr]?|left|right)(?![a-zA-Z]))|[{}&]"
    plain = re.sub(r"\\(?:mathrm|text)\{(\w*)\}", r" \\\1 ", formula).replace(r"\Vert", r"\|")
    found = re.findall(r"\\[a-zA-Z]+|\\.|[^\s\\]", re.sub(spacing, " ", plain))
    return f" {' '.join(found)} "


def texts(row: dict[str, str]) -> list[str]:
    """The sources of the chapters that a row names in italics."""
    named = re.sub(r"\$[^$]*\$", "", row.get("chapter", row.get("also means", "")))
    return [TITLES[title].read_text(encoding="utf-8") for title in re.findall(r"\*([^*]+)\*", named)]


def test_the_tables_are_found():
    assert len([row for row in ROWS if "symbol" in row]) > 60
    assert len([row for row in ROWS if "term" in row]) > 25
    assert len([row for row in ROWS if "they write" in row]) > 25
    assert len([name for row in ROWS for name in names(row)]) > 120


def spelt(spans: list[str], stated: list[str]) -> dict[str, str]:
    """A row with these names and shapes."""
    return {
        "symbol": "$a$",
        "in code": ", ".join(f"`{span}`" for span in spans),
        "shape": ", ".join(f"`{shape}`" for shape in stated),
    }


@pytest.mark.parametrize("row", [row for row in ROWS if names(row)], ids=lambda row: names(row)[0])
def test_every_name_and_every_shape_is_really_compared(row):
    """Spoilt one at a time, each is found, and nothing else is."""
    spans, stated = names(row), re.findall(r"`([^`]+)`", row.get("shape", ""))
    assert spans
    for index, name in enumerate(spans):
        path, bracket, inside = name.partition("(")
        others = [f"{path}_of_nothing{bracket}{inside}"] + [f"{name[:-1]}_of_nothing)"] * bool(inside.strip(")"))
        for other in others:
            assert len(problems([spelt([*spans[:index], other, *spans[index + 1 :]], stated)])) == 1
    for index in range(len(stated)):
        assert len(problems([spelt(spans, [*stated[:index], "no such axes", *stated[index + 1 :]])])) == 1


def test_names_parameters_and_shapes_are_the_code_s():
    found = problems(ROWS)
    assert not found, "\n".join(found)


def test_everything_public_has_a_row():
    named = {part for row in ROWS for name in names(row) for part in name.partition("(")[0].split(".")}
    assert set(avb_core.__all__) - named == set()
    assert set(games.__all__) - named == set()
    assert {module.__name__: public(module) - named for module in PARTS if public(module) - named} == {}


def test_symbols_stand_in_the_chapters_that_are_named():
    missing = []
    for row in ROWS:
        if "symbol" not in row or not formulas(row["symbol"]):
            continue
        assert texts(row), f"{row['symbol']}: no chapter"
        for text in texts(row):
            all_of_it = " \n ".join(map(tokens, formulas(text)))
            missing += [
                f"{symbol}: not in {text.splitlines()[10]}"
                for symbol in formulas(row["symbol"])
                if tokens(symbol) not in all_of_it
            ]
    assert not missing, "\n".join(missing)


def test_every_chapter_that_is_named_exists():
    cells = [row["chapter"] for row in ROWS if "chapter" in row]
    assert len(cells) > 100
    assert [cell for cell in cells if cell.strip("*") not in TITLES] == []


def test_terms_stand_in_the_chapters_that_are_named():
    terms = [(row["term"], text) for row in ROWS if "term" in row for text in texts(row)]
    assert len(terms) == len([row for row in ROWS if "term" in row])
    missing = [term for term, text in terms if term.lower() not in " ".join(text.lower().split())]
    assert missing == []


def test_a_symbol_has_one_row_or_is_a_clash():
    main = [row["symbol"] for row in ROWS if "symbol" in row and "also means" not in row]
    count = Counter(symbol for cell in main for symbol in formulas(cell))
    assert [symbol for symbol, rows in count.items() if rows > 1 and f"${symbol}$" not in CLASHES] == []
    assert len(CLASHES) == len([row for row in ROWS if "also means" in row]), "a clash is listed twice"


# The tool itself, on made-up rows


def found(name: str, shape: str = "") -> list[str]:
    return problems(read_tables(f"| symbol | in code | shape |\n|---|---|---|\n| $a$ | {name} | {shape} |\n"))


@pytest.mark.parametrize(
    "name, shape",
    [
        ("`elbo(log_weights)`", "`*batch`"),
        ("`iwlb(…, log_weights)`", "`k *batch`"),
        ("`reparameterize(mean, std)`", "`*batch d`"),
        ("`reparameterize(…, noise)`", "`*batch d`"),
        ("`kl`, `logistic.critic_loss(on_q, on_p)`", ""),
        ("`posteriors.GaussianPosterior` `.forward(x)`", "`*batch d`, `*batch d`"),
        ("`logistic.critic_loss(on_q, on_p)`, `kl`", "`()`"),
        ("`games.IWAE(…, k)`", "`int`"),
        ("`games.AVB.players`", ""),
        ("`testbeds.LinearGaussian.posterior(x)`", "`*batch d`, `d d`"),
        ("`testbeds.LinearGaussian.weight`", "`n d`"),
        ("`annealing.Annealing.temperatures`", "`int`"),
        ("", ""),
    ],
)
def test_right_rows_pass(name, shape):
    assert found(name, shape) == []


@pytest.mark.parametrize(
    "name, shape, said",
    [
        ("`kl_of_everything(q, p)`", "", "No module named 'avb_core.kl_of_everything'"),
        ("`games.VAE.critic_loss(x)`", "", "no attribute 'critic_loss'"),
        ("`elbo(weights)`", "", r"its parameters are \(log_weights\)"),
        ("`elbo()`", "", r"its parameters are \(log_weights\)"),
        ("`iwlb(…, k)`", "", r"its parameters are \(log_weights\)"),
        ("`iwlb(…)`", "", r"its parameters are \(log_weights\)"),
        ("`kl_diagonal(mean_q, mean_p, std_q, std_p)`", "", r"its parameters are \(mean_q, std_q, mean_p, std_p\)"),
        ("`games.AVB.critic_loss(x, z)`", "", r"its parameters are \(x\)"),
        ("`elbo(log_weights)`", "`k *batch`", r"its shape is \['\*batch'\], the table says \['k \*batch'\]"),
        ("`testbeds.LinearGaussian.posterior(x)`", "`*batch d`", "its shape is"),
        ("`kl`, `elbo(weights)`", "", "its parameters are"),
    ],
)
def test_wrong_rows_are_found(name, shape, said):
    (problem,) = found(name, shape)
    assert problem.startswith(f"$a$: {re.findall('`([^`]+)`', name)[-1]}: ")
    assert re.search(said, problem)


def test_a_renamed_parameter_is_found(monkeypatch):
    monkeypatch.setattr(avb_core, "elbo", lambda weights: weights)
    assert found("`elbo(log_weights)`") == ["$a$: elbo(log_weights): its parameters are (weights)"]


def test_every_table_is_read_and_no_code():
    text = "| a | b |\n|---|---|\n| 1 | |\n\n```\n| c |\n|---|\n| 2 |\n```\n| d |\n|---|\n| 3 |\n| 4 |\n"
    assert read_tables(text) == [{"a": "1", "b": ""}, {"d": "3"}, {"d": "4"}]
    with pytest.raises(ValueError):
        read_tables("| a | b |\n|---|---|\n| 1 |\n")


def test_names_resolve_to_what_they_say():
    assert resolve("games.AVB") is games.AVB
    assert resolve("elbo") is avb_core.elbo
    assert shapes_of("data.Images.pixels") == ["n pixels"]
    assert shapes_of("evaluation.log_likelihood_quadrature(decoder, x)") == ["batch", "float"]


def test_formulas_are_compared_without_their_spacing():
    assert tokens(r"\mathrm{KL}\big(q \,\|\, p\big)") == tokens(r"\mathrm{KL}(q \Vert p)")
    assert tokens("T") not in tokens(r"\text{AT}")
    assert tokens("K") not in tokens(r"\mathrm{KL}(q)")
