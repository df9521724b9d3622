"""What `--help` prints: the entrypoint's docstring (its launch command), its keys and the groups' options."""

from __future__ import annotations

from pathlib import Path

CONF = Path(__file__).parent


def groups(folders: list[Path]) -> dict[str, list[str]]:
    """Return group -> option names, over the given config folders (ours and those of `--config-dir`)."""
    found: dict[str, set[str]] = {}
    for folder in folders:
        for path in sorted(folder.glob("*/*.yaml")):
            found.setdefault(path.parent.name, set()).add(path.stem)
    return {group: sorted(options) for group, options in sorted(found.items())}


def config_dirs(arguments: list[str]) -> list[Path]:
    """Return the folders given with --config-dir (or -cd)."""
    named = []
    for i, argument in enumerate(arguments):
        flag, _, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            named.append(Path(value or "".join(arguments[i + 1 : i + 2])))
    return named


def _used_groups(primary: str) -> list[str]:
    """Return the groups in the defaults list of a primary yaml (read as text: no yaml import at start)."""
    defaults = primary.split("defaults:", 1)[-1].split("\n\n", 1)[0]
    entries = [line.strip().removeprefix("- ") for line in defaults.splitlines() if ":" in line]
    return [entry.split(":")[0].removeprefix("optional ").strip() for entry in entries if "/" not in entry]


def help_text(name: str, arguments: list[str], docstring: str) -> str:
    """Return the help of one entrypoint (name: its primary yaml; docstring: of its module)."""
    primary = (CONF / f"{name}.yaml").read_text()
    settings = primary.split("\n\n", 1)[1].split("\nhydra:")[0].strip() if "\n\n" in primary else ""
    options = groups([CONF, *config_dirs(arguments)])
    used = [group for group in _used_groups(primary) if group in options]
    width = max((len(group) for group in used), default=0)
    lines = [docstring.strip(), "", "Keys:", *(f"  {line}" for line in settings.splitlines()), "", "Groups:"]
    lines += [f"  {group:<{width}}  {', '.join(options[group])}" for group in used]
    lines += ["", "Flags: -m (multirun), --config-dir DIR (own options), --cfg job (show the config), --hydra-help"]
    return "\n".join(lines) + "\n"
