"""Searches: Hydra sweeps over Ray Tune with an Optuna searcher."""
