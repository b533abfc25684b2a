"""From files and settings to what runs in which process: options, engines, CUDA graphs, variants of a provider."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from exporters.bench import providers
from exporters.bench.comparison import Contender
from exporters.bench.environment import available_memory
from exporters.bench.process import DoesNotFitError, WorkerProcess
from exporters.bench.protocol import Spec
from exporters.bench.report import Model
from exporters.bench.settings import BenchSettings
from exporters.bench.torch_engine import TorchCheckpoint
from granet.errors import GranetError

_BUILDING_LIMIT = 3600.0  # seconds


@dataclass(frozen=True)
class Scenario:
    """One batch size in one number format."""

    provider: str
    precision: str
    batch: int


@dataclass(frozen=True)
class Rehearsal:
    """The outcome of opening every contender once.

    Attributes:
        entries: those that can run.
        failures: errors of the others, by label.
        refused: why CUDA graphs are off although they were wanted; None otherwise.
    """

    entries: list[Contender]
    failures: Mapping[str, GranetError]
    refused: str | None


@dataclass
class Planner:
    """The contenders of each scenario, and whether they can run.

    Attributes:
        settings: of the measurement.
        models: models and controls, with inputs and hashes.
        platform: versions and the card, on which engines depend.
        checkpoint: to be measured in torch, if any.
        kernels: library of the sparse kernels, if there is one.
        built: seconds that building an engine took, by label and scenario.
    """

    settings: BenchSettings
    models: list[Model]
    platform: str
    checkpoint: TorchCheckpoint | None = None
    kernels: Path | None = None
    built: dict[tuple[str, Scenario], float] = field(default_factory=dict)
    _rehearsed: dict[Scenario, Rehearsal] = field(default_factory=dict)

    def spec(self, model: Model, scenario: Scenario, *, graph: bool, sparse: bool = False) -> Spec:
        """Return what a process that runs ``model`` has to do.

        ``sparse`` allows TensorRT's kernels for 2:4 weights, or registers the sparse kernels on the CPU.
        """
        settings = self.settings
        options = providers.options(scenario.provider, scenario.precision, settings.options, graph=graph)
        if scenario.provider == "tensorrt":
            options["trt_sparsity_enable"] = str(int(sparse))
            options |= self._cache(model, scenario, options)
        return Spec(
            engine="onnx",
            path=str(model.path),
            provider=scenario.provider,
            options=options,
            inputs=model.inputs,
            batch=scenario.batch,
            shape=settings.shape,
            threads=settings.threads,
            precision=scenario.precision,
            with_copies=settings.with_copies,
            # What is free now. On CUDA there is no limit: it reserves addresses by the terabyte, which are no memory.
            memory=available_memory() if scenario.provider == "cpu" else None,
            kernels=str(self.kernels) if sparse and scenario.provider == "cpu" else None,
        )

    def entries(self, scenario: Scenario, *, graph: bool) -> list[Contender]:
        """Return all contenders, before it is known which of them can run."""
        found = []
        for model in self.models:
            found.append(Contender(model.label, self.spec(model, scenario, graph=graph), model.control))
            if scenario.provider == "tensorrt" and model.control is not None:
                spec = self.spec(model, scenario, graph=graph, sparse=True)
                found.append(Contender(f"{model.label} (2:4 kernels)", spec, model.control))
            if scenario.provider == "cpu" and model.islands and self.kernels is not None:
                spec = self.spec(model, scenario, graph=graph, sparse=True)
                found.append(Contender(f"{model.label} (sparse kernels)", spec, model.control))
        return [*found, *self._torch(scenario)]

    def rehearse(self, scenario: Scenario) -> Rehearsal:
        """Open each contender once in a process that is not measured; the outcome is kept for each scenario.

        That builds engines, shows whether all models can be captured as CUDA graphs, and finds what does not fit before
        anything is compared with it. On the CPU there is nothing to find out.
        """
        if scenario not in self._rehearsed:
            self._rehearsed[scenario] = self._rehearse(scenario)
        return self._rehearsed[scenario]

    def _rehearse(self, scenario: Scenario) -> Rehearsal:
        wanted = self.settings.cuda_graph and not self.settings.with_copies and scenario.provider != "cpu"
        entries, refused = self.entries(scenario, graph=wanted), None
        if scenario.provider == "cpu":
            return Rehearsal(entries, {}, None)
        failures = self._try(entries, scenario)
        if wanted:
            for entry in entries:
                error = failures.get(entry.label)
                if error is not None and entry.spec.engine == "onnx" and not isinstance(error, DoesNotFitError):
                    refused = f"{entry.label} cannot be captured as a CUDA graph: {error}"
                    break
        if refused is not None:  # without graphs for all, so that only the models differ
            entries = self.entries(scenario, graph=False)
            failures = self._try(entries, scenario)
        return Rehearsal([entry for entry in entries if entry.label not in failures], failures, refused)

    def _try(self, entries: list[Contender], scenario: Scenario) -> dict[str, GranetError]:
        """Open each entry in a process of its own; return the errors by label."""
        failures = {}
        for entry in entries:
            folder = entry.spec.options.get("trt_engine_cache_path")
            builds = folder is not None and not any(Path(folder).glob("*.engine"))
            try:
                with WorkerProcess(where=entry.label) as worker:
                    opened = worker.open(entry.spec, limit=_BUILDING_LIMIT)
            except GranetError as error:
                failures[entry.label] = error
            else:
                if builds:
                    self.built[entry.label, scenario] = opened.create_s + opened.first_run_s
        return failures

    def _torch(self, scenario: Scenario) -> list[Contender]:
        """Return the variants of the checkpoint in torch; their control is the first ONNX one, or else eager torch."""
        checkpoint = self.checkpoint
        if checkpoint is None:
            return []
        spec = Spec(
            engine="torch",
            path=str(checkpoint.path),
            provider=scenario.provider,
            batch=scenario.batch,
            threads=self.settings.threads,
            precision=scenario.precision,
            with_copies=self.settings.with_copies,
            confirmed=checkpoint.confirmed,
        )
        control = next((model.label for model in self.models if model.control is None), None)
        found = []
        for variant in checkpoint.variants:
            label = f"{checkpoint.path} (torch {variant})"
            if variant == "2:4":  # takes fp16 alone, and is compared with that
                spec = replace(spec, precision="fp16")
                control = f"{checkpoint.path} (torch eager fp16)"
                found.append(Contender(control, replace(spec, variant="eager"), None))
            found.append(Contender(label, replace(spec, variant=variant), control))
            control = control or label
        return found

    def _cache(self, model: Model, scenario: Scenario, options: Mapping[str, str]) -> dict[str, str]:
        """Return the options of the engine cache: a folder for each file and all that its engine depends on."""
        engine = {name: value for name, value in options.items() if name != "trt_cuda_graph_enable"}
        key = json.dumps([model.sha256, self.platform, scenario.batch, self.settings.shape, engine])
        folder = self.settings.cache / hashlib.sha256(key.encode()).hexdigest()[:24]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(self.settings.cache),
        }
