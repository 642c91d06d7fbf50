"""The sessions of the README and the tutorial, run as they are written, with a real grpcurl, Python and terminal."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.processes import ROOT

if TYPE_CHECKING:
    from tests.end_to_end.processes import GatewayProcess

README = (ROOT / "README.md").read_text(encoding="utf-8")
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
ADDRESS = "127.0.0.1:50051"
VARYING = {"id", "revision", "external_id", "create_time", "update_time", "end_time"}
LEFT_OUT = re.compile(r"^\s*…\n?", flags=re.MULTILINE)


def _sessions(page: str) -> list[tuple[str, str]]:
    """Returns every grpcurl command of a page with what is shown below it."""
    blocks = re.findall(r"```console\n(.*?)```", page, flags=re.DOTALL)
    found = [
        (command, shown.strip())
        for block in blocks
        for command, shown in re.findall(
            r"^\$ (?:\.venv/bin/)?(grpcurl .*)\n((?:(?!\$ ).*\n)*)", block, flags=re.MULTILINE
        )
    ]
    assert found
    return found


async def _run(*command: str) -> str:
    paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    program = shutil.which(command[0], path=paths)
    assert program, f"{command[0]} is not there: run make dev"
    process = await asyncio.create_subprocess_exec(
        *(program, *command[1:]), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return output.decode()


def _documents(output: str) -> list[dict[str, object]]:
    """Reads JSON documents that follow one another."""
    decoder, found, rest = json.JSONDecoder(), [], output.lstrip()
    while rest:
        document, end = decoder.raw_decode(rest)
        found.append(document)
        rest = rest[end:].lstrip()
    return found


def _shown(text: str) -> list[dict[str, object]]:
    """Reads JSON documents of which lines are left out."""
    return _documents(re.sub(r",(\s*\})", r"\1", LEFT_OUT.sub("", text)))


def _starts(documents: list[dict[str, object]]) -> list[dict[str, object]]:
    found = [document.get("changed") or document.get("flow_start") for document in documents]
    return [start for start in found if isinstance(start, dict)]


def _assert_shows(shown: str, output: str) -> None:
    """Asserts that a page shows what a command printed: all of it, or with `…` a part of it; ids and times aside."""
    if output.startswith("ERROR"):
        assert [line.split('"description"')[0] for line in shown.splitlines()] == [
            line.split('"description"')[0] for line in output.strip().splitlines()
        ]
        return
    expected, real = _shown(shown), _documents(output)
    assert {key for each in expected for key in each} <= {key for each in real for key in each}
    last, really = _starts(expected)[-1], _starts(real)[-1]
    assert last.keys() <= really.keys()
    assert {k: v for k, v in last.items() if k not in VARYING} == {
        k: v for k, v in really.items() if k in last and k not in VARYING
    }
    if not LEFT_OUT.search(shown):
        assert expected[-1].keys() == real[-1].keys()
        assert last.keys() == really.keys() - {"warnings"}


@pytest.mark.parametrize("page", [README, TUTORIAL], ids=["README", "tutorial"])
async def test_the_grpcurl_sessions_are_real(gateway: GatewayProcess, page: str) -> None:
    """Each command of a page still answers as shown there, ids and times aside."""
    started = ""
    for command, shown in _sessions(page):
        words = shlex.split(command.replace(ADDRESS, gateway.address))
        if "WatchFlowStarts" in command:
            words[words.index("-d") + 1] = json.dumps({"ids": [started], "until_done": True})
        output = await _run(*words)
        if not output.startswith("ERROR") and "StartFlowService/StartFlow" in command:
            started = json.loads(output)["flow_start"]["id"]

        _assert_shows(shown, output)


async def test_the_command_line_session_is_real(gateway: GatewayProcess) -> None:
    """The README's `startflow start … --watch` ends on a terminal with the line that is shown, times and ids aside."""
    command, shown = re.findall(r"^\$ \.venv/bin/(startflow start .*)\n((?:(?!```).*\n)*)", README, flags=re.MULTILINE)[
        0
    ]
    near, far = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", *shlex.split(command)[1:], "--address", gateway.address),
            stdin=far,
            stdout=far,
            stderr=far,
            env={**os.environ, "TERM": "dumb", "COLUMNS": "100"},
        )
        assert 0 == await process.wait()
        output = os.read(near, 65_536).decode()
    finally:
        os.close(near)
        os.close(far)
    said = shown.splitlines()[-1].partition(": ")[2]

    assert said in output


async def test_reflection_and_health_answer_grpcurl(gateway: GatewayProcess) -> None:
    """Services, methods and messages are described, and health is SERVING, without a file on the client's side."""
    services = await _run("grpcurl", "-plaintext", gateway.address, "list")
    described = await _run("grpcurl", "-plaintext", gateway.address, "describe", "startflow.v1.StartFlowService")
    health = await _run("grpcurl", "-plaintext", gateway.address, "grpc.health.v1.Health/Check")

    assert "startflow.v1.StartFlowService" in services
    assert 10 == described.count("rpc ")
    assert {"status": "SERVING"} == json.loads(health)


async def test_the_python_example_runs(gateway: GatewayProcess, tmp_path: Path) -> None:
    """It prints revisions that rise, and ends with the start completed."""
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(example.replace(ADDRESS, gateway.address), encoding="utf-8")
    lines = (await _run(sys.executable, str(script))).splitlines()
    revisions = [int(line.split()[0]) for line in lines]

    assert sorted(revisions) == revisions
    assert "STATE_COMPLETED" == lines[-1].split()[1]


async def test_a_client_of_the_newer_reflection_is_answered(gateway: GatewayProcess) -> None:
    """grpc.reflection.v1 lists the services as v1alpha does: its messages are the same."""
    import grpc  # noqa: PLC0415 -- beside its use
    from grpc_reflection.v1alpha import reflection_pb2 as reflection  # noqa: PLC0415

    async with grpc.aio.insecure_channel(gateway.address) as channel:
        call = channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection.ServerReflectionResponse.FromString,
        )
        answers = [answer async for answer in call(iter([reflection.ServerReflectionRequest(list_services="")]))]

    assert "startflow.v1.StartFlowService" in [each.name for each in answers[0].list_services_response.service]
