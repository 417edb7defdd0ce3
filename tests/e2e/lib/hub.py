"""The upstream: the test kit's `larder-hub`. It makes a Docker Hub of the origin, counts, and misbehaves on demand."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from . import http
from .process import Daemon, wait_until

#: The user who may read the private image. The password is a canary as well: it may be in no log.
ALICE = "alice"
PASSWORD = f"canary-password-{secrets.token_hex(8)}"

#: The hub's: the API under /v2/, the issuer of tokens, and where blobs are redirected to.
LISTENERS = ("registry", "token", "cdn")

#: What goes wrong with an answer, as the kit's `Action` is written in JSON: `{"corrupt": {"offset": 1}}`, `"chunked"`.
Action = dict[str, Any] | str


@dataclass(frozen=True)
class Request:
    """One request that the hub received, and how much of an answer it sent."""

    listener: str
    method: str
    path: str
    query: str
    headers: list[list[str]]
    status: int | None
    body_bytes: int

    @property
    def authorization(self) -> str | None:
        """The credential that came with it."""
        return next((value for name, value in self.headers if name.lower() == "authorization"), None)

    def __str__(self) -> str:
        return f"{self.listener} {self.method} {self.path} → {self.status}, {self.body_bytes} bytes"


@dataclass(frozen=True)
class Traffic:
    """The requests of a stretch of time, as a site's bill sees them."""

    all: list[Request]

    @property
    def manifest_gets(self) -> list[Request]:
        """What Docker Hub counts as a pull."""
        return self._manifests("GET")

    @property
    def manifest_heads(self) -> list[Request]:
        """What is free."""
        return self._manifests("HEAD")

    @property
    def blob_reads(self) -> list[Request]:
        """GETs that the CDN answered."""
        return [request for request in self.all if request.listener == "cdn" and request.method == "GET"]

    @property
    def repeated_reads(self) -> list[str]:
        """Manifests that were read more than once, by path."""
        counts = Counter(request.path for request in self.manifest_gets)
        return [path for path, count in counts.items() if count > 1]

    def bytes_of(self, digest: str) -> int:
        """How many bytes of a blob left the CDN, in however many answers."""
        return sum(request.body_bytes for request in self.blob_reads if digest in request.path)

    def _manifests(self, method: str) -> list[Request]:
        return [
            request
            for request in self.all
            if request.listener == "registry"
            and request.method == method
            and "/manifests/" in request.path
            and request.status == 200
        ]


class Gate:
    """A fault that holds the answers it applies to, until it is released."""

    def __init__(self, hub: Hub, number: int) -> None:
        self._hub = hub
        self._number = number

    def wait_until_held(self) -> None:
        """Returns when at least one answer is held."""
        wait_until(self._holds, "an answer to be held by the hub", 30)

    def release(self) -> None:
        """Lets go on what is held, and holds nothing from now on."""
        self._hub.control("DELETE", f"/faults/{self._number}")

    def _holds(self) -> bool:
        faults = self._hub.control("GET", "/faults")
        return any(fault["id"] == self._number and fault["held"] > 0 for fault in faults)


