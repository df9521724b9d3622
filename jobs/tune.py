"""Search for the best config: Hydra's sweep grammar, Ray Tune, Optuna.

python -m jobs.tune dataset=flights model=mlp search_space=mlp tuning.num_samples=16
python -m jobs.tune 'model=choice(mlp,linear)' 'optimizer.lr=tag(log, interval(1e-4, 1e-1))'
python -m jobs.tune search_space=mlp seed=1,2          # each trial on both seeds, scored by their mean
"""

from __future__ import annotations

from conf.entrypoint import entrypoint
from conf.schema import TrainConfig
from jobs.tuning.sweeper import SearchSweeper


@entrypoint("tune", TrainConfig, sweeper=SearchSweeper)
def main(cfg: TrainConfig) -> None:
    """Search what the config's search_space says (the sweeper does it for every call from the shell)."""
    from conf.compose import compose
    from jobs.tuning.search import search

    print(search(compose("tune", cfg.overrides, TrainConfig), cfg.search_space))


if __name__ == "__main__":
    main()
