"""Exports a plain LoRA for each domain, and compares its loss with live gates."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from pipelines.training.exports.plain_peft import Documents, answer_loss, n_answer_tokens, plain_peft_losses

if TYPE_CHECKING:
    from peft import PeftModel

    from hydralora.data import TokenisedDocuments
    from hydralora.gates.fixed import GateSpec

OTHERS = "(others)"
"""The export for prompts of unknown domains."""
RESERVED = frozenset(
    ["group_model", "serving", "exports", "artifact", "chat_template", "auto", "con", "prn", "aux", "nul"]
    + [f"{port}{i}" for port in ("com", "lpt") for i in range(10)]
)
"""Names that no export folder may have: files of the export, a server's word for any expert, devices of Windows."""
LONGEST_FOLDER = 64
SEEN_BY_PLAIN_PEFT = 64  # answer tokens per domain, so that rounding errors average out


@dataclass(frozen=True)
class DomainDocuments:
    """Tokens of documents of known domains.

    Attributes:
        tokens: tokens of the documents, with the columns that the adapter needs.
        found: for each document, whether its domain is predicted correctly from the prompt.
        batch_tokens: maximum number of tokens in a batch, including padding.
    """

    tokens: "TokenisedDocuments"
    domains: tuple[str, ...]
    found: tuple[bool, ...]
    pad_token_id: int
    batch_tokens: int

    def rows_of(self, domain: str) -> np.ndarray:
        """Indices of a domain's documents; for `OTHERS`, indices of all documents."""
        return np.flatnonzero([domain in (OTHERS, name) for name in self.domains])

    def batches(self, rows: np.ndarray) -> Iterator[dict[str, Any]]:
        """Batches of some documents as model inputs, with their domains as `group`."""
        from hydralora.data import collate
        from hydralora.evaluation import length_batches

        for places in length_batches(self.tokens.lengths[rows], self.batch_tokens):
            batch: dict[str, Any] = collate(self.tokens.rows(rows[places]), self.pad_token_id)
            batch.pop("cluster", None)
            yield {**batch, "group": [self.domains[row] for row in rows[places]]}

    def plain(self, rows: np.ndarray) -> Documents:
        """The first of some documents, for `plain_peft`: as many as needed for `SEEN_BY_PLAIN_PEFT` answer tokens."""
        documents: list[tuple[list[int], int]] = []
        n_tokens = 0
        for row in rows:
            if n_tokens >= SEEN_BY_PLAIN_PEFT:
                break
            (document,) = self.tokens.rows([int(row)])
            documents.append(([int(token) for token in document["input_ids"]], int(document["answer_start"])))
            n_tokens += n_answer_tokens(documents[-1:])
        return documents


def domain_gates(
    model: "PeftModel", domains: Sequence[str], training: Callable[[], DomainDocuments]
) -> "dict[str, GateSpec | None]":
    """Fixed gates of each domain, and of `OTHERS`.

    If gates are given, each domain has its own expert, and `OTHERS` has only the always-on LoRA. On domains without an
    expert of their own, this did better than the mean of the other experts (docs/serving.md). If gates are routed, the
    router's gates are averaged over training documents of the domain, and for `OTHERS` over the domains.
    """
    import torch

    from hydralora import calibrate_gates_by_group

    config: Any = model.active_peft_config
    if config.num_experts == 1:
        return {OTHERS: None}
    if config.router_input == "given":
        others = torch.zeros(config.num_experts) if config.shared_expert or config.shared_rank else "uniform"
        return {**{domain: i for i, domain in enumerate(domains)}, OTHERS: others}
    documents = training()
    measured = calibrate_gates_by_group(model, documents.batches(documents.rows_of(OTHERS)))
    layers = next(iter(measured.values()))
    mean = {layer: torch.stack([gates[layer] for gates in measured.values()]).mean(dim=0) for layer in layers}
    return {**measured, OTHERS: mean}


def write_exports(
    folder: Path,
    model: "PeftModel",
    gates: "Mapping[str, GateSpec | None]",
    folders: Mapping[str, str],
    held_out: DomainDocuments,
) -> pl.DataFrame:
    """Write the LoRA of each domain, and evaluate it on held-out documents of the domain.

    Returns:
        Table with domain, folder, n_documents, n_tokens, found (share of prompts whose domain is predicted correctly),
        live_loss, export_loss, difference, kl (divergence between live and exported predictions). Losses and kl are in
        nats per token.
    """
    from hydralora import compare_with_live, export_lora

    rows = []
    for domain, fixed in gates.items():
        export_lora(model, folder / folders[domain], fixed)
        documents = held_out.rows_of(domain)
        if len(documents):
            gap = compare_with_live(model, fixed, held_out.batches(documents))
            found = float(np.mean([held_out.found[row] for row in documents]))
            losses = (gap.live_loss, gap.fixed_loss, gap.loss_difference, gap.mean_kl)
            rows.append((domain, folders[domain], len(documents), gap.num_tokens, found, *losses))
    columns = ("domain", "folder", "n_documents", "n_tokens", "found", "live_loss", "export_loss", "difference", "kl")
    return pl.DataFrame(rows, schema=columns, orient="row")


def plain_peft_differences(
    folder: Path,
    model: "PeftModel",
    gates: "Mapping[str, GateSpec | None]",
    table: pl.DataFrame,
    held_out: DomainDocuments,
    base_path: str,
    revision: str | None,
) -> pl.DataFrame:
    """Compare losses under peft alone with ours, for each row of `write_exports`, on the same few documents.

    Returns:
        Table with plain_peft_difference (loss under peft alone minus our loss) and plain_peft_tokens (number of answer
        tokens).
    """
    from hydralora import fixed_gates

    folders = {domain: folder / name for domain, name in table.select("domain", "folder").iter_rows()}
    documents = {domain: held_out.plain(held_out.rows_of(domain)) for domain in folders}
    there = plain_peft_losses(model.get_base_model(), base_path, revision, folders, documents)
    differences = []
    for domain in folders:
        with fixed_gates(model, gates[domain]):
            differences.append(there[domain] - answer_loss(model, documents[domain]))
    counts = [n_answer_tokens(documents[domain]) for domain in folders]
    schema = {"plain_peft_difference": pl.Float64, "plain_peft_tokens": pl.Int64}
    return pl.DataFrame({"plain_peft_difference": differences, "plain_peft_tokens": counts}, schema=schema)


def folder_names(domains: Sequence[str], names: Mapping[str, str] | None = None) -> dict[str, str]:
    """A folder name for each domain. Servers may also use it as the name of the LoRA.

    Names are also unique on file systems that ignore case. `others` is reserved for `OTHERS`. Names of the export's own
    files and of system devices (`nul`) are avoided.

    Args:
        names: domain -> the name that it was given, where it has one.

    Raises:
        ValueError: a domain occurs twice.
    """
    if len(set(domains)) < len(domains):
        raise ValueError(f"Expected distinct domains, got {sorted(d for d in set(domains) if domains.count(d) > 1)}")
    folders: dict[str, str] = {OTHERS: _slug(OTHERS)}
    taken = RESERVED | {_slug(OTHERS)}
    for domain in domains:
        if domain not in folders:
            slug = _slug((names or {}).get(domain, domain))
            candidates = itertools.chain([slug], (f"{slug}-{i}" for i in itertools.count(1)))
            folders[domain] = next(name for name in candidates if name not in taken)
            taken |= {folders[domain]}
    return {domain: folders[domain] for domain in domains}


def _slug(domain: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", domain).strip("-").lower()[:LONGEST_FOLDER].strip("-") or "domain"
