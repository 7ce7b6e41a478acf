"""How long producers stand still: the workflow, a bare script with the same calls, and a runbook, on one lab."""
