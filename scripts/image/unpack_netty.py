"""In the image's build: `unpack_netty.py DIRECTORY` unpacks the native library of TorchServe there.

TorchServe needs it for Unix sockets. Java would unpack it into /tmp and run it there, in vain where
/tmp is mounted noexec, as Docker's --tmpfs does; first it looks where libraries lie.
"""

import platform
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

MACHINES = {"x86_64": "x86_64", "aarch64": "aarch_64"}
"""A machine's name -> netty's."""

package = find_spec("ts")
if package is None or package.origin is None:
    sys.exit("TorchServe is not installed.")
name = f"libnetty_transport_native_epoll_{MACHINES[platform.machine()]}.so"
with zipfile.ZipFile(Path(package.origin).parent / "frontend" / "model-server.jar") as jar:
    Path(sys.argv[1], name).write_bytes(jar.read(f"META-INF/native/{name}"))
