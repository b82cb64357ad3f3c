"""From a raw clip to one without face or voice identity."""
