"""Do the exported LoRAs of a run mean the same under llama.cpp as under peft?

    pip install --no-deps xllamacpp            # llama.cpp in a wheel
    python benchmarks/product/serve_llama_cpp.py outputs/quickstart/domain_exports/<fingerprint>

Converts LoRAs to GGUF, loads them into one llama.cpp server on the embedded base model, asks for one by
each request, and compares the probabilities of the next token and 12 greedy tokens with those of transformers and
peft. The base is compared twice: in float32, where both sides compute the same numbers, and as the 4-bit file that
would be served. The conversion here knows the Llama architecture only and is for this comparison; llama.cpp's own is
`convert_lora_to_gguf.py`.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import MODEL_ARCH, GGUFReader, GGUFWriter, dequantize, get_tensor_name_map
from safetensors.torch import load_file
from serving_reference import GREEDY_TOKENS, PROMPTS, TOP, ServedAnswer, compared, export_folders, peft_answers
from transformers import AutoModelForCausalLM, AutoTokenizer

from hydralora.base_model import embedded_gguf, provision_embedded_base_model
from hydralora.training.outputs.record import environment

RESULTS = Path(__file__).parents[1] / "results" / "serve_llama_cpp.json"
DOMAINS = 3  # beside `others`
NOT_COPIED = ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.architecture", "general.file_type")


def lora_to_gguf(adapter: Path, config: Any, path: Path) -> None:
    """Write a portable PEFT LoRA of a Llama as llama.cpp reads it."""
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    writer = GGUFWriter(path, "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", json.loads((adapter / "adapter_config.json").read_text())["lora_alpha"])
    for key, tensor in load_file(adapter / "adapter_model.safetensors").items():
        module, factor = key.removeprefix("base_model.model.").rsplit(".lora_", 1)
        side = factor[0].lower()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(module.split(".")[-1])
        if side == "b" and heads:
            tensor = interleaved(tensor, heads)
        name = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        writer.add_tensor(f"{name}.lora_{side}", tensor.float().numpy())
    write(writer)


def interleaved(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of queries and keys in GGUF's order: rotary pairs side by side, not half a head apart."""
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2).contiguous()


def in_float32(source: Path, path: Path) -> None:
    """The same GGUF model with its weights in float32."""
    reader, writer = GGUFReader(source), GGUFWriter(path, "llama")
    for field in reader.fields.values():
        if field.name not in NOT_COPIED:
            kind, *inner = field.types
            writer.add_key_value(field.name, field.contents(), kind, inner[-1] if inner else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    write(writer)


def write(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    """One server with several adapters, of which a request applies at most one."""

    def __init__(self, base: Path, adapters: Mapping[str, Path]) -> None:
        import xllamacpp

        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(base)
        parameters.n_ctx, parameters.n_parallel, parameters.warmup, parameters.verbosity = 512, 1, False, 1
        # Threads of llama.cpp wait busily, which on a machine with other work costs more than they bring.
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
        parameters.lora_init_without_apply = True
        loras = []
        for path in adapters.values():
            lora = xllamacpp.CommonAdapterLoraInfo()
            lora.path, lora.scale = str(path), 1.0
            loras.append(lora)
        parameters.lora_adapters = loras
        self.numbers = {name: i for i, name in enumerate(adapters)}
        self.server = xllamacpp.Server(parameters)

    def complete(self, tokens: list[int], adapter: str | None) -> ServedAnswer:
        """Log-probabilities of the likeliest next tokens, and greedy tokens."""
        scales = [{"id": i, "scale": float(name == adapter)} for name, i in self.numbers.items()]
        request = {
            "prompt": tokens,
            "n_predict": GREEDY_TOKENS,
            "temperature": 0,
            "n_probs": TOP,
            "cache_prompt": False,
            "lora": scales,
        }
        answer = self.server.handle_completions(request)
        steps = answer["choices"][0]["logprobs"]["content"]
        likeliest = {entry["id"]: entry["logprob"] for entry in steps[0]["top_logprobs"]}
        return likeliest, [step["id"] for step in steps]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exports", type=Path, help="folder of a domain_exports artifact")
    exports: Path = parser.parse_args().exports
    folders = export_folders(exports, DOMAINS)
    embedded = embedded_gguf()
    tokenizer = AutoTokenizer.from_pretrained(provision_embedded_base_model())
    tokens = [tokenizer(prompt).input_ids for prompt in PROMPTS]
    base = AutoModelForCausalLM.from_pretrained(
        embedded.parent, gguf_file=embedded.name, dtype=torch.float32, attn_implementation="eager"
    )
    ours = peft_answers(base, exports, folders, tokens)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        adapters = {folder: Path(scratch) / f"{folder}.gguf" for folder in folders}
        for folder, path in adapters.items():
            lora_to_gguf(exports / folder, base.config, path)
        in_float32(embedded, Path(scratch) / "float32.gguf")
        for kind, gguf in (("float32", Path(scratch) / "float32.gguf"), ("Q4_1", embedded)):
            server = LlamaCpp(gguf, adapters)
            for adapter in ours:
                answers = [server.complete(prompt, adapter) for prompt in tokens]
                measured = compared(answers, ours[adapter], ours[None])
                rows.append({"base": kind, "adapter": adapter or "none", **measured})
                print(rows[-1], flush=True)
            del server
    versions = {name: version(name) for name in ("xllamacpp", "gguf")}
    result = {"prompts": PROMPTS, "greedy_tokens": GREEDY_TOKENS, "top": TOP, "rows": rows}
    RESULTS.write_text(json.dumps({**result, "versions": versions, "environment": environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
