"""How answers are judged: what is right passes, and what is wrong is told how, in numbers where a number says it."""

import math

import pytest
import torch

from avb_core import gaussian
from avb_core.coursework import (
    ChecksFailed,
    Probe,
    Suspect,
    checks_as_text,
    findings_of,
    judge,
    read_checks,
    verify,
)

WANT = torch.tensor([[1.0, -2.0], [0.5, 4.0]])


def told(found, expected=WANT, within=1e-4, suspects=()):
    verdict = judge(Probe("p", "", within, {"value": expected.tolist()}, suspects), {"value": found.tolist()})
    assert not verdict.passed
    return verdict.message


def test_what_agrees_passes():
    probe = Probe("p", "", 1e-4, {"value": WANT.tolist(), "kept": True, "shape": [2.0, 2.0]})
    found = {"value": WANT.tolist(), "kept": True, "shape": [2.0, 2.0]}
    assert judge(probe, found).message == "Exact."
    assert judge(probe, found | {"value": (WANT + 5e-5).tolist()}).passed
    assert not judge(probe, found | {"kept": False}).passed
    # Relative for large numbers, absolute for small ones
    assert judge(Probe("p", "", 1e-4, {"value": 1e6}), {"value": 1e6 + 50}).passed
    assert not judge(Probe("p", "", 1e-4, {"value": 0.0}), {"value": 1e-3}).passed


