"""DEEMO on JAX: emotion understanding without identity, trained at scale."""
