"""`python -m pg_finetune_trainer serve`; `train` is what the server starts for each job."""

from __future__ import annotations

import argparse
import shlex
import sys

from . import config


def main() -> int:
    parser = argparse.ArgumentParser(prog="pg-finetune-trainer", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve_command = commands.add_parser("serve", help="answer requests and train, one job after the other")
    train_command = commands.add_parser("train", help="train one job (the server does this)")
    for command in (serve_command, train_command):
        config.add_arguments(command)
    config.add_server_arguments(serve_command)
    train_command.add_argument("--job", required=True)
    arguments = parser.parse_args()
    return serve(arguments) if arguments.command == "serve" else train(arguments)


def serve(arguments: argparse.Namespace) -> int:
    import uvicorn

    from .api import create_app

    if not arguments.base:
        print("error: no base model\nhint: add --base NAME=FOLDER, a sentence-transformers folder that jobs may name", file=sys.stderr)
        return 2
    settings = config.settings(
        arguments, host=arguments.host, port=arguments.port, max_file_bytes=arguments.max_file_mib * config.MIB,
        cached_models=arguments.cached_models, launch=tuple(shlex.split(arguments.launch)),
    )  # fmt: skip
    settings.prepare()
    key = config.api_key(settings.data)
    print(f"base URL  http://{settings.host}:{settings.port}/v1\nbases     {', '.join(settings.bases)}", flush=True)
    print(f"key       in {settings.data / 'api_key'} (or PG_FINETUNE_TRAINER_KEY)", flush=True)
    app = create_app(config.with_key(settings, key))
    uvicorn.run(app, host=settings.host, port=settings.port, log_level="warning", server_header=False)
    return 0


def train(arguments: argparse.Namespace) -> int:
    from .training import run

    return run(config.settings(arguments), arguments.job)


if __name__ == "__main__":
    sys.exit(main())
