"""Records the gates of an adapter on documents: means over tokens, and single tokens for a few examples."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from torch import Tensor

    from hydralora.data import TokenisedDocuments

GROUP_KINDS = ("source", "task", "cluster")


@dataclass(frozen=True)
class RecordedGates:
    """Gates of documents, in the order of the documents.

    Attributes:
        modules: layer number and module path of each adapted layer.
        gates: [n_documents, n_modules, N], means over the tokens of a document.
        entropy: [n_modules], mean entropy over tokens, divided by log N.
        num_tokens: [n_documents], number of tokens.
        examples: tokens of the first documents of each source with their gates [n_tokens, N], means over modules.
    """

    modules: list[tuple[int, str]]
    gates: np.ndarray
    entropy: np.ndarray
    num_tokens: np.ndarray
    examples: list[dict[str, Any]]


def collect_gates(
    model: Any, tokenizer: Any, documents: "TokenisedDocuments", examples: int, batch_tokens: int
) -> RecordedGates:
    """Run the model on documents, longest first, and record the gates.

    Args:
        examples: number of documents whose gates are kept token by token.
        batch_tokens: maximum number of tokens in a batch, including padding.
    """
    from hydralora.data import collate, pad_token_id
    from hydralora.evaluation import length_batches
    from hydralora.gates.recording import document_statistics

    shown = set(example_rows(documents.column("source"), examples))
    gates: list[np.ndarray] = [np.empty(0)] * len(documents)
    num_tokens = np.zeros(len(documents))
    entropy_sums: np.ndarray = np.zeros(1)
    shown_gates = {}
    for indices in length_batches(documents.lengths, batch_tokens):
        rows = documents.rows(indices)
        statistics, of_tokens = document_statistics(model, collate(rows, pad_token_id(tokenizer)))
        means = statistics.mean().float().cpu().numpy()  # [modules, documents, N]
        num_tokens[indices] = statistics.num_tokens.cpu().numpy()
        entropy_sums = entropy_sums + statistics.entropy_sums.sum(dim=1).cpu().numpy()
        for place, (index, row) in enumerate(zip(indices, rows, strict=True)):
            gates[index] = means[:, place]
            if index in shown:
                shown_gates[index] = _token_gates(tokenizer, row, [layer[place] for layer in of_tokens.values()])
    n = gates[0].shape[-1]
    return RecordedGates(
        modules=[layer_and_module(name) for name in statistics.modules],
        gates=np.stack(gates).astype(np.float32),
        entropy=entropy_sums / num_tokens.sum() / np.log(n),
        num_tokens=num_tokens,
        examples=[shown_gates[index] for index in sorted(shown_gates)],
    )


def _token_gates(tokenizer: Any, row: dict[str, Any], layers: list["Tensor"]) -> dict[str, Any]:
    import torch

    mean = torch.stack([layer.float().cpu() for layer in layers]).mean(dim=0)[: len(row["input_ids"])]
    tokens = [tokenizer.decode([token]) for token in row["input_ids"]]
    return {"document_id": row["document_id"], "tokens": tokens, "gates": mean.tolist()}


def example_rows(sources: list[str], examples: int) -> list[int]:
    """Indices of the first document of each source, then the second of each, and so on, up to `examples`."""
    places = pl.DataFrame({"source": sources}).with_row_index("row")
    places = places.with_columns(turn=pl.int_range(pl.len()).over("source"))
    return places.sort("turn", "source")["row"].head(examples).to_list()


def layer_and_module(name: str) -> tuple[int, str]:
    """`model.layers.3.self_attn.q_proj` -> (3, "self_attn.q_proj"); `lm_head` -> (OUTSIDE, "lm_head")."""
    from analysis.adapters.parts import OUTSIDE

    parts = name.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    if number is None:
        return OUTSIDE, parts[-1]
    return int(parts[number]), ".".join(parts[number + 1 :])


def gate_table(recorded: RecordedGates, documents: pl.DataFrame) -> pl.DataFrame:
    """Mean gates over tokens: `layer, module, expert, group_kind, group, gate, n_tokens`."""
    groups = {("all", "all"): np.ones(len(documents), dtype=bool)}
    for kind in GROUP_KINDS:
        for group in documents[kind].drop_nulls().unique().sort():
            groups[kind, str(group)] = (documents[kind] == group).fill_null(False).to_numpy()
    rows = []
    for (kind, group), chosen in groups.items():
        tokens = recorded.num_tokens[chosen]
        means = np.einsum("d,dmn->mn", tokens, recorded.gates[chosen]) / tokens.sum()
        for (layer, module), of_module in zip(recorded.modules, means, strict=True):
            rows += [(layer, module, e, kind, group, float(g), int(tokens.sum())) for e, g in enumerate(of_module)]
    columns = ("layer", "module", "expert", "group_kind", "group", "gate", "n_tokens")
    return pl.DataFrame(rows, schema=columns, orient="row")
