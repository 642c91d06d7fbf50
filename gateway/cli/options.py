"""What can be typed behind a command of `startflow`, each option once, and what its help ends with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, BadParameter, Option

from gateway.cli import completion

EXAMPLE_FLOW = "f5901b62-ba76-4003-9c62-72fdacc1b7b7"  # the sandbox has it

CALL_CODES = "0 done · 2 wrong usage · 3 the gateway refused or cannot be reached"
STORE_CHECK_CODES = """0 everything holds
  1 something does not hold, or the store cannot be read
  2 wrong usage or configuration"""
STORE_COPY_CODES = """0 copied, and compared row by row
  1 not copied; nothing was changed
  2 wrong usage"""
CHECK_CODES = "0 no problem was found (there may be warnings) · 1 a problem was found · 2 wrong usage or configuration"
RESOLVE_CODES = """0 done
  1 not confirmed; nothing was changed
  2 wrong usage
  3 the gateway refused or cannot be reached"""
SANDBOX_CODES = "0 stopped · 1 a port is taken, or the journal cannot be used · 2 wrong usage"
SERVE_CODES = """0 stopped
  1 could not start: the port or the store is taken, or the store cannot be used
  2 wrong usage or configuration
  130, 143 ended by a second Ctrl-C or SIGTERM"""
WAIT_CODES = """0 {done}completed, with nothing failed, skipped, interrupted or uncertain
  1 otherwise; standard error says why
  2 wrong usage
  3 the gateway refused or cannot be reached
  130 Ctrl-C; the starts themselves continue"""


def epilog(*examples: str, codes: str = CALL_CODES) -> str:
    r"""Returns examples to copy and what the exit codes mean. A `\b` keeps the lines of its paragraph as they are."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in examples), "", "\b", "Exit codes:", f"  {codes}"])


def _seconds(written: object) -> float:
    """Reads a time in seconds."""
    try:
        seconds = float(str(written))
    except ValueError:
        seconds = 0.0
    if not 0.001 <= seconds < math.inf:  # noqa: PLR2004 -- a millisecond
        msg = f"{str(written)!r} is not a number of seconds; write it as 30 or 0.5"
        raise BadParameter(msg)
    return seconds


def _count(written: object) -> int:
    """Reads how many of something are wanted."""
    text = str(written)
    if not (text.isascii() and text.isdigit() and int(text)):
        msg = f"{text!r} is not a whole number from 1 on"
        raise BadParameter(msg)
    return int(text)


# of every command that calls the gateway
Address = Annotated[str, Option("--address", envvar="STARTFLOW_ADDRESS", metavar="HOST:PORT", help="The gateway.")]
Token = Annotated[
    str,
    Option(
        "--token",
        envvar="STARTFLOW_TOKEN",
        metavar="TOKEN",
        help="The credential. Others on this machine can see what you type.",
    ),
]
TokenFile = Annotated[Path | None, Option("--token-file", metavar="FILE", help="Read the credential from this file.")]
Tls = Annotated[bool, Option("--tls", help="Use TLS, and trust what this machine trusts.")]
Ca = Annotated[
    Path | None, Option("--ca", envvar="STARTFLOW_CA", metavar="FILE", help="Use TLS, and trust this root certificate.")
]
AsJson = Annotated[bool, Option("--json", help="Print JSON lines, also on a terminal.")]
Timeout = Annotated[
    float | None,
    Option(
        "--timeout",
        parser=_seconds,
        metavar="SECONDS",
        help="How long a call may take (default 30), or a watch (default: no end).",
    ),
]

