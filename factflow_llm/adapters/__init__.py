"""For those who already have a stack: clients and models of other packages, paced by a profile's limiter."""
