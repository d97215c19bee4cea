from dataclasses import dataclass
from gpusq.stages.fine_tuning import FineTuned
@dataclass(frozen=True)
class Train(FineTuned):
    name = "train"
