"""From our parameters to a Hugging Face folder that PyTorch runs."""
