"""The optimizer, the step, and the loop around it."""
