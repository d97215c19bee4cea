"""`python -m gpusq`, and so `accelerate launch -m gpusq`."""

from gpusq.cli.main import run

run()
