"""Do the exported LoRAs of a run mean the same under vLLM as under peft, also when one batch mixes them?

    pip install vllm                           # or a build of vLLM for CPUs; in an environment of its own
    python benchmarks/product/serve_vllm.py outputs/quickstart/domain_exports/<fingerprint>

Loads all LoRAs into one vLLM engine on the embedded base model and asks for one by each request, once with a batch for
each LoRA and once with all LoRAs and the base in one batch. Compares the probabilities of the next token and 12 greedy
tokens with those of transformers and peft on the same device in the same dtype. In bfloat16 both sides round, each in
its own order, so a row also has how far peft in bfloat16 is from peft in float32. One engine has fewer slots than there
are LoRAs. On a GPU leave float32 out: vLLM's LoRA kernels there have none.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import vllm
from serving_reference import (
    GREEDY_TOKENS,
    PROMPTS,
    TOP,
    Answer,
    ServedAnswer,
    compared,
    export_folders,
    peft_answers,
)
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm.lora.request import LoRARequest

from hydralora.base_model import GGUF_SHA256, provision_embedded_base_model
from hydralora.training.outputs.record import environment

RESULTS = Path(__file__).parents[1] / "results" / "serve_vllm.json"
FEW_SLOTS = 2


class Vllm:
    """One engine with several adapters, of which a request applies at most one."""

    def __init__(self, base: Path, exports: Path, folders: Sequence[str], dtype: str, slots: int) -> None:
        self.requests: dict[str | None, LoRARequest | None] = {None: None}
        for number, folder in enumerate(folders, start=1):
            self.requests[folder] = LoRARequest(folder, number, str(exports / folder))
        rank = max(json.loads((exports / folder / "adapter_config.json").read_text())["r"] for folder in folders)
        self.engine = vllm.LLM(
            str(base),
            dtype=dtype,
            enable_lora=True,
            max_loras=slots,
            max_cpu_loras=len(folders),
            max_lora_rank=next(allowed for allowed in (8, 16, 32, 64, 128, 256, 320, 512) if allowed >= rank),
            max_model_len=512,
            gpu_memory_utilization=0.3,
            enforce_eager=True,
            # Otherwise the mixed batch would read what the separate ones have computed.
            enable_prefix_caching=False,
        )

    def answers(self, prompts: Sequence[list[int]], adapters: Sequence[str | None]) -> list[ServedAnswer]:
        """Answers of one batch, each request with its own adapter."""
        outputs = self.engine.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            vllm.SamplingParams(temperature=0, max_tokens=GREEDY_TOKENS, logprobs=TOP),
            lora_request=[self.requests[adapter] for adapter in adapters],
            use_tqdm=False,
        )
        completions = [output.outputs[0] for output in outputs]
        return [
            ({token: entry.logprob for token, entry in completion.logprobs[0].items()}, list(completion.token_ids))
            for completion in completions
        ]


def transformers_answers(
    base: Path, exports: Path, folders: Sequence[str], prompts: Sequence[list[int]], dtype: str
) -> dict[str | None, list[Answer]]:
    """What peft answers on the device that vLLM will use."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, attn_implementation="eager")
    return peft_answers(model.to(device), exports, folders, prompts)


def from_separate(mixed: Sequence[ServedAnswer], separate: Sequence[ServedAnswer]) -> dict[str, float]:
    """What a batch of several adapters changes: log-probabilities (largest difference), requests with other tokens."""
    differences = [
        abs(logprob - alone[token])
        for (likeliest, _), (alone, _) in zip(mixed, separate, strict=True)
        for token, logprob in likeliest.items()
        if token in alone
    ]
    changed = sum(ours != alone for (_, ours), (_, alone) in zip(mixed, separate, strict=True))
    return {"mixed_difference": max(differences), "mixed_other_tokens": changed}


def rounding(ours: Sequence[Answer], exact: list[Answer], served: Sequence[ServedAnswer]) -> dict[str, float]:
    """How far peft itself is from its answers in float32: log-probabilities at the same tokens, greedy tokens."""
    at_same_tokens = [
        ({token: logprobs[token].item() for token in likeliest}, greedy)
        for (logprobs, greedy), (likeliest, _) in zip(ours, served, strict=True)
    ]
    own = compared(at_same_tokens, exact, exact)
    return {"rounding": own["difference"], "rounding_greedy_agreed": own["greedy_agreed"]}


def measure(
    engine: Vllm,
    prompts: Sequence[list[int]],
    ours: Mapping[str | None, list[Answer]],
    exact: Mapping[str | None, list[Answer]],
) -> list[dict[str, Any]]:
    """A row for each adapter and one for the base without."""
    batch = [(prompt, adapter) for prompt in prompts for adapter in ours]
    answers = engine.answers(*zip(*batch, strict=True))
    rows = []
    for adapter in ours:
        separate = engine.answers(prompts, [adapter] * len(prompts))
        mixed = [answer for answer, (_, other) in zip(answers, batch, strict=True) if other == adapter]
        rows.append(
            {
                "adapter": adapter or "none",
                **compared(separate, ours[adapter], ours[None]),
                **rounding(ours[adapter], exact[adapter], separate),
                **from_separate(mixed, separate),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exports", type=Path, help="folder of a domain_exports artifact")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    exports: Path = arguments.exports
    folders = export_folders(exports)
    base = provision_embedded_base_model()
    tokenizer = AutoTokenizer.from_pretrained(base)
    prompts = [tokenizer(prompt).input_ids for prompt in PROMPTS]
    exact = transformers_answers(base, exports, folders, prompts, "float32")
    rows = []
    for dtype in arguments.dtypes:
        ours = exact if dtype == "float32" else transformers_answers(base, exports, folders, prompts, dtype)
        for slots in (len(folders), FEW_SLOTS):
            engine = Vllm(base, exports, folders, dtype, slots)
            for row in measure(engine, prompts, ours, exact):
                rows.append({"dtype": dtype, "max_loras": slots, **row})
                print(rows[-1], flush=True)
            del engine
    result = {
        "prompts": PROMPTS,
        "greedy_tokens": GREEDY_TOKENS,
        "top": TOP,
        "exports": exports.resolve().name,
        "base_gguf_sha256": GGUF_SHA256,
        "rows": rows,
        "versions": {"vllm": vllm.__version__},
        "device": vllm.platforms.current_platform.device_name,
        "environment": environment(),
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
