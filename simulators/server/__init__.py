"""A simulated provider over HTTP, for the real SDKs."""
