"""Worker processes: any function, carried out beside the job, in order."""
