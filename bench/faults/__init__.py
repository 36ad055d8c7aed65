"""Every provider broken in every way, and what the caller hears: see
`docs/explanation/when-a-provider-fails.md`."""
