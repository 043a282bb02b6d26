"""Infer a provider from recorded attempts: which quotas, what habits, how fast, how faulty, and how sure that is."""
