"""The stages of a call's pipeline; each is one synchronous `Processor`."""
