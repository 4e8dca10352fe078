"""Model folders by their path, by a GGUF file's, or by their name on the Hugging Face hub.

Public: find_folder.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from openqwq.errors import UserError

from .gguf.container import is_gguf
from .gguf.weights import gguf_folder

HUB_PATTERNS = ["*.json", "*.safetensors", "*.jinja", "merges.txt"]


def find_folder(source: str | Path, hub_names: Mapping[str, str], presets: Collection[str]) -> Path:
    """The local folder of a path, a hub name or a preset's hub name; downloads when it is not in the cache.

    The folder of a run (`openqwq train --out`) means the model in its `final`. A GGUF file, or a folder with one and
    no config.json, means the folder that is made for it (`gguf_folder`).
    hub_names: a preset's name -> its published weights. presets: all names, for the message.
    Raises UserError when there is no such folder and no such download.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        is_run = (path / "final" / "config.json").is_file() and not (path / "config.json").exists()
        files = [] if is_run or (path / "config.json").exists() else list(path.glob("*.gguf"))
        return path / "final" if is_run else gguf_folder(files[0]) if len(files) == 1 else path
    if is_gguf(path):
        return gguf_folder(path)
    name = hub_names.get(str(source), str(source))
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(
            f"`{source}` is neither a model folder, nor a hub name, nor a preset, nor a GGUF file",
            hint=f"give a folder with config.json, a name such as Qwen/QwQ-32B, or one of {', '.join(presets)}",
        )
    return _download(name)


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_PATTERNS))
    except Exception as error:  # the hub client raises its own, its HTTP library's and the system's errors
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"`{name}` is not a local folder and could not be downloaded: {reason}",
            hint="check the name and the network, or give a folder on this machine",
        ) from error
