"""The image's HEALTHCHECK: exit 0 when /ping answers 200 on the port that is in force.

Run every few seconds beside the service, so it imports next to nothing. The environment variables
are those of vlm_sessions/config.py, where an empty value counts as unset.
"""

import os
import sys
from http.client import HTTPConnection, HTTPException

TIMEOUT_SECONDS = 4.0
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}

host = os.environ.get("VLM_HOST", "").strip("[]") or "127.0.0.1"
port = os.environ.get("VLM_PORT") or os.environ.get("SAGEMAKER_BIND_TO_PORT") or "8080"
connection = HTTPConnection(EVERYWHERE.get(host, host), int(port), timeout=TIMEOUT_SECONDS)
try:
    connection.request("GET", "/ping")
    reply = connection.getresponse()
    body = reply.read(4096).decode("utf-8", "replace")
except (OSError, HTTPException) as exc:
    sys.exit(f"/ping does not answer: {exc}")
sys.exit(0 if reply.status == 200 else f"/ping answers {reply.status}: {body}")
