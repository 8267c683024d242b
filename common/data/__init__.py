"""From a folder to samples, and what was wrong with it."""
