"""How every command starts: `@entrypoint("train", TrainConfig)` around its `main(cfg)`.

Hydra composes and types the config; help is printed without importing anything heavy; what a person got wrong is
said in one sentence with exit code 2 (`RUNGWAY_DEBUG=1` shows the traceback).
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from conf.errors import BadInput
from conf.help import config_dirs, help_text
from conf.schema import Ground

C = TypeVar("C", bound=Ground)


def entrypoint(
    name: str, expected: type[C], sweeper: type | None = None
) -> Callable[[Callable[[C], None]], Callable[[], None]]:
    """Wrap `main(cfg)` into a command: composes `conf/<name>.yaml`, calls main, turns BadInput into exit code 2.

    `sweeper` is the Hydra Sweeper class that `-m` (or a MULTIRUN default) uses.
    """

    def wrap(main: Callable[[C], None]) -> Callable[[], None]:
        def run() -> None:
            if {"--help", "-h"} & set(sys.argv[1:]):
                sys.stdout.write(help_text(name, sys.argv[1:], sys.modules[main.__module__].__doc__ or ""))
                return
            with _one_sentence():
                _run_hydra(name, expected, sweeper, main)
            gc.freeze()  # or Python looks through all that was imported once more before it ends

        return run

    return wrap


def _run_hydra(name: str, expected: type[C], sweeper: type | None, main: Callable[[C], None]) -> None:
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig

    from conf import store
    from conf.compose import typed

    store.register()
    _add_own_folders(sys.argv[1:])
    if sweeper is not None:
        store.register_sweeper(sweeper)
    logging.basicConfig(level=os.environ.get("RUNGWAY_LOG", "INFO"), format="%(message)s", stream=sys.stderr)

    failed: list[Exception] = []  # kept past Hydra, which would print its own line about it

    @hydra.main(version_base="1.3", config_path="pkg://conf", config_name=name)
    def composed(config: DictConfig) -> None:
        try:
            main(typed(config, list(HydraConfig.get().overrides.task), expected))
        except Exception as error:
            failed.append(error)

    composed()
    if failed:
        raise failed[0]


def _add_own_folders(arguments: list[str]) -> None:
    """Let the Python files beside a person's own yamls (`--config-dir`) be imported, here and by Ray's workers."""
    for folder in config_dirs(arguments):
        absolute = str(folder.resolve())
        sys.path.insert(0, absolute)
        known = os.environ.get("PYTHONPATH", "")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [absolute, known]))


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Turn what a person got wrong into one sentence on stderr and exit code 2."""
    debug = os.environ.get("RUNGWAY_DEBUG") == "1"
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would print and exit 1; we want the exception
    try:
        yield
    except KeyboardInterrupt as how:
        sys.stderr.write(f"{how if str(how) else 'interrupted'}\n")
        sys.exit(130)
    except Exception as error:
        from conf.mistakes import as_bad_input

        mistake = error if isinstance(error, BadInput) else as_bad_input(error)
        if mistake is None or debug:
            raise
        sys.stderr.write(f"{mistake}\n")
        sys.exit(2)
    finally:
        if before is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        else:
            os.environ["HYDRA_FULL_ERROR"] = before
