"""Both tasks, their metrics, and the report."""
