"""In the image's build: `pack_model.py SOURCES STORE` packs handler and built-in model."""

import sys
from pathlib import Path

from vlm_sessions.serve.packaging import Sources, ensure_packed

sources, store = map(Path, sys.argv[1:])
handlers = sources / "handlers"
ensure_packed(
    store,
    Sources(
        handler=handlers / "llava_handler.py",
        config=handlers / "llava" / "model-config.yaml",
        checkpoint=sources / "checkpoint",
    ),
)
