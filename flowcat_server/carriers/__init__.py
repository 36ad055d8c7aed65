"""Phone companies' message formats: bytes and text in, events out. No I/O, no clock."""
