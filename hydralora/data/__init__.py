"""Documents as tokens and as planned batches. Imports `base_model`."""

from hydralora.data.batching import StepPlan, plan_steps
from hydralora.data.documents import IGNORED, Batch, TokenisedDocuments, answer_index, collate, pad_token_id, tokenise
from hydralora.data.mixing import mixed_order, source_shares
from hydralora.data.packing import collate_packed
from hydralora.data.planned_batches import PlannedBatches
from hydralora.data.splits import documents_of_split
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
    "answer_index",
    "collate",
    "collate_packed",
    "documents_of_split",
    "mixed_order",
    "pad_token_id",
    "plan_steps",
    "source_shares",
    "tokenise",
]
