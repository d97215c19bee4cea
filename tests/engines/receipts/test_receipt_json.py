"""The JSON of a receipt keeps its published form."""

from __future__ import annotations

import json
from importlib import resources

import jsonschema
import pytest

from gpusq.engines.receipts import (
    receipt_from_json,
    receipt_schema,
)
from gpusq.errors import (
    ArtifactError,
    NewerSchemaError,
)
from gpusq.workload import Layer
from tests.engines.recordings import BLOCK, STAGE, TWO, receipt

ALL = (
    ("trt10_sparse_chosen", BLOCK),
    ("trt8_eligible_dense", STAGE),
    ("rtx_int8_not_fused", TWO),
    ("rtx_fp32", TWO),
    ("trt10_reformat_heavy", STAGE),
)


@pytest.mark.parametrize(("name", "layers"), ALL)
def test_json_round_trip_within_the_published_schema(name: str, layers: tuple[Layer, ...]) -> None:
    found = receipt(name, layers)
    data = json.loads(found.model_dump_json())
    jsonschema.validate(data, receipt_schema())
    assert receipt_from_json(data) == found


def test_the_published_schema_is_the_models() -> None:
    published = resources.files("gpusq.engines.receipts").joinpath("receipt.schema.json").read_text(encoding="utf-8")
    assert json.loads(published) == receipt_schema()


def test_other_data_is_refused() -> None:
    data = json.loads(receipt(*ALL[0]).model_dump_json())
    with pytest.raises(NewerSchemaError):
        receipt_from_json(data | {"schema_version": 2})
    for change in ({"extra": 1}, {"plan_sha256": None}, {"shares": None}, {"layers": [{"name": "x"}]}):
        with pytest.raises(ArtifactError):
            receipt_from_json(data | change)
