"""Tables of a run that never happened, with known answers: for tests of the breakdown, the routing and the report."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from analysis.adapters.breakdown import ComponentAdapter, break_down
from analysis.adapters.routing import DocumentGates, RoutingAnalysis, analyse_routing
from analysis.report import ReportInputs, TokenGates

MODULES = {"self_attn.q_proj": (48, 48), "self_attn.v_proj": (48, 16), "mlp.down_proj": (96, 48)}
"""Input and output sizes; grouped-query attention and an MLP, so that shapes differ."""
RANK = 4


def lora_state(
    seed: int, part: int | None, *, n_layers: int = 4, moved: float = 0.2, together: bool = False
) -> dict[str, np.ndarray]:
    """A LoRA's parameters: A starts from `seed` and moves by `moved` of its norm, B is made by the `part`.

    Args:
        part: None for an untrained adapter.
        together: A moves to what all adapters share, whatever the seed, instead of anywhere.
    """
    state = {}
    for layer in range(n_layers):
        for m, (module, (n_in, n_out)) in enumerate(MODULES.items()):
            where = 100 * layer + m
            a = np.random.default_rng([seed, where]).uniform(-1, 1, (RANK, n_in))
            b = np.zeros((n_out, RANK))
            if part is not None:
                direction = [7, where] if together else [8, seed, part, where]
                a = a + moved * np.random.default_rng(direction).uniform(-1, 1, a.shape)
                b = np.random.default_rng([9, part, where]).normal(size=b.shape)
                b += 0.3 * np.random.default_rng([10, part, seed, where]).normal(size=b.shape)
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            state[f"{prefix}.lora_A.weight"] = a.astype(np.float32)
            state[f"{prefix}.lora_B.weight"] = b.astype(np.float32)
    return state


def components(*, moved: float = 0.2, together: bool = False, other_seed: bool = True) -> list[ComponentAdapter]:
    """Three parts of one seed with their start, and of another seed where asked."""
    made = []
    for seed in (0, 1) if other_seed else (0,):
        for part, name in enumerate(("sum", "qa", "ie")):
            state = lora_state(seed, part, moved=moved, together=together)
            made.append(ComponentAdapter(f"{name}, seed {seed}" if seed else name, name, seed, state))
        made.append(ComponentAdapter(f"untrained, seed {seed}", "none", seed, lora_state(seed, None), trained=False))
    return made


def hydralora_state(n_experts: int, *, shared: bool = False, n_layers: int = 4, same: bool = False) -> dict:
    """A HydraLoRA's parameters; `same` makes experts 0 and 1 equal."""
    state = {}
    for layer in range(n_layers):
        for m, (module, (n_in, n_out)) in enumerate(MODULES.items()):
            generator = np.random.default_rng([11, layer, m])
            b = generator.normal(size=(n_out, (n_experts + shared) * RANK)).astype(np.float32)
            if same:
                b[:, RANK : 2 * RANK] = b[:, :RANK]
            prefix = f"base_model.model.model.layers.{layer}.{module}.hydralora"
            state[f"{prefix}_A.weight"] = generator.normal(size=(RANK, n_in)).astype(np.float32)
            state[f"{prefix}_B.weight"] = b
            state[f"{prefix}_router.weight"] = generator.normal(size=(n_experts, RANK)).astype(np.float32)
    return state


def routing_tables(
    labels: Sequence[int], *, n_experts: int = 4, follow: float = 2.0, n_layers: int = 4
) -> tuple[pl.DataFrame, pl.DataFrame, DocumentGates]:
    """Gates, entropy and document gates of a router that leans towards expert `label` by `follow` in its logits."""
    labels = np.asarray(labels)  # type: ignore[assignment]
    places = [(layer, module) for layer in range(n_layers) for module in MODULES]
    generator = np.random.default_rng(12)
    logits = 0.3 * follow * generator.normal(size=(len(labels), len(places), n_experts))
    for m in range(len(places)):
        logits[np.arange(len(labels)), m, (labels + m) % n_experts] += follow
    gates = np.exp(logits)
    gates = (gates / gates.sum(axis=2, keepdims=True)).astype(np.float32)
    entropy = -(gates * np.log(gates)).sum(axis=2).mean(axis=0) / np.log(n_experts)
    groups = [("all", "all", np.ones(len(labels), bool))]
    groups += [("cluster", str(c), labels == c) for c in np.unique(labels)]
    rows = [
        (*place, expert, kind, group, float(gates[chosen, m, expert].mean()), int(chosen.sum()))
        for kind, group, chosen in groups
        for m, place in enumerate(places)
        for expert in range(n_experts)
    ]
    columns = ["layer", "module", "expert", "group_kind", "group", "gate", "n_tokens"]
    table = pl.DataFrame(rows, schema=columns, orient="row")
    entropies = pl.DataFrame(
        [(*place, float(entropy[m])) for m, place in enumerate(places)],
        schema=["layer", "module", "entropy"],
        orient="row",
    )
    return table, entropies, DocumentGates(gates, places, [f"{i:016x}" for i in range(len(labels))])


def routing(labels: Sequence[int], n_experts: int = 4, follow: float = 2.0) -> RoutingAnalysis:
    """The analysis of such a router."""
    gates, entropy, document_gates = routing_tables(labels, n_experts=n_experts, follow=follow)
    documents = pl.DataFrame({"document_id": list(document_gates.document_ids), "cluster": list(labels)})
    return analyse_routing(
        gates,
        entropy,
        document_gates=document_gates,
        documents=documents,
        adapter=hydralora_state(n_experts),
        top_terms={c: ["term", f"of {c}"] for c in range(n_experts)},
        n_permutations=99,
    )


