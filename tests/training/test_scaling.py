from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from seq2edge.errors import TrainingError
from seq2edge.training import scaling
from seq2edge.training.scaling import Law, Observation, fit_law

LAW = Law(floor=1.2, a=40, alpha=0.4, b=60, beta=0.35)
SIZES, AMOUNTS = (1e4, 5e4, 2e5, 1e6), (1e4, 1e5, 1e6, 1e7)


@pytest.fixture(autouse=True)
def _few_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "REPEATS", 40)


def runs(noise: float = 0.0, law: Law = LAW) -> list[Observation]:
    """A run of every size and amount that follows the law, but for the noise."""
    rng = np.random.default_rng(3)
    return [
        Observation(parameters=n, tokens=d, loss=law.loss(n, d) * (1 + noise * rng.normal()))
        for n, d in itertools.product(SIZES, AMOUNTS)
    ]


def test_exact() -> None:
    """Runs that follow a law give its numbers back, and the loss of runs that were not made."""
    fit = fit_law(runs())
    assert fit.law.floor == pytest.approx(LAW.floor, rel=0.01)
    assert fit.law.alpha == pytest.approx(LAW.alpha, rel=0.01)
    assert fit.law.beta == pytest.approx(LAW.beta, rel=0.01)
    assert fit.alpha.known
    assert fit.beta.known
    assert fit.error < 1e-3
    assert fit.predict(2e6, 2e7).value == pytest.approx(LAW.loss(2e6, 2e7), rel=0.005)


def test_noise() -> None:
    """Noise widens the intervals, which hold the truth."""
    fit, exact = fit_law(runs(noise=0.01)), fit_law(runs())
    for name in ("alpha", "beta", "floor"):
        found = getattr(fit, name)
        assert found.low <= getattr(LAW, name) <= found.high
        assert found.high - found.low > getattr(exact, name).high - getattr(exact, name).low
    loss = fit.predict(2e6, 2e7)
    assert loss.low <= LAW.loss(2e6, 2e7) <= loss.high


def test_outlier() -> None:
    """One run that failed to learn moves the exponents little."""
    spoilt = runs()
    spoilt[5] = Observation(parameters=5e4, tokens=1e5, loss=spoilt[5].loss * 1.5)
    law = fit_law(spoilt).law
    assert law.alpha == pytest.approx(LAW.alpha, rel=0.15)
    assert law.beta == pytest.approx(LAW.beta, rel=0.15)


def test_undetermined() -> None:
    """An exponent that the losses do not depend on is not known, the other one is."""
    fit = fit_law(runs(law=Law(floor=1.2, a=40, alpha=0.4, b=0.0, beta=0.35), noise=0.001))
    assert fit.alpha.known
    assert not fit.beta.known


def test_too_few() -> None:
    """Too few runs, sizes or amounts are refused with their numbers; failed runs do not count."""
    every = runs()
    with pytest.raises(TrainingError, match=r"6 runs of 2 sizes and 4 amounts of data.* 7 runs, 3"):
        fit_law(every[:6])
    with pytest.raises(TrainingError, match="8 runs of 2 sizes"):
        fit_law(every[:8])
    failed = [Observation(parameters=r.parameters, tokens=r.tokens, loss=math.nan) for r in every]
    with pytest.raises(TrainingError, match="0 runs of 0 sizes"):
        fit_law(failed)
    assert fit_law([*every, failed[0]]).law == fit_law(every).law
