"""The limiter for programs that know nothing of it: an HTTP proxy that speaks what providers speak."""
