"""Targets: what a device can do, each fact with its source, read from one TOML file per family."""

from gpusq.targets.facts import Band, EngineFit, Fit
from gpusq.targets.target import Target, load_target, read_target_file, target_names

__all__ = ["Band", "EngineFit", "Fit", "Target", "load_target", "read_target_file", "target_names"]
