"""An OpenAI-compatible server for reasoning models, and the page that talks to it.

- `Server`, `ServeSettings`  models by name, and what is allowed
- `create_app`               the ASGI application
- `ServedModel`              an engine, its tokenizer and its bounds under one name
- `TokenEngine`              what an engine has to offer; `openqwq.inference.AsyncEngine` does
"""

from .app import create_app
from .engine import Delta, ServedModel, TokenEngine
from .state import Server, ServeSettings

__all__ = ["Delta", "ServeSettings", "ServedModel", "Server", "TokenEngine", "create_app"]
