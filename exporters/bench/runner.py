"""The whole measurement: what is there, what is compared with what, where it runs, and then each comparison."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from exporters import onnx_files
from exporters.bench import agreement, controls, placement, providers, warnings
from exporters.bench.clocks import Gpu
from exporters.bench.comparison import ComparisonOutcome, Track, compare
from exporters.bench.environment import environment
from exporters.bench.placement import Look
from exporters.bench.planning import SPARSE, Planner, Scenario
from exporters.bench.process import WorkerProcess
from exporters.bench.protocol import Input
from exporters.bench.report import BenchFailure, BenchReport, BenchResult, Model
from exporters.bench.settings import BenchSettings
from exporters.bench.statistics import LEVEL, summarise
from exporters.bench.torch_side import TorchSide
from exporters.bench.verdict import Facts, judge

Say = Callable[[str], object]
_PROBE = 120.0


def measure(
    models: Sequence[Path],
    settings: BenchSettings,
    *,
    control: Path | None = None,
    checkpoint: Path | None = None,
    confirmed: str | None = None,
    say: Say = lambda _: None,
) -> BenchReport:
    """Measures ONNX files, and a checkpoint in torch beside them.

    Ctrl-C ends it; the report then holds what was measured so far, and says so. No process is left in any case.

    Args:
        models: ONNX files, from anybody.
        settings: how.
        control: an ONNX file to compare all with; without it each has its own, see ``controls``.
        checkpoint: to be measured in torch.
        confirmed: the network's factory, when the checkpoint names code of the user's.
        say: is told of every step.

    Raises:
        BenchmarkError: the provider is not there, or a node runs elsewhere.
        ModelError: a file that ONNX Runtime rejects.
        CheckpointError: a checkpoint that is not sound, or a file that is not there.
        UsageError: models with different inputs, a batch that a file does not take, sizes that are not given.
    """
    package = providers.check_packages()
    provider, versions = _provider(settings, say)
    formats = [providers.precision(provider, name) for name in settings.precisions] or [
        providers.PRECISIONS[provider][0]
    ]
    providers.options(provider, formats[0], settings.options, graph=False)
    gpu = Gpu.open() if provider != "cpu" else None
    report = BenchReport(
        environment=environment(
            onnxruntime={**versions, "package": package}, threads=settings.threads, gpu=gpu.describe() if gpu else None
        ),
        method=_method(settings),
        provider=provider,
        warnings=warnings.before(gpu),
    )
    with tempfile.TemporaryDirectory() as scratch:
        try:
            side = TorchSide.of(checkpoint, provider, confirmed=confirmed) if checkpoint is not None else None
            subjects = controls.assign(models, control, Path(scratch)) if models or side is None else []
            run = _Run(report, settings, provider, say, gpu)
            run.look(subjects, side, f"{versions} {report.environment['gpu']}", formats[0])
            for precision in formats:
                for batch in settings.batches:
                    run.compare(Scenario(provider, precision, batch))
                    if report.interrupted:
                        return report
        except KeyboardInterrupt:
            report.interrupted = True
    return report


@dataclass
class _Run:
    """What the steps share."""

    report: BenchReport
    settings: BenchSettings
    provider: str
    say: Say
    gpu: Gpu | None

    def look(self, subjects: list[controls.Subject], side: TorchSide | None, platform: str, precision: str) -> None:
        """Finds out what the files take, and proves where they run."""
        settings = self.settings
        taken: dict[str, tuple[Input, ...]] = {}
        files: dict[Path, tuple[Input, ...]] = {}
        for subject in subjects:
            if subject.path not in files:
                onnx_files.read(subject.path)  # refuses data outside the file's folder, before ONNX Runtime opens it
                files[subject.path] = placement.declared(subject.path, subject.label)
            taken[subject.label] = files[subject.path]
        agreement.check(taken, settings, side)
        hashes = {subject.label: controls.fingerprint(subject.path) for subject in subjects}
        self.planner = Planner(settings, subjects, taken, hashes, platform, side)
        self.report.skipped += side.skipped if side else ()
        least = Scenario(self.provider, precision, min(settings.batches))
        self.looks: dict[str, Look] = {}
        if self.provider == "tensorrt" and subjects:
            self.say("building engines that are not in the cache")
            self.planner.rehearse(least)  # which tells how long building takes; after proving they would be there
        proved: dict[Path, Look] = {}
        for subject in subjects:
            if subject.path not in proved:
                self.say(f"{subject.label}: proving that {self.provider} runs all of it")
                spec = replace(self.planner.spec(subject, least, graph=False), with_copies=True)
                around = providers.surroundings(self.provider, precision)
                proved[subject.path] = placement.prove(spec, subject.label, around)
            self.looks[subject.label] = found = proved[subject.path]
            self.report.models.append(_model(subject, found, taken[subject.label], hashes[subject.label]))
        self.least = least.batch

    def compare(self, scenario: Scenario) -> None:
        """Measures one scenario and adds what came of it to the report."""
        name = f"batch {scenario.batch}, {scenario.precision}"
        if self.provider != "cpu":
            self.say(f"{name}: opening each model once, which builds what has to be built")
        rehearsal = self.planner.rehearse(scenario)
        if rehearsal.refused is not None:
            self.report.warnings.append(f"{name}: no CUDA graphs, for any model: {rehearsal.refused}")
        failures = dict(rehearsal.failures)
        self.say(f"{name}: measuring {len(rehearsal.entries)} models in turns")
        outcome = compare(rehearsal.entries, self.settings, gpu=self.gpu, say=lambda text: self.say(f"{name}: {text}"))
        for label, track in outcome.tracks.items():
            if track.failure is not None:
                failures[label] = track.failure
            elif track.times:
                self.report.results.append(self._result(label, track, outcome, scenario))
        for label, error in failures.items():
            self.report.failures.append(
                BenchFailure(
                    model=label,
                    provider=self.provider,
                    precision=scenario.precision,
                    batch=scenario.batch,
                    error=str(error),
                )
            )
        self.report.warnings += warnings.after(outcome, self.settings, name)
        self.report.interrupted = outcome.interrupted

    def _result(self, label: str, track: Track, outcome: ComparisonOutcome, scenario: Scenario) -> BenchResult:
        spec, opened = track.entry.spec, track.opened
        times, found = summarise(track.times), track.ratio()
        role = "control" if track.entry.control is None else "model"
        flops, active = self._flops(label, scenario.batch)
        verdict = ("control", "the control") if role == "control" else judge(found, self._facts(track, scenario))
        return BenchResult(
            model=label,
            control=track.entry.control,
            role=role,
            provider=opened[-1].provider if spec.engine == "torch" else scenario.provider,
            precision=spec.precision,
            batch=scenario.batch,
            images_per_s=scenario.batch / times.median,
            times=times,
            processes=len(opened),
            ratio=found,
            outcome=verdict[0],
            verdict=verdict[1],
            create_s=median(each.create_s for each in opened),
            first_run_s=median(each.first_run_s for each in opened),
            build_s=self.planner.built.get((label, scenario)),
            warm_up_runs=track.warm_up_runs,
            settled=sum(track.settled),
            peak_memory=track.peak_memory,
            own_memory=track.own_memory,
            device_memory=track.device_memory,
            bytes=_size(Path(spec.path)),
            flops=flops,
            active_flops=active,
            cuda_graph="1" in (spec.options.get("enable_cuda_graph"), spec.options.get("trt_cuda_graph_enable")),
            options=opened[-1].options,
            clocks=outcome.clocks,
        )

    def _flops(self, label: str, batch: int) -> tuple[float | None, float | None]:
        """Of a run on ``batch`` images; each costs the same."""
        side = self.planner.torch
        look = self.looks.get(label.removesuffix(SPARSE))
        if look is None and side is not None:
            return side.flops * batch, side.active_flops * batch
        work = look.work if look else None
        if work is None or work.flops is None or work.active_flops is None:
            return None, None
        return work.flops / self.least * batch, work.active_flops / self.least * batch

    def _facts(self, track: Track, scenario: Scenario) -> Facts:
        label, control = track.entry.label, track.entry.control or ""
        where = (
            f"ONNX Runtime's {scenario.provider.upper() if scenario.provider != 'tensorrt' else 'TensorRT'} provider"
        )
        if track.entry.spec.engine == "torch":
            both = "(torch" in control
            flops, active = self._flops(label, 1)
            share = active / flops if flops and active is not None else None
            reason = (
                f"the same weights, {track.entry.spec.variant} instead of eager"
                if both
                else "torch instead of ONNX Runtime"
            )
            return Facts(provider="torch", active=share, different=reason)
        mine, theirs = self.looks[label.removesuffix(SPARSE)].work, self.looks[control].work
        same = self.planner.hashes[label.removesuffix(SPARSE)] == self.planner.hashes[control]
        sparse = label.endswith(SPARSE)
        if mine is None or theirs is None:
            return Facts(provider=where, itself=same, sparse_kernels=sparse)
        return Facts(
            provider=where,
            itself=same and not sparse,
            flops=mine.flops / theirs.flops if mine.flops is not None and theirs.flops else None,
            active=mine.active_flops / mine.flops if mine.flops and mine.active_flops is not None else None,
            unfolded=max(mine.unfolded - theirs.unfolded, 0),
            two_of_four=mine.two_of_four > 0,
            sparse_kernels=sparse,
        )


def _provider(settings: BenchSettings, say: Say) -> tuple[str, dict[str, str]]:
    """The provider to take, known to be all there, and versions of what is below it."""
    asked = settings.provider
    with WorkerProcess(where="looking for providers") as worker:
        wanted = ["cuda"] if asked == "auto" else [asked]
        answer = worker.ask({"do": "probe", "providers": wanted}, limit=_PROBE)
    lacking = answer["missing"]
    if asked != "auto":
        providers.check_present(asked, lacking[asked])
        return asked, answer["versions"]
    taken = "cpu" if lacking["cuda"] else "cuda"
    reason = f": cuda lacks {lacking['cuda'][0]}" if lacking["cuda"] else ""
    say(f"--provider auto takes {taken}{reason}")
    return taken, answer["versions"]


def _method(settings: BenchSettings) -> dict[str, object]:
    method = {**asdict(settings), "cache": str(settings.cache)}
    return method | {
        "level": LEVEL,
        "timed": "from and to NumPy arrays"
        if settings.with_copies
        else "inputs and outputs bound where they are computed",
        "graph_optimization_level": "all",
        "allow_spinning": False,
        "inputs": "normal floats, the same for all models; whole numbers are 0 or 1",
    }


def _model(subject: controls.Subject, look: Look, taken: Sequence[Input], fingerprint: str) -> Model:
    work = look.work
    return Model(
        model=subject.label,
        path=str(subject.path),
        role="control" if subject.control is None else "model",
        origin=subject.origin,
        sha256=fingerprint,
        bytes=_size(subject.path),
        inputs=[asdict(node) for node in taken],
        nodes=look.nodes,
        operators=look.operators,
        weights=work.weights if work else None,
        active=work.active if work else None,
        unfolded=work.unfolded if work else None,
        two_of_four=work.two_of_four if work else None,
        remark=look.remark or (work.remark if work else None),
    )


def _size(path: Path) -> int:
    return onnx_files.size(path) if path.suffix == ".onnx" else path.stat().st_size
