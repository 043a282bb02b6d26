"""One run in virtual time: the loop, what it writes down, and the result."""
