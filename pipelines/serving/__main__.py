"""`python -m pipelines.serving EXPORTS --backend URL`: the same as `hydralora serve`."""

import typer

from pipelines.serving.command import serve

if __name__ == "__main__":
    typer.run(serve)
