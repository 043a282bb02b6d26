"""The adaptive limiter: a pure core (config, signals, headers, aimd, core, backoff), its asyncio shell, and the wrapped clients."""
