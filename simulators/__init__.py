"""The laboratory: the production limiter in virtual time, against simulated providers, on real traces."""
