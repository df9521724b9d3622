"""The Python of Ray's processes: a path of it without a space, and where it finds our code."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path

from conf.errors import BadInput

ROOT = Path(__file__).parents[1]


def spaceless_python() -> str:
    """Return this Python, through a link in a folder of this user's where its path has a space.

    Ray hands the path of Python, and of its own files, to a shell unquoted.
    """
    if " " not in sys.executable:
        return sys.executable
    links = Path(tempfile.gettempdir()) / f"rungway-{os.getuid()}"
    links.mkdir(mode=0o700, exist_ok=True)
    if links.stat().st_uid != os.getuid():
        raise BadInput(
            "TMPDIR", str(links.parent), f"holds a {links.name} of another user", "set it to a folder of yours"
        )
    link = links / hashlib.sha256(sys.prefix.encode()).hexdigest()[:12]
    if not link.is_symlink():
        half = links / f"{link.name}-{os.getpid()}"
        half.symlink_to(sys.prefix)
        half.replace(link)
    return str(link / Path(sys.executable).relative_to(sys.prefix))


def python_path() -> str:
    """Return where workers find our code and the user's (--config-dir), wherever their Ray was started."""
    own = [str(ROOT), str(Path.cwd())]
    return os.pathsep.join(dict.fromkeys([*own, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]))
