"""Many calls as one piece of work: results as they come, budgets, and a journal to go on with after a crash."""
