"""The laboratory: the production limiter in virtual time, against simulated providers, on real traces.

::

    import simulators as sim
    result = sim.simulate(sim.Scenario(sim.sample_trace(), "openai-tier-1"), seed=7)
    sim.plot_overview(result)

Names load on first use: nobody waits for matplotlib who only simulates. They stand once, in ``__init__.pyi``.
"""

from __future__ import annotations

import ast
from importlib import import_module
from pkgutil import get_data
from typing import Any

_HOMES = {
    alias.name: str(node.module)
    for node in ast.parse(get_data(__name__, "__init__.pyi") or b"").body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}
__all__ = sorted(_HOMES)  # noqa: PLE0605 - the list is the stub's


def __getattr__(name: str) -> Any:
    """Load a public name from where it lives; without the lab extra say how to get it."""
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    home = _HOMES[name]
    try:
        value = import_module(f"{home}.{name}") if home == __name__ else getattr(import_module(home), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in {"factflow_llm", "simulators"}:
            raise
        from factflow_llm.errors import ExtraMissingError

        msg = f'simulators.{name} needs {error.name}, which comes with the laboratory: pip install "factflow-llm[lab]"'
        raise ExtraMissingError(msg) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
