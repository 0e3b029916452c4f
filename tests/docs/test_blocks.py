from __future__ import annotations

from pathlib import Path

from tests.docs.blocks import read_blocks

PAGE = """\
Some words.

```bash
echo hello
```

```text
hel…
```

<!-- not run: it costs money -->
```python
buy()
```
"""


def test_blocks_come_with_what_they_print_and_why_they_are_not_run(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    first, second = read_blocks(page)
    assert (first.line, first.language, first.code) == (3, "bash", "echo hello\n")
    assert (first.output, first.reason) == ("hel…\n", None)
    assert (second.code, second.output, second.reason) == ("buy()\n", None, "it costs money")
    assert first.prints("hello\n")
    assert not first.prints("oh, hello\n")
    assert second.prints("anything")
