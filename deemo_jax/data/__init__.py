"""From de-identified clips to batches: records, shards, prompts, the loader."""
