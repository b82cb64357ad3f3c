"""A run before there is hardware: whether it fits, what it moves, how long it takes."""
