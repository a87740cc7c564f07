"""Documents as tokens and as planned batches. Imports `base_model`."""

from hydralora.data.batching import PlannedBatches, StepPlan, plan_steps
from hydralora.data.documents import IGNORED, Batch, TokenisedDocuments, collate, pad_token_id, tokenise
from hydralora.data.template import DataError, Frame, Template

__all__ = [
    "IGNORED",
    "Batch",
    "DataError",
    "Frame",
    "PlannedBatches",
    "StepPlan",
    "Template",
    "TokenisedDocuments",
    "collate",
    "pad_token_id",
    "plan_steps",
    "tokenise",
]
