"""Re-identification: an embedding per identity."""
