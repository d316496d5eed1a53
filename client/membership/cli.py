"""The operator's commands that make a site a member: `partsong site init|join|charter|renew|leave`."""

# ruff: noqa: FBT002, PLC0415, PLR0917  # how typer spells options; a command imports what it needs: --help is quick

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

charter = typer.Typer(name="charter", no_args_is_help=True, help="Show and co-sign the consortium's charter.")

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Dir = Annotated[Path, typer.Option("--dir", metavar="DIR", help="The site's directory.")]
Passphrase = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Holds the passphrase; mode 0600. Else PARTSONG_PASSPHRASE_FILE, systemd's credential, the terminal.",
    ),
]
Out = Annotated[Path, typer.Option(metavar="FOLDER", help="Where files for the coordinator are written.")]
HERE = Path()


def register(site: typer.Typer) -> None:
    """Add the commands to `partsong site`."""
    site.add_typer(charter)
    for command in (init, join, renew, new_vault, leave):
        site.command()(command)


def init(
    invite: Annotated[Path, typer.Option(metavar="FILE", help="The coordinator's invitation.")],
    data: Annotated[Path, typer.Option(metavar="FILE", help="The records; read once, and checked.")],
    model: Annotated[str, typer.Option(metavar="SOURCE", help="The base model: a folder or a .gguf file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Further settings: data.prompt_field=question.")
    ] = None,  # one line of help
    epsilon: Annotated[
        float | None, typer.Option(help="Allow training, within this budget for the records' whole life.")
    ] = None,
    layers: Annotated[str, typer.Option(help="Layers that may be trained, with commas.")] = "q_proj,v_proj",
    folder: Dir = HERE,
    out: Out = HERE,
    passphrase_file: Passphrase = None,
    as_json: Json = False,
) -> None:
    """Make this site's keys, register its records, write rules that allow nothing, and ask to be enrolled."""
    from partsong.client.home.layout import SiteHome
    from partsong.client.membership import onboarding, site_yaml
    from partsong.client.model.source import locate
    from partsong.common.deployment import check_address
    from partsong.common.files import write_bytes
    from partsong.common.identity.keys import fingerprint
    from partsong.common.identity.letters import Request, parse
    from partsong.common.identity.tls import utc_now

    home, invitation = SiteHome(folder), onboarding.read_invitation(invite, now=utc_now())
    onboarding.require_new(home)
    check_address("address", invitation.address)
    base = locate(model, say=_say)
    config, text = site_yaml.settings(
        name=invitation.site,
        coordinator=invitation.address,
        data=data,
        model=model,
        base_sha256=base.sha256,
        overrides=overrides or (),
    )
    records = onboarding.register(config)
    policy = site_yaml.policy_text(config, records, epsilon=epsilon, layers=layers.split(","))
    request = onboarding.init(
        home,
        invitation,
        site_yaml=text,
        policy=policy,
        records=records,
        passphrase=_passphrase(passphrase_file, new=True),
    )
    file = out / f"{invitation.site}.request.json"
    write_bytes(file, request)
    own = fingerprint(bytes.fromhex(parse(Request, request, place=file.name).key))
    tree = {
        "site": invitation.site,
        "consortium": invitation.consortium,
        "fingerprint": own,
        "coordinator_fingerprint": fingerprint(bytes.fromhex(invitation.coordinator)),
        "records": records.records,
        "kind": records.kind,
        "data_fingerprint": records.fingerprint,
        "base_sha256": base.sha256,
        "policy": "open for training, each plan approved by a person" if epsilon is not None else "closed",
        "request": str(file),
    }
    words = (
        f"{records.records} records of kind {records.kind}; fingerprint {records.fingerprint[:16]}\n"
        f"rules: policy.yaml, {tree['policy']}\n\n"
        f"fingerprint of {invitation.site}:\n  {own}\n\n"
        f"send {file} to the coordinator, and say this fingerprint over the telephone"
    )
    _print(tree, words, as_json=as_json)


