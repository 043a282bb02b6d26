"""What can be put between callers and a provider: our limiter, yardsticks, and others of the same shape.

A policy makes one controller per client. The production core is such a controller as it stands; so is anything that
derives from ``factflow_llm.ratelimit.line.Line``.
"""

from simulators.policies.all_knowing import Oracle, oracle
from simulators.policies.base import Controller, PatientPolicy, Policy
from simulators.policies.ours import Adaptive, as_policy
from simulators.policies.tickets import KnownTicket
from simulators.policies.yardsticks import ClassicAimd, FixedRate, RetryOnly, classic_aimd, fixed_rate, retry_only

__all__ = [
    "Adaptive",
    "ClassicAimd",
    "Controller",
    "FixedRate",
    "KnownTicket",
    "Oracle",
    "PatientPolicy",
    "Policy",
    "RetryOnly",
    "as_policy",
    "classic_aimd",
    "fixed_rate",
    "oracle",
    "retry_only",
]
