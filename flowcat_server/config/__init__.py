"""The agent file: typed, and every mistake named with file, line and what is allowed."""
