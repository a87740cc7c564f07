"""Files of a folder of exports beside its LoRAs, so that a server can name the right one."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.corpus.experts import GROUP_MODEL
from pipelines.training.exports.chat_template import chat_template
from pipelines.training.exports.exporting import OTHERS

if TYPE_CHECKING:
    from hydralora.data import Frame


def write_serving_files(
    folder: Path,
    folders: Mapping[str, str],
    group_model: Path,
    frame: "Frame",
    template: str,
    names: Mapping[str, str] | None = None,
) -> None:
    """Write the group model, `serving.json` and `chat_template.jinja`.

    Args:
        folder: folder of the exports.
        folders: domain, or `OTHERS` -> folder of its LoRA.
        group_model: what finds the domain of a prompt; not needed if `OTHERS` is the only export.
        frame, template: what training put around a prompt, and its name.
        names: domain -> the name that it was given, where it has one.
    """
    domains = {domain: name for domain, name in folders.items() if domain != OTHERS}
    if domains or group_model.is_dir():
        shutil.copytree(group_model, folder / GROUP_MODEL, dirs_exist_ok=True)
    around = {"before_prompt": frame.before, "after_prompt": frame.between}
    serving = {
        "domains": domains,
        "names": dict(names or {}),
        "others": folders[OTHERS],
        "template": template,
        **around,
    }
    (folder / "chat_template.jinja").write_text(chat_template(frame), encoding="utf-8")
    (folder / "serving.json").write_text(json.dumps(serving, indent=2) + "\n", encoding="utf-8")
