"""A browser without JavaScript for the local pages: nothing but Python's http.client."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

from fedhelp_edge.page import local_server


class ScriptlessBrowser:
    def __init__(self, server: local_server.LocalServer) -> None:
        self.server, self.base, self.text = server, urlsplit(server.link).path, ""

    def ask(self, path: str, body: str | bytes | None = None, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(local_server.HOST, self.server.server_address[1], timeout=60)
        connection.request("GET" if body is None else "POST", path, body, headers)
        response = connection.getresponse()
        self.text = response.read().decode()
        connection.close()
        return response
