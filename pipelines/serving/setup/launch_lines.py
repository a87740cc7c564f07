"""Programs around the exports: launch lines of backends, configurations of other routers."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.serving.errors import ExportsError
from pipelines.serving.setup.exports import AUTO, Exports
from pipelines.serving.setup.settings import Settings

# Values that `vllm serve --max-lora-rank` accepts (vLLM 0.32).
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
CHAT_TEMPLATE = "chat_template.jinja"


def printed(what: str, exports: Exports, settings: Settings) -> str:
    """A launch line or a configuration file.

    Args:
        what: one of `WRITERS`.

    Raises:
        ExportsError: there is no such writer, or the exports cannot be served in this way.
    """
    if what not in WRITERS:
        raise ExportsError(f"print-config: expected one of {', '.join(WRITERS)}, got {what!r}")
    return WRITERS[what](exports, settings)


def vllm(exports: Exports, settings: Settings) -> str:
    """The command that starts vLLM with all LoRAs."""
    allowed = next((allowed for allowed in VLLM_RANKS if allowed >= exports.rank), None)
    if allowed is None:
        raise ExportsError(f"r: expected at most {VLLM_RANKS[-1]} for vLLM, got {exports.rank}")
    modules = [f"{name}={exports.folder / name}" for name in exports.models]
    words = [
        "vllm",
        "serve",
        exports.base,
        "--enable-lora",
        "--max-loras",
        str(len(modules)),
        "--max-lora-rank",
        str(allowed),
    ]
    return _lines([*words, *_template(exports, "--chat-template"), "--lora-modules", *modules])


def llama_cpp(exports: Exports, settings: Settings) -> str:
    """The commands that convert all LoRAs, and start llama.cpp's server with them."""
    files = [f"{name}.gguf" for name in exports.models]
    config = ["--base" if Path(exports.base).is_dir() else "--base-model-id", exports.base]
    converted = [
        shlex.join(["python", "convert_lora_to_gguf.py", str(exports.folder / name), *config])
        + f" --outtype f16 --outfile {shlex.quote(file)}"
        for name, file in zip(exports.models, files, strict=True)
    ]
    template = _template(exports, "--chat-template-file")
    start = ["llama-server", "-m", "model.gguf", "--lora-init-without-apply", "--jinja", *template]
    return "\n".join([*converted, _lines([*start, "--lora", ",".join(files)])])


def litellm(exports: Exports, settings: Settings) -> str:
    """LiteLLM's `config.yaml`: every model through this proxy, with a key from LiteLLM's environment."""
    models = [
        {
            "model_name": name,
            "litellm_params": {"model": f"openai/{name}", "api_base": f"{_address(settings)}/v1", "api_key": KEY},
        }
        for name in (AUTO, *exports.models)
    ]
    return _yaml({"model_list": models})


def semantic_router(exports: Exports, settings: Settings) -> str:
    """vLLM Semantic Router's `config.yaml`: its catch-all route asks this proxy, which chooses the expert."""
    endpoint = _address(settings).removeprefix("http://")
    reference = {"name": "hydralora", "provider": "vllm", "endpoint": endpoint, "protocol": "http", "weight": 100}
    names = (AUTO, *exports.models)
    about = {AUTO: "hydralora chooses the expert.", exports.others: "For prompts of no known domain."}
    cards = [
        {"name": name, "description": about.get(name, f"Expert for {exports.experts.get(name)}.")} for name in names
    ]
    decision = {
        "name": "hydralora",
        "description": "Every request that no other decision takes. To send some to an expert, name it in a modelRef.",
        "priority": 1,
        "rules": {"operator": "AND", "conditions": []},
        "modelRefs": [{"model": AUTO, "use_reasoning": False}],
    }
    return _yaml(
        {
            "version": "v0.3",
            "listeners": [{"name": "http-8899", "address": "127.0.0.1", "port": 8899, "timeout": "600s"}],
            "providers": {
                "defaults": {"model": AUTO},
                "models": [{"name": name, "backend_refs": [reference]} for name in names],
            },
            "routing": {"modelCards": cards, "decisions": [decision]},
        }
    )


KEY = "os.environ/HYDRALORA_BACKEND_KEY"
WRITERS: dict[str, Callable[[Exports, Settings], str]] = {
    "vllm": vllm,
    "llama.cpp": llama_cpp,
    "litellm": litellm,
    "vllm-semantic-router": semantic_router,
}


def _template(exports: Exports, option: str) -> list[str]:
    path = exports.folder / CHAT_TEMPLATE
    return [option, str(path)] if path.is_file() else []


def _address(settings: Settings) -> str:
    host = "localhost" if settings.host in ("0.0.0.0", "::") else settings.host
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _lines(words: list[str]) -> str:
    """A command, broken before each option."""
    text = ""
    for word in words:
        text += (" \\\n    " if word.startswith("--") else " " if text else "") + shlex.quote(word)
    return text


def _yaml(value: dict[str, Any]) -> str:
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump(value, Dumper=Plain, sort_keys=False, width=120).rstrip()
