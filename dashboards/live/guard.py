"""Who may look, and that the page loads from and sends to nowhere but its server."""

import hmac
import ipaddress
from collections.abc import Callable
from urllib.parse import urlsplit

from dash import Dash
from flask import Response, make_response, redirect, request


def guard(app: Dash, token: str, cookie: str, *, loopback: bool) -> Callable[[], bool]:
    """Let nobody in who may not, and let the page load from and send to nowhere but this server.

    On a loopback address whoever is on this machine may look. Only pages that were opened by such an address get an answer, or a
    foreign page could read this one through a name of its own that it lets point here. Elsewhere every answer takes the token.

    Args:
        app: the page.
        token: who has it owns the page.
        cookie: the name under which a browser keeps it.
        loopback: whether the server is on a loopback address.

    Returns:
        Whether the request at hand is the owner's, from the page itself: what changes anything takes that, on loopback too, for
        others may be logged in there, and other pages may send what this one sends.
    """
    server = app.server
    app.index()  # type: ignore[no-untyped-call]  # collects the scripts that are part of the page
    policy = (
        f"default-src 'none'; script-src 'self' 'unsafe-eval' {' '.join(app.csp_hashes())}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )  # plotly.js compiles functions from text for charts that it draws by WebGL

    def same(given: str | None) -> bool:
        return hmac.compare_digest((given or "").encode(), token.encode())

    @server.before_request  # type: ignore[untyped-decorator]
    def check() -> Response | None:
        if loopback and not _is_loopback(request.host):
            return _plain("open this page as http://localhost, with its port", 403)
        if request.method == "GET" and request.path == "/" and same(request.args.get("token")):
            answer: Response = make_response(redirect("/"))  # the token does not stay in the address bar
            answer.set_cookie(cookie, token, httponly=True, samesite="Strict")
            return answer
        return (
            None
            if loopback or same(request.cookies.get(cookie))
            else _plain("open the address that serve.py printed, with its token", 401)
        )

    @server.after_request  # type: ignore[untyped-decorator]
    def protect(answer: Response) -> Response:
        answer.headers["Content-Security-Policy"] = policy
        answer.headers["X-Frame-Options"] = "DENY"
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["Referrer-Policy"] = "no-referrer"
        answer.headers["Cross-Origin-Resource-Policy"] = answer.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        if not request.path.startswith("/_dash-component-suites/"):  # Dash's own scripts hold no results
            answer.headers["Cache-Control"] = "no-store"
        return answer

    def is_owner() -> bool:
        origin = request.headers.get("Origin")  # browsers send it with whatever may change something
        return same(request.cookies.get(cookie)) and (origin is None or urlsplit(origin).netloc == request.host)

    return is_owner


def _is_loopback(host: str) -> bool:
    """Whether a Host header names this machine by a name that nobody else can own."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    try:
        return name.lower() == "localhost" or ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _plain(sentence: str, status: int) -> Response:
    return Response(sentence + "\n", status, mimetype="text/plain")
