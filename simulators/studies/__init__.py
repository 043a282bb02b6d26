"""Many runs: comparisons, tuning, variations, plans and the suite."""
