"""From clips to records, and from records to batches."""
