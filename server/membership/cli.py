"""The coordinator's commands that make a consortium: `partsong coordinator init|invite|enrol|charter|...`."""

# ruff: noqa: FBT002, PLC0415, PLR0917  # how typer spells options; a command imports what it needs: --help is quick

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

coordinator = typer.Typer(
    name="coordinator", no_args_is_help=True, help="Make a consortium, and run studies across its sites."
)
charter = typer.Typer(name="charter", no_args_is_help=True, help="Draft the charter, gather signatures, publish it.")
coordinator.add_typer(charter)

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Dir = Annotated[Path, typer.Option("--dir", metavar="DIR", help="The coordinator's directory.")]
Passphrase = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Holds the passphrase; mode 0600. Else PARTSONG_PASSPHRASE_FILE, systemd's credential, the terminal.",
    ),
]
Out = Annotated[Path, typer.Option(metavar="FOLDER", help="Where files for the sites are written.")]
HERE = Path()


@coordinator.command()
def init(
    consortium: Annotated[str, typer.Option(metavar="NAME", help="Name of the consortium.")],
    name: Annotated[
        list[str], typer.Option(metavar="HOST", help="Name or address that sites use; may be given again.")
    ],
    site: Annotated[
        list[str] | None, typer.Option(metavar="SITE", help="Write an invitation for this site; may be given again.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="The public port.")] = None,
    suite: Annotated[Literal["A", "F"], typer.Option(help="F: approved algorithms alone.")] = "A",
    csr: Annotated[
        bool, typer.Option("--csr", help="Leave the server's certificate to the organisation's own authority.")
    ] = False,
    folder: Dir = HERE,
    out: Out = HERE,
    passphrase_file: Passphrase = None,
    as_json: Json = False,
) -> None:
    """Make the coordinator's keys and certificates."""
    from partsong.common.build import build
    from partsong.common.deployment import CoordinatorConfig
    from partsong.common.errors import InputError
    from partsong.common.identity.tls import utc_now
    from partsong.server.membership import onboarding
    from partsong.server.membership.home import CoordinatorHome
    from partsong.server.membership.opened import open_identity

    sites = site or []
    if csr and sites:
        raise InputError("--site", found="invitations before there is a certificate", expected="them after `import`")
    for wanted in sites:
        onboarding.require_site_id(wanted)
    tree = {"consortium": consortium, "names": name} | ({} if port is None else {"port": port})
    home, config = CoordinatorHome(folder), build(CoordinatorConfig, tree)
    passphrase = _passphrase(passphrase_file, new=True)
    own = onboarding.init(home, config, suite=suite, passphrase=passphrase, own_ca=csr, now=utc_now())
    files = _invite(home, open_identity(home, passphrase), sites, out) if sites else []
    words = [f"fingerprint of the coordinator of {consortium}:\n  {own}\n"]
    words += [f"let your authority sign {home.tls / 'server.csr'}, then `partsong coordinator import`"] * csr
    words += [f"send {file} to its site" for file in files]
    words += ["next: `partsong coordinator invite SITE ...`"] * (not csr and not files)
    found = {"consortium": consortium, "fingerprint": own, "dir": str(folder), "invitations": [str(f) for f in files]}
    _print(found, "\n".join(words), as_json=as_json)


@coordinator.command("import")
def take(
    certificate: Annotated[Path, typer.Argument(metavar="CERTIFICATE", help="PEM: the server's, then intermediates.")],
    authority: Annotated[Path, typer.Option(metavar="FILE", help="PEM of the roots that sites are to trust.")],
    folder: Dir = HERE,
    as_json: Json = False,
) -> None:
    """Put in place what the organisation's authority issued for tls/server.csr."""
    from partsong.common.identity.certificates import facts
    from partsong.common.identity.letters import read_file
    from partsong.common.identity.tls import utc_now
    from partsong.server.membership.home import CoordinatorHome
    from partsong.server.membership.onboarding import import_server

    pem, now = read_file(certificate), utc_now()
    import_server(CoordinatorHome(folder), pem, read_file(authority), now=now)
    found = facts(pem, now=now)
    words = f"certificate for {', '.join(found.names)} until {found.not_after:%Y-%m-%d}"
    _print({"names": list(found.names), "not_after": found.not_after.isoformat()}, words, as_json=as_json)


@coordinator.command()
def invite(
    sites: Annotated[list[str], typer.Argument(metavar="SITE...", help="Ids: lower-case letters, digits, hyphens.")],
    folder: Dir = HERE,
    out: Out = HERE,
    passphrase_file: Passphrase = None,
    as_json: Json = False,
) -> None:
    """Write an invitation for each site: SITE.invite.json, good for 14 days and for that site alone."""
    from partsong.server.membership.home import CoordinatorHome
    from partsong.server.membership.onboarding import require_site_id
    from partsong.server.membership.opened import open_identity, read_config

    home = CoordinatorHome(folder)
    read_config(home)
    for site in sites:
        require_site_id(site)
    files = _invite(home, open_identity(home, _passphrase(passphrase_file)), sites, out)
    words = "\n".join(f"send {file} to its site" for file in files)
    _print({"invitations": [str(file) for file in files]}, words, as_json=as_json)


@coordinator.command()
def enrol(
    requests: Annotated[list[Path], typer.Argument(metavar="REQUEST...", help="What the sites sent.")],
    fingerprints: Annotated[
        list[str] | None,
        typer.Option("--fingerprint", metavar="WHO=FINGERPRINT", help="As heard from them; one for each that is new."),
    ] = None,  # one line of help
    draft: Annotated[bool, typer.Option("--draft", help="Then draft the next charter, with the usual floors.")] = False,
    folder: Dir = HERE,
    out: Out = HERE,
    passphrase_file: Passphrase = None,
    as_json: Json = False,
) -> None:
    """Enrol sites under the fingerprints that they said over another channel, or renew what they ask for."""
    from partsong.common.files import write_bytes
    from partsong.common.identity import letters
    from partsong.common.identity.tls import utc_now
    from partsong.server.membership import charter_desk, onboarding
    from partsong.server.membership.home import CoordinatorHome
    from partsong.server.membership.opened import open_identity

    home, now = CoordinatorHome(folder), utc_now()
    read = {file: letters.read_letter(letters.Request, file) for file in requests}
    unheard = onboarding.require_heard(home, read, fingerprints or [], now=now)
    for request in unheard:
        onboarding.require_word(request, _confirmed(request))
    passphrase = _passphrase(passphrase_file)
    signer = open_identity(home, passphrase)
    files = []
    for request in read.values():
        file = out / f"{request.site}.reply.json"
        write_bytes(file, onboarding.enrol(home, signer, request, passphrase=passphrase, now=now))
        files.append(file)
    if draft:
        data = charter_desk.draft(home, signer, wanted=charter_desk.Wanted())
        files.append(_write_draft(data, out))
    words = "\n".join(
        [f"send {file} to {'every site' if file.name.startswith('charter-') else 'its site'}" for file in files]
    )
    _print({"enrolled": [r.site for r in read.values()], "files": [str(f) for f in files]}, words, as_json=as_json)


@coordinator.command()
def remove(
    site: Annotated[str, typer.Argument(metavar="SITE", help="An enrolled site.")],
    revoke: Annotated[
        bool, typer.Option("--revoke", help="Its key may be in other hands: no later charter may list it.")
    ] = False,
    folder: Dir = HERE,
    out: Out = HERE,
    passphrase_file: Passphrase = None,
    as_json: Json = False,
) -> None:
    """Take a site's right to connect, and draft the charter without it; the others sign, and keep their keys."""
    from partsong.server.membership import charter_desk
    from partsong.server.membership.home import CoordinatorHome
    from partsong.server.membership.opened import open_identity

    home = CoordinatorHome(folder)
    signer = open_identity(home, _passphrase(passphrase_file))
    key = charter_desk.remove(home, site)
    data = charter_desk.draft(home, signer, wanted=charter_desk.Wanted(), revoke=[key] if revoke else [])
    file = _write_draft(data, out)
    _print({"removed": site, "draft": str(file)}, f"send {file} to every site that stays", as_json=as_json)


@coordinator.command()
def renew(
    name: Annotated[
        list[str] | None, typer.Option(metavar="HOST", help="New names of the server; may be given again.")
    ] = None,
    folder: Dir = HERE,
    passphrase_file: Passphrase = None,
    as_json: Json = False,
) -> None:
    """Renew the server's certificate, for another year; no key is touched."""
    from partsong.common.identity.certificates import facts
    from partsong.common.identity.tls import utc_now
    from partsong.server.membership.home import CoordinatorHome
    from partsong.server.membership.onboarding import renew_server
    from partsong.server.membership.opened import read_config

    home, now = CoordinatorHome(folder), utc_now()
    read_config(home)
    renew_server(home, _passphrase(passphrase_file), now=now, names=tuple(name) if name else None)
    found = facts((home.tls / "server.crt").read_bytes(), now=now)
    words = f"certificate for {', '.join(found.names)} until {found.not_after:%Y-%m-%d}"
    _print({"names": list(found.names), "not_after": found.not_after.isoformat()}, words, as_json=as_json)


@charter.command("draft")
def draft_(
    minimum_cohort: Annotated[int | None, typer.Option(help="Fewest sites in a sum.")] = None,
    minimum_honest: Annotated[int | None, typer.Option(help="Fewest honest sites in a sum.")] = None,
    corrupt_tolerance: Annotated[int | None, typer.Option(help="Sites that may work with the coordinator.")] = None,
    two_sites: Annotated[bool, typer.Option("--two-sites", help="Each learns the other's update.")] = False,
    after: Annotated[
        Path | None, typer.Option(metavar="CHARTER", help="Of a coordinator that this one takes over from.")
    ] = None,
    folder: Dir = HERE,
    out: Out = HERE,
    passphrase_file: Passphrase = None,
    as_json: Json = False,
) -> None:
    """Draft the next version from the sites that are enrolled; floors stay as they were unless given."""
    from partsong.common.identity import charter as charters
    from partsong.common.identity.letters import read_file
    from partsong.server.membership import charter_desk
    from partsong.server.membership.home import CoordinatorHome
    from partsong.server.membership.opened import open_identity, read_config

    home = CoordinatorHome(folder)
    read_config(home)
    wanted = charter_desk.Wanted(
        minimum_cohort=minimum_cohort,
        minimum_honest=minimum_honest,
        corrupt_tolerance=corrupt_tolerance,
        two_sites=two_sites,
    )
    before = None if after is None else charters.read(read_file(after)).charter
    signer = open_identity(home, _passphrase(passphrase_file))
    file = _write_draft(charter_desk.draft(home, signer, wanted=wanted, before=before), out)
    _print({"draft": str(file)}, f"send {file} to every site that it lists", as_json=as_json)


@charter.command()
def collect(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="What the sites signed.")],
    folder: Dir = HERE,
    out: Out = HERE,
    as_json: Json = False,
) -> None:
    """Enter the sites' signatures; with the last of them the charter is published."""
    from partsong.common.files import write_bytes
    from partsong.common.identity.letters import Cosignature, read_letter
    from partsong.server.membership import charter_desk
    from partsong.server.membership.home import CoordinatorHome

    home = CoordinatorHome(folder)
    read = {file: read_letter(Cosignature, file) for file in files}
    for file, cosignature in read.items():
        charter_desk.collect(home, cosignature, place=str(file))
    signed = charter_desk.open_draft(home)
    waiting, version = charter_desk.missing(signed), signed.charter.version
    tree: dict[str, Any] = {"version": version, "missing": list(waiting), "charter": None}
    words = f"version {version} waits for {', '.join(waiting)}"
    if not waiting:
        target = out / f"charter-{version}.json"
        write_bytes(target, charter_desk.publish(home))
        tree["charter"], words = str(target), f"version {version} is published; send {target} to every site"
    _print(tree, words, as_json=as_json)


