"""Start the app's server, with the port and the host that were asked for."""

import ipaddress
import json
import os
import socket
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from llmrl.config import AppConfig
from llmrl.errors import UserError

SETTINGS = "LLMRL_APP"
"""The variable that hands the config from the command to the pages, which Streamlit runs by themselves."""


def serve(config: AppConfig, script: Path) -> int:
    """Serve until stopped. Raises UserError where the port is taken or the host is none."""
    _refuse_if_taken(config.host, config.port)
    os.environ[SETTINGS] = json.dumps(asdict(config))
    at = f"[{config.host}]" if ":" in config.host else config.host
    print(f"llmrl app: http://{at}:{config.port} (Ctrl-C ends it)", flush=True)
    if warning := exposure(config.host):
        print(f"llmrl app: {warning}", file=sys.stderr, flush=True)
    from streamlit.web import cli

    options = {"server.address": config.host, "server.port": config.port, "server.maxUploadSize": config.max_upload_mb}
    flags = [f"--{key}={value}" for key, value in options.items()]
    cli.main(["run", str(script), *flags], standalone_mode=False)
    return 0


def exposure(host: str) -> str:
    """What it means to listen at a host that others may reach; empty for this machine's own."""
    if is_own(host):
        return ""
    return (
        f"host={host} lets in everybody who reaches this machine, without a password and unencrypted: they can use its models, "
        "read the runs, indexes and uploads shown, and upload documents; put it behind a proxy that asks who they are and "
        "counts their requests: requests_per_minute takes those who come through one proxy for one"
    )


def is_own(host: str) -> bool:
    """Whether only this machine reaches it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refuse_if_taken(host: str, port: int) -> None:
    wanted = socket.AF_INET6 if ":" in host else socket.AF_INET  # as Streamlit listens
    try:
        found = socket.getaddrinfo(host, port, wanted, socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UserError(f"host={host} is no address of this machine: {error.strerror or error}") from None
    for family, kind, protocol, _, address in found[:1]:
        with closing(socket.socket(family, kind, protocol)) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(address)
            except OSError as error:
                raise UserError(f"port={port} can't be used ({error.strerror or error}): try port={port + 1}") from None
