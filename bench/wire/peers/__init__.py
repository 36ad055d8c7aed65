"""Servers to compare with, one file each, run as ``python FILE PORT``."""
