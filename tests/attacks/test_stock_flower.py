"""Four gaps of Flower's own SuperLink with TLS and node authentication on: each attack works there and fails here."""

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from fleet_site import FleetSite
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, TRANSPORT_TYPE_GRPC_RERE
from flwr.proto.control_pb2 import RegisterNodeRequest, RegisterNodeResponse
from flwr.proto.runtime_pb2 import AcquireTaskRequest, AcquireTaskResponse
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from transport_fixtures import Authority, Held

from partsong.server.exchange import Parcel
from partsong.server.rounds import Loss

PROTOBUF = {"content-type": "application/protobuf"}


class Stock:
    """A SuperLink as `flower-superlink --ssl-... --enable-supernode-auth` starts it, with three nodes and a run."""

    def __init__(self, authority: Authority, server: Held) -> None:
        self.authority = authority
        config = SuperLinkLifespanConfig(
            control_address="", health_server_address=None, host="127.0.0.1", port=0, insecure=False,
            certificates=None, superexec_auth_secret=None, authn_plugin=NoOpControlAuthnPlugin(),
            event_log_plugin=None, fleet_event_log_plugin=None, enable_event_log=False, artifact_provider=None,
            enable_supernode_auth=True, fleet_api_type=TRANSPORT_TYPE_GRPC_RERE, fleet_api_address=None,
            simulation=False, ssl_ca_certfile=str(authority.file), ssl_certfile=str(server.certificate_file),
            ssl_keyfile=str(server.key_file), database=":flwr-in-memory:", isolation="subprocess",
            runtime_dependency_install=False,
        )  # fmt: skip
        app = create_app(config, SuperLinkLifespan)
        self.state = app.state.linkstate_factory.state()
        self.run = self.state.create_run(
            None, None, None, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        self.keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
        for key in self.keys:
            self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, public_key_to_bytes(key.public_key()), 30)
        self.server = uvicorn.Server(
            uvicorn.Config(
                app,
                host="127.0.0.1",
                port=0,
                lifespan="off",
                ws="none",
                log_level="critical",
                ssl_keyfile=config.ssl_keyfile,
                ssl_certfile=config.ssl_certfile,
                loop="asyncio",
            )
        )
        self.is_up = threading.Event()
        self.thread = threading.Thread(target=self._serve)

    @property
    def address(self) -> str:
        return f"localhost:{self.server.servers[0].sockets[0].getsockname()[1]}"

    @property
    def trust(self) -> ssl.SSLContext:
        return self.authority.trust(None)

    def activate_run(self) -> None:
        """What Flower's own ServerApp process does first."""
        task = self.state.task_store[self.state.run_ids[self.run].run.primary_task_id]
        if not task.running_at:
            self.state.claim_task(task.task_id)
            self.state.activate_task(task.task_id)

    def ask(self, node: int) -> Message:
        """Let a message wait for a node."""
        metadata = Metadata(self.run, "", 1, node, "", "", time.time(), 60.0, "query.open")
        message = make_message(metadata, RecordDict({"partsong": ConfigRecord({"header": b"h"})}))
        message.metadata.__dict__["_message_id"] = message.object_id
        session = self.state.start_session(self.run)
        self.state.store_message_and_object_tree(message, get_object_tree(message), session)
        for object_id, part in get_all_nested_objects(message).items():
            self.state.store_object(self.run, session, object_id, part.deflate())
        return message

    def _serve(self) -> None:
        self.server.run()


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stock]:
    authority = Authority(tmp_path_factory.mktemp("stock"))
    found = Stock(authority, authority.hold("server", server=True))
    found.thread.start()
    while not found.server.started and found.thread.is_alive():
        found.thread.join(0.02)
    assert found.server.started
    yield found
    found.server.should_exit = True
    found.thread.join()


def post(address: str, trust: ssl.SSLContext, path: str, request: Any) -> httpx.Response:
    with httpx.Client(verify=trust) as client:
        return client.post(f"https://{address}{path}", content=request.SerializeToString(), headers=PROTOBUF)


