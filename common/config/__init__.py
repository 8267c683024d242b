"""From a JSON file and the command line to a typed, checked configuration."""
