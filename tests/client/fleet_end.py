"""The other end of a site's connection: Flower's own SuperLink on a loopback port with mutual TLS, and its network."""

import socket
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import uvicorn
from cryptography.hazmat.primitives import serialization
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.app.metadata import Metadata
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, TRANSPORT_TYPE_GRPC_RERE
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.auth.typing import AccountInfo
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, TaskType
from flwr.supercore.date import now
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from flwr.superlink.servicer.control import control_handlers
from flwr.superlink.servicer.runtime import runtime_handlers
from transport_fixtures import Authority

from partsong.client.app import RAW
from partsong.client.link.channel import ClientTls
from partsong.client.link.inbox import Inbox
from partsong.client.link.outbox import Outbox
from partsong.client.link.questions import Handle, Told
from partsong.client.link.transport import FleetConnection

HOST = "127.0.0.1"


def tls_of(authority: Authority, name: str = "north") -> ClientTls:
    """TLS files of a new site."""
    held = authority.hold(name)
    return ClientTls(certificate=held.certificate_file, key=held.key_file, authority=authority.file)


class Superlink:
    """Flower's own, with one run and whichever sites were let in."""

    def __init__(self, authority: Authority, *, port: int = 0) -> None:
        self.paths: list[str] = []
        self._asked: dict[str, Message] = {}
        self.intercept: Callable[[str], int | tuple[int, dict[str, str], bytes] | None] = lambda _path: None
        """Gives what a path shall answer: status, or status, headers and body. None: what it would."""
        self.headers: dict[str, str] = {}
        """Of the last request."""
        self._app = create_app(_config(), SuperLinkLifespan)
        self._app.add_middleware(_Watch, end=self)
        self.state = self._app.state.linkstate_factory.state()
        self._socket = socket.create_server((HOST, port))
        self.port = self._socket.getsockname()[1]
        held = authority.hold("coordinator", server=True)
        config = uvicorn.Config(
            self._app,
            ssl_certfile=held.certificate_file,
            ssl_keyfile=held.key_file,
            ssl_ca_certs=str(authority.file),
            ssl_cert_reqs=2,
            log_level="critical",
            ws="none",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        self._thread.start()
        self.run, self._task = self._begin()

    def stop(self) -> None:
        """Close the port."""
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()

    def let_in(self, tls: ClientTls) -> int:
        """Enrol a site."""
        key = serialization.load_pem_private_key(tls.key.read_bytes(), None).public_key()
        pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, pem, HEARTBEAT_DEFAULT_INTERVAL)

    def ask(
        self,
        node: int,
        *,
        fields: Mapping[str, Any] | None = None,
        vector: bytes = b"",
        note: bytes = b"",
        kind: str = "query.keys",
        ttl_s: float = 600.0,
        ago_s: float = 0.0,
    ) -> str:
        """Put a question; gives its id."""
        content = RecordDict({"partsong": ConfigRecord(dict(fields or {"header": b"h"}))})
        for name, data in (("vector", vector), ("note", note)):
            if data:
                content[name] = ArrayRecord({name: Array(dtype="uint8", shape=(len(data),), stype=RAW, data=data)})
        metadata = Metadata(self.run, "", 1, node, "", "keys", now().timestamp() - ago_s, ttl_s, kind)
        return self.put(make_message(metadata, content))

    def put(self, message: Message) -> str:
        """Let a message wait for its site."""
        with no_object_id_recompute():
            message.metadata.__dict__["_message_id"] = message_id = message.object_id
            self._asked[message_id] = message
            self._store(message)
            assert self.state.store_message_ins(remove_content_from_message(message)) is not None
        return message_id

    def ask_again(self, question: str) -> None:
        """Offer a question once more, as after a lost confirmation."""
        self._store(self._asked[question])
        self.state.message_ins_store[question].metadata.delivered_at = ""

    def _store(self, message: Message) -> None:
        session = self.state.start_session(self.run)
        with no_object_id_recompute():
            missing = self.state.preregister_object_tree(get_object_tree(message), session)
            for name, part in get_all_nested_objects(message).items():
                if name in missing:
                    assert self.state.store_object(self.run, session, name, part.deflate())

    def answer(self, question: str) -> Message | None:
        """The answer, if all of it is here."""
        found = self.state.message_res_store.get(self.state.message_ins_id_to_message_res_id.get(question, ""))
        if found is None:
            return None
        contents = self.bytes_of(found.metadata.message_id)
        if contents is None:
            return None
        reply = inflate_object_from_contents(found.metadata.message_id, contents)
        assert isinstance(reply, Message)
        return reply

    def answer_id(self, question: str) -> str | None:
        """Which bytes: the name of an answer is their hash."""
        return self.state.message_ins_id_to_message_res_id.get(question)

    def bytes_of(self, root: str) -> dict[str, bytes] | None:
        """All parts of a message; None: some are missing."""
        contents, todo = {}, [root]
        while todo:
            name = todo.pop()
            content = self.state.object_store.get(name)
            if not content:
                return None
            contents[name] = content
            head = content[: content.index(b"\0")].decode().split(" ")
            todo += [child for child in head[1].split(",") if child]
        return contents

    def finish_run(self) -> None:
        """End the run."""
        self.state.finish_task(self._task, sub_status="completed", details="")

    def _begin(self) -> tuple[int, int]:
        files = {"pyproject.toml": _PYPROJECT, "x/__init__.py": b"", "x/s.py": b"app=None\n", "x/c.py": b"app=None\n"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of pathspec, by Flower
            fab = build_fab_from_files(files)[0]
        account = AccountInfo(flwr_aid=NOOP_FLWR_AID, account_name=NOOP_ACCOUNT_NAME)
        request = StartRunRequest(fab=fab_to_proto(Fab("", fab, {})))
        run = control_handlers.start_run(request, account, self.state, TRANSPORT_TYPE_GRPC_RERE).run_id
        runtime_handlers.acquire_task(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]), self.state)
        task = next(iter(self.state.get_run_info(run_ids=[run]))).primary_task_id
        assert self.state.activate_task(task)
        return run, task


