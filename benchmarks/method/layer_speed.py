"""Speed and memory of HydraLoRA's layer on LLaMA2-7B shapes beside the frozen base, PEFT's LoRA and Lily, and a loop.

On a GPU (bf16, random weights):
    python benchmarks/method/layer_speed.py train decode graphs compile
On a CPU (fp32, the shape of SmolLM2-135M):
    python benchmarks/method/layer_speed.py cpu
Each section goes into benchmarks/results/layer_speed.json under its name; ratios are within a section of one run.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from layer_baselines import TARGETS, Method, adapted, frozen_base, given_gates, hydralora, lily, loop, lora
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from hydralora import expert_gates

RESULTS = Path(__file__).parents[1] / "results" / "layer_speed.json"
BATCH, LENGTH = 4, 512
LLAMA2_7B: dict[str, Any] = {}  # LlamaConfig's defaults are LLaMA2-7B's shapes
SMOLLM2_135M: dict[str, Any] = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


def build(device: str, dtype: torch.dtype, **shape: Any) -> nn.Module:
    """A frozen Llama with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(**{**shape, "dtype": dtype, "attn_implementation": "sdpa"})
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(default)
    return model.requires_grad_(False)


class TrainingStep:
    """Forward, and backward to every trainable parameter and to the input embeddings: the base counts in full."""

    def __init__(self, model: nn.Module, batch: int, length: int) -> None:
        self.model = model
        device = next(model.parameters()).device
        generator = torch.Generator(device=device).manual_seed(1)
        self.ids = torch.randint(model.config.vocab_size, (batch, length), device=device, generator=generator)
        self.embeddings = model.get_input_embeddings()(self.ids).detach().requires_grad_()
        given = getattr(model, "benchmark_gates", None)
        self.gates = None if given is None else given(batch, length).to(device)

    def __call__(self) -> None:
        with nullcontext() if self.gates is None else expert_gates(self.model, self.gates):
            self.model(inputs_embeds=self.embeddings, labels=self.ids, use_cache=False).loss.backward()

    def clear(self) -> None:
        self.embeddings.grad = None
        for parameter in self.model.parameters():
            parameter.grad = None


