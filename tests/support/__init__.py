"""What tests share: servers on the loopback, providers to call, recordings, an event loop in virtual time."""
