"""From samples to batches whose content depends on the seed alone."""
