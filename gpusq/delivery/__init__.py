"""Where engines go next: a Triton model repository or a DeepStream configuration, written from a sealed artifact."""

from gpusq.delivery.contents import Contents, Tensor, contents_of
from gpusq.delivery.deepstream import write_deepstream
from gpusq.delivery.triton import write_triton

__all__ = ["Contents", "Tensor", "contents_of", "write_deepstream", "write_triton"]
