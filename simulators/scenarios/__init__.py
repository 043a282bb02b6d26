"""Scenarios: who asks whom, what happens meanwhile and who else draws on the quota; files that hold one."""