@pytest.mark.parametrize(
    "found, message",
    [
        (784 * WANT, "value: 784 times too large."),
        (WANT / 784, "value: 784 times too small."),
        (-WANT, "value: the sign is turned."),
        (0 * WANT, "value: it is 0, and should not be."),
        (WANT + 0.919, "value: too large by 0.919 everywhere."),
        (WANT - 3, "value: too small by 3 everywhere."),
        (WANT.sum(-1), "value: expected shape (2, 2), got (2,)."),
        (WANT * math.nan, "value: NaN in 4 of 4 places."),
        (WANT * math.inf, "value: inf in 4 of 4 places."),
        (WANT + torch.tensor([[0.0, 0.0], [math.inf, 0.0]]), "value: inf in 1 of 4 places."),
        (WANT + torch.tensor([[0.0, 0.0], [0.0, 0.25]]), "largest difference is 0.25: expected 4, got 4.25."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_how_it_is_wrong(found, message):
    assert message in told(found)


def test_a_factor_of_a_single_number_is_named_but_not_of_one_among_many():
    assert told(torch.tensor(6.0), torch.tensor(2.0)) == "value: 3 times too large."
    assert "largest difference" in told(1.0005 * WANT)
    mixed = WANT.clone()
    mixed[0, 0] *= 3
    assert "largest difference" in told(mixed)


def test_what_should_be_infinite_is_no_factor():
    infinite = torch.tensor([-math.inf, 2.0])
    assert told(torch.tensor([-5.0, 2.0]), infinite) == "value: expected -inf, got -5."
    assert told(torch.tensor([math.inf, 2.0]), infinite) == "value: inf in 1 of 2 places."
    assert told(torch.tensor([-math.inf, 5.0]), infinite) == "value: 2.5 times too large."
    assert told(torch.tensor(-5.0), torch.tensor(math.nan)) == "value: expected nan, got -5."


@pytest.mark.parametrize(
    "found, expected, message",
    [
        ([], [3.0], "shape of z: expected (3,), got ()."),
        ([5.0], [3.0], "shape of z: expected (3,), got (5,)."),
        ([2.0, 1001.0], [2.0, 1000.0], "shape of z: expected (2, 1000), got (2, 1001)."),
        ([[2.0], []], [[2.0], [3.0]], "shape of z: expected (2,) and (3,), got (2,) and ()."),
        ("no", [3.0], "shape of z: expected (3,), got 'no'."),
        (False, True, "shape of z: expected yes, got no."),
    ],
)
def test_shapes_are_told_as_shapes(found, expected, message):
    assert judge(Probe("p", "", 0.1, {"shape of z": expected}), {"shape of z": found}).message == message


def test_a_forgotten_return_is_told_as_such():
    answers = {"f": lambda x: None, "g": lambda x: x.detach()}
    exec("def f(x):\n    x + 1", answers)
    for code in ("found = {'x': f(torch.ones(2))}", "found = {'x': f(torch.ones(2)).shape}"):
        said = judge(Probe("p", code, 1e-4, {"x": 1.0}), findings_of(code, answers)).message
        assert said.startswith("f returned None; is its return missing? (")
    # A gradient that is None is none of its business.
    found = findings_of("x = torch.ones(2)\ng(x)\nfound = {'x': x.grad.shape}", answers)
    assert isinstance(found, str) and found.startswith("AttributeError: 'NoneType'")


def test_a_known_mistake_is_named_before_its_numbers():
    suspects = [Suspect("A mean over pixels; a sum is meant.", {"value": (WANT / 2).tolist()})]
    assert told(WANT / 2, suspects=suspects) == "A mean over pixels; a sum is meant."
    assert told(WANT / 3, suspects=suspects) == "value: 3 times too small."


def test_what_raised_is_told_and_what_is_missing_is_no_error():
    probe = Probe("p", "", 1e-4, {"value": 1.0})
    assert judge(probe, "TypeError: no").message == "It raised TypeError: no."
    assert judge(probe, "NotImplementedError: x").message == "There is no answer here yet."
    assert judge(probe, {}).message == "value: nothing was found."


def test_probes_leave_answers_and_the_random_state_alone():
    answers = {"f": lambda: torch.randn(3)}
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    first = findings_of("x = f()\nfound = {'x': x}", answers)
    assert first == findings_of("x = f()\nfound = {'x': x}", answers) and set(answers) == {"f"}
    assert torch.equal(torch.random.get_rng_state(), state)
    assert findings_of("found = {'x': 1 / 0}", answers) == "ZeroDivisionError: division by zero"
    # An answer that ends the program, and one that is an array.
    assert findings_of("raise SystemExit(3)", answers) == "SystemExit: 3"
    said = findings_of("import numpy\nfound = {'x': numpy.ones(3)}", answers)
    assert said == "TypeError: expected a tensor or a number, got ndarray"


def test_checks_survive_their_file(tmp_path):
    parts = {"a": [Probe("one", "found = {}", 0.5, {"x": [1.0, math.inf]}, [Suspect("m", {"x": [0.0, math.nan]})])]}
    (tmp_path / "checks.json").write_text(checks_as_text(parts))
    for checks in (read_checks(tmp_path / "checks.json"), read_checks(checks_as_text(parts))):
        (probe,) = checks["a"]
        assert (probe.name, probe.within, probe.expected) == ("one", 0.5, {"x": [1.0, math.inf]})
        assert probe.suspects[0].message == "m" and math.isnan(probe.suspects[0].findings["x"][1])
    with pytest.raises(FileNotFoundError, match="beside itself"):
        read_checks(tmp_path / "none.json")
    for damaged in ("{", '{"a": [{"name": 1}]}', '{"a": 3}'):
        with pytest.raises(ValueError, match="not a file of checks"):
            read_checks(damaged)


def test_verify_prints_a_line_for_each_probe_and_stops(capsys):
    probes = [
        Probe("value", "found = {'x': f(2)}", 1e-6, {"x": 4.0}),
        Probe("zero", "found = {'x': f(0)}", 1e-6, {"x": 0.0}),
    ]
    checks = checks_as_text({"square": probes})
    verify("square", {"f": lambda x: x * x}, checks)
    assert capsys.readouterr().out == "✓ value: Exact.\n✓ zero: Exact.\n"
    with pytest.raises(ChecksFailed, match="1 of 2 checks did not pass") as caught:
        verify("square", {"f": lambda x: 3 * x * x}, checks)
    assert capsys.readouterr().out == "✗ value: x: 3 times too large.\n✓ zero: Exact.\n"
    assert caught.value._render_traceback_() == ["ChecksFailed: 1 of 2 checks did not pass"]
    with pytest.raises(KeyError):
        verify("cube", {}, checks)


def test_the_library_s_function_is_no_answer(capsys):
    """A later given cell may import it under the answer's name; helpers that a check uses beside the answer may be its."""
    code = "found = {'x': kl_standard_normal(torch.zeros(3), torch.ones(3))}"
    answers = {"kl_standard_normal": gaussian.kl_standard_normal}
    with pytest.raises(ChecksFailed):
        verify(
            "2c", answers, checks_as_text({"2c": [Probe("zero", code, 1e-6, {"x": 0.0}, (), ["kl_standard_normal"])]})
        )
    assert capsys.readouterr().out.startswith("✗ kl_standard_normal: the library's, not yours.")
    verify("2d", answers, checks_as_text({"2d": [Probe("zero", code, 1e-6, {"x": 0.0}, (), ["another"])]}))
