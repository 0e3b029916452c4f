"""The targets, a module each; ``catalog`` has them by name."""
