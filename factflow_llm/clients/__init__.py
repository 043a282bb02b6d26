"""One provider, one file; each satisfies the protocols and leaves retrying to the limiter."""
