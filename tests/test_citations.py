"""Citations are found in prose, and each means one entry of the bibliography."""

import re

import pytest

from tools.book import chapters
from tools.citations import citations, forms

NOT_PROSE = re.compile(r"^```\{code-cell\}.*?^```$|\$[^$]*\$", re.MULTILINE | re.DOTALL)


def keys(text):
    return [(text[found.start : found.end], found.key) for found in citations(text)]


@pytest.mark.parametrize(
    ("text", "cited", "key"),
    [
        ("as Neal (2001) says", "Neal (2001)", "neal2001annealed"),
        ("small steps (Neal, 2001).", "Neal, 2001", "neal2001annealed"),
        ("by Wu et al.\n(2017), too", "Wu et al.\n(2017)", "wu2017quantitative"),
        ("of VAEs, Tipping and\nBishop (1999) do", "Tipping and\nBishop (1999)", "tipping1999probabilistic"),
        ("Tipping and Bishop's (1999) model", "Tipping and Bishop's (1999)", "tipping1999probabilistic"),
        ("(Fickinger (2019, eqs. 11–12))", "Fickinger (2019", "fickinger2024bavae"),
        ("Mescheder, Nowozin and Geiger (2017b)", "Mescheder, Nowozin and Geiger (2017b)", "mescheder2017numerics"),
        ("Maaløe et al. (2016)", "Maaløe et al. (2016)", "maaloe2016auxiliary"),
        ("Nobody (2001) says", "Nobody (2001)", None),
        ("Neal (2002) says", "Neal (2002)", None),
        ("Nobody and Neal (2001) say", "Nobody and Neal (2001)", None),
    ],
)
def test_a_citation_is_found_with_its_entry(text, cited, key):
    assert keys(text) == [(cited, key)]


def test_two_citations_in_one_bracket():
    found = keys("Monte Carlo (Duane et al., 1987; Neal, 2011) gives")
    assert found == [("Duane et al., 1987", "duane1987hybrid"), ("Neal, 2011", "neal2011mcmc")]


@pytest.mark.parametrize(
    "text", ["the conference (ICML 2017)", "torch.randn(2000, 2)", "in 2017, somebody", "at 2,000 steps"]
)
def test_other_numbers_are_no_citations(text):
    assert keys(text) == []


def test_every_citation_has_its_entry_and_every_entry_is_cited():
    found = [
        citation
        for chapter in chapters(written_only=True)
        for citation in citations(NOT_PROSE.sub("", chapter.source.read_text(encoding="utf-8")))
    ]
    assert len(found) > 100 and all(citation.key for citation in found)
    assert set(forms().values()) - {citation.key for citation in found} <= {"camara_adversarial"}, "it has no year"
