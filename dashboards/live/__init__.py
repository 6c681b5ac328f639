"""The live page: it follows a search while it runs and keeps your zoom, selection, filter and order."""

from dashboards.live.server import listen, make_server
from dashboards.live.watch import Watch
