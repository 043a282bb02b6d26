"""Twenty thousand embeddings through three accounts, of which one dies at a third and one has half the quota.

The sizes are those of a public trace. Told is how long it takes, beside somebody who sees all three accounts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from factflow_llm.signals import Axis
from reports import ROOT
from simulators.engine.pooled import PoolResult, simulate_pool
from simulators.providers.catalogue import Provider
from simulators.providers.faults import Refused
from simulators.providers.latency import LatencyModel
from simulators.providers.quotas import Bucket
from simulators.scenarios.scenario import Scenario
from simulators.scenarios.worlds import TRACES
from simulators.traces import Trace, read_trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZES = TRACES / "azure2023" / "AzureLLMInferenceTrace_code.csv"
TEXTS, WORKERS, DIES_S, SEEDS = 20_000, 256, 110.0, 3


def accounts(texts: int = TEXTS, dies_s: float = DIES_S) -> dict[str, Scenario]:
    """Make the three accounts, asked for the same texts."""
    sizes = np.resize(read_trace(SIZES).input_tokens, texts)
    trace = Trace.from_frame(pd.DataFrame({"arrival_s": 0.0, "input_tokens": sizes, "output_tokens": 0}))

    def account(name: str, quota: float, *faults: Refused) -> Scenario:
        quotas = (
            Bucket(limit=3_000 * quota, burst_s=10.0),
            Bucket(limit=4e6 * quota, axis=Axis.TOKENS, burst_s=10.0),
        )
        latency = LatencyModel(first_token_s=0.3, per_token_s=0.0, rejection_s=0.02)
        return Scenario(trace, Provider(name=name, quotas=quotas, latency=latency, faults=faults))

    return {
        "key1": account("key1", 1.0),
        "key2": account("key2", 0.5),
        "eu": account("eu", 1.0, Refused(status=503, start_s=dies_s)),
    }


def draw(result: PoolResult, ax: Axes) -> Axes:
    """Draw how many texts each account has embedded, over time."""
    below = np.zeros(400)
    at_s = np.linspace(0.0, result.duration_s, len(below))
    for name, ends in result.requests.groupby("account")["end_s"]:
        done = below + np.searchsorted(np.sort(ends.to_numpy()), at_s, side="right")
        ax.fill_between(at_s, below, done, label=str(name), alpha=0.7)
        below = done
    ax.axvline(DIES_S, color="grey", linestyle=":", label="eu dies")
    ax.axvline(result.oracle_s, color="black", linestyle="--", label="the oracle is done")
    ax.set(xlabel="seconds", ylabel="texts embedded", title="Three accounts as one")
    ax.legend(loc="upper left")
    return ax


def pooled(jobs: int | None = None) -> dict[str, str]:
    """Make the report and draw its picture."""
    import matplotlib.pyplot as plt

    lines = [f"{TEXTS} embeddings by {WORKERS} callers; eu dies at {DIES_S:g} s, key2 has half the quota", ""]
    first: PoolResult | None = None
    for seed in range(SEEDS):
        result = simulate_pool(accounts(), workers=WORKERS, seed=seed)
        first = first or result
        ratio = result.duration_s / result.oracle_s
        failed = int((result.requests["error"] != "").sum())
        lines.append(
            f"seed {seed}: {result.duration_s:.1f} s, the oracle {result.oracle_s:.1f} s, {ratio:.4f} of it; "
            f"{failed} failed"
        )
        lines += [f"  {line}" for line in result.summary().round(4).to_string().splitlines()]
    assert first is not None
    figure, ax = plt.subplots(figsize=(7.0, 3.6))
    draw(first, ax)
    figure.savefig(ROOT / "docs" / "pictures" / "pool.png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    return {"tests/golden/pooled/accounts.txt": "\n".join(lines) + "\n"}
