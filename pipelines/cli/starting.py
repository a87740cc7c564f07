"""`hydralora init`: writes a configuration."""

import shlex

from pipelines.cli.configurations import Request, checked_experts, checked_tasks, configuration_text, estimate, has_gpu
from pipelines.cli.output import checked_file, columns_of, fail, is_setting, one_error
from pipelines.store.files.disk import DiskFullError, clear_disk_errors


def write_configuration(request: Request, force: bool) -> None:
    """Read the files once, so that a broken one is refused now, and write a configuration for them.

    If they need a setting, the configuration is written all the same, because it is the place for the setting.
    """
    mapping, out = columns_of(request.columns), request.out
    checked_file(out)
    exists = f"{out} exists. Name another file with --out, or overwrite it with --force"
    if out.exists() and not force:
        fail(exists)
    with (
        one_error(ValueError, OSError, DiskFullError),
        clear_disk_errors(out.parent, "name a file elsewhere with --out"),
    ):
        from analysis.answer.named_files import named_sources, read_named
        from analysis.atomic_files import save_bytes
        from analysis.sources import SourceError

        sources = named_sources(request.files, mapping)
        checked_experts(request.experts, len(sources))
        refused: SourceError | None = None
        try:
            read = read_named(sources)
            checked_tasks(request.experts, read.records)
        except SourceError as error:
            if not is_setting(error):
                raise
            refused = error
        gpu = has_gpu()
        text = configuration_text(request, sources, gpu=gpu)
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            if not force:
                out.open("x").close()
            save_bytes(out, text.encode())
        except FileExistsError:  # another `init` was quicker
            fail(exists)
        except OSError:
            if not force:
                out.unlink(missing_ok=True)
            raise
    if refused is not None:
        fail(f"{refused}. Wrote {out}: give the setting there, to this source under `files`")
    for name, notes in read.notes.items():
        for note in notes:
            print(f"Note. {name}: {note}")
    print(f"Wrote {out} for {len(sources)} source{'s' if len(sources) != 1 else ''}: {', '.join(sources)}.")
    print(estimate(request.tokens, 3, request.base_model, gpu=gpu))
    print(f"Next: hydralora run {shlex.quote(str(out))}")