# of the commands that select starts
Backends = Annotated[
    list[str] | None,
    Option("--backend", metavar="NAME", help="On this backend. Repeatable.", autocompletion=completion.backends),
]
FlowId = Annotated[
    str,
    Option(
        "--flow",
        metavar="ID",
        help="Of this flow: the backend's own id, not an alias.",
        autocompletion=completion.flow_ids,
    ),
]
States = Annotated[
    list[str] | None,
    Option(
        "--state",
        metavar="STATE",
        help="In this state: pending, queued, started, completed, failed, interrupted, uncertain. Repeatable.",
        autocompletion=completion.states,
    ),
]
Labelled = Annotated[
    list[str] | None,
    Option("--label", metavar="K=V", help="With this label. Repeatable.", autocompletion=completion.labels),
]
WithRequestId = Annotated[
    str,
    Option("--request-id", metavar="ID", help="With this request id.", autocompletion=completion.request_ids),
]
ExternalId = Annotated[
    str,
    Option("--external-id", metavar="ID", help="With this id on the backend.", autocompletion=completion.external_ids),
]
Since = Annotated[str | None, Option("--since", metavar="T", help="Recorded since: RFC 3339, or 2h for 2 hours ago.")]
Until = Annotated[str | None, Option("--until", metavar="T", help="Recorded before: RFC 3339, or a duration ago.")]
Limit = Annotated[int, Option("--limit", parser=_count, metavar="N", help="At most this many.")]

# of the commands about one start, and of `watch`
StartId = Annotated[str, Argument(metavar="ID", help="The start's id.", autocompletion=completion.starts)]
ResolvedId = Annotated[str, Argument(metavar="ID", help="The start's id.", autocompletion=completion.starts_under_way)]
CancelledIds = Annotated[
    list[str], Argument(metavar="ID", help="The starts' ids.", autocompletion=completion.starts_under_way)
]
StartIds = Annotated[
    list[str] | None,
    Argument(metavar="ID", help="Only these starts. Default: all.", autocompletion=completion.starts),
]
AfterRevision = Annotated[
    int | None,
    Option("--after-revision", min=0, max=2**63 - 1, metavar="N", help="Every change after this one; 0: every one."),
]
Epoch = Annotated[str, Option("--epoch", metavar="E", help="The epoch that came with the revision.")]
UntilDone = Annotated[
    bool, Option("--until-done", help="Stop when all IDs have ended, and print how; see the exit codes.")
]

# of `resolve`
WasSent = Annotated[
    str | None,
    Option("--was-sent", metavar="EXTERNAL_ID", help="The backend has it, under this id: a uuid, or FN…."),
]
WasNotSent = Annotated[bool, Option("--was-not-sent", help="The backend does not have it: send it again.")]
GiveUp = Annotated[bool, Option("--give-up", help="Nobody will find out: fail it, and never send it again.")]
DispatchId = Annotated[
    str | None,
    Option(
        "--dispatch",
        metavar="DISPATCH_ID",
        help="Only this part of it: `startflow recipients` lists them. Default: all that is uncertain or stalled.",
        autocompletion=completion.dispatches,
    ),
]
Yes = Annotated[bool, Option("--yes", "-y", help="Send again without asking; needed in scripts.")]

# of `flows`
BackendName = Annotated[
    str,
    Argument(
        metavar="BACKEND",
        help="Its name: `startflow backends` lists them.",
        autocompletion=completion.backends,
    ),
]

# of `start`
Flow = Annotated[
    str,
    Argument(metavar="FLOW", help="The backend's id of the flow, or an alias.", autocompletion=completion.flows),
]
Urns = Annotated[
    list[str] | None,
    Argument(
        metavar="URN|@FILE|-",
        help="Addresses, such as tel:+12065551212; @FILE and - (standard input) have one on each line.",
    ),
]
Backend = Annotated[
    str,
    Option(
        "--backend",
        metavar="NAME",
        help="Needed if the flow does not identify it.",
        autocompletion=completion.backends,
    ),
]
Contacts = Annotated[list[str] | None, Option("--contact", metavar="ID", help="A RapidPro contact. Repeatable.")]
Groups = Annotated[list[str] | None, Option("--group", metavar="ID", help="A RapidPro group. Repeatable.")]
Params = Annotated[
    str | None, Option("--params", metavar="JSON|@FILE|-", help="A JSON object for the flow; - reads standard input.")
]
Param = Annotated[
    list[str] | None, Option("--param", metavar="K=V", help="One more param, always a string. Repeatable.")
]
Sender = Annotated[str, Option("--sender", metavar="FROM", help="Twilio's From, or a Messaging Service MG….")]
RestartParticipants = Annotated[
    bool | None,
    Option(
        "--restart-participants/--no-restart-participants", help="Also start those who have been in the flow before."
    ),
]
ExcludeActive = Annotated[
    bool | None, Option("--exclude-active/--no-exclude-active", help="Skip those who are in a flow now.")
]
RequestId = Annotated[
    str,
    Option(
        "--request-id",
        metavar="ID",
        help="Makes repeating the command safe: one id never starts twice. Give fixed times with it: +10m is other"
        " content each time. Default: a new one for each command.",
    ),
]
ScheduleTime = Annotated[str | None, Option("--schedule-time", metavar="T", help="Not before: RFC 3339, or +10m.")]
ExpireTime = Annotated[str | None, Option("--expire-time", metavar="T", help="Not after: RFC 3339, or +1h.")]
Labels = Annotated[list[str] | None, Option("--label", metavar="K=V", help="A label to filter by. Repeatable.")]
ValidateOnly = Annotated[bool, Option("--validate-only", help="Check it; record nothing and send nothing.")]
Watch = Annotated[bool, Option("--watch", help="Show its progress until it has ended.")]

