"""Pictures: axes in, axes out; each has its numbers in a pure function of ``series``."""
