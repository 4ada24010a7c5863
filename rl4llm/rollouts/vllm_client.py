"""Requests to a vLLM server, and its failures in one line."""

import json
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from rl4llm.checks import UsageError


class VLLMClient:
    """A client of one server. It goes there directly, whatever proxies the environment names.

    Args:
        url: Address of the server.
        timeout_s: Seconds after which a request counts as lost.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self.url, self.timeout_s = url.rstrip("/"), timeout_s
        self.opener = build_opener(ProxyHandler({}))

    def get(self, path: str) -> Any:
        """Return what the server has under a path.

        Raises:
            UsageError: If it does not answer, or answers with an error.
        """
        return self._ask(Request(f"{self.url}/{path}"))

    def post(self, path: str, body: Any = None) -> Any:
        """Return the server's answer to a request; None where it is empty.

        Raises:
            UsageError: If it does not answer, or answers with an error.
        """
        data = b"" if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        return self._ask(Request(f"{self.url}/{path}", data=data, headers=headers, method="POST"))

    def _ask(self, request: Request) -> Any:
        path = request.selector.lstrip("/").partition("?")[0]
        try:
            with self.opener.open(request, timeout=self.timeout_s) as answer:
                text = answer.read()
            return json.loads(text) if text else None
        except HTTPError as error:
            raise UsageError(
                f"VLLMServer: {self.url} refuses {path} with status {error.code} ({_said(error)}); look into the "
                "server's log."
            ) from error
        except (URLError, OSError, ValueError) as error:
            why = getattr(error, "reason", None) or error
            raise UsageError(
                f"VLLMServer: {self.url} does not answer to {path} ({why}); see whether the server runs there and has "
                "not ended."
            ) from error


def _said(error: HTTPError) -> str:
    """Return the first line of what the server says of an error."""
    try:
        said = json.loads(error.read())
        message = said["error"]["message"] if isinstance(said.get("error"), dict) else said.get("error") or said
    except (ValueError, AttributeError, KeyError, TypeError, OSError):
        message = error.reason
    return str(message).strip().splitlines()[0][:200].rstrip(".") if str(message).strip() else str(error.reason)