def join(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="What the coordinator sent: reply, draft, charter.")
    ],
    fingerprints: Annotated[
        list[str] | None,
        typer.Option("--fingerprint", metavar="WHO=FINGERPRINT", help="As heard from them; may be given again."),
    ] = None,  # one line of help
    yes: Annotated[bool, typer.Option("--yes-i-compared", help="Every new fingerprint was compared.")] = False,
    folder: Dir = HERE,
    out: Out = HERE,
    passphrase_file: Passphrase = None,
    as_json: Json = False,
) -> None:
    """Take the certificate of a reply, co-sign a draft, pin a charter: whatever the files are, in this order."""
    from partsong.client.home.layout import SiteHome
    from partsong.client.membership import charter_pins
    from partsong.client.membership.onboarding import take_reply
    from partsong.common.errors import InputError
    from partsong.common.identity import letters
    from partsong.common.identity.tls import utc_now

    home = SiteHome(folder)
    read = {file: letters.read_file(file) for file in files}
    kinds = {file: letters.format_of(data) for file, data in read.items()}
    done: list[dict[str, Any]] = []
    for file in sorted(files, key=lambda f: _ORDER.get(kinds[f], len(_ORDER))):
        if kinds[file] == "partsong-reply":
            take_reply(home, letters.parse(letters.Reply, read[file], place=str(file)), now=utc_now(), place=str(file))
            done.append({"did": "certificate", "file": str(file)})
        elif kinds[file] == "partsong-draft":
            done.append(_cosign(home, file, fingerprints or [], yes=yes, out=out, passphrase_file=passphrase_file))
        elif kinds[file] == "":
            pinned = charter_pins.pin(home, read[file])
            done.append({"did": "charter", "version": pinned.charter.version, "sha256": pinned.charter.hash.hex()})
        else:
            raise InputError(str(file), found=f"a {kinds[file]}", expected="a reply, a draft or a charter")
    _print({"done": done}, "\n".join(_words(step) for step in done), as_json=as_json)


_ORDER = {"partsong-reply": 0, "partsong-draft": 1}


@charter.command()
def sign(
    draft: Annotated[Path, typer.Argument(metavar="DRAFT", help="The draft that the coordinator sent.")],
    fingerprints: Annotated[
        list[str] | None,
        typer.Option("--fingerprint", metavar="WHO=FINGERPRINT", help="As heard from them; may be given again."),
    ] = None,  # one line of help
    yes: Annotated[bool, typer.Option("--yes-i-compared", help="Every new fingerprint was compared.")] = False,
    folder: Dir = HERE,
    out: Out = HERE,
    passphrase_file: Passphrase = None,
    as_json: Json = False,
) -> None:
    """Show who and what a draft lists, with every difference from the charter in force, and co-sign it."""
    from partsong.client.home.layout import SiteHome

    step = _cosign(SiteHome(folder), draft, fingerprints or [], yes=yes, out=out, passphrase_file=passphrase_file)
    _print(step, _words(step), as_json=as_json)


@charter.command()
def show(
    draft: Annotated[
        Path | None, typer.Argument(metavar="[DRAFT]", help="A draft; without it, the charter in force.")
    ] = None,
    folder: Dir = HERE,
    as_json: Json = False,
) -> None:
    """Show the charter in force, or a draft with its differences; signs nothing."""
    from partsong.client.home.layout import SiteHome
    from partsong.client.membership import charter_pins

    home = SiteHome(folder)
    review = charter_pins.review(home, draft) if draft is not None else charter_pins.in_force(home)
    _print(charter_pins.review_tree(review), charter_pins.review_words(review), as_json=as_json)


