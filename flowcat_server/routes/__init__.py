"""The doors: HTTP and WebSocket handlers. Thin; they translate and delegate."""
