"""Base networks, their parameters, and where these come from."""