def _invite(home: Any, signer: Any, sites: list[str], out: Path) -> list[Path]:
    from partsong.common.files import write_bytes
    from partsong.common.identity.tls import utc_now
    from partsong.server.membership.onboarding import invite as make

    files = [out / f"{site}.invite.json" for site in sites]
    for site, file in zip(sites, files, strict=True):
        write_bytes(file, make(home, signer, site, now=utc_now()))
    return files


def _write_draft(data: bytes, out: Path) -> Path:
    from partsong.common.files import write_bytes
    from partsong.common.identity.letters import Draft, parse

    version = parse(Draft, data, place="draft").charter.version
    file = out / f"charter-{version}.draft.json"
    write_bytes(file, data)
    return file


def _confirmed(request: Any) -> bool:
    from partsong.common.identity.keys import fingerprint

    text = f"{request.site} says over another channel: {fingerprint(bytes.fromhex(request.key))}?"
    return sys.stdin.isatty() and typer.confirm(text, err=True)


def _passphrase(file: Path | None, *, new: bool = False) -> bytes:
    from partsong.common.identity.passphrase import find_passphrase, new_passphrase

    find = new_passphrase if new else find_passphrase
    return find(file=file, environment=os.environ, ask=ask_passphrase())


def ask_passphrase() -> Callable[[str], str] | None:
    """Give what asks on the terminal; None where there is none."""
    return _ask if sys.stdin.isatty() else None


def _ask(prompt: str) -> str:
    import getpass

    return getpass.getpass(prompt, stream=sys.stderr)


def _print(tree: Mapping[str, Any], words: str, *, as_json: bool) -> None:
    typer.echo(json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) if as_json else words)
