from dataclasses import dataclass
from gpusq.stages.fine_tuning import FineTuned
@dataclass(frozen=True)
class Qat(FineTuned):
    name = "qat"
