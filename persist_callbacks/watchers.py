"""Watchers for notices that this machine will be taken away.

Each looks where its cloud announces it, from a thread of its own. One of your own is
any object with ``seconds``, the time between two looks, and ``notice()``, which returns
None or a short text, and must do so within a few seconds. Of one that raises is warned,
once, and it is asked again.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.request
from collections.abc import Mapping
from typing import Any, Protocol

# The address at which clouds answer questions about the machine that asks.
_LINK_LOCAL = "http://169.254.169.254"
_TIMEOUT_SECONDS = 2.0


class Watcher(Protocol):
    """Looks for a notice.

    Attributes:
        seconds: between two looks.
    """

    seconds: float

    def notice(self) -> str | None:
        """Return what was announced, None for nothing; called on a watcher's thread."""


class Ec2Spot:
    """Amazon EC2: a spot instance is to be stopped or terminated, in two minutes.

    The format: "Spot Instance interruption notices" in the EC2 user guide; the token is
    that of the instance metadata service, version 2.

    Args:
        url: where the metadata service answers.
        seconds: between two looks.
    """

    def __init__(self, url: str = _LINK_LOCAL, *, seconds: float = 5.0) -> None:
        self.seconds = seconds
        self._url = url.rstrip("/")

    def notice(self) -> str | None:
        """Return the announced action and its time."""
        token = _ask(
            f"{self._url}/latest/api/token",
            method="PUT",
            headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"},
        )
        if token is None:
            return None
        answer = _ask(
            f"{self._url}/latest/meta-data/spot/instance-action",
            headers={"X-aws-ec2-metadata-token": token.strip()},
        )
        if answer is None:
            return None
        action = _json(answer).get("action")
        if action not in ("terminate", "stop", "hibernate"):
            return None
        return f"EC2's notice to {action} this spot instance"


class GcePreemption:
    """Google Compute Engine: this machine is being preempted, in 30 seconds.

    Args:
        url: where the metadata server answers.
        seconds: between two looks.
    """

    def __init__(
        self, url: str = "http://metadata.google.internal", *, seconds: float = 2.0
    ) -> None:
        self.seconds = seconds
        self._url = url.rstrip("/")

    def notice(self) -> str | None:
        """Return a text once the server says TRUE."""
        answer = _ask(
            f"{self._url}/computeMetadata/v1/instance/preempted",
            headers={"Metadata-Flavor": "Google"},
        )
        if answer is None or answer.strip().upper() != "TRUE":
            return None
        return "Compute Engine's notice of preemption"


class AzureScheduledEvents:
    """Azure: a spot machine is to be evicted, or any machine redeployed or terminated.

    All machines of a scale set or an availability set are told of each other's events;
    the names in an event's ``Resources`` say which of them it is about. One that names
    none counts, and so does any while this machine's own name cannot be learnt.

    Args:
        url: where the instance metadata service answers.
        seconds: between two looks.
    """

    def __init__(self, url: str = _LINK_LOCAL, *, seconds: float = 5.0) -> None:
        self.seconds = seconds
        self._url = url.rstrip("/")
        self._name = ""

    def notice(self) -> str | None:
        """Return the first event that ends this machine."""
        answer = _ask(
            f"{self._url}/metadata/scheduledevents?api-version=2020-07-01",
            headers={"Metadata": "true"},
        )
        events = [] if answer is None else _json(answer).get("Events")
        for event in events if isinstance(events, list) else []:
            kind = event.get("EventType") if isinstance(event, dict) else None
            if kind not in ("Preempt", "Terminate", "Redeploy", "Reboot"):
                continue
            if self._is_about_this_machine(event.get("Resources")):
                return f"Azure's scheduled event {kind}"
        return None

    def _is_about_this_machine(self, named: Any) -> bool:
        if not isinstance(named, list) or not named:
            return True
        if not self._name:
            answer = _ask(
                f"{self._url}/metadata/instance/compute/name"
                "?api-version=2021-02-01&format=text",
                headers={"Metadata": "true"},
            )
            self._name = (answer or "").strip().casefold()
        return not self._name or self._name in [str(each).casefold() for each in named]


def _ask(
    url: str, *, method: str = "GET", headers: Mapping[str, str] | None = None
) -> str | None:
    """Ask over HTTP; None for any answer but one that was meant."""
    request = urllib.request.Request(url, method=method, headers=dict(headers or {}))
    # No proxy: who asks one would learn about the proxy's machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
            text: str = answer.read(65536).decode()
            return text
    except (OSError, http.client.HTTPException, ValueError):
        # Not this cloud, not now, or not an answer.
        return None


def _json(text: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        value = json.loads(text)
        if isinstance(value, dict):
            return value
    return {}
