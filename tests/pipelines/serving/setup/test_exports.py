"""What can be served, what is refused, and that the proxy decides as `analysis` does."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from analysis.clusters.corpus_model import CorpusModel
from analysis.experts.prompt_classifier import PromptClassifier
from analysis.features.lsa import TfidfLsa
from analysis.sources.chat import Chat, pair
from analysis.text.normalisation import normalised
from pipelines.serving.errors import ExportsError
from pipelines.serving.requests.conversations import Conversations
from pipelines.serving.routing import Router
from pipelines.serving.setup.exports import READ, Exports, cut, exports_folder
from pipelines.serving.setup.launch_lines import WRITERS, printed
from pipelines.serving.setup.settings import Settings
from tests.pipelines.serving.small_serving import CAT, CATS, MODELS, SHIP, SHIPS, UNKNOWN, small_exports


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_exports(tmp_path / "exports")


def router(folder: Path, **settings: Any) -> Router:
    return Router(Exports.read(folder), Settings(folder, "http://x", **settings), Conversations(10))


def decided(router: Router, prompt: str) -> tuple[str, str]:
    body = {"model": "auto", "messages": [{"role": "user", "content": prompt}]}
    decision = router.decide("chat/completions", body, None, b"")
    return decision.expert, decision.reason


def test_threshold_and_fallback(folder: Path) -> None:
    assert decided(router(folder, threshold=0.5), UNKNOWN) in [("cats", "prompt"), ("ships", "prompt")]
    assert decided(router(folder, threshold=1), CAT) == ("others", "unsure")
    assert decided(router(folder, fallback="ships"), UNKNOWN) == ("ships", "unsure")
    assert decided(router(folder, fallback="base", base="base"), UNKNOWN) == ("base", "unsure")
    with pytest.raises(ExportsError, match="fallback: expected one of ships, cats, others, got 'base'"):
        router(folder, fallback="base")


def test_domains_are_found_by_name_not_by_place(folder: Path) -> None:
    assert list(Exports.read(folder).experts.items()) == [("ships", "ships"), ("cats", "my cats")]
    assert decided(router(folder), CAT) == ("cats", "prompt")
    assert decided(router(folder), SHIP) == ("ships", "prompt")


def test_clusters_have_no_probability(folder: Path) -> None:
    features = TfidfLsa(n_components=2).fit([*CATS, *SHIPS])
    rows = features.transform([*CATS, *SHIPS])
    for path in (folder / "group_model").iterdir():
        path.unlink()
    CorpusModel(features, np.stack([rows[:30].mean(0), rows[30:].mean(0)])).save(folder / "group_model")
    serving = {"domains": {"0": "cats", "1": "ships"}, "names": {"0": "My cats"}, "others": "others"}
    (folder / "serving.json").write_text(json.dumps(serving))
    exports = Exports.read(folder)
    assert exports.expert_of(CAT) == ("cats", None)
    assert exports.experts == {"cats": "My cats", "ships": "1"}
    assert decided(router(folder), SHIP) == ("ships", "prompt")


def test_one_expert(folder: Path) -> None:
    (folder / "serving.json").write_text('{"domains": {}, "others": "others"}')
    assert decided(router(folder), CAT) == ("others", "unsure")


def test_the_only_folder_of_exports_is_found(folder: Path) -> None:
    assert exports_folder(folder.parent) == folder
    small_exports(folder.parent / "more")
    with pytest.raises(ExportsError, match="got 2: exports, more"):
        exports_folder(folder.parent)
    with pytest.raises(ExportsError, match="got none"):
        exports_folder(folder / "cats")


@pytest.mark.parametrize(
    ("serving", "message"),
    [
        ("{", "expected JSON"),
        ("[]", "`domains` and `others`"),
        ('{"domains": {}}', "`domains` and `others`"),
        ('{"domains": {}, "names": ["a"], "others": "others"}', "`domains` and `others`"),
        ('{"domains": {"my cats": "dogs", "ships": "ships"}, "others": "others"}', "expected a LoRA"),
        ('{"domains": {"my cats": "ships", "ships": "ships"}, "others": "others"}', "a folder of its own"),
        ('{"domains": {"cats": "cats", "ships": "ships"}, "others": "others"}', r"got \['cats', 'my cats'\]"),
    ],
)
def test_wrong_exports_are_refused(folder: Path, serving: str, message: str) -> None:
    (folder / "serving.json").write_text(serving)
    with pytest.raises(ExportsError, match=message):
        Exports.read(folder)


def test_a_broken_group_model_is_refused(folder: Path) -> None:
    (folder / "group_model" / "classifier.json").write_text("{}")
    with pytest.raises(ExportsError, match="cannot read the group model"):
        Exports.read(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backend": "localhost:8000"}, "backend: expected a URL"),
        ({"backend": "http://me:word@x"}, "without a password"),
        ({"threshold": 90}, "threshold: expected a probability"),
        ({"max_requests": 0}, "max_requests: expected a positive number"),
        ({"base": "auto"}, "base: expected"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportsError, match=message):
        Settings(**{"exports": Path(), "backend": "http://x", **values})


def test_conversations_are_bounded() -> None:
    kept = Conversations(2)
    for key in (b"a", b"b"):
        kept.keep(key, (key.decode(), None))
    assert kept.find([b"a"]) == ("a", None)
    kept.keep(b"c", ("c", 0.9))
    assert [kept.find([key]) is not None for key in (b"a", b"b", b"c")] == [True, False, True]
    assert kept.find([b"b", b"c", b"a"]) == ("c", 0.9)


def test_launch_line_of_vllm(folder: Path) -> None:
    (folder / "chat_template.jinja").touch()
    words = shlex.split(printed("vllm", Exports.read(folder), Settings(folder, "http://x")))
    assert words[:3] == ["vllm", "serve", "some/base"]
    assert words[words.index("--max-lora-rank") + 1] == "8"
    assert words[words.index("--max-loras") + 1] == "3"
    assert words[words.index("--chat-template") + 1] == str(folder / "chat_template.jinja")
    names = [word.split("=")[0] for word in words[words.index("--lora-modules") + 1 :]]
    assert sorted(names) == sorted(MODELS)


def test_launch_line_of_llama_cpp(folder: Path) -> None:
    text = printed("llama.cpp", Exports.read(folder), Settings(folder, "http://x"))
    words = shlex.split(text)
    assert words[words.index("--lora") + 1] == "ships.gguf,cats.gguf,others.gguf"
    assert text.count("convert_lora_to_gguf.py") == 3


def test_configurations_of_other_routers(folder: Path) -> None:
    exports, settings = Exports.read(folder), Settings(folder, "http://x", host="0.0.0.0", port=81)
    lite = yaml.safe_load(printed("litellm", exports, settings))["model_list"]
    assert [entry["model_name"] for entry in lite] == ["auto", "ships", "cats", "others"]
    assert lite[0]["litellm_params"]["api_base"] == "http://localhost:81/v1"
    semantic = yaml.safe_load(printed("vllm-semantic-router", exports, settings))
    [route] = semantic["routing"]["decisions"]
    assert route["modelRefs"][0]["model"] == "auto"
    names = {card["name"] for card in semantic["routing"]["modelCards"]}
    assert names == {model["name"] for model in semantic["providers"]["models"]} == {"auto", *MODELS}
    with pytest.raises(ExportsError, match="print-config: expected one of " + ", ".join(WRITERS)):
        printed("nginx", exports, settings)


def test_different_base_models_are_refused(folder: Path) -> None:
    (folder / "cats" / "adapter_config.json").write_text('{"r": 7, "base_model_name_or_path": "another"}')
    with pytest.raises(ExportsError, match=r"one base model .* got another, some/base"):
        printed("vllm", Exports.read(folder), Settings(folder, "http://x"))


def test_the_command(folder: Path) -> None:
    """It prints without a web server, torch or Dagster, and says what is wrong in one line."""
    code = (
        "import sys; sys.argv[0] = 'serve'; import typer; from pipelines.serving.command import serve\n"
        "try: typer.run(serve)\n"
        "finally: print([m for m in ('torch', 'dagster', 'uvicorn', 'aiohttp') if m in sys.modules])"
    )

    def run(*arguments: str) -> Any:
        return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)

    done = run(str(folder), "--print-config", "vllm")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "[]"), done.stderr
    command = [sys.executable, "-m", "pipelines.serving", str(folder / "cats"), "--print-config", "vllm"]
    wrong = subprocess.run(command, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("hydralora serve: expected a folder with serving.json")


def test_decides_as_analysis_does_on_real_corpora(shared_corpora: Path, tmp_path: Path) -> None:
    """Prompts and conversations of real corpora: the same group and probability as in a table of documents.

    Of long prompts, both read the head and the tail.
    """
    names = ("gsm8k", "medquad", "mbpp", "dolly15k")
    tables = {name: pl.read_parquet(shared_corpora / f"{name}_test.parquet").head(300) for name in names}
    raw = pl.concat(
        table.select(
            source=pl.lit(name), prompt=pl.concat_str("instruction", "input", separator="\n\n", ignore_nulls=True)
        )
        for name, table in tables.items()
    )
    documents = raw.with_columns(normalised(pl.col("prompt")))
    classifier = PromptClassifier().fit(documents["prompt"], documents["source"])
    for name in (*names, "others"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_model.safetensors").touch()
        (tmp_path / name / "adapter_config.json").write_text('{"r": 7, "base_model_name_or_path": "some/base"}')
    classifier.save(tmp_path / "group_model")
    (tmp_path / "serving.json").write_text(json.dumps({"domains": {n: n for n in names}, "others": "others"}))
    exports = Exports.read(tmp_path)
    read = raw.select(normalised(pl.col("prompt").map_elements(cut, return_dtype=pl.String)))
    expected = classifier.predict_proba(read["prompt"])
    for prompt, row in zip(raw["prompt"], expected, strict=True):
        name, probability = exports.expert_of(prompt)
        assert probability == pytest.approx(row.max(), abs=1e-5)
        assert row[classifier.classes_.index(name)] == pytest.approx(row.max(), abs=1e-5)
    unbounded = Router(exports, Settings(tmp_path, "http://x", threshold=0), Conversations(10))
    texts = raw["prompt"].to_list()
    for one, two in zip(texts[:300:10], texts[300:600:10], strict=True):
        talk = [
            {"role": "user", "content": one},
            {"role": "assistant", "content": two},
            {"role": "user", "content": two},
        ]
        document, _ = pair(Chat({}).turns([*talk, {"role": "assistant", "content": "x"}], lambda: ""))
        [found] = classifier.predict(pl.select(normalised(pl.lit(cut(document)))).to_series())
        assert unbounded.decide("chat/completions", {"model": "auto", "messages": talk}, None, b"").expert == found


def test_of_a_long_prompt_the_head_and_the_tail_are_read() -> None:
    assert cut("x" * READ) == "x" * READ
    long = cut("a" * READ + "b" * READ + "c" * READ)
    assert long == "a" * (READ // 2) + "\n" + "c" * (READ // 2)