def cuda_seconds(
    call: Callable[[], object],
    after: Callable[[], object] = lambda: None,
    warmup: int = 3,
    repeats: int = 7,
    host: list[float] | None = None,
) -> list[float]:
    """Device seconds of each call, by events; `after` runs outside of the timed region.

    `host` gets the seconds until each call returned: near the device's, launches from Python are what limits.
    """
    times = []
    for i in range(warmup + repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        began = time.perf_counter()
        call()
        launched = time.perf_counter() - began
        end.record()
        torch.cuda.synchronize()
        after()
        if i >= warmup:
            times.append(start.elapsed_time(end) / 1000)
            if host is not None:
                host.append(launched)
    return times


def measure_train(
    model: nn.Module, methods: list[Method], targets: str, once: tuple[Method, ...] = ()
) -> dict[str, Any]:
    """`methods` in four rounds, every other one backwards: drift of the host and of clocks shows and cancels."""
    rows: dict[str, Any] = {}
    backwards = methods[::-1]
    for method in [*methods, *backwards, *once, *methods, *backwards]:
        row = rows.setdefault(method.name, {"seconds": [], "host_seconds": []})
        try:
            measure_step(model, row, method, targets, repeats=5)
        except torch.cuda.OutOfMemoryError:
            row["error"] = "out of memory"
        torch.cuda.empty_cache()
        print(targets, method.name, row, flush=True)
    return with_ratios(rows)


def measure_step(model: nn.Module, row: dict[str, Any], method: Method, targets: str, repeats: int) -> None:
    """Seconds of steps launched from Python, seconds until launches returned, and peak memory."""
    with adapted(model, method, TARGETS[targets]):
        step = TrainingStep(model, BATCH, LENGTH)
        row["trainable"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        row["seconds"] += cuda_seconds(step, step.clear, warmup=2, repeats=repeats, host=row["host_seconds"])
        weights = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        row["peak_above_weights_gib"] = (torch.cuda.max_memory_allocated() - weights) / 2**30
        step.clear()


def measure_graphs(model: nn.Module, methods: list[Method], targets: str) -> dict[str, Any]:
    """The training step captured once and replayed: device time without launch costs."""
    rows: dict[str, Any] = {}
    for method in methods:
        with adapted(model, method, TARGETS[targets]):
            step = TrainingStep(model, BATCH, LENGTH)
            replay = capture(step, step.clear)
            rows[method.name] = {"seconds": cuda_seconds(replay)}
            del replay
            step.clear()
        torch.cuda.empty_cache()
        print("graph", targets, method.name, rows[method.name], flush=True)
    return with_ratios(rows)


def capture(call: Callable[[], object], clear: Callable[[], object] = lambda: None) -> Callable[[], object]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            call()
            clear()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def measure_decode(model: nn.Module, methods: list[Method], targets: str, batch: int) -> dict[str, Any]:
    """One token with a KV cache of 128: as generate() runs it, and the same step replayed from a CUDA graph."""
    rows: dict[str, Any] = {}
    for method in methods:
        row = rows.setdefault(method.name, {"seconds": [], "graph_seconds": []})
        with adapted(model, method, TARGETS[targets]), torch.no_grad():
            prompt = torch.randint(model.config.vocab_size, (batch, 128), device="cuda")
            token, cache = prompt[:, :1], DynamicCache(config=model.config)
            model(prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)

            def decode(token: Tensor = token, cache: DynamicCache = cache) -> Tensor:
                logits: Tensor = model(token, past_key_values=cache, use_cache=True).logits
                cache.crop(-1)
                return logits

            row["seconds"] += cuda_seconds(decode, warmup=5, repeats=15)
            row["graph_seconds"] += cuda_seconds(capture(decode), warmup=3, repeats=15)
        print("decode", targets, batch, method.name, statistics.median(row["seconds"]), flush=True)
    return with_ratios(rows)


def measure_compile(methods: list[Method], targets: str, layers: int) -> dict[str, Any]:
    """torch.compile of the whole model without graph breaks; few layers, because each method compiles anew."""
    rows: dict[str, Any] = {}
    model = build("cuda", torch.bfloat16, **LLAMA2_7B, num_hidden_layers=layers)
    for method in methods:
        with adapted(model, method, TARGETS[targets]):
            torch.compiler.reset()
            step = TrainingStep(model, BATCH, LENGTH)
            eager = cuda_seconds(step, step.clear)
            step.model = torch.compile(model, fullgraph=True, dynamic=False)
            start = time.perf_counter()
            step()
            torch.cuda.synchronize()
            compile_seconds = time.perf_counter() - start
            step.clear()
            rows[method.name] = {"seconds": cuda_seconds(step, step.clear, repeats=15), "eager_seconds": eager}
            rows[method.name]["compile_seconds"] = compile_seconds
        print("compile", targets, method.name, rows[method.name], flush=True)
    return with_ratios(rows)


def measure_cpu() -> None:
    """A training step of the 135M base, fp32, 128 tokens, CPU seconds of the process; rounds interleaved."""
    tables: dict[str, Any] = {}
    model = build("cpu", torch.float32, **SMOLLM2_135M)
    methods = [frozen_base(), lora(8), hydralora(3), hydralora(10)]
    for targets in ("all-linear", "q,v"):
        rows: dict[str, Any] = {method.name: {"seconds": []} for method in methods}
        for _ in range(3):
            for method in methods:
                with adapted(model, method, TARGETS[targets]):
                    step = TrainingStep(model, 1, 128)
                    step()
                    step.clear()
                    start = time.process_time()
                    step()
                    rows[method.name]["seconds"].append(time.process_time() - start)
                    step.clear()
                print("cpu", targets, method.name, rows[method.name], flush=True)
        tables[targets] = with_ratios(rows)
        save("cpu", tables, "cpu")


def with_ratios(rows: dict[str, Any]) -> dict[str, Any]:
    """Medians, and against PEFT LoRA r=8 and the frozen base of the same table."""
    for row in rows.values():
        for key in [k for k in row if k.endswith("seconds") and isinstance(row[k], list) and row[k]]:
            row["median_" + key] = statistics.median(row[key])
    for row in rows.values():
        for key in [k for k in row if k.startswith("median_")]:
            for other in ("PEFT LoRA r=8", "frozen base"):
                if key in rows.get(other, {}):
                    row[f"{key.removeprefix('median_')}_over_{other}"] = round(row[key] / rows[other][key], 4)
    return rows


def environment(device: str) -> dict[str, Any]:
    card = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    versions = {m.__name__: m.__version__ for m in (torch, transformers, peft)}
    with suppress(ImportError):
        import triton

        versions["triton"] = triton.__version__
    return {
        "device": card,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        **versions,
    }


def save(section: str, value: Any, device: str) -> None:
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[section] = {"environment": environment(device), "tables": value}
    RESULTS.parent.mkdir(exist_ok=True)
    temporary = RESULTS.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(temporary, RESULTS)


def run_gpu(sections: list[str]) -> None:
    hydra = [hydralora(3), hydralora(10)]
    short = [frozen_base(), lora(8), *hydra]
    others = (lora(16), lora(32), lily(8, 3), hydralora(3, "hidden"), given_gates(6))
    loops = (loop(3), loop(10))
    if {"train", "decode", "graphs"} & set(sections):
        model = build("cuda", torch.bfloat16, **LLAMA2_7B)
    if "train" in sections:
        tables = {
            "q,v": measure_train(model, short, "q,v", (*others, *loops)),
            "all-linear": measure_train(model, short, "all-linear", others),
        }
        save("train", tables, "cuda")
    if "graphs" in sections:
        save("graphs", {targets: measure_graphs(model, short, targets) for targets in TARGETS}, "cuda")
    if "decode" in sections:
        tables = {f"{t}, batch {b}": measure_decode(model, short, t, b) for t in TARGETS for b in (1, 32)}
        save("decode", tables, "cuda")
    model = None
    torch.cuda.empty_cache()
    if "train" in sections:  # the loop over ten experts on all linear layers needs more memory than the card has
        model = build("cuda", torch.bfloat16, **LLAMA2_7B, num_hidden_layers=8)
        tables = {"all-linear": measure_train(model, short, "all-linear", loops)}
        save("train of 8 layers", tables, "cuda")
    if "compile" in sections:
        methods = [frozen_base(), lora(8), *hydra]
        save("compile of 2 layers", {"all-linear": measure_compile(methods, "all-linear", layers=2)}, "cuda")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="+", choices=["train", "decode", "graphs", "compile", "cpu"])
    sections = parser.parse_args().sections
    gpu = [section for section in sections if section != "cpu"]
    if gpu and not torch.cuda.is_available():
        parser.error(f"{', '.join(gpu)}: expected a CUDA device, got none; the section cpu runs without one")
    if "cpu" in sections:
        measure_cpu()
    if gpu:
        run_gpu(gpu)


if __name__ == "__main__":
    main()
