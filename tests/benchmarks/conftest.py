"""A suite that measures hardly at all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from gatestep.benchmarks import cells, claims, growth, limits, suite, tails, timing

BRIEF = timing.Effort(seconds=1e-3, round_seconds=1e-4, least=3, tail=100)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> timing.Effort:
    """Few rounds, short recordings, in this very process."""
    for name in suite.VARIABLES:
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(suite, "QUICK", BRIEF)
    monkeypatch.setattr(cells, "BATCH", (3, 2))
    monkeypatch.setattr(cells, "SEQUENCE", (5, 1))
    monkeypatch.setattr(cells, "LOCKSTEP", (1, 3))
    monkeypatch.setattr(limits, "SETS", (1 << 13, 1 << 14))
    monkeypatch.setattr(timing, "WAKING", 1e-4)
    monkeypatch.setattr(tails, "SILENCE", 10)
    monkeypatch.setattr(tails, "PERIOD", 1e-4)
    monkeypatch.setattr(tails, "COLD_BYTES", 1 << 12)
    small = cells.Net("gru", 3, 17)
    nets = {aim: replace(small, bidirectional=aim.net.bidirectional) for aim in claims.AIMS}
    monkeypatch.setattr(claims, "AIMS", tuple(replace(aim, net=net) for aim, net in nets.items()))
    monkeypatch.setattr(claims, "KERNELS", (small,))
    monkeypatch.setattr(claims, "ROWS", 2)
    shrunk = {axis: (shown, (1, 2), (1,)) for axis, (shown, _, _) in growth.GROWTHS.items()}
    monkeypatch.setattr(growth, "GROWTHS", shrunk)
    return BRIEF
