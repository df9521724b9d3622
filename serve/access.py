"""The door of an application: which token may ask what, compared in constant time, read again when its file changes."""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
from pathlib import Path

from cluster.tokens import ADMIN, FEEDBACK, PREDICT, mark, read
from conf.errors import BadInput, nearest
from serve.answers import Refused, Scope, header

LOOK_S = 1.0
OPEN = ""
ROLE_OF = {  # a path has the role of the longest that it lies under; what lies under none is for admin
    "/healthz": OPEN,
    "/readyz": OPEN,
    "/ping": OPEN,
    "/v2/health": OPEN,
    "/v2": PREDICT,
    "/predict": PREDICT,
    "/invocations": PREDICT,
    "/openapi.json": PREDICT,
    "/docs": PREDICT,
    "/feedback": FEEDBACK,
    "/metrics": ADMIN,
}

log = logging.getLogger("ray.serve")


def role_of(path: str) -> str | None:
    """Return the role that a path asks for, OPEN for none, None where nothing says."""
    while path and (role := ROLE_OF.get(path)) is None:
        path = path.rpartition("/")[0]
    return role if path else None


def enough(role: str | None) -> str:
    """Return, in words, the roles of the tokens that will do."""
    return ADMIN if role in (None, ADMIN) else f"{role} or {ADMIN}"


class Access:
    """Checks requests against a file of tokens; without one everything is open, and Serve is local.

    refused: why a changed file is not followed at the moment; the tokens before it stay valid.
    """

    def __init__(self, token_file: str | None) -> None:
        self.refused = ""
        self._stop = threading.Event()
        self._path = None if token_file is None else Path(token_file)
        if self._path is not None:
            self._mark = mark(self._path)
            self._known = _digests(self._path)
            thread = threading.Thread(target=self._follow, args=(self._path,), name="tokens", daemon=True)
            thread.start()

    def close(self) -> None:
        """Look at the file no longer."""
        self._stop.set()

    def check(self, path: str, scope: Scope) -> None:
        """Raise Refused unless the request may ask for the path (without the application's prefix).

        401 without a token that is known, 403 where its role is not enough, 404 where only an admin might find more.
        """
        if self._path is None or (role := role_of(path)) == OPEN:
            return
        roles = self._roles(scope)
        if not roles:
            raise _unknown(scope)
        if ADMIN in roles or role in roles:
            return
        if role is None:
            raise Refused(404, BadInput("path", scope["path"], "is not here", nearest(path, ROLE_OF)))
        bound = f"is not for a token of the role {' or '.join(sorted(roles))}"
        raise Refused(403, BadInput("path", scope["path"], bound, f"use a token of the role {enough(role)}"))

    def is_admin(self, scope: Scope) -> bool:
        """Tell whether the request may be told all: it shows an admin's token, or none is asked for."""
        return self._path is None or ADMIN in self._roles(scope)

    def variant(self, scope: Scope) -> str:
        """Return the alias that a tester wants to be answered by, "" for none; raises Refused (403) for others."""
        alias = header(scope, b"x-variant")
        if not alias:
            return ""
        if self._path is None:
            raise Refused(403, BadInput("x-variant", alias, "needs an admin's token", "configure a token"))
        if ADMIN not in self._roles(scope):
            bound = "is not for this token"
            raise Refused(403, BadInput("x-variant", alias, bound, f"use a token of the role {ADMIN}, or leave it out"))
        return alias

    def _roles(self, scope: Scope) -> set[str]:
        """Return the roles of the token that is shown; all known ones are compared, whichever it is."""
        scheme, _, secret = header(scope, b"authorization").partition(" ")
        if scheme.lower() != "bearer":
            return set()
        shown = hashlib.sha256(secret.strip().encode("latin-1")).digest()
        return {role for digest, role in self._known if hmac.compare_digest(digest, shown)}

    def _follow(self, path: Path) -> None:
        while not self._stop.wait(LOOK_S):
            self._look(path)

    def _look(self, path: Path) -> None:
        """Take over what a changed file says, once it is whole."""
        try:
            now = mark(path)
            if now != self._mark:
                known = _digests(path)
                if mark(path) != now:  # being written
                    return
                self._known, self._mark = known, now
                log.warning("tokens: %s was read again, %d are valid", path, len(known))
            self.refused = ""
        except BadInput as why:
            shown = str(BadInput(why.key, None, why.bound, why.remedy))  # /healthz is open: it shows no path
            if shown != self.refused:
                log.warning("tokens: the ones before stay valid; %s", why)
            self.refused = shown


def _digests(path: Path) -> list[tuple[bytes, str]]:
    return [(hashlib.sha256(token.secret.encode()).digest(), token.role) for token in read(path)]


def _unknown(scope: Scope) -> Refused:
    shown = header(scope, b"authorization")
    bound = "has no token that is known here" if shown else "is missing"
    return Refused(401, BadInput("authorization", None, bound, "send authorization: Bearer <token>"))