class Running:
    """A site's connection at work in a thread; `with` starts and stops it."""

    def __init__(self, port: int, tls: ClientTls, folder: Path, handle: Handle, **changes: Any) -> None:
        self.told: list[Told] = []
        self.waits_s: list[float] = []
        self.on_told: Callable[[Told], None] = lambda _told: None
        self.stop = threading.Event()
        self._news = threading.Condition()
        self._error: BaseException | None = None
        values = {
            "address": f"{HOST}:{port}",
            "tls": tls,
            "proxy": None,
            "node_file": folder / "node",
            "inbox": Inbox(folder / "inbox"),
            "outbox": Outbox(folder / "outbox", clock=time.time),
            "listen": self._listen,
            "wait": self._wait,
        }
        self.connection = FleetConnection(**values | changes)
        self._thread = threading.Thread(target=self._run, args=(handle,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        if self._error is not None and kind is None:
            raise self._error

    def until(self, fact: Callable[[], Any]) -> Any:
        """Wait for something; gives what `fact` gave."""
        deadline = time.monotonic() + 30
        with self._news:
            while self._error is None and not (found := fact()):
                assert time.monotonic() < deadline, [t.what for t in self.told][-20:]
                self._news.wait(0.05)  # the connection tells of most things, and of some the server alone knows
        if self._error is not None:
            raise self._error
        return found

    def until_told(self, what: str, times: int = 1) -> Told:
        """Wait until something was told so often."""
        return self.until(lambda: [t for t in self.told if t.what == what][times - 1 : times])[0]

    def _run(self, handle: Handle) -> None:
        try:
            self.connection.run(handle, stop=self.stop)
        except BaseException as err:  # noqa: BLE001 - raised in the test
            self._error = err
        with self._news:
            self._news.notify_all()

    def _listen(self, told: Told) -> None:
        with self._news:
            self.told.append(told)
            self._news.notify_all()
        self.on_told(told)

    def _wait(self, stop: threading.Event, seconds: float) -> None:
        """Time passes quickly, but lets other threads do something."""
        asks = threading.current_thread().name.startswith(("questions", "lane"))
        if asks:
            self.waits_s.append(seconds)
        stop.wait(0.002 if asks else 0.05)


_PYPROJECT = b"""[project]
name = "x"
version = "1.0.0"
[tool.flwr.app]
publisher = "x"
[tool.flwr.app.components]
serverapp = "x.s:app"
clientapp = "x.c:app"
"""


def _config() -> SuperLinkLifespanConfig:
    return SuperLinkLifespanConfig(
        control_address="", health_server_address=None, host=HOST, port=0, insecure=True, certificates=None,
        superexec_auth_secret=None, authn_plugin=NoOpControlAuthnPlugin(), event_log_plugin=None,
        fleet_event_log_plugin=None, enable_event_log=False, artifact_provider=None, enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE, fleet_api_address=None, simulation=False, ssl_ca_certfile=None,
        ssl_certfile=None, ssl_keyfile=None, database=FLWR_IN_MEMORY_DB_NAME, isolation="process",
        runtime_dependency_install=False,
    )  # fmt: skip


class _Watch:
    """Notes paths, and answers in Flower's place where a test says so."""

    def __init__(self, app: Any, *, end: Superlink) -> None:
        self._app, self._end = app, end

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self._end.paths.append(scope["path"])
            self._end.headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            said = self._end.intercept(scope["path"])
            if said is not None:
                status, headers, body = (said, {}, b"") if isinstance(said, int) else said
                raw = [(name.encode(), value.encode()) for name, value in headers.items()]
                await send({"type": "http.response.start", "status": status, "headers": raw})
                await send({"type": "http.response.body", "body": body})
                return
        await self._app(scope, receive, send)
