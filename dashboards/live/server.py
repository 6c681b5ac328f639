"""The server of the live page."""

import ipaddress
import logging
import secrets
import socket
from collections.abc import Sequence
from typing import Any

from waitress import create_server

from dashboards.live.callbacks import live_page
from dashboards.live.guard import guard
from dashboards.live.layout import LOCAL_SECONDS, layout
from dashboards.live.steering import steer, steering_panel
from dashboards.live.watch import Watch
from tune.results import InputError

_REMOTE_SECONDS = 15.0  # between two looks at an object store


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InputError where the address is wrong or taken."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot listen on {host}, port {port}: {reason}; choose another with --port or --host") from error
    return listening


def make_server(storage: str, experiments: Sequence[str], listening: socket.socket) -> tuple[Any, str]:
    """A server whose `run` returns when it is interrupted, and the address to open, with the token of who may steer searches."""
    host, port = listening.getsockname()[:2]
    token = secrets.token_urlsafe(24)
    watch = Watch(storage, experiments, _REMOTE_SECONDS if "://" in storage else LOCAL_SECONDS)
    app = live_page(watch)
    is_owner = guard(app, token, f"cdal-{port}", loopback=ipaddress.ip_address(host).is_loopback)
    app.layout = lambda: layout(storage, steering_panel() if is_owner() else None)
    steer(app, watch, storage, is_owner)
    logging.getLogger("waitress").setLevel(logging.ERROR)  # a page asks for all its panels at once; on Ctrl-C requests may wait
    server = create_server(app.server, sockets=[listening], threads=8, ident=None, max_request_body_size=1 << 20)
    named = socket.gethostname() if ipaddress.ip_address(host).is_unspecified else f"[{host}]" if ":" in host else host
    return server, f"http://{named}:{port}/?token={token}"
