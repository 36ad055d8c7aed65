"""The pure heart of a call: no I/O, no asyncio, no clock. Time is an argument."""