def report_inputs(texts: Sequence[str], sources: Sequence[str], n_clusters: int = 4) -> ReportInputs:
    """A whole report of these texts; clusters and losses are made up."""
    generator = np.random.default_rng(0)
    labels = np.array([sorted(set(sources)).index(source) % n_clusters for source in sources])
    points = generator.normal(size=(len(texts), 2)) + 5 * np.stack([np.cos(labels * 1.6), np.sin(labels * 1.6)], 1)
    ids = [f"{i:016x}" for i in range(len(texts))]
    documents = pl.DataFrame(
        {"document_id": ids, "x": points[:, 0], "y": points[:, 1], "cluster": labels, "source": list(sources),
         "excerpt": list(texts)}
    )  # fmt: skip
    counts = documents.group_by("cluster").agg(n_documents=pl.len()).sort("cluster")
    ks = np.arange(1, 13)
    sweep = pl.DataFrame({"n_clusters": ks, "inertia": len(texts) * (0.35 + 0.65 * np.exp(-(ks - 1) / 1.8))})
    return ReportInputs(
        title="A made-up run",
        command="hydralora run pipelines/configs/quickstart.yaml",
        provenance={"seed": "0", "torch": "2.13.0", "corpus fingerprint": "5f1c0ffee0123456"},
        choice={
            "num_clusters": n_clusters, "interval": (n_clusters - 1, n_clusters + 1), "rule": "l_method",
            "sharpness": 4.2, "stability": 0.91, "runner_up": n_clusters + 1, "structure": True,
            "reason": f"The error of the clusters falls 4.2 times faster before {n_clusters} clusters than after.",
        },
        data_card=_data_card(sources),
        sweep=sweep,
        cluster_map=documents,
        clusters=counts.with_columns(top_terms=pl.Series([[f"word{c}", "answer"] for c in counts["cluster"]])),
        representatives=documents.group_by("cluster", maintain_order=True).head(2),
        composition=documents.group_by("cluster", "source").agg(n_documents=pl.len()).sort("cluster", "source"),
        curves=_curves(),
        evaluation=_evaluation(sorted(set(sources))),
        paired=pl.DataFrame(
            {"method": ["hydralora"], "baseline": ["lora_matched"], "group_kind": ["all"], "group": ["all"],
             "difference": [-0.021], "low": [-0.034], "high": [-0.008]}
        ),
        matched_baseline="lora_matched",
        breakdown=break_down(components(), hydralora_state(n_clusters), methods=("t-SNE",)),
        routing=routing(labels.tolist(), n_clusters),
        token_gates=[_token_gates(ids[0], texts[0], n_clusters)],
        parameters=pl.DataFrame(
            {"method": ["hydralora"] * 3 + ["lora_matched"] * 2, "part": ["A", "B", "router", "A", "B"],
             "n_parameters": [460_800, 1_105_920, 7_680, 921_600, 652_800]}
        ),
        energy=pl.DataFrame(
            {"method": ["hydralora", "lora_matched"], "seed": [0, 0], "energy_kwh": [0.0061, 0.0054],
             "seconds": [412.0, 371.0], "remembered_batches": [0, 0]}
        ),
    )  # fmt: skip


def _data_card(sources: Sequence[str]) -> dict:
    kept = {source: list(sources).count(source) for source in sorted(set(sources))}
    return {
        "n_read": len(sources) + 7,
        "n_kept": len(sources),
        "n_dropped": 7,
        "sources": [{"source": source, "n_read": n + 1, "n_kept": n} for source, n in kept.items()],
        "dropped": [{"source": next(iter(kept)), "reason": "duplicate", "n": 7}],
    }


def _curves() -> pl.DataFrame:
    steps = np.arange(10, 1001, 10)
    runs = []
    for m, method in enumerate(("hydralora", "lora_matched", "lora_r8")):
        loss = 1.4 + 0.04 * m + 1.2 * np.exp(-steps / 150) + 0.05 * np.random.default_rng(m).normal(size=len(steps))
        evaluated = [float(x) if step % 250 == 0 else None for x, step in zip(loss, steps, strict=True)]
        runs.append(
            pl.DataFrame({"step": steps, "tokens": steps * 2048, "loss": loss, "eval_loss": evaluated}).with_columns(
                method=pl.lit(method), seed=pl.lit(0)
            )
        )
    return pl.concat(runs)


def _evaluation(sources: Sequence[str]) -> pl.DataFrame:
    rows = []
    for m, method in enumerate(("hydralora", "lora_matched", "lora_r8")):
        for g, (kind, group) in enumerate([("all", "all"), *(("source", source) for source in sources)]):
            loss = 1.42 + 0.021 * m + 0.15 * (g % 4) * (g > 0)
            rows.append((method, 0, kind, group, loss, loss - 0.03, loss + 0.03, 200, 9000))
    columns = ["method", "seed", "group_kind", "group", "loss", "loss_low", "loss_high", "n_documents", "n_tokens"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def _token_gates(document_id: str, text: str, n_experts: int) -> TokenGates:
    tokens = [word if i == 0 else f" {word}" for i, word in enumerate(text.split(" ")[:60])]
    logits = np.cumsum(np.random.default_rng(1).normal(size=(len(tokens), n_experts)), axis=0) / 2
    gates = np.exp(logits - logits.max(axis=1, keepdims=True))
    return TokenGates(document_id, tokens, (gates / gates.sum(axis=1, keepdims=True)).tolist())
