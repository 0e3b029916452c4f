"""vlm-sessions: a serving container that keeps an image where the model needs it."""

__version__ = "0.1.0"
