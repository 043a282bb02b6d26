"""Providers: calls, quotas and what meters them, faults, answer times, headers, and the machine that plays one."""
