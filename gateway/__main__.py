"""Runs the command `startflow`."""

from __future__ import annotations


def main() -> None:
    """Reads the command line, does what it says and exits; `startflow --help` tells the exit codes."""
    from gateway.cli.app import app  # noqa: PLC0415 - importing the package must not build the command line

    app(prog_name="startflow")


if __name__ == "__main__":
    main()
