"""`hydralora export`: plain LoRAs of an adapter, and what a server needs beside them."""

import json
import tempfile
from pathlib import Path
from typing import Any

from pipelines.cli.output import checked_folder, fail, one_error, print_json

RECORD, WEIGHTS = "run.json", "adapter_model.safetensors"


def export_adapter(adapter: Path, out: Path, as_json: bool) -> None:
    """Write the plain LoRA of each expert of an adapter with given gates, ready for `hydralora serve`."""
    checked_folder(out)
    config = _config(adapter)
    n = config["num_experts"]
    _check_weights(adapter / WEIGHTS)
    groups, template = _groups(adapter, n), _template(adapter)
    if out.exists() and any(out.iterdir()):
        fail(f"--out: expected a new or empty folder, got {out}. Name another")
    from peft import PeftModel

    from hydralora import export_lora
    from hydralora.base_model import load_base_model
    from hydralora.data import DataError, Frame
    from pipelines.training.exports.exporting import domain_gates, folder_names
    from pipelines.training.exports.serving_files import write_serving_files

    name = config.get("base_model_name_or_path") or "embedded"
    with one_error(ValueError, OSError, RuntimeError, KeyError, DataError):
        base, tokenizer = load_base_model(name, revision=config.get("revision"))
        model = PeftModel.from_pretrained(base, adapter)
        gates = domain_gates(model, groups or [f"expert-{i}" for i in range(n)], _no_documents)
        folders = folder_names(list(gates))
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
            done = Path(scratch) / "exports"
            for domain, fixed in gates.items():
                export_lora(model, done / folders[domain], fixed)
            served = template is not None and groups is not None
            if served:
                frame = Frame.of(tokenizer, template)
                write_serving_files(done, folders, adapter / "group_model", frame, template)
            done.replace(out)
    if as_json:
        print_json({"folder": str(out.resolve()), "loras": list(folders.values()), "serving": served})
        return
    for folder in folders.values():
        print(out / folder)
    print("Each is a plain LoRA: it loads with peft, vLLM and llama.cpp's converter; none needs hydralora.")
    if served:
        print(f"Start a server with them: hydralora serve {out} --print-config vllm    # or llama.cpp")
        print(f"Then: hydralora serve {out} --backend http://localhost:8000")
    else:
        print(f"No serving.json: {adapter} has no group_model or no {RECORD}. Requests must name a LoRA themselves.")


def _config(adapter: Path) -> dict[str, Any]:
    """The configuration of a HydraLoRA adapter that can be exported without documents."""
    settings = adapter / "adapter_config.json"
    if not settings.is_file():
        fail(
            f"{adapter}: expected the folder of an adapter, found no adapter_config.json. `hydralora train` prints "
            "that folder; a run has it as hydralora_adapter/<fingerprint>"
        )
    config = _json(settings)
    n, kind = config.get("num_experts"), config.get("peft_type")
    if n is None:
        fail(f"{adapter}: expected a HydraLoRA adapter, got {kind!r}, which servers load as it is")
    if not isinstance(n, int) or n < 1 or kind != "HYDRALORA":
        fail(f"{settings}: expected num_experts from 1 up and peft_type HYDRALORA, got {n!r} and {kind!r}")
    if config.get("router_input") != "given" and n > 1:
        fail(
            f"{adapter}: expected gates that are given, got router_input {config.get('router_input')!r}: a router's "
            "gates change with the input. The job `hydralora` measures them for each domain (domain_exports)"
        )
    return config


def _check_weights(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy"):
            pass
    except (OSError, SafetensorError) as error:
        fail(f"{path}: expected the weights of the adapter, got: {error}. Copy the adapter again, or train it again")


def _groups(adapter: Path, n: int) -> list[str] | None:
    """The group of each expert; None if the adapter does not say which they are."""
    if n == 1 or not (adapter / "group_model").is_dir():
        return [] if n == 1 else None
    from analysis.experts.prompt_gates import load_group_model

    with one_error(ValueError, OSError):
        model = load_group_model(adapter / "group_model")
    groups = [str(group) for group in getattr(model, "classes_", range(model.n_groups))]
    if len(groups) != n:
        fail(f"{adapter}/group_model: expected {n} groups, one for each expert, got {len(groups)}")
    return groups


def _template(adapter: Path) -> Any:
    """The template of the training; None if the trainer left no record."""
    record = adapter / RECORD
    if not record.is_file():
        return None
    data = _json(record).get("data")
    template = data.get("template") if isinstance(data, dict) else None
    if template not in ("plain", "chat"):
        fail(f"{record}: expected data.template to be plain or chat, got {template!r}")
    return template


def _json(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        fail(f"{path}: expected JSON, got: {error}")
    if not isinstance(value, dict):
        fail(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _no_documents() -> Any:
    raise ValueError("expected given gates")  # `_config` has refused all others
