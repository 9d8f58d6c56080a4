"""The command line. It parses, calls the facade, prints, and turns errors into exit codes.

0 ok, 1 a finding or not found, 2 usage, 4 privilege missing.
"""

from __future__ import annotations

import gc
import os
import sys
from io import TextIOWrapper
from typing import TYPE_CHECKING

import click

from tunowner.control import render
from tunowner.errors import ConfigError, TunOwnerError

if TYPE_CHECKING:
    from tunowner.app.events import Event

# ruff: noqa: PLC0415 - each command imports what it uses, where it uses it: start-up is counted

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def main() -> None:
    """Run the command line and exit."""
    if isinstance(sys.stdout, TextIOWrapper):  # a path may hold bytes that no encoding knows
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        cli.main(prog_name="tunowner", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except TunOwnerError as error:
        click.echo(f"tunowner: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # of our own output: backends translate theirs
        if not isinstance(error, BrokenPipeError):
            click.echo(f"tunowner: cannot write: {error.strerror}", err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python flushes again
        sys.exit(1)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tunowner")
def cli() -> None:
    """Which program opened this flow, and where should it go?"""


@cli.command()
@click.option(
    "--rules",
    multiple=True,
    metavar="PATH",
    help="A rule file or a folder of them; repeatable. Without it: /etc/tunowner/rules.d if there"
    " is one, else everything is direct.",
)
@click.option("--profile", default="", help="What the condition `profile` of rules asks for.")
@click.option("--dry-run", is_flag=True, help="Decide and print, and let everything pass.")
@click.option(
    "--mark-byte",
    type=click.IntRange(0, 3),
    default=3,
    show_default=True,
    help="Which byte of the fwmark is ours, from the right.",
)
@click.option("--no-ebpf", is_flag=True, help="Find owners through /proc alone.")
@click.option("--cgroup", hidden=True, help="Attach the eBPF programs to this cgroup directory.")
@_JSON
def run(
    rules: tuple[str, ...],
    *,
    profile: str,
    dry_run: bool,
    mark_byte: int,
    no_ebpf: bool,
    cgroup: str | None,
    as_json: bool,
) -> None:
    """Intercept new flows and act on the rules, until Ctrl-C or SIGTERM."""
    from tunowner.app.config import usual_paths
    from tunowner.app.service import RunOptions, Service
    from tunowner.backends.base import EbpfSettings

    write = _write_json if as_json else _write_line
    ebpf = None if no_ebpf else EbpfSettings(cgroup)
    options = RunOptions(usual_paths(rules), dry_run, mark_byte * 8, ebpf, profile)
    Service(options, write).run()


@cli.command()
@click.argument("words", nargs=-1, metavar="[tcp|udp] LOCAL [REMOTE]")
@click.option("--pid", type=click.IntRange(1), help="Tell of a process and its sockets instead.")
@click.option("--tcp", "protocol", flag_value="tcp", help="As the word tcp.")
@click.option("--udp", "protocol", flag_value="udp", help="As the word udp.")
@click.option("--hash", "sha256", is_flag=True, help="Hash the executable too (SHA-256).")
@_JSON
def who(
    words: tuple[str, ...], *, pid: int | None, protocol: str | None, sha256: bool, as_json: bool
) -> None:
    """Name the owner of a socket: who tcp 127.0.0.1:41234, who :5353, who udp [::1]:53.

    Without a protocol both are tried. Exits with 1 when nothing holds the socket.
    """
    from tunowner.control import answers

    if pid is not None:
        if words or protocol:
            raise click.UsageError("give --pid or a socket, not both")
        found = answers.tell_process(pid, sha256=sha256, as_json=as_json)
    else:
        question = answers.question(words, protocol)
        found = answers.tell_socket(question, sha256=sha256, as_json=as_json)
    sys.exit(0 if found else 1)


@cli.command()
@click.option("--tcp", is_flag=True, help="TCP sockets; with --udp both, which is the default.")
@click.option("--udp", is_flag=True, help="UDP sockets.")
@click.option("--listening", is_flag=True, help="Only those that wait for anybody.")
@click.option("--pid", type=click.IntRange(1), help="Only those that this process holds.")
@click.option("--app", metavar="APP", help="Only of an app: a name, a path, a folder/, re:...")
@click.option("--port", type=click.IntRange(1, 65535), help="Only with this port at either end.")
@click.option("--state", metavar="STATE", help="Only in this TCP state, such as ESTABLISHED.")
@_JSON
def sockets(
    *,
    tcp: bool,
    udp: bool,
    listening: bool,
    pid: int | None,
    app: str | None,
    port: int | None,
    state: str | None,
    as_json: bool,
) -> None:
    """List TCP and UDP sockets with their owners; with --json one JSON object in each line."""
    gc.disable()  # no row is garbage before the end, and looking for it takes longer than a row
    from tunowner.app.sockets import Wanted
    from tunowner.control import listing

    protocols = listing.protocol_numbers(tcp=tcp, udp=udp)
    listing.tell_table(Wanted(protocols, listening, pid, app, port, state), as_json=as_json)
    gc.freeze()  # nor when Python ends


@cli.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--strict", is_flag=True, help="Let warnings fail too.")
@_JSON
def check(paths: tuple[str, ...], *, strict: bool, as_json: bool) -> None:
    """Read rule files, list everything that is wrong with them, and run the tests in them.

    Without PATH: /etc/tunowner/rules.d. Exits with 1 when there is an error.
    """
    from tunowner.control.checking import check

    sys.exit(0 if check(paths, strict=strict, as_json=as_json) else 1)


@cli.command()
@click.option(
    "--rules",
    multiple=True,
    metavar="PATH",
    help="A rule file or a folder of them; repeatable. Without it: /etc/tunowner/rules.d.",
)
@click.option("--to", metavar="ADDRESS:PORT", help="Where the flow goes.")
@click.option("--proto", "--protocol", "protocol", help="tcp (the default), udp or quic.")
@click.option("--pid", type=click.IntRange(1), help="Ask for a process that runs; tell no more.")
@click.option("--app", metavar="EXE", help="The program: its path, or a name on PATH.")
@click.option("--user", help="Name or uid.")
@click.option("--cmdline", metavar="TEXT", help="The command line, quoted as for a shell.")
@click.option("--directory", metavar="PATH", help="The working directory.")
@click.option("--parent", multiple=True, metavar="EXE", help="The parent; again: its parent.")
@click.option("--package", metavar="KIND:NAME", help="As deb:curl; none for no package.")
@click.option("--service", metavar="UNIT", help="The systemd unit, as ssh.service; or none.")
@click.option("--cgroup", metavar="PATH", help="The control group.")
@click.option("--container", metavar="KIND:ID", help="As docker:0123abcd; or none.")
@click.option("--sha256", metavar="HASH", help="Of the program.")
@click.option("--host", multiple=True, metavar="NAME", help="A name of the address; repeatable.")
@click.option("--interface", metavar="NAME", help="By which the flow would leave.")
@click.option("--owner", metavar="GRADE", help="How sure the owner is, or unknown.")
@click.option("--profile", metavar="NAME", help="The profile that is chosen.")
@_JSON
def explain(
    rules: tuple[str, ...], *, pid: int | None, as_json: bool, **told: str | tuple[str, ...] | None
) -> None:
    """Say why a flow would meet with what it meets: what every rule says, in order.

    The flow is described by options, and what they do not tell is unknown; or it is one that the
    process --pid has open (without --to: all of them), or would open now.
    """
    from tunowner.control.explaining import explain, told_of

    sys.exit(0 if explain(rules, pid, told_of(told), as_json=as_json) else 1)


@cli.command()
@click.option("--json", is_flag=True, expose_value=False, help="It is JSON anyway.")
def schema() -> None:
    """Print the JSON Schema of a rule file, for editors.

    Save it, and write as the first line of a file: # yaml-language-server: $schema=PATH
    """
    import json

    from tunowner.app.schema import rules_schema

    click.echo(json.dumps(rules_schema(), indent=2))


@cli.command()
@_JSON
def doctor(*, as_json: bool) -> None:
    """Tell what this machine can do, and what to install for more."""
    from dataclasses import asdict

    from tunowner.backends import open_backend

    checks = open_backend().doctor()
    if as_json:
        _write_json({"checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            click.echo(f"{'ok   ' if check.ok else 'lacks'} {check.name}: {check.detail}")
            if not check.ok:
                click.echo(f"      {check.hint}")
    sys.exit(0 if all(check.ok for check in checks if check.needed) else 1)


def _write_json(event: Event) -> None:
    import json

    sys.stdout.write(json.dumps(event, ensure_ascii=True) + "\n")
    sys.stdout.flush()


def _write_line(event: Event) -> None:
    sys.stdout.write(render.event_line(event) + "\n")
    sys.stdout.flush()
