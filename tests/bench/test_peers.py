"""The comparison with peers: its rules, and a run of those peers that need nothing installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.peers.catalog import EVERYTHING, KV, OURS, PIXELS, VLLM, missing
from bench.peers.figures import ratios
from bench.peers.process import PeerFailed, PeerProcess
from bench.peers.protocol import Answer, Answers, Ask, Load, Question, from_json, to_json
from bench.peers.rounds import Measured, RoundTimes

ROOT = Path(__file__).parents[2]
RUN_SECONDS = 380.0
TIMES = RoundTimes(
    first_ttft=Measured(100.0, 90.0),
    follow_up_ttft=Measured(10.0, 9.0),
    tpot=Measured(5.0, 4.0),
    rate=Measured(20.0, 25.0),
    decode_rate=None,
    num_prompt=40,
    num_computed=20,
    first_answer=(1, 2),
)


def _child(script: str, tmp_path: Path) -> PeerProcess:
    command = [sys.executable, "-c", script]
    return PeerProcess(command, environ={}, core=None, log=tmp_path / "log")


def test_messages_come_out_of_their_line_as_they_went_in() -> None:
    for message in (
        Load("folder", "float32", 512, 4),
        Ask((Question("one", (1, 2, 3)), Question("two", ())), 8),
        Answers((Answer((7, 8), (1.5, 2.5), (1.0, 2.0), 12, None),)),
    ):
        assert from_json(json.loads(json.dumps(to_json(message)))) == message


def test_a_ratio_is_taken_within_each_round_and_judged_by_the_processes_own_time() -> None:
    slow = replace(TIMES, tpot=Measured(wall=5.0, cpu=8.0))
    slower = replace(TIMES, tpot=Measured(wall=50.0, cpu=16.0))
    found = {
        ratio.name: ratio for ratio in ratios({OURS.name: [TIMES, slow], VLLM.name: [slow, slower]})
    }
    tpot = found["ours / vLLM for CPU, TPOT"]
    assert tpot.spreads.cpu.median == pytest.approx(0.5)
    assert tpot.met is True
    assert found["ours / vLLM for CPU, tokens/s at once"].met is False
    assert not any("KV kept" in name for name in found), "what nobody measured has no ratio"


def test_a_peer_that_is_not_installed_says_how_to_install_it(tmp_path: Path) -> None:
    assert missing(OURS, tmp_path) is None
    assert "scripts/need-peers vllm" in str(missing(VLLM, tmp_path))


def test_a_peer_that_dies_is_reported_with_its_last_words(tmp_path: Path) -> None:
    with (
        _child("import sys; sys.exit('no such instruction')", tmp_path) as peer,
        pytest.raises(PeerFailed, match="no such instruction"),
    ):
        peer.load(Load("folder", "float32", 512, 4))


def test_what_a_peer_prints_is_not_taken_for_its_reply(tmp_path: Path) -> None:
    script = """
from bench.peers.child import Peer, serve
class Talker(Peer):
    def load(self, load): print('{"type": "Done"}'); raise ValueError("no such dtype")
    def open(self, conversation, picture): pass
    def ask(self, questions, num_tokens): return []
    def forget(self, conversation): pass
serve(Talker())
"""
    with (
        _child(script, tmp_path) as peer,
        pytest.raises(PeerFailed, match="ValueError: no such dtype"),
    ):
        peer.load(Load("folder", "float32", 512, 4))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_one_run_asks_all_the_same_and_tells_who_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.peers", "--shape", "tiny", "--rounds", "2"]
    ran = subprocess.run(
        [
            *(*command, "--dtype", "float32", "--out", str(tmp_path)),
            *("--environments", str(tmp_path / "environments")),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"},
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_SECONDS,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "vLLM for CPU: not installed; scripts/need-peers vllm installs it" in ran.stdout
    assert "OpenVINO GenAI: not installed; scripts/need-peers openvino installs it" in ran.stdout
    (kept,) = tmp_path.glob("peers-*.json")
    (comparison,) = json.loads(kept.read_text())["comparisons"]
    assert [absent["name"] for absent in comparison["absent"]] == ["vLLM for CPU", "OpenVINO GenAI"]
    peers = {peer["name"]: peer for peer in comparison["peers"]}
    assert list(peers) == [kind.name for kind in (OURS, EVERYTHING, PIXELS, KV)]
    for peer in peers.values():
        assert peer["same_answers"] == 1.0, "greedy in float32: one model, one answer"
        assert peer["num_prompt"] == peers[OURS.name]["num_prompt"]
    # A question's words, the turn's frame of three, and the answer's last token.
    assert peers[OURS.name]["num_computed"] == peers[KV.name]["num_computed"] == 8 + 3 + 1
    assert peers[EVERYTHING.name]["num_computed"] > 12
    goals = [ratio["goal"] for ratio in comparison["ratios"] if "follow-up, TTFT" in ratio["name"]]
    assert goals[:2] == ["≥ 26", "≥ 26"]
