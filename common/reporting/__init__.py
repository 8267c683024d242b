"""What the world is told of a job: its log, status, progress and how it ended."""
