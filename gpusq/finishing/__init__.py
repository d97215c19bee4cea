"""From bundle to engine on the device, and the receipt back: `finish`, `read_receipt`, `import_receipt`. No torch."""

from gpusq.finishing.flow import Finished, finish
from gpusq.finishing.importing import import_receipt, receipts_of
from gpusq.finishing.opened import FinishOptions
from gpusq.finishing.receipt_file import Receipt, read_receipt, write_receipt

__all__ = [
    "FinishOptions",
    "Finished",
    "Receipt",
    "finish",
    "import_receipt",
    "read_receipt",
    "receipts_of",
    "write_receipt",
]
