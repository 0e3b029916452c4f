"""What can be done to a service: one small class for each way, all of them in ``catalog``."""
