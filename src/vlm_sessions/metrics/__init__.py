"""What /metrics tells: figures of the door, of the engine, and of each level of its cache."""

from vlm_sessions.metrics.door import CONTENT_TYPE, Metrics, Turn
from vlm_sessions.metrics.figures import EngineFigures

__all__ = ["CONTENT_TYPE", "EngineFigures", "Metrics", "Turn"]
