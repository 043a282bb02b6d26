"""The adaptive limiter: a pure core, its asyncio shell (``limiter.py``), and clients behind it (``client.py``)."""