def test_whoever_reaches_the_port_controls_stock_flower(stock: Stock, open_port: Callable[..., Any]) -> None:
    """Gap 1: the control API enrols a node for somebody without any credential. Here there is no such path."""
    key = public_key_to_bytes(ec.generate_private_key(ec.SECP256R1()).public_key())
    request = RegisterNodeRequest(public_key=key)
    port = open_port("north")

    there = post(stock.address, stock.trust, "/v1/control/register-node", request)
    here = post(port.address, port.trust("north"), "/v1/control/register-node", request)

    assert there.status_code == 200
    assert stock.state.get_node_id_by_public_key(key) == RegisterNodeResponse.FromString(there.content).node_id
    assert (here.status_code, here.json()) == (404, {"code": "no_such_path"})


def test_whoever_reaches_the_port_runs_stock_flowers_app(stock: Stock, open_port: Callable[..., Any]) -> None:
    """Gap 2: the runtime API hands the coordinator's own task and its token to anybody. Here there is neither."""
    request = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
    stock.state.create_run(None, None, None, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP)
    port = open_port("north")

    there = post(stock.address, stock.trust, "/v1/runtime/acquire-task", request)
    here = post(port.address, port.trust("north"), "/v1/runtime/acquire-task", request)

    assert there.status_code == 200
    assert AcquireTaskResponse.FromString(there.content).token
    assert (here.status_code, here.json()) == (404, {"code": "no_such_path"})


def forged(message: Message, site: FleetSite) -> Message:
    """An answer in the name of the node that was asked."""
    site.context(message)
    return Message(RecordDict({"partsong": ConfigRecord({"header": b"forged"})}), reply_to=message)


def test_one_node_of_stock_flower_answers_for_another(stock: Stock, open_port: Callable[..., Any]) -> None:
    """Gap 3: an authenticated node stores an answer in the name of another. Here neither that nor its own is taken."""
    stock.activate_run()
    victim, attacker = (FleetSite(stock.address, stock.trust, key) for key in stock.keys[:2])
    with victim, attacker:
        victim.activate()
        message = stock.ask(victim.node.node_id)
        attacker.activate().push(forged(message, attacker))
    port = open_port("north", "south")
    north, south = port.connect("north"), port.connect("south")
    exchange, got = port.exchange(), list[Any]()
    ask = {port.nodes(exchange)["north"]: Parcel(header=b"h")}
    asking = threading.Thread(target=lambda: got.extend(exchange.ask(ask, phase="open", timeout_s=60)))
    asking.start()
    question = north.pull()
    assert question is not None

    taken = stock.state.get_message_res({message.metadata.message_id}, stock.run)
    with pytest.raises(httpx.HTTPStatusError) as as_north:
        south.push(forged(question, south))
    own = forged(question, south)
    own.metadata.__dict__["_src_node_id"] = south.node.node_id
    with pytest.raises(httpx.HTTPStatusError) as as_itself:
        south.push(own)
    north.push(port.app("north")(question, north.context(question)))
    asking.join()

    assert [reply.metadata.src_node_id for reply in taken] == [victim.node.node_id]
    assert not any(reply.has_error() for reply in taken)
    assert as_north.value.response.json() == {"code": "other_node"}
    assert as_itself.value.response.json() == {"code": "not_asked"}
    assert [parcel.header for _, parcel in got] == [b"answer to h"]


def test_stock_flower_knows_no_client_certificates(stock: Stock, open_port: Callable[..., Any]) -> None:
    """Gap 4: TLS there ends at the server. Here a peer without a certificate is cut off before it can say anything."""
    port = open_port("north")
    with FleetSite(stock.address, stock.trust, stock.keys[2]) as site:
        there = site.activate().node.node_id

    with pytest.raises(httpx.TransportError):
        port.stranger(port.authority.trust(None)).activate()

    assert there == stock.state.get_node_id_by_public_key(public_key_to_bytes(stock.keys[2].public_key()))
    assert port.superlink.connected() == ()


def test_an_unsigned_answer_that_got_through_would_not_count(open_port: Callable[..., Any]) -> None:
    """The second lock behind gap 3: even over the asked site's own connection an answer needs its identity key."""
    port = open_port("north", "south")
    north = port.connect("north")
    exchange, got = port.exchange(), list[Any]()
    ask = {port.nodes(exchange)["north"]: Parcel(header=b"h")}
    asking = threading.Thread(target=lambda: got.extend(exchange.ask(ask, phase="open", timeout_s=60)))
    asking.start()

    north.serve(port.app("north", signer=port.identities["south"]))
    asking.join()

    assert [answer for _, answer in got] == [Loss.MALFORMED]
