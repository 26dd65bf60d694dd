"""A browser without script, on a page behind its door: nothing but Python's own http.client."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

from fedhelp_edge.page import local_server


class Visitor:
    def __init__(self, server: local_server.LocalServer) -> None:
        self.server, self.base, self.text = server, urlsplit(server.link).path, ""

    def ask(self, path: str, body: str | bytes | None = None, **headers: str) -> http.client.HTTPResponse:
        line = http.client.HTTPConnection(local_server.HOST, self.server.server_address[1], timeout=10)
        line.request("GET" if body is None else "POST", path, body, headers)
        found = line.getresponse()
        self.text = found.read().decode()
        line.close()
        return found
