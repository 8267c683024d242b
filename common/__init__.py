"""What a training job is, whatever it trains. Nothing here knows a task by name."""

__version__ = "1.2.0"
