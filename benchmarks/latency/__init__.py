"""The study behind the latency predictor: data, fits, held-out errors, intervals."""
