"""The words of the report: heads of tables, and what terms mean."""

HEADS = {
    "n_read": "records read",
    "n_kept": "documents kept",
    "n_dropped": "dropped",
    "n": "records",
    "n_places": "places",
    "n_train": "train",
    "n_test": "test",
    "n_tasks": "tasks",
    "n_documents": "documents",
    "n_tokens": "answer tokens",
    "n_parameters": "parameters",
    "n_clusters": "clusters K",
    "inertia": "SSE",
    "n_iter": "iterations",
    "group_kind": "grouped by",
    "eval_loss": "held-out loss",
    "loss_low": "95% interval, low",
    "loss_high": "95% interval, high",
    "low": "95% interval, low",
    "high": "95% interval, high",
    "found": "domain found from the prompt (share)",
    "kl": "KL divergence from live gates, nats per token",
    "live_loss": "loss with live gates",
    "export_loss": "loss of the plain LoRA",
    "plain_peft_difference": "loss under PEFT alone minus ours",
    "plain_peft_tokens": "answer tokens compared",
    "b_cosine": "cosine of B",
    "expert_a": "expert",
    "expert_b": "other expert",
    "gate_correlation": "correlation of gates",
    "nmi": "mutual information (0 to 1)",
    "nmi_null": "mutual information by chance",
    "variance_explained": "variance of gates explained",
    "variance_null": "variance explained by chance",
    "p_value": "p value",
    "lift": "use in that cluster / mean use",
    "cka": "CKA",
    "mean_angle": "mean angle, degrees",
    "largest_angle": "largest angle, degrees",
    "energy_kwh": "energy, kWh",
    "from_start": "distance from the start",
    "wall_seconds": "seconds",
    "cpu_seconds": "CPU seconds",
    "own": "loss of its own expert",
    "others": "mean loss of the others",
    "best": "expert with the least loss",
    "probability_of_one": "probability of one part",
    "num_clusters": "clusters",
    "n_first": "documents of first",
    "n_second": "documents of second",
    "share_first": "share of first",
    "share_second": "share of second",
    "share_of_answers": "share of the words of all answers",
}
"""Column of a table -> what the page calls it. Other columns are shown with spaces for underscores."""

RULES = {
    "l_method": "L-method",
    "manual": "set in the configuration",
}
"""Rule that chose the number of clusters -> the same in words."""

TAIL = (
    "The last one is the tail: small tasks with short answers, each a community of its own in the graph of nearest "
    "neighbours. They share one cluster, so that no large source outweighs them in an expert."
)
"""What the tail of small tasks is (`analysis.clusters.tail`)."""

METHODS = {
    "base": "the base model without an adapter",
    "hydralora": "HydraLoRA of the paper: a router in each layer chooses the experts",
    "hydralora_sequence": "HydraLoRA with given gates: one expert for each prompt, chosen from its text",
    "hydralora_split": "an always-on LoRA and small experts, one for each prompt",
    "lora_matched": "LoRA with as many trainable parameters as the reported method",
    "lora_r8": "LoRA of rank 8",
}
"""Name of a method -> what it is."""

_NAT = ("nat", "Unit of loss: minus the natural logarithm of a probability. 0.1 nats less is 10% less perplexity.")
_GATE = ("gate", "Weight of an expert, between 0 and 1. The gates of one token sum to one.")
_EXPERT = ("expert", "One matrix B of the adapter. The number of an expert and that of a cluster are unrelated.")
_SSE = ("SSE", "Sum of the squared distances of documents to the centre of their cluster.")

GLOSSARY: dict[str, tuple[tuple[str, str], ...]] = {
    "experts": (
        ("elbow", "The number of clusters after which more of them hardly lower the error."),
        ("sharpness", "Slope of the curve before the elbow over the slope after it; 1 is a straight line."),
        ("stability", "Agreement of clusterings of two halves of the corpus (adjusted Rand index; 1: the same)."),
        ("L-method", "Two straight lines fitted to the curve meet at the elbow."),
        _SSE,
    ),
    "methods": (_NAT, ("held out", "Not trained on: documents of the test split.")),
    "training": (_NAT,),
    "breakdown": (
        ("A, B", "The two matrices of a LoRA: A reads the input, B writes the output. HydraLoRA has one A and many B."),
        ("head", "One trained LoRA, or one expert. iid-0 is a LoRA trained on a random part of the corpus."),
        ("place", "One adapted module of one layer."),
        ("Observation II", "The paper's claim that LoRAs of different data come to share A and to differ in B."),
        ("subspace similarity", "Mean squared cosine of the angles between two matrices' row or column spaces."),
        ("CKA", "Linear centred kernel alignment: 1 if two matrices span the same up to rotation and scale."),
    ),
    "routing": (_GATE, _EXPERT, ("entropy", "0: one expert does all; 1: all experts have the same gate.")),
    "given gates": (_GATE, _EXPERT),
    "serving": (
        ("(others)", "The LoRA for prompts of no known domain."),
        ("live gates", "Gates computed for each prompt, with this package in the process that serves."),
        ("KL divergence", "How far the predictions of the plain LoRA are from those with live gates; 0: the same."),
    ),
}
"""Section -> its terms and their meanings, shown below its heading."""


def head(column: str) -> str:
    """The head of a column."""
    return HEADS.get(column, column.replace("_", " "))
