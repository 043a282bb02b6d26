"""One profile, several that may answer: pools that go where there is room, fallbacks for when one cannot."""
