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

```python
buy()
```
"""


def test_blocks_come_with_what_they_print(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    first, second = read_blocks(page)
    assert (first.line, first.language, first.code) == (3, "bash", "echo hello\n")
    assert first.output == "hel…\n"
    assert (second.code, second.output) == ("buy()\n", None)
    assert first.prints("hello\n")
    assert not first.prints("oh, hello\n")
    assert second.prints("anything")
