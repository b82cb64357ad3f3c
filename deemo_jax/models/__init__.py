"""Towers, connectors and the decoder, in Flax NNX."""
