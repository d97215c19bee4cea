"""gpusq: trained vision transformers to 2:4 sparse INT8 engines, with evidence."""

__version__ = "0.1.0"
