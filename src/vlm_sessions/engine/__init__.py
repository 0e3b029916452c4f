"""The engine: tokens and image digests in, events out. It knows no sessions, HTTP or text."""
