"""Hands every message to the daemon of this site, which `partsong site up --behind-supernode` has started."""

from pathlib import Path

from flwr.app import Context

from partsong.client.app import make_forwarding_app
from partsong.client.home.layout import SiteHome
from partsong.client.link.local_post import ask
from partsong.client.link.questions import Question, Reply


def _ask(question: Question, context: Context) -> Reply:
    return ask(SiteHome(Path(str(context.node_config["directory"]))).supernode_socket, question)


app = make_forwarding_app(_ask)
