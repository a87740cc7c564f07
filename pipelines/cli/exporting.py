"""`hydralora export`: plain LoRAs of an adapter."""

import json
from pathlib import Path

from pipelines.cli.telling import fail, one_error, print_json


def export_adapter(adapter: Path, out: Path, as_json: bool) -> None:
    """Write the plain LoRA of each expert of an adapter with given gates."""
    settings = adapter / "adapter_config.json"
    if not settings.is_file():
        fail(f"{adapter}: expected the folder of an adapter, found no adapter_config.json")
    with one_error(ValueError, OSError):
        config = json.loads(settings.read_text(encoding="utf-8"))
    if "num_experts" not in config:
        fail(f"{adapter}: expected a HydraLoRA adapter, got {config.get('peft_type')!r}, which servers load as it is")
    n = int(config["num_experts"])
    if config.get("router_input") != "given" and n > 1:
        fail(
            f"{adapter}: expected gates that are given, got router_input {config.get('router_input')!r}: a router's "
            "gates change with the input. The job `hydralora` measures them for each domain (domain_exports)"
        )
    names = _names(adapter / "group_model", n)
    with one_error(ValueError, OSError):
        from peft import PeftModel

        import hydralora
        from hydralora.base_model import load_base_model

        base, _ = load_base_model(config.get("base_model_name_or_path") or "embedded", revision=config.get("revision"))
        model = PeftModel.from_pretrained(base, adapter)
        for expert, name in enumerate(names):
            hydralora.export_lora(model, out / name, gates=expert if n > 1 else None)
    if as_json:
        print_json({"folder": str(out.resolve()), "loras": names})
        return
    for name in names:
        print(out / name)
    print("Each loads with peft, vLLM and llama.cpp's converter; none needs hydralora.")


def _names(group_model: Path, n: int) -> list[str]:
    """A folder name for each expert: its group, if the adapter says which it is."""
    from pipelines.training.exports.exporting import OTHERS, folder_names

    path = group_model / "classifier.json"
    if path.is_file():
        groups = [str(group) for group in json.loads(path.read_text(encoding="utf-8")).get("classes", [])]
        if len(groups) == n:
            folders = folder_names([*groups, OTHERS])
            return [folders[group] for group in groups]
    return [f"expert-{i}" for i in range(n)]
