"""Held-out losses of the expert of every domain on the documents of every domain."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import polars as pl

from pipelines.training.exports.exporting import OTHERS, DomainDocuments

if TYPE_CHECKING:
    from peft import PeftModel

    from hydralora.gates.fixed import GateSpec

SCHEMA = {
    "document_id": pl.String,
    "group": pl.String,
    "expert": pl.String,
    "loss": pl.Float64,
    "n_tokens": pl.Int64,
}


def cross_losses(
    model: "PeftModel", gates: "Mapping[str, GateSpec | None]", held_out: DomainDocuments
) -> pl.DataFrame:  # fmt: skip
    """Losses under the fixed gates of each domain: `document_id, group, expert, loss, n_tokens`.

    `group` is the domain of the document and `expert` the one whose gates are fixed. `loss` is summed over the answer.

    Args:
        gates: domain -> its fixed gates; `OTHERS` is left out.
    """
    from hydralora import fixed_gates
    from hydralora.evaluation import evaluate_documents

    tables = [pl.DataFrame(schema=SCHEMA)]
    domains = [domain for domain in gates if domain != OTHERS]
    for expert in domains if len(domains) > 1 else ():
        with fixed_gates(model, gates[expert]):
            losses = evaluate_documents(model, held_out.tokens, pad_token_id=held_out.pad_token_id)
        columns = {
            "document_id": held_out.tokens.column("document_id"),
            "group": held_out.domains,
            "expert": [expert] * len(held_out.domains),
            "loss": losses.loss_sums,
            "n_tokens": losses.token_counts,
        }
        tables.append(pl.DataFrame(columns, schema=SCHEMA))
    return pl.concat(tables)
