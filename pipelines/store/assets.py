"""Assets whose value is an `Artifact`. One function declares an asset; its name, inputs and code version follow from
it.

    @artifact_asset(group="clusters", kinds={"numpy"}, describe=_described)
    def cluster_sweep(draft: Draft, config: SweepConfig, document_features: Artifact) -> None:
        \"\"\"K-means for every K.\"\"\"
        draft.write_table("sweep", ...)

The function writes the files of the artifact. Its parameters declare what the artifact depends on:

- `draft`: the folder to write into;
- `config`: the asset's configuration, a `dagster.Config`;
- a parameter annotated `Artifact`: the upstream asset of that name;
- a parameter annotated with a resource: that resource. A resource with an `identity` is part of the fingerprint;
- `context`: Dagster's, for logs and processes.

Each asset has a module of its own, because its code version is a hash over everything that the module imports.
"""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import dagster as dg

from pipelines.store.artifacts import Artifact, ArtifactError, Draft, build_artifact
from pipelines.store.code.versions import check_data_files, code_version
from pipelines.store.configuration import describe_limits
from pipelines.store.failures import clear_failures
from pipelines.store.files.processes import end_with_parent, tag_process
from pipelines.store.io_manager import ArtifactStore
from pipelines.store.metadata import column_lineage, file_image, rounded, table_metadata

THUMBNAIL = "thumbnail.png"
OWNER = "team:hydralora"
CONFIG_CLASSES: dict[str, type[dg.Config]] = {}
"""Asset -> its configuration class, for code that checks a whole run configuration."""
ASSETS: dict[str, dg.AssetsDefinition] = {}
"""Every asset, by name."""

ARTIFACT = dg.PythonObjectDagsterType(Artifact, name="Artifact", description="A finished folder, by its fingerprint.")
dg.make_python_type_usable_as_dagster_type(Artifact, ARTIFACT)


@runtime_checkable
class HasIdentity(Protocol):
    """A resource that changes the result of a computation."""

    def identity(self) -> Mapping[str, Any]:
        """The settings that must be part of a fingerprint."""


@dataclass(frozen=True)
class Check:
    """The outcome of one check of an artifact, made after it was built or reused.

    Attributes:
        description: one sentence about what was found.
        numbers: what was measured, which the UI plots over runs; None for what could not be measured.
    """

    name: str
    passed: bool
    description: str
    numbers: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Description:
    """Metadata of an artifact for Dagster.

    Attributes:
        table: name of the table whose schema and row count are shown.
        checks: outcomes of the asset's checks.
    """

    table: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    checks: Sequence[Check] = ()


def artifact_asset(
    *,
    group: str,
    kinds: set[str],
    describe: Callable[..., Description],
    blocking: Mapping[str, str] | None = None,
    warnings: Mapping[str, str] | None = None,
    identity: Callable[..., Mapping[str, Any]] | None = None,
    pool: str | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    partitions_def: dg.PartitionsDefinition | None = None,
    fresh_days: int | None = None,
    unused: Callable[..., Collection[str]] = lambda: (),
) -> Callable[[Callable[..., None]], dg.AssetsDefinition]:
    """Decorate a function as an asset whose value is an `Artifact`; see the module docstring.

    Args:
        group: asset group in Dagster's graph.
        kinds: Dagster kinds, such as `numpy`.
        describe: function `describe(artifact, ...)` that returns the `Description`. It may also take any of the
            function's parameters.
        blocking: checks that stop all downstream assets if they fail: name -> description.
        warnings: checks that only warn if they fail: name -> description.
        identity: function that returns what the fingerprint needs besides configuration, inputs and resources, such as
            hashes of the files that are read. It takes any of the function's parameters except `draft`.
        pool: Dagster concurrency pool, such as `gpu`.
        retry_policy: retry policy; set it only if a retry can succeed.
        fresh_days: after this many days the UI shows the asset as stale; None for never.
        unused: function that returns the names of the resources that this configuration does not use; they are then not
            part of the fingerprint. It takes any of the function's parameters except `draft`.
    """
    blocking, warnings = blocking or {}, warnings or {}

    def decorate(function: Callable[..., None]) -> dg.AssetsDefinition:
        declared = _Declared(function, identity, describe, frozenset(warnings), unused)
        name = function.__name__

        def compute(context: dg.AssetExecutionContext, **inputs: Artifact) -> Iterator[dg.MaterializeResult]:
            with clear_failures(name):
                result = declared.materialize(context, inputs)
            yield result
            # Without this, Dagster's own error would only name the checks.
            if failed := [check for check in result.check_results or [] if _stops(check)]:
                raise dg.Failure("\n".join(_sentence(name, check, blocking) for check in failed), allow_retries=False)

        if declared.config is not None:
            CONFIG_CLASSES[name] = declared.config
            describe_limits(declared.config)

        ASSETS[name] = dg.asset(
            name=name,
            description=inspect.getdoc(function),
            ins={given: dg.AssetIn(dagster_type=ARTIFACT) for given in declared.inputs},
            required_resource_keys={"store", "run_checks", *declared.resources},
            config_schema=None if declared.config is None else declared.config.to_config_schema().as_field(),
            group_name=group,
            code_version=code_version(function.__module__),
            kinds=kinds,
            owners=[OWNER],
            tags={"hydralora/stage": group, **({"hydralora/pool": pool} if pool else {})},
            check_specs=[
                *(dg.AssetCheckSpec(c, asset=name, description=text, blocking=True) for c, text in blocking.items()),
                *(dg.AssetCheckSpec(c, asset=name, description=text) for c, text in warnings.items()),
            ],
            pool=pool,
            retry_policy=retry_policy,
            partitions_def=partitions_def,
            freshness_policy=dg.FreshnessPolicy.time_window(timedelta(days=fresh_days)) if fresh_days else None,
            io_manager_key="store",
            dagster_type=ARTIFACT,
        )(compute)
        return ASSETS[name]

    return decorate