# of `check`
Live = Annotated[bool, Option("--live", help="Only check that the configured gateway is up, such as for Docker.")]
FindingsAsJson = Annotated[bool, Option("--json", help="Print JSON lines, also on a terminal.")]

# of `token`
Tenant = Annotated[str, Option("--tenant", metavar="NAME", help="The tenant that the token belongs to.")]
Scopes = Annotated[
    str,
    Option(
        "--scopes",
        metavar="SCOPE,…",
        help="What the caller may do: start, read, admin, operator.",
        autocompletion=completion.scopes,
    ),
]

# of `backup`, `restore` and `store check`
Target = Annotated[
    Path,
    Argument(
        metavar="TARGET",
        help="A directory, in which the file is named by the time; or a new file with an ending, such as copy.db.",
    ),
]
Copy = Annotated[Path, Argument(metavar="COPY", help="A file made by `startflow backup`.")]


def as_path(written: str) -> Path:
    """Reads a store's file, written as a path or as the setting `store` is."""
    return Path(written.removeprefix("sqlite:///"))


StorePath = Annotated[
    Path | None,
    Option("--store", parser=as_path, metavar="PATH", help="The store's file (or sqlite:///PATH), not --config."),
]
MovedFrom = Annotated[str, Argument(metavar="FROM", help="The store's file, or postgresql://USER@HOST/DATABASE.")]
MovedTo = Annotated[
    str, Argument(metavar="TO", help="postgresql://USER@HOST/DATABASE without a store in it, or a new file.")
]
Keep = Annotated[bool, Option("--keep/--no-keep", help="Keep the old store as NAME.before-restore.")]
RestoreYes = Annotated[bool, Option("--yes", "-y", help="Do not ask first; needed in scripts.")]

# of `serve` and `sandbox`
ConfigFile = Annotated[Path | None, Option("--config", metavar="FILE", help="The configuration, in TOML.")]
WithSandbox = Annotated[bool, Option("--sandbox", help="Run both simulated backends too.")]
Insecure = Annotated[bool, Option("--insecure", help="Listen beyond this machine even without TLS and clients.")]
RapidProListen = Annotated[str, Option("--rapidpro-listen", metavar="HOST:PORT", help="Port 0: any free one.")]
TwilioListen = Annotated[str, Option("--twilio-listen", metavar="HOST:PORT", help="Port 0: any free one.")]
ControlListen = Annotated[str, Option("--control-listen", metavar="HOST:PORT", help="Faults and the journal.")]
Journal = Annotated[Path | None, Option("--journal", metavar="PATH", help="Keep everything in this file.")]
Duration = Annotated[float, Option("--duration", min=0, metavar="SECONDS", help="How long a start takes.")]
Seed = Annotated[int | None, Option("--seed", metavar="N", help="Repeat the ids and chances of another run.")]
RapidProGeneration = Annotated[
    Literal["new", "old"], Option("--rapidpro-generation", help="TextIt as it is today, or community RapidPro v9.")
]
TwilioEventsUrl = Annotated[
    str | None, Option("--twilio-events-url", metavar="URL", help="Post signed Event Streams events there.")
]
AddressesAsJson = Annotated[bool, Option("--json", help="Print the addresses as one line of JSON.")]
