"""What a finished model becomes: files that others load."""