def renew(
    new_key: Annotated[bool, typer.Option("--new-key", help="Replace the transport key too.")] = False,
    invite: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of a coordinator with a new key or on another machine.")
    ] = None,
    folder: Dir = HERE,
    out: Out = HERE,
    passphrase_file: Passphrase = None,
    as_json: Json = False,
) -> None:
    """Ask for a new certificate of the connection; the identity key and all else stay as they are."""
    from partsong.client.home.layout import SiteHome
    from partsong.client.home.opened import read_config
    from partsong.client.membership import onboarding
    from partsong.common.files import write_bytes
    from partsong.common.identity.tls import utc_now

    home = SiteHome(folder)
    config = read_config(home)
    invitation = None if invite is None else onboarding.read_invitation(invite, now=utc_now())
    data = onboarding.renew(home, _passphrase(passphrase_file), new_key=new_key, invitation=invitation)
    file = out / f"{config.name}.request.json"
    write_bytes(file, data)
    _print({"site": config.name, "request": str(file)}, f"send {file} to the coordinator", as_json=as_json)


def new_vault(folder: Dir = HERE, passphrase_file: Passphrase = None, as_json: Json = False) -> None:
    """Start an empty vault where the one before was lost; the site sits out until the next set-up."""
    from partsong.client.home.layout import SiteHome
    from partsong.client.home.opened import read_config
    from partsong.client.membership.onboarding import new_vault as make

    home = SiteHome(folder)
    name = read_config(home).name
    make(home, _passphrase(passphrase_file))
    _print({"site": name}, f"{name} has an empty vault and takes part from the next set-up on", as_json=as_json)


def leave(
    yes: Annotated[bool, typer.Option("--yes", help="Erase this site's keys.")] = False,
    folder: Dir = HERE,
    as_json: Json = False,
) -> None:
    """Leave the consortium: keys, vault, certificates and messages are erased; what was spent stays spent."""
    from partsong.client.home.layout import SiteHome
    from partsong.client.home.opened import read_config
    from partsong.client.membership.onboarding import leave as erase
    from partsong.common.errors import InputError

    home = SiteHome(folder)
    name = read_config(home).name
    if not yes and not (sys.stdin.isatty() and typer.confirm(f"erase all keys of {name}?", err=True)):
        raise InputError("--yes", found="no word of a person", expected="--yes, or an answer at the terminal")
    erased = erase(home)
    words = (
        f"erased: {', '.join(erased)}\nkept: ledger.sqlite, policy.yaml, approvals, adapters, "
        f"log, and the charters as charters.left-N\n"
        f"let the coordinator run `partsong coordinator remove {name}`"
    )
    _print({"site": name, "erased": list(erased)}, words, as_json=as_json)


def _cosign(
    home: Any, file: Path, heard: list[str], *, yes: bool, out: Path, passphrase_file: Path | None
) -> dict[str, Any]:
    from partsong.client.home.opened import open_identity
    from partsong.client.membership import charter_pins
    from partsong.common.files import write_bytes

    review = charter_pins.review(home, file)
    _say(charter_pins.review_words(review))
    confirmed = charter_pins.require_heard(review, heard)
    if not (yes or confirmed):
        charter_pins.require_word(sys.stdin.isatty() and typer.confirm("did you compare every new one?", err=True))
    cosignature = charter_pins.cosign(home, review, open_identity(home, _passphrase(passphrase_file)))
    target = out / f"{review.site}.cosigned.json"
    write_bytes(target, cosignature)
    return {"did": "cosigned", "file": str(target), **charter_pins.review_tree(review)}


def _words(step: Mapping[str, Any]) -> str:
    if step["did"] == "certificate":
        return f"took the certificate of {step['file']}"
    if step["did"] == "charter":
        return f"version {step['version']} of the charter is in force: {step['sha256']}"
    return f"co-signed version {step['version']}; send {step['file']} to the coordinator"


def _passphrase(file: Path | None, *, new: bool = False) -> bytes:
    from partsong.common.identity.passphrase import find_passphrase, new_passphrase

    find = new_passphrase if new else find_passphrase
    return find(file=file, environment=os.environ, ask=_ask if sys.stdin.isatty() else None)


def _ask(prompt: str) -> str:
    import getpass

    return getpass.getpass(prompt, stream=sys.stderr)


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _print(tree: Mapping[str, Any], words: str, *, as_json: bool) -> None:
    typer.echo(json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) if as_json else words)
