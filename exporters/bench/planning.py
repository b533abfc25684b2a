"""From files and settings to what runs in which process: options, engines, CUDA graphs, variants of a provider."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from exporters.bench import providers
from exporters.bench.comparison import Contender
from exporters.bench.controls import Subject
from exporters.bench.environment import available_memory
from exporters.bench.process import DoesNotFitError, WorkerProcess
from exporters.bench.protocol import Input, Spec
from exporters.bench.settings import BenchSettings
from exporters.bench.torch_side import TorchSide
from granet.errors import GranetError

SPARSE = " (2:4 kernels)"
"""What marks a model for which TensorRT may use kernels for 2:4 weights."""

_LONGEST = 3600.0


@dataclass(frozen=True)
class Scenario:
    """One batch size in one number format."""

    provider: str
    precision: str
    batch: int


@dataclass(frozen=True)
class Rehearsal:
    """What came of opening everything once.

    Attributes:
        entries: that can run.
        failures: why others cannot, by label.
        refused: why CUDA graphs are off where they were wanted; None when they are not, or were not wanted.
    """

    entries: list[Contender]
    failures: Mapping[str, GranetError]
    refused: str | None


@dataclass
class Planner:
    """Makes the entries of a scenario.

    Attributes:
        settings: of the measurement.
        subjects: models and controls.
        inputs: of each subject by its label.
        hashes: of each subject's file by its label.
        platform: what engines depend on besides: versions and the card.
        torch: the checkpoint to be measured in torch, if any.
        built: seconds that building an engine took, by label and scenario.
    """

    settings: BenchSettings
    subjects: list[Subject]
    inputs: Mapping[str, tuple[Input, ...]]
    hashes: Mapping[str, str]
    platform: str
    torch: TorchSide | None = None
    built: dict[tuple[str, Scenario], float] = field(default_factory=dict)
    _rehearsed: dict[Scenario, Rehearsal] = field(default_factory=dict)

    def spec(self, subject: Subject, scenario: Scenario, *, graph: bool, sparse: bool = False) -> Spec:
        """What a process that runs ``subject`` is told."""
        settings = self.settings
        chosen = providers.options(scenario.provider, scenario.precision, settings.options, graph=graph)
        if scenario.provider == "tensorrt":
            chosen["trt_sparsity_enable"] = str(int(sparse))
            chosen |= self._cache(subject, scenario, chosen)
        return Spec(
            engine="onnx",
            path=str(subject.path),
            provider=scenario.provider,
            options=chosen,
            inputs=self.inputs[subject.label],
            batch=scenario.batch,
            shape=settings.shape,
            threads=settings.threads,
            precision=scenario.precision,
            with_copies=settings.with_copies,
            memory=memory_limit(scenario.provider),
        )

    def entries(self, scenario: Scenario, *, graph: bool) -> list[Contender]:
        """All that takes part."""
        around = providers.surroundings(scenario.provider, scenario.precision)
        found = []
        for subject in self.subjects:
            found.append(Contender(subject.label, self.spec(subject, scenario, graph=graph), subject.control, around))
            if scenario.provider == "tensorrt" and subject.control is not None:
                spec = self.spec(subject, scenario, graph=graph, sparse=True)
                found.append(Contender(subject.label + SPARSE, spec, subject.control, around))
        return [*found, *self._torch(scenario, around)]

    def rehearse(self, scenario: Scenario) -> Rehearsal:
        """What can run, found out once for each scenario.

        Each entry is opened once in a process that is not measured, so that engines are built, graphs are known to
        be captured by all or by none, and what does not fit is found before anything is compared with it. On the
        CPU there is nothing to find out.
        """
        if scenario not in self._rehearsed:
            self._rehearsed[scenario] = self._rehearse(scenario)
        return self._rehearsed[scenario]

    def _rehearse(self, scenario: Scenario) -> Rehearsal:
        wanted = self.settings.cuda_graph and not self.settings.with_copies and scenario.provider != "cpu"
        entries = self.entries(scenario, graph=wanted)
        if scenario.provider == "cpu":
            return Rehearsal(entries, {}, None)
        failures, refused = {}, None
        for entry in entries:
            error = self._try(entry, scenario)
            if error is not None and wanted and not isinstance(error, DoesNotFitError) and entry.spec.engine == "onnx":
                refused = f"{entry.label} cannot be captured as a CUDA graph: {error}"
                break
            if error is not None:
                failures[entry.label] = error
        if refused is not None:  # one way for all, or it would be compared with something else
            failures, entries = {}, self.entries(scenario, graph=False)
            for entry in entries:
                error = self._try(entry, scenario)
                if error is not None:
                    failures[entry.label] = error
        return Rehearsal([entry for entry in entries if entry.label not in failures], failures, refused)

    def _try(self, entry: Contender, scenario: Scenario) -> GranetError | None:
        folder = entry.spec.options.get("trt_engine_cache_path")
        fresh = folder is not None and not any(Path(folder).glob("*.engine"))
        try:
            with WorkerProcess(surroundings=entry.surroundings, where=entry.label) as worker:
                opened = worker.open(entry.spec, limit=_LONGEST)
        except GranetError as error:
            return error
        if fresh:
            self.built[entry.label, scenario] = opened.create_s + opened.first_run_s
        return None

    def _torch(self, scenario: Scenario, around: Mapping[str, str]) -> list[Contender]:
        side = self.torch
        if side is None:
            return []
        controls = [subject.label for subject in self.subjects if subject.control is None]
        own = f"{side.path} (torch eager)"
        spec = Spec(
            engine="torch",
            path=str(side.path),
            provider=scenario.provider,
            batch=scenario.batch,
            threads=self.settings.threads,
            precision=scenario.precision,
            with_copies=self.settings.with_copies,
            confirmed=side.confirmed,
            memory=None,
        )
        found = []
        for variant in side.variants:
            label = f"{side.path} (torch {variant})"
            control = controls[0] if controls else own
            if variant == "2:4":  # takes fp16 alone, and is compared with that
                half = replace(spec, precision="fp16")
                base = f"{side.path} (torch eager fp16)"
                found.append(Contender(base, replace(half, variant="eager"), None, around))
                found.append(Contender(label, replace(half, variant=variant), base, around))
                continue
            found.append(
                Contender(label, replace(spec, variant=variant), None if label == control else control, around)
            )
        return found

    def _cache(self, subject: Subject, scenario: Scenario, chosen: Mapping[str, str]) -> dict[str, str]:
        engine = {name: value for name, value in chosen.items() if name != "trt_cuda_graph_enable"}
        key = json.dumps([self.hashes[subject.label], self.platform, scenario.batch, self.settings.shape, engine])
        folder = self.settings.cache / hashlib.sha256(key.encode()).hexdigest()[:24]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(self.settings.cache),
        }


def memory_limit(provider: str) -> int | None:
    """What a process may fill: on the CPU what is free now, so that it fails before the system is short of memory.

    CUDA reserves addresses by the terabyte, which is no memory, so nothing can be said there.
    """
    return available_memory() if provider == "cpu" else None
