"""`check` prints one stable line for what holds, raises for what does not, and shows the figures either way."""

import math

import numpy as np
import pytest
import torch

from avb_core.check import CheckFailed, check

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("claim", "figures"),
    [
        ({"measured": 1.05, "target": 1, "within": 0.1}, "measured 1.05, target 1, off by 0.05, within 0.1"),
        (
            {"measured": torch.tensor([1.0, 3]), "target": 2, "within": 1},
            "measured 2 values in (1, 3), target 2, off by 1, within 1",
        ),
        ({"measured": 0.54, "at_least": 0.5}, "measured 0.54, at least 0.5"),
        ({"measured": [1, 2], "at_most": np.array([1, 3])}, "measured 2 values in (1, 2), at most 2 values in (1, 3)"),
        ({"measured": True, "at_least": 1, "at_most": 1}, "measured 1, at least 1, at most 1"),
        ({"measured": -INF, "at_most": 0}, "measured -inf, at most 0"),
    ],
)
def test_what_holds_is_told_in_one_line(claim, figures, capsys):
    check("book.one", "words", **claim)
    assert capsys.readouterr().out == f"✓ book.one  words  [{figures}]\n"


@pytest.mark.parametrize(
    "claim",
    [
        {"measured": [1, 1.2], "target": 1, "within": 0.1},
        {"measured": [0.6, 0.49], "at_least": 0.5},
        {"measured": [0.1, 0.31], "at_most": [0.1, 0.3]},
        {"measured": 2, "at_least": 0, "at_most": 1},
        {"measured": -1, "at_least": 0, "at_most": 1},
        {"measured": NAN, "at_least": 0},
        {"measured": [0, NAN], "target": 0, "within": 1},
        {"measured": 0, "at_most": NAN},
    ],
)
def test_what_does_not_hold_raises(claim, capsys):
    with pytest.raises(CheckFailed, match="measured|at_most"):
        check("book.one", "words", **claim)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ({"measured": 1}, "either target and within, or at_least, at_most or both"),
        ({"measured": 1, "target": 1}, "either target and within"),
        ({"measured": 1, "within": 1}, "either target and within"),
        ({"measured": 1, "target": 1, "within": 1, "at_most": 1}, "either target and within"),
        ({"measured": 1, "target": 1, "within": -1}, "within: expected a finite number ≥ 0, got -1"),
        ({"measured": 1, "target": 1, "within": INF}, "within: expected a finite number ≥ 0, got inf"),
        ({"measured": [], "at_least": 0}, "measured: expected at least one number, got none"),
        ({"measured": [1, 2], "target": [1, 2, 3], "within": 1}, r"measured, target: shapes .* \(2,\), \(3,\)"),
        ({"measured": [1, 2], "at_most": [1, 2, 3]}, r"measured, at_most: shapes .* \(2,\), \(3,\)"),
    ],
)
def test_what_is_no_claim_is_refused(claim, said):
    with pytest.raises(ValueError, match=said):
        check("book.one", "words", **claim)
