"""What a training job is, whatever it trains. Nothing here knows a task by name."""
