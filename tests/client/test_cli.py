"""The command line, against the product."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.test_connections import free_url
from tests.support.pictures import encoded
from vlm_sessions import __version__
from vlm_sessions.cli import conversation
from vlm_sessions.client import Client

SHORT = ["--max-new-tokens", "8"]


class Terminal(io.StringIO):
    """Lines as a person types them."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "cat.png"
    path.write_bytes(encoded("red"))
    return str(path)


def run(*arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    ran = subprocess.run(
        [sys.executable, "-m", "vlm_sessions.cli", *arguments],
        input=stdin or "",
        capture_output=True,
        text=True,
        check=False,
        timeout=60.0,
    )
    return ran.returncode, ran.stdout, ran.stderr


def test_ask_prints_the_answer(url: str, picture: str) -> None:
    with Client(url) as client:
        expected = client.generate("What is this?", Path(picture), max_new_tokens=8).text
    assert run("ask", picture, "What is this?", "--url", url, *SHORT) == (0, f"{expected}\n", "")


def test_chat_answers_piped_lines_in_one_conversation(url: str, picture: str) -> None:
    lines = "What is this?\n\nAnd now?\n"
    with Client(url).open(picture) as session:
        expected = [session.ask(q, max_new_tokens=8).text for q in ("What is this?", "And now?")]
    code, out, err = run("chat", picture, "--url", url, *SHORT, stdin=lines)
    assert (code, out.splitlines(), err) == (0, expected, "")


def test_chat_ends_at_quit_and_closes_its_session(url: str, picture: str) -> None:
    code, out, _ = run("chat", picture, "--url", url, *SHORT, stdin="Hm?\n/quit\nNot this.\n")
    assert (code, len(out.splitlines())) == (0, 1)


def test_chat_shows_another_picture_with_the_next_question(url: str, picture: str) -> None:
    with Client(url).open() as session:
        lines = io.StringIO(f"/image {picture}\nWhat is this?\nAnd now?\n")
        conversation.chat(session, {"max_new_tokens": 2}, lines=lines, out=io.StringIO())
        assert [len(turn.images) for turn in session.describe().turns] == [1, 0]


def test_chat_takes_the_last_answer_back(url: str, picture: str) -> None:
    with Client(url).open() as session:
        lines = io.StringIO("One?\nTwo?\n/undo\nThree?\n")
        conversation.chat(session, {"max_new_tokens": 2}, lines=lines, out=io.StringIO())
        assert [turn.prompt for turn in session.describe().turns] == ["One?", "Three?"]


def test_undoing_too_much_is_told_and_keeps_the_picture_that_waits(url: str, picture: str) -> None:
    lines, out = Terminal(f"/image {picture}\n/undo\nHello?\n/quit\n"), io.StringIO()
    with Client(url).open() as session:
        conversation.chat(session, {"max_new_tokens": 2}, lines=lines, out=out)
        assert [len(turn.images) for turn in session.describe().turns] == [1]
    assert "! 1 turns cannot be taken back: the session has 0" in out.getvalue()


def test_a_person_may_put_a_question_right_and_go_on(url: str) -> None:
    lines, out = Terminal("/image no.png\nWhat?\nHello?\n/quit\n"), io.StringIO()
    with Client(url).open() as session:
        conversation.chat(session, {"max_new_tokens": 2}, lines=lines, out=out)
        assert [turn.prompt for turn in session.describe().turns] == ["Hello?"]
    assert "> > ! cannot read no.png: No such file or directory\n> " in out.getvalue()


def test_a_script_that_asks_wrongly_fails(url: str) -> None:
    code, _, err = run("chat", "--url", url, *SHORT, stdin="/image no.png\nWhat?\nHello?\n")
    assert (code, err) == (1, "vlm-sessions: cannot read no.png: No such file or directory\n")


def test_a_refusal_of_the_service_is_one_line(url: str, picture: str) -> None:
    code, out, err = run("ask", picture, "What?", "--url", url, "--temperature", "99")
    assert (code, out) == (1, "")
    assert err.startswith("vlm-sessions: ")
    assert "temperature" in err
    assert len(err.splitlines()) == 1


def test_an_unreachable_service_has_an_exit_code_of_its_own(picture: str) -> None:
    url = free_url()
    code, _, err = run("ask", picture, "What?", "--url", url)
    assert code == 3
    assert err.startswith(f"vlm-sessions: cannot reach {url}")
    assert "vlm-sessions serve" in err


def test_a_misspelt_setting_is_named_with_its_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_PROT", "8081")
    code, _, err = run("serve")
    assert (code, err) == (
        2,
        "vlm-sessions: VLM_PROT is not a setting. Did you mean VLM_PORT?\n",
    )


def test_it_says_its_version() -> None:
    assert run("--version") == (0, f"vlm-sessions {__version__}\n", "")


def test_asking_needs_nothing_of_the_server(url: str, picture: str) -> None:
    heavy = ("torch", "transformers", "aiohttp", "msgspec", "PIL", "boto3", "vlm_sessions.service")
    script = (
        "import sys\nfrom vlm_sessions.cli import main\n"
        f"sys.argv = ['vlm-sessions', 'ask', {picture!r}, 'What?', '--url', {url!r}]\n"
        "try:\n    main()\n"
        f"finally:\n    print([name for name in {heavy!r} if name in sys.modules])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60.0
    )
    assert ran.stdout.splitlines()[-1] == "[]"
