"""The line that says where the service is, with a command that asks it about a picture.

The picture is drawn here and travels in the command, so that it works wherever it is pasted.
"""

from __future__ import annotations

import base64
import io
import json
import shlex

from PIL import Image, ImageDraw

from vlm_sessions.config import API_KEY_VARIABLE

_SIDE = 64  # pixels; the picture is a line of text of about four times as many characters
_WHITE, _RED, _BLUE = (255, 255, 255), (220, 30, 35), (30, 80, 220)


def ready_line(url: str, *, asks_for_key: bool = False) -> str:
    """One line: the service's address, and a curl for a shell, which may have to know a key."""
    body = json.dumps(
        {"type": "generate", "prompt": "What can you see?", "images": [_picture()]},
        separators=(",", ":"),
    )
    key = f'-H "Authorization: Bearer ${API_KEY_VARIABLE}" ' if asks_for_key else ""
    return (
        f"Ready at {url} — try: curl {shlex.quote(url + '/invocations')} {key}"
        f"-H 'Content-Type: application/json' -d '{body}'"
    )


def _picture() -> str:
    """A red circle and a blue square, as a data URL."""
    image = Image.new("P", (_SIDE, _SIDE), 0)
    image.putpalette([*_WHITE, *_RED, *_BLUE])
    pen = ImageDraw.Draw(image)
    pen.ellipse((4, 4, 20, 20), fill=1)
    pen.rectangle((44, 44, 60, 60), fill=2)
    encoded = io.BytesIO()
    image.save(encoded, "PNG", optimize=True, bits=2)
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()