class Hub:
    """A hub in front of one origin."""

    def __init__(self, program: Path, origin: str, directory: Path) -> None:
        """`origin` is the `host:port` of a plain registry."""
        self._daemon = Daemon("hub", [str(program), "--origin", f"http://{origin}"], directory / "hub.log")
        self._urls: dict[str, str] = {}
        self._seen: list[Request] = []

    def start(self) -> None:
        """Starts it; returns when it has said where it listens."""
        self._daemon.start(self._announced)

    def stop(self) -> None:
        """Ends it."""
        self._daemon.stop()

    def tail(self) -> str:
        """The end of the log, and all requests."""
        return self._daemon.tail() + "\n" + "\n".join(map(str, self._seen))

    @property
    def url(self) -> str:
        """Where the registry is."""
        return self._urls["registry"]

    def go_down(self) -> None:
        """Refuses all connections: the registry's, the token server's and the CDN's."""
        self.configure(listening=dict.fromkeys(LISTENERS, False))

    def come_back(self) -> None:
        """Listens again, on the same ports."""
        self.configure(listening=dict.fromkeys(LISTENERS, True))

    def configure(self, **switches: Any) -> None:
        """Turns switches of the kit's configuration."""
        self.control("PATCH", "/config", switches)

    def recover(self) -> None:
        """Ends every fault, and listens everywhere."""
        self.control("DELETE", "/faults")
        self.come_back()

    def lose_the_token_server(self) -> None:
        """There are no tokens to be had any more, and those that were issued are worth nothing."""
        self.configure(listening={"token": False})
        self.revoke_tokens()

    def fall_silent(self) -> None:
        """Accepts every connection, reads every request, and answers none."""
        for listener in LISTENERS:
            self._fault({"listener": listener, "actions": [{"hold": {}}]})

    def flap(self) -> None:
        """Answers 503 to half of all requests, everywhere."""
        for listener in LISTENERS:
            chance = {"probability": 0.5, "seed": 37}
            self._fault({"listener": listener, "chance": chance, "actions": [{"answer": {"status": 503}}]})

    def fail_blobs(self, action: Action) -> None:
        """Has every answer of the CDN go wrong in this way; the registry is well."""
        self._fault({"listener": "cdn", "actions": [action]})

    def misplace_blobs(self, action: Action) -> None:
        """Has the registry say this, instead of where a blob is; the CDN is well."""
        self._fault({"listener": "registry", "path_contains": ["/blobs/"], "actions": [action]})

    def falter(self, requests: int = 60) -> None:
        """Answers 503 to every second request for a manifest, and for a blob, of the next `requests` of each kind."""
        for kind in ("/manifests/", "/blobs/"):
            for skipped in range(0, requests, 2):
                rule = {"listener": "registry", "path_contains": [kind], "skip": skipped, "times": 1}
                self._fault({**rule, "actions": [{"answer": {"status": 503}}]})

    def deny(self, status: int) -> None:
        """Answers everything at the registry with 401 or 403 and a challenge that no token satisfies."""
        challenge = ["WWW-Authenticate", 'Basic realm="hub"']
        answer = {"answer": {"status": status, "headers": [challenge], "body": ""}}
        self._fault({"listener": "registry", "actions": [answer]})

    def withhold(self, digest: str, *, after: int) -> None:
        """Cuts the CDN's next answer with this blob after so many bytes, and answers 503 to all further ones."""
        cut = {"cut": {"at": after, "with": "fin"}}
        self._fault({"listener": "cdn", "path_contains": [digest], "times": 1, "actions": [cut]})
        answer = {"answer": {"status": 503}}
        self._fault({"listener": "cdn", "path_contains": [digest], "skip": 1, "actions": [answer]})

    def refuse(self, status: int, *, retry_after: int) -> None:
        """Answers everything at the registry with this status from now on."""
        body = json.dumps({"errors": [{"code": "TOOMANYREQUESTS", "message": "You have reached your limit"}]})
        headers = [["Content-Type", "application/json"], ["Retry-After", str(retry_after)]]
        answer = {"answer": {"status": status, "headers": headers, "body": body}}
        self._fault({"listener": "registry", "actions": [answer]})

    def spoil(self, digest: str, *actions: Action) -> None:
        """Spoils the CDN's next answer with this blob, once, by these actions."""
        self._fault({"listener": "cdn", "path_contains": [digest], "times": 1, "actions": list(actions)})

    def spoiled(self) -> int:
        """How many answers were spoiled so far."""
        return sum(fault["fired"] for fault in self.control("GET", "/faults"))

    def revoke_tokens(self) -> None:
        """Makes every token that was issued invalid."""
        self.control("POST", "/revoke-tokens")

    def hold(self, digest: str, *, after: int) -> Gate:
        """Holds every answer with this blob when `after` bytes of it are sent."""
        rule = {"listener": "cdn", "path_contains": [digest], "actions": [{"hold": {"at": after}}]}
        return Gate(self, self._fault(rule))

    def requests(self) -> list[Request]:
        """The requests since the start or since `forget`."""
        fields = Request.__dataclass_fields__
        records = self.control("GET", "/requests")["requests"]
        return [Request(**{name: record[name] for name in fields}) for record in records]

    def traffic(self) -> Traffic:
        """The same, to be asked about."""
        return Traffic(self.requests())

    def forget(self) -> None:
        """Begins to count anew."""
        self._seen += self.requests()
        self.control("POST", "/reset")

    def credentials_at_the_cdn(self) -> list[Request]:
        """Requests that brought a credential to the CDN, since the start: leaks, every one."""
        return [request for request in self._everything() if request.listener == "cdn" and request.authorization]

    def confidential(self) -> set[str]:
        """What passed between Larder and the hub and is nobody else's business: credentials, tokens, signatures."""
        found: set[str] = set()
        for request in self._everything():
            if request.authorization:
                found.add(request.authorization.split()[-1])
            if request.listener == "cdn":
                found |= {value for _, value in parse_qsl(request.query) if len(value) >= 16}
        return found

    def control(self, method: str, target: str, body: object = None) -> Any:
        """One request to the kit's control listener."""
        payload = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        answer = http.request(urlsplit(self._urls["control"]).netloc, method, target, headers=headers, body=payload)
        assert answer.status < 300, (method, target, answer)
        return answer.json() if answer.body else None

    def _everything(self) -> list[Request]:
        return self._seen + self.requests()

    def _fault(self, rule: dict[str, Any]) -> int:
        number: int = self.control("POST", "/faults", rule)["id"]
        return number

    def _announced(self) -> bool:
        """The first line that the hub writes says where it listens."""
        line, newline, _ = self._daemon.log.read_text().partition("\n")
        if not newline:
            return False
        self._urls = json.loads(line)
        return True
