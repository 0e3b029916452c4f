"""What this machine lacks to serve, and how to get it. Looks, and changes nothing."""

from vlm_sessions.cli.doctor.diagnosis import diagnose
from vlm_sessions.cli.doctor.finding import Finding, State
from vlm_sessions.cli.doctor.report import report

__all__ = ["Finding", "State", "diagnose", "report"]
