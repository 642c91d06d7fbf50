"""The README's sessions, run as they stand there with a real grpcurl and a real Python."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.end_to_end.processes import ROOT

if TYPE_CHECKING:
    from tests.end_to_end.processes import GatewayProcess

README = (ROOT / "README.md").read_text(encoding="utf-8")
ADDRESS = "127.0.0.1:50051"


def _sessions() -> list[tuple[str, str]]:
    """Returns every grpcurl command of the README with what is shown below it."""
    blocks = re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)
    return [
        (command, shown.strip())
        for block in blocks
        for command, shown in re.findall(r"^\$ (grpcurl .*)\n((?:(?!\$ ).*\n)*)", block, flags=re.MULTILINE)
    ]


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


def _shape(output: str) -> set[tuple[str, ...]]:
    """Reduces a session to what must not vary: the kinds of messages and the states they end in."""
    if output.startswith("ERROR"):
        return {tuple(line.split('"description"')[0] for line in output.splitlines())}
    documents = _documents(output)
    starts = [document.get("changed") or document.get("flow_start") for document in documents]
    last = next(start for start in reversed(starts) if isinstance(start, dict))
    kinds = {kind for document in documents for kind in document if kind not in ("revision", "epoch")}
    return {tuple(sorted(kinds)), tuple(sorted(set(last) - {"warnings"})), (str(last["state"]), str(last["flow"]))}


async def test_the_grpcurl_sessions_are_real(gateway: GatewayProcess) -> None:
    """Each command of the README still answers as shown there, ids and times aside."""
    sessions = _sessions()
    assert 5 == len(sessions)
    started = ""
    for command, shown in sessions:
        words = shlex.split(command.replace(ADDRESS, gateway.address))
        if "WatchFlowStarts" in command:
            words[words.index("-d") + 1] = json.dumps({"ids": [started], "until_done": True})
        output = await _run(*words)
        if not output.startswith("ERROR") and "StartFlowService/StartFlow" in command:
            started = json.loads(output)["flow_start"]["id"]

        assert _shape(shown) == _shape(output), command


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
