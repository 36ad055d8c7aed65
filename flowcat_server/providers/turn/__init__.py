"""Models that judge by sound whether a caller who has paused has finished."""
