"""The whole measurement: what is there, what is compared with what, where it runs, and then each comparison."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

from exporters import onnx_files
from exporters.bench import controls, placement, providers
from exporters.bench.clocks import Gpu
from exporters.bench.comparison import ComparisonOutcome, Contender, Track, compare
from exporters.bench.environment import environment, load, usable_cores
from exporters.bench.planning import Planner, Scenario
from exporters.bench.process import WorkerProcess
from exporters.bench.report import BenchFailure, BenchReport, BenchResult, Model, Skipped, file_size
from exporters.bench.settings import BenchSettings
from exporters.bench.statistics import LEVEL, summarise
from exporters.bench.torch_engine import TorchCheckpoint
from exporters.bench.verdict import Facts, judge
from exporters.islands.inlining import is_island
from granet.kernels import MISSING, library

Say = Callable[[str], object]
_PROBE_LIMIT = 120.0  # seconds
_ENOUGH_RUNS = 100
"""Fewer say little about a 99th percentile."""


def measure(
    models: Sequence[Path],
    settings: BenchSettings,
    *,
    control: Path | None = None,
    checkpoint: Path | None = None,
    confirmed: str | None = None,
    say: Say = lambda _: None,
) -> BenchReport:
    """Measure ONNX files, and a checkpoint in torch.

    Ctrl-C ends it; the report then holds what was measured so far, and says so. No process is left in any case.
    Without a ``control``, an ONNX file, each model has its own, see ``controls``. ``confirmed`` is the network's
    factory, when the checkpoint names code of the user's.

    Raises:
        BenchmarkError: the provider is not there, or a node runs elsewhere.
        ModelError: a file that ONNX Runtime rejects.
        CheckpointError: a checkpoint that is not sound, or a file that is not there.
        UsageError: models with different inputs, a batch that a file does not take, sizes that are not given.
    """
    package = providers.check_packages()
    provider, versions = _provider(settings, say)
    precisions = settings.precisions or providers.PRECISIONS[provider][:1]
    for precision in precisions:
        providers.check_precision(provider, precision)
    providers.options(provider, precisions[0], settings.options, graph=False)  # refuses unknown ones now
    gpu = Gpu.open() if provider != "cpu" else None
    report = BenchReport(
        environment=environment(
            onnxruntime={**versions, "package": package},
            threads=settings.threads,
            gpu=gpu.describe() if gpu else None,
        ),
        method=_method(settings),
        provider=provider,
        warnings=warnings_before(gpu),
    )
    platform = f"{versions} {report.environment['gpu']}"
    with tempfile.TemporaryDirectory() as scratch:
        try:
            network = TorchCheckpoint.read(checkpoint, provider, confirmed=confirmed) if checkpoint else None
            files = controls.assign(models, control, Path(scratch)) if models or not network else []
            run = _Run(report, Planner(settings, files, platform, network, library.path()), gpu, say)
            run.examine(Scenario(provider, precisions[0], min(settings.batches)))
            for precision in precisions:
                for batch in settings.batches:
                    run.compare(Scenario(provider, precision, batch))
                    if report.interrupted:
                        return report
        except KeyboardInterrupt:
            report.interrupted = True
    return report


class _Run:
    """The steps of a measurement once its provider and files are known."""

    def __init__(self, report: BenchReport, planner: Planner, gpu: Gpu | None, say: Say) -> None:
        self._report, self._planner, self._gpu, self._say = report, planner, gpu, say
        self._settings = planner.settings

    def examine(self, smallest: Scenario) -> None:
        """Read what the files take, prove where they run, and count what they compute, on the smallest batch."""
        planner, report = self._planner, self._report
        self._smallest = smallest
        self._files: dict[str, Model] = {}
        """The first model of each file, by path."""
        for model in planner.models:
            first = self._files.setdefault(str(model.path), model)
            if first is model:
                # Also refuses data outside the file's folder, before ONNX Runtime opens it.
                content = onnx_files.read(model.path)
                model.inputs = controls.declared_inputs(content)
                model.islands = sum(map(is_island, content.graph.node))
                with model.path.open("rb") as file:
                    model.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                model.bytes = file_size(model.path)
            model.inputs, model.sha256 = first.inputs, first.sha256
            model.bytes, model.islands = first.bytes, first.islands
        controls.check_inputs(planner.models, self._settings, planner.checkpoint)
        if any(model.islands for model in planner.models) and planner.kernels is None and report.provider == "cpu":
            report.skipped.append(Skipped("sparse kernels", MISSING))
        if planner.checkpoint:
            report.skipped += [Skipped(f"torch {name}", why) for name, why in planner.checkpoint.impossible.items()]
        if report.provider == "tensorrt" and planner.models:
            self._say("building engines that are not in the cache")
            planner.rehearse(smallest)  # before proving, which would leave engines in the cache, and not time them
        for model in planner.models:
            first = self._files[str(model.path)]
            if not first.operators:
                self._say(f"{model.label}: proving that {report.provider} runs all of it")
                spec = replace(planner.spec(model, smallest, graph=False), with_copies=True)
                first.operators, first.work = placement.prove(spec)
            model.operators, model.work = first.operators, first.work
            report.models.append(model)

    def compare(self, scenario: Scenario) -> None:
        """Measure one scenario and add its results, failures and warnings to the report."""
        name = f"batch {scenario.batch}, {scenario.precision}"
        if scenario.provider != "cpu":
            self._say(f"{name}: opening each model once, which builds what has to be built")
        rehearsal = self._planner.rehearse(scenario)
        if rehearsal.refused is not None:
            self._report.warnings.append(f"{name}: no CUDA graphs, for any model: {rehearsal.refused}")
        failures = dict(rehearsal.failures)
        self._say(f"{name}: measuring {len(rehearsal.entries)} models in turns")
        outcome = compare(
            rehearsal.entries, self._settings, gpu=self._gpu, say=lambda text: self._say(f"{name}: {text}")
        )
        for label, track in outcome.tracks.items():
            if track.failure is not None:
                failures[label] = track.failure
            elif track.times:
                self._report.results.append(self._result(track, outcome, scenario))
        self._report.failures += [
            BenchFailure(model=label, error=str(error), **asdict(scenario)) for label, error in failures.items()
        ]
        self._report.warnings += warnings_after(outcome, self._settings, name)
        self._report.interrupted = outcome.interrupted

    def _result(self, track: Track, outcome: ComparisonOutcome, scenario: Scenario) -> BenchResult:
        entry, opened = track.entry, track.opened
        spec, times, found = entry.spec, summarise(track.times), track.ratio()
        flops, active_flops = self._flops(spec.path)
        if entry.control is None:
            verdict: tuple[str, str] = ("control", "the control")
        else:
            verdict = judge(found, self._facts(entry, outcome.tracks[entry.control].entry))
        return BenchResult(
            model=entry.label,
            control=entry.control,
            role="control" if entry.control is None else "model",
            provider=opened[-1].provider if spec.engine == "torch" else scenario.provider,
            precision=spec.precision,
            batch=scenario.batch,
            times=times,
            processes=len(opened),
            images_per_s=scenario.batch / times.median,
            ratio=found,
            outcome=verdict[0],
            verdict=verdict[1],
            create_s=median(each.create_s for each in opened),
            first_run_s=median(each.first_run_s for each in opened),
            build_s=self._planner.built.get((entry.label, scenario)),
            warm_up_runs=track.warm_up_runs,
            settled_processes=sum(track.settled),
            peak_memory_bytes=track.peak_memory,
            session_memory_bytes=track.session_memory,
            device_memory_bytes=track.device_memory,
            bytes=file_size(Path(spec.path)),
            flops=None if flops is None else flops * scenario.batch,
            active_flops=None if active_flops is None else active_flops * scenario.batch,
            cuda_graph="1" in (spec.options.get("enable_cuda_graph"), spec.options.get("trt_cuda_graph_enable")),
            provider_options=opened[-1].options,
            clocks=outcome.clocks,
        )

    def _flops(self, path: str) -> tuple[float | None, float | None]:
        """Return all FLOPs of one image, and those whose weight is not zero."""
        if path not in self._files:
            checkpoint = self._planner.checkpoint
            return (checkpoint.flops, checkpoint.active_flops) if checkpoint else (None, None)
        work, batch = self._files[path].work, self._smallest.batch
        if work.flops is None or work.active_flops is None:
            return None, None
        return work.flops / batch, work.active_flops / batch

    def _facts(self, mine: Contender, control: Contender) -> Facts:
        flops, active_flops = self._flops(mine.spec.path)
        active = active_flops / flops if flops and active_flops is not None else None
        if mine.spec.engine == "torch":
            reason = "torch instead of ONNX Runtime"
            if control.spec.engine == "torch":
                reason = f"the same weights, {mine.spec.variant} instead of eager"
            return Facts(provider="torch", active=active, different=reason)
        file, twin = self._files[mine.spec.path], self._files[control.spec.path]
        control_flops = self._flops(control.spec.path)[0]
        if mine.spec.kernels is not None:
            active_text = "" if active is None else f", {100 * (1 - active):.1f} % zeros that they skip"
            return Facts(provider="", different=f"granet's sparse kernels{active_text}")
        sparse_kernels = mine.spec.options.get("trt_sparsity_enable") == "1"
        both = file.work.unfolded is not None and twin.work.unfolded is not None
        name = "TensorRT" if mine.spec.provider == "tensorrt" else mine.spec.provider.upper()
        return Facts(
            provider=f"ONNX Runtime's {name} provider",
            itself=file.sha256 == twin.sha256 and not sparse_kernels,
            flops=flops / control_flops if flops is not None and control_flops else None,
            active=active,
            unfolded=max((file.work.unfolded or 0) - (twin.work.unfolded or 0), 0) if both else 0,
            two_of_four=bool(file.work.two_of_four),
            sparse_kernels=sparse_kernels,
        )


def _provider(settings: BenchSettings, say: Say) -> tuple[str, dict[str, str]]:
    """Return the provider to take, once all its libraries are known to load, and versions of what is below it."""
    wanted = "cuda" if settings.provider == "auto" else settings.provider
    with WorkerProcess(where="looking for providers") as worker:
        answer = worker.ask({"do": "probe", "provider": wanted}, limit=_PROBE_LIMIT)
    lacking: list[str] = answer["missing"]
    if settings.provider != "auto":
        providers.check_present(wanted, lacking)
        return wanted, answer["versions"]
    taken = "cpu" if lacking else wanted
    reason = f": cuda lacks {lacking[0]}" if lacking else ""
    say(f"--provider auto takes {taken}{reason}")
    return taken, answer["versions"]


def _method(settings: BenchSettings) -> dict[str, object]:
    on_device = "inputs and outputs bound where they are computed"
    return {
        **asdict(settings),
        "cache": str(settings.cache),
        "level": LEVEL,
        "timed": "from and to NumPy arrays" if settings.with_copies else on_device,
        "graph_optimization_level": "all",
        "allow_spinning": False,
        "inputs": "normal floats, the same for all models; whole numbers are 0 or 1",
    }


def warnings_before(gpu: Gpu | None) -> list[str]:
    """Return warnings about other work on the machine, before anything is measured."""
    found = []
    others = gpu.processes() if gpu is not None else []
    if others:
        found.append(f"the GPU is busy with {', '.join(others)}, which makes times longer and uneven")
    wanted = load()
    if wanted is not None and wanted > usable_cores() / 2:
        found.append(f"the machine was busy before this began: load {wanted:g} on {usable_cores()} logical cores")
    return found


def warnings_after(outcome: ComparisonOutcome, settings: BenchSettings, name: str) -> list[str]:
    """Return warnings about a comparison: wide intervals, few runs, throttled clocks."""
    found = []
    measured = {label: track for label, track in outcome.tracks.items() if track.times}
    few = {label: len(track.times) for label, track in measured.items() if len(track.times) < _ENOUGH_RUNS}
    if not outcome.narrow and not outcome.interrupted and measured:
        found.append(
            f"{name}: time was up before all ratios were known to {100 * settings.width:g} %, after "
            f"{outcome.generations} processes; --time-limit gives more, now {settings.time_limit:g} s"
        )
    if few:
        least = min(few.values())
        found.append(
            f"{name}: only {least} runs of some models, too few for their p99, which is close to the slowest run"
        )
    if outcome.clocks is not None and outcome.clocks.throttled:
        share = f"{outcome.clocks.throttled} of {outcome.clocks.samples} samples"
        found.append(f"{name}: heat or a power limit lowered the GPU's clocks in {share}")
    return found
