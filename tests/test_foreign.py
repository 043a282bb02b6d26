"""Servers that nobody here wrote: what is told of their quotas is true, and their 429s are foretold."""

from __future__ import annotations

import pytest

from reports.foreign import foretell
from tests.support.foreign import SERVERS, Foreign

_NEAR = 0.05


@pytest.mark.slow
@pytest.mark.foreign
@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_foreign_servers_are_foretold(server: Foreign) -> None:
    """A quota that is named is the server's; its 429s come out, replayed and simulated, within 5 % or within luck."""
    if not server.is_there:
        pytest.skip(f"needs {server.command}")
    told = foretell(server, duration_s=30.0)
    assert told.recorded > 20
    if not told.named:  # a busy machine may shake the network by more than the windows are long
        assert "not identified" in told.calibration.report()
        return
    assert told.right, told.calibration.report()
    assert told.replayed == pytest.approx(told.recorded, rel=_NEAR, abs=3), told.calibration.report()
    assert told.simulated == pytest.approx(told.recorded, abs=_NEAR * told.recorded + 3 * told.deviation + 3)
