"""Every odd picture is seen as a person would see it; every bad one is refused with its reason."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.fuzz.corpus.bad import Bad, bad_files
from bench.fuzz.corpus.odd import Odd, odd_files
from bench.fuzz.corpus.picture import distance
from vlm_sessions.errors import VlmError
from vlm_sessions.media.decode import decode_image

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # as in the service

LOSSY = 8.0
"""Of 255: what compression may change, on average. A wrong turn changes 50 and more."""


@pytest.mark.parametrize("odd", list(odd_files()), ids=lambda odd: odd.name)
def test_an_odd_picture_is_seen_as_a_person_sees_it(odd: Odd) -> None:
    decoded = decode_image(odd.content, max_megapixels=50)

    assert decoded.picture.mode == "RGB"
    assert decoded.format == odd.format
    assert distance(decoded.picture, odd.meant) < LOSSY


@pytest.mark.parametrize("bad", list(bad_files()), ids=lambda bad: bad.name)
def test_a_bad_file_is_refused_with_its_reason_and_at_once(bad: Bad) -> None:
    begun = time.thread_time()
    with pytest.raises(VlmError) as caught:
        decode_image(bad.content, max_megapixels=50)

    assert caught.value.code == bad.code
    assert bad.word in caught.value.message
    assert time.thread_time() - begun < 2.0  # milliseconds; a bomb that goes off takes minutes


_DECODE_ALL = """
import sys
from vlm_sessions.media.decode import FORMATS, decode_image
from vlm_sessions.errors import VlmError
for path in sys.argv[1:]:
    try:
        decode_image(open(path, "rb").read(), max_megapixels=50)
    except VlmError:
        pass
plugins = {name for name in sys.modules if name.startswith("PIL.") and name.endswith("Plugin")}
print(*sorted(plugins))
"""


def test_no_file_reaches_another_plugin_of_pillow(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("files")
    contents = [odd.content for odd in odd_files()] + [bad.content for bad in bad_files()]
    for index, content in enumerate(contents):
        (folder / f"{index}").write_bytes(content)
    paths = [str(path) for path in folder.iterdir()]

    ran = subprocess.run(
        [sys.executable, "-c", _DECODE_ALL, *paths], capture_output=True, text=True, check=True
    )

    # PPM comes with Pillow's smallest set and is not on our list; TIFF's is what reads Exif.
    assert set(ran.stdout.split()) == {
        f"PIL.{name}ImagePlugin" for name in ("Bmp", "Gif", "Jpeg", "Png", "WebP", "Ppm", "Tiff")
    }


_DECODE_SERVED = """
import sys
from pathlib import Path
from PIL import TiffImagePlugin
from vlm_sessions.build import build
from vlm_sessions.config import Settings
from vlm_sessions.media.decode import decode_image
build(Settings(), Path("model"))
for path in sys.argv[1:]:
    decode_image(open(path, "rb").read(), max_megapixels=50)
registry = getattr(TiffImagePlugin, "__warningregistry__", {})
print(sum(key != "version" for key in registry))
"""


def test_what_is_odd_in_a_file_is_not_remembered_nor_written_past_the_log(tmp_path: Path) -> None:
    paths = []
    for index, odd in enumerate(odd for odd in odd_files() if "Exif" in odd.name):
        paths.append(tmp_path / f"{index}")
        paths[-1].write_bytes(odd.content)

    ran = subprocess.run(
        [sys.executable, "-c", _DECODE_SERVED, *paths], capture_output=True, text=True, check=True
    )

    assert len(paths) > 3
    assert ran.stdout.split() == ["0"]
    assert ran.stderr == ""
