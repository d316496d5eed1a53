"""A site's connection is killed at each of its steps."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transport_fixtures import Authority

from partsong.common.files import read_lines

DRIVER = Path(__file__).with_name("connection_driver.py")
STEPS = [
    ("arrived", 1), ("journaled", 1), ("confirmed", 1), ("handled", 1), ("kept", 1), ("sending", 1), ("sending", 3),
    ("sent", 1),
]  # fmt: skip
"""Before the journal, before the confirmation, before handling, before the outbox, before and during sending, after."""


class Drill:
    """A coordinator's end, and a site whose processes can be killed."""

    def __init__(self, fleet_end: Any, folder: Path) -> None:
        authority = Authority(folder)
        tls = fleet_end.tls_of(authority)
        self.link = fleet_end.Superlink(authority)
        self.node, self.folder = self.link.let_in(tls), folder
        files = [str(file) for file in (tls.certificate, tls.key, tls.authority)]
        self._driver = subprocess.Popen(
            [sys.executable, "-P", str(DRIVER), str(folder), str(self.link.port), *files],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": "1000"},
        )

    def run(self, **order: Any) -> int:
        """Let the site run until it is killed or idle; gives its exit code."""
        assert self._driver.stdin is not None
        assert self._driver.stdout is not None
        self._driver.stdin.write(json.dumps(order) + "\n")
        self._driver.stdin.flush()
        return int(self._driver.stdout.readline())

    def handled(self) -> Counter[str]:
        return Counter(read_lines(self.folder / "handled.jsonl"))

    def told(self) -> list[str]:
        """What the site's processes told since the last call."""
        lines = read_lines(self.folder / "told.jsonl")
        (self.folder / "told.jsonl").unlink(missing_ok=True)
        return lines

    def outgoing(self) -> dict[str, bytes]:
        """Bytes in the outbox, for each question."""
        return {p.stem: p.read_bytes() for p in (self.folder / "outbox").glob("*-*.*")}

    def close(self) -> None:
        assert self._driver.stdin is not None
        assert self._driver.stdout is not None
        self._driver.stdin.close()
        assert self._driver.wait(30) == 0
        self._driver.stdout.close()
        self.link.stop()


@pytest.fixture
def drill(fleet_end: Any, tmp_path: Path) -> Any:
    made = Drill(fleet_end, tmp_path)
    yield made
    made.close()


def test_killed_at_any_step_a_site_answers_each_question_once_with_one_set_of_bytes(drill: Drill) -> None:
    """A question is handled a second time only if the kill came before its answer was on the disk."""
    assert drill.run() == 0
    for step, time in STEPS:
        drill.link.state.acknowledge_node_heartbeat(drill.node, 30)
        question = drill.link.ask(drill.node, vector=b"v" * 4000)
        drill.told()

        killed = drill.run(at=step, time=time)
        half_way = drill.outgoing()
        announced = drill.link.answer_id(question)
        restarted = drill.run()
        told = drill.told()

        assert (killed, restarted) == (-signal.SIGKILL, 0)
        assert "resumed" in told
        reply = drill.link.answer(question)
        assert reply is not None, step
        assert len(reply.content["vector"]["vector"].data) == 4000
        assert drill.handled()[question] == (2 if step == "handled" else 1), step
        assert announced in (None, drill.link.answer_id(question))
        assert all(drill.outgoing()[name] == data for name, data in half_way.items() if question in name)

    ids = {question: drill.link.answer_id(question) for question in drill.handled()}
    handled = drill.handled()
    for question in handled:
        drill.link.ask_again(question)
    assert drill.run() == 0

    assert drill.told().count("repeated") == len(STEPS)
    assert drill.handled() == handled
    assert {question: drill.link.answer_id(question) for question in handled} == ids


def test_without_its_outbox_a_site_would_answer_twice(drill: Drill) -> None:
    """The control: forgetting the outbox is noticed by what the drill counts."""
    drill.run()
    drill.link.state.acknowledge_node_heartbeat(drill.node, 30)
    question = drill.link.ask(drill.node, vector=b"v" * 4000)
    drill.run(at="sending", time=2)
    announced = drill.link.answer_id(question)

    for path in (drill.folder / "outbox").iterdir():
        path.unlink()
    for _ in range(3):  # the killed process may have asked for mail: Flower then hands the question to nobody
        drill.link.ask_again(question)
        drill.run()
        if drill.handled()[question] == 2:
            break

    assert drill.handled()[question] == 2
    assert drill.link.answer_id(question) == announced
