"""The grid inside one process: what is shared, what is not, and what of flwr it leans on."""

import inspect
import threading
from collections.abc import Callable

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from partsong.common.errors import PartsongError
from partsong.simulations.local_grid import LocalGrid

App = Callable[[Message, Context], Message]


def text_of(message: Message) -> object:
    """What a message says."""
    return message.content["say"]["text"]


def say(text: str) -> RecordDict:
    """Content that says something and carries three bytes."""
    raw = Array(dtype="uint8", shape=(3,), stype="raw", data=b"abc")
    return RecordDict({"say": ConfigRecord({"text": text}), "raw": ArrayRecord({"raw": raw})})


def echo(message: Message, context: Context) -> Message:
    """Answer with the site's name."""
    return Message(say(f"{text_of(message)} {context.node_config['site']}"), reply_to=message)


def send(grid: LocalGrid, text: str = "hi") -> list[Message]:
    """Ask every node."""
    return [grid.create_message(say(text), "query", node, "group") for node in grid.get_node_ids()]


def test_each_site_answers_the_message_that_it_was_sent() -> None:
    """Replies carry the id of their question and the node they come from."""
    grid = LocalGrid(echo, ("a", "b", "c"), workers=2)
    asked = send(grid)
    replies = grid.send_and_receive(asked, timeout=10)
    grid.close()

    named = {m.metadata.message_id: m.metadata.dst_node_id for m in asked}
    assert {text_of(r) for r in replies} == {"hi a", "hi b", "hi c"}
    assert all(named[r.metadata.reply_to_message_id] == r.metadata.src_node_id for r in replies)


def test_a_site_shares_no_object_with_the_coordinator_or_another_site() -> None:
    """What a site does to its message is seen nowhere else, and neither is what is done to a reply."""
    seen: list[Message] = []

    def vandal(message: Message, _: Context) -> Message:
        seen.append(message)
        message.content["say"]["text"] = "spoilt"
        return Message(message.content, reply_to=message)

    grid = LocalGrid(vandal, ("a", "b"))
    shared = say("whole")
    asked = [grid.create_message(shared, "query", node, "group") for node in grid.get_node_ids()]
    replies = grid.send_and_receive(asked, timeout=10)
    grid.close()

    assert shared["say"]["text"] == "whole"
    assert [text_of(r) for r in replies] == ["spoilt", "spoilt"]
    replies[0].content["say"]["text"] = "again"
    assert {text_of(m) for m in seen} == {"spoilt"}


def test_an_error_on_purpose_becomes_a_failed_reply_and_is_told_at_the_site() -> None:
    """The reply holds the kind of the error, not its text."""
    told: list[tuple[str, PartsongError]] = []

    def fail(_m: Message, _c: Context) -> Message:
        raise PartsongError("words of the site")

    grid = LocalGrid(fail, ("a",), on_error=lambda site, err: told.append((site, err)))
    (reply,) = grid.send_and_receive(send(grid), timeout=10)
    grid.close()

    assert reply.has_error()
    assert reply.error.reason == "PartsongError"
    assert [(site, str(err)) for site, err in told] == [("a", "words of the site")]


def test_an_unexpected_error_comes_out() -> None:
    """A bug at a site is not taken for a drop-out."""

    def bug(_m: Message, _c: Context) -> Message:
        raise ZeroDivisionError

    grid = LocalGrid(bug, ("a",))
    with pytest.raises(ZeroDivisionError):
        grid.send_and_receive(send(grid), timeout=10)
    grid.close()


def test_a_site_that_is_late_is_not_waited_for() -> None:
    """The timeout ends the asking; closing drops what no site has begun."""
    go, handled = threading.Event(), []

    def slow(message: Message, context: Context) -> Message:
        handled.append(context.node_config["site"])
        go.wait(10)
        return echo(message, context)

    grid = LocalGrid(slow, ("a", "b"), workers=1)
    assert grid.send_and_receive(send(grid), timeout=0.05) == []
    threading.Timer(0.05, go.set).start()
    grid.close()

    assert handled == ["a"]


def test_a_reply_is_handed_over_once() -> None:
    """Asking again for the same id gives nothing."""
    grid = LocalGrid(echo, ("a",))
    ids = grid.push_messages(send(grid))
    replies: list[Message] = []
    while not replies:
        replies = grid.pull_messages(ids)

    assert grid.pull_messages(ids) == []
    assert grid.pull_messages(["unknown"]) == []
    grid.close()


def test_a_real_client_app_runs_on_it() -> None:
    """Flower's own routing by message type reaches the function."""
    app = ClientApp()

    @app.query("roster")
    def roster(message: Message, context: Context) -> Message:
        return echo(message, context)

    grid = LocalGrid(app, ("a",))
    node = grid.get_node_ids()[0]
    (reply,) = grid.send_and_receive([grid.create_message(say("x"), "query.roster", node, "g")], timeout=10)
    grid.close()

    assert text_of(reply) == "x a"


def test_flwr_has_everything_that_is_used_of_its_inside() -> None:
    """What is no public API of flwr and would break the grid if it changed."""
    identity = vars(type(TaskIdentity))
    assert all(identity[name].fset is not None for name in ("task_id", "run_id", "node_id"))
    assert "run_id" in inspect.signature(Run.create_empty).parameters
    required = [name for name, p in inspect.signature(Context).parameters.items() if p.default is p.empty]
    assert required == ["run_id", "node_id", "node_config", "state", "run_config"]
    assert Grid.__abstractmethods__ <= set(vars(LocalGrid))
    for name in Grid.__abstractmethods__:
        ours, theirs = getattr(LocalGrid, name), getattr(Grid, name)
        if not isinstance(ours, property):
            assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters), name


def test_a_message_keeps_its_id_in_the_place_that_the_grid_writes_to() -> None:
    """Flower gives ids at its server only, so the grid writes the private field."""
    grid = LocalGrid(echo, ("a",))
    (message,) = send(grid)
    (given,) = grid.push_messages([message])
    grid.close()

    assert message.metadata.message_id == given