@dataclass(frozen=True)
class _Declared:
    """Declarations read from the signature of an asset's function."""

    function: Callable[..., None]
    identity: Callable[..., Mapping[str, Any]] | None
    describe: Callable[..., Description]
    warnings: frozenset[str]
    unused: Callable[..., Collection[str]]

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Parameter of the function -> its annotation."""
        return {name: p.annotation for name, p in inspect.signature(self.function).parameters.items()}

    @cached_property
    def inputs(self) -> list[str]:
        """Names of the upstream assets."""
        return [name for name, kind in self.parameters.items() if kind is Artifact]

    @cached_property
    def resources(self) -> list[str]:
        """Names of the resources."""
        kinds = self.parameters.items()
        return [name for name, kind in kinds if isinstance(kind, type) and issubclass(kind, dg.ConfigurableResource)]

    @property
    def config(self) -> type[dg.Config] | None:
        """Class of the configuration."""
        return self.parameters.get("config")

    def materialize(
        self, context: dg.AssetExecutionContext, inputs: Mapping[str, Artifact]
    ) -> dg.MaterializeResult[Artifact]:
        """Build or reuse the artifact, and describe it."""
        end_with_parent()
        tag_process(context)
        context.resources.run_checks.check(context)
        store: ArtifactStore = context.resources.store
        given: dict[str, Any] = {"context": context, "store": store, **inputs}
        given |= {name: getattr(context.resources, name) for name in self.resources}
        if self.config is not None:
            given["config"] = self.config(**context.op_execution_context.op_config)
        config = self._identity(given)
        artifact = build_artifact(
            store.path,
            self.function.__name__,
            build=lambda draft: self._build(draft, given, config),
            code_version=code_version(self.function.__module__),
            config=config,
            inputs=inputs,
            log=context.log.info,
        )
        return self._result(artifact, inputs, self.describe(**_taken(self.describe, given | {"artifact": artifact})))

    def _build(self, draft: Draft, given: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Compute, then check that the files behind the fingerprint did not change meanwhile."""
        self.function(**_taken(self.function, {**given, "draft": draft}))
        check_data_files(self.function.__module__)
        if changed := _differing(config, self._identity(given)):
            raise ArtifactError(
                f"what it reads changed while it was read: {', '.join(changed)}. The result would belong to neither "
                f"version, so nothing was stored. Run again when nothing writes there."
            )

    def _identity(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration, and the identity of everything else that changes the result."""
        values: dict[str, Any] = {} if self.config is None else given["config"].model_dump()
        unused = self.unused(**_taken(self.unused, given))
        for name in self.resources:
            if isinstance(given[name], HasIdentity) and name not in unused:
                values |= given[name].identity()
        if self.identity is not None:
            values |= self.identity(**_taken(self.identity, given))
        return values

    def _result(
        self, artifact: Artifact, inputs: Mapping[str, Artifact], description: Description
    ) -> dg.MaterializeResult[Artifact]:
        shown: dict[str, Any] = {
            "folder": dg.MetadataValue.path(artifact.folder.resolve()),
            "fingerprint": artifact.fingerprint,
            "reused": artifact.reused,
            "seconds": float(artifact.record["wall_seconds"]),
        }
        if description.table is not None:
            table = artifact.scan(description.table)
            shown |= table_metadata(table) | column_lineage(table, inputs)
        if (artifact.folder / THUMBNAIL).exists():
            shown["preview"] = file_image(artifact.folder / THUMBNAIL)
        return dg.MaterializeResult(
            value=artifact,
            data_version=dg.DataVersion(artifact.fingerprint),
            metadata=rounded(shown | dict(description.metadata)),
            check_results=[self._check_result(check) for check in description.checks],
        )

    def _check_result(self, check: Check) -> dg.AssetCheckResult:
        severity = dg.AssetCheckSeverity.WARN if check.name in self.warnings else dg.AssetCheckSeverity.ERROR
        return dg.AssetCheckResult(
            check_name=check.name,
            passed=check.passed,
            description=check.description,
            severity=severity,
            metadata=rounded({name: value for name, value in check.numbers.items() if value is not None}),
        )


def _taken(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `given` that `function` has as parameters."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in given.items() if name in names}


def _differing(before: Any, after: Any, name: str = "") -> list[str]:
    """Names of the innermost values that differ: paths of files, where those are the keys."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted(before.keys() | after.keys())
        return [found for key in keys for found in _differing(before.get(key), after.get(key), key)]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [found for pair in zip(before, after, strict=True) for found in _differing(*pair, name)]
    return [] if before == after else [name]


def _stops(check: dg.AssetCheckResult) -> bool:
    return not check.passed and check.severity == dg.AssetCheckSeverity.ERROR


def _sentence(asset: str, check: dg.AssetCheckResult, blocking: Mapping[str, str]) -> str:
    """The expectation of a blocking check, and its finding."""
    name = str(check.check_name)
    return f"{asset}: the check {name} failed. Expected: {blocking.get(name, name)} Found: {check.description}."
