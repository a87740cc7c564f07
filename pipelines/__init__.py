"""Dagster over `analysis` and `hydralora`: assets, jobs, and the store of their artifacts. Imports both."""

import sys

try:
    from pipelines.store.code.source_files import remember

    remember()
except KeyboardInterrupt:  # this is most of the first tenth of a second of a command, and would end in a trace
    print("hydralora: stopped.", file=sys.stderr)
    raise SystemExit(130) from None
