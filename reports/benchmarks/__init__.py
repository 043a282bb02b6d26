"""How fast the parts are, beside others that do the same work."""
