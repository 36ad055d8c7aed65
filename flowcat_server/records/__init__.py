"""What is kept of a call: rows, transcript, recording."""
