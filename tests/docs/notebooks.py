"""Notebooks as the tests run them: with other parameters, in a kernel of this environment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

CELL_SECONDS = 100


def read(path: Path) -> NotebookNode:
    notebook: NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    return notebook


def run(path: Path, parameters: Mapping[str, object], environ: Mapping[str, str]) -> str:
    """Execute a notebook where it lies; all that it printed.

    Args:
        parameters: override those of the cell that is tagged ``parameters``.
        environ: of the kernel, besides this process's own.

    Raises:
        CellExecutionError: a cell raised.
    """
    notebook = read(path)
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    (cell,) = cells
    unknown = [name for name in parameters if f"\n{name} = " not in f"\n{cell.source}"]
    assert not unknown, f"{path.name} has no parameters {unknown}"
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    with _environment(environ):
        client.execute()
    return "".join(_printed(notebook))


def _printed(notebook: NotebookNode) -> Iterator[str]:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stdout":
                yield output.text


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """The kernel inherits this process's environment; nbclient passes no other."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
