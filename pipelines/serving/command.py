"""The command `serve`. Heavy libraries are imported when it runs, so that another command line may register it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines.serving.errors import ExportsError
from pipelines.serving.setup.settings import Settings

PRINT_HELP = "Print a launch line or a configuration, and exit: vllm, llama.cpp, litellm or vllm-semantic-router."


def serve(
    exports: Annotated[
        Path,
        typer.Argument(help="Folder written by `hydralora export` or a run (domain_exports), or its parent folder."),
    ],
    backend: Annotated[str, typer.Option(help="URL of the server with the LoRAs.")] = "http://localhost:8000",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = Settings.host,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = Settings.port,
    threshold: Annotated[
        float, typer.Option(help="Smallest probability to choose a domain; below it, the fallback answers.")
    ] = Settings.threshold,
    fallback: Annotated[
        str | None, typer.Option(help="Model for prompts of no known domain. Without it, the export `others`.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The backend's name of the base model, if clients may ask for it.")
    ] = None,
    conversation_header: Annotated[
        str, typer.Option(help="Request header that names a conversation.")
    ] = Settings.conversation_header,
    max_requests: Annotated[
        int, typer.Option(help="Requests in progress at a time; more get 503.")
    ] = Settings.max_requests,
    max_body: Annotated[int, typer.Option(help="Largest request body, in bytes.")] = Settings.max_body_bytes,
    idle_seconds: Annotated[
        float, typer.Option(help="Longest silence of the backend, before an answer or within it.")
    ] = Settings.idle_seconds,
    access_log: Annotated[bool, typer.Option(help="Log a line for each request, never with its text.")] = True,
    print_config: Annotated[str | None, typer.Option(help=PRINT_HELP)] = None,
) -> None:
    """Serve the experts of a run: predict the domain of each prompt, and name its LoRA to the backend."""
    try:
        settings = Settings(
            exports,
            backend,
            host=host,
            port=port,
            threshold=threshold,
            fallback=fallback,
            base=base,
            conversation_header=conversation_header,
            max_requests=max_requests,
            max_body_bytes=max_body,
            idle_seconds=idle_seconds,
            access_log=access_log,
        )
        if print_config is not None:
            from pipelines.serving.setup.exports import Exports
            from pipelines.serving.setup.launch_lines import printed

            print(printed(print_config, Exports.read(exports), settings))
            return
        from pipelines.serving.server import serve as run

        run(settings)
    except ExportsError as error:
        print(f"hydralora serve: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except ModuleNotFoundError as error:
        print(f"hydralora serve: {error}; pip install 'hydralora[serve]'", file=sys.stderr)
        raise typer.Exit(2) from None
