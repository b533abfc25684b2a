"""What a recipe can set: one class per section, one documented field per setting.

Types and plain ranges are checked by pydantic, strictly: no text becomes a number, nothing is clamped, NaN and
infinity are refused. What depends on another setting of the same section is checked below its fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    SerializerFunctionWrapHandler,
    Strict,
    model_serializer,
    model_validator,
)

from granet.errors import RecipeError, UsageError
from granet.methods.registry import is_known, known_methods, method_class
from granet.methods.settings import settings_of
from granet.recipe.durations import Duration
from granet.recipe.error_messages import UNKNOWN, SectionError, relocated_error
from granet.recipe.setting_rules import (
    OPTIMIZERS,
    SCHEDULES,
    AllowedSettings,
    method_settings,
    read_duration,
    read_settings,
    setting_errors,
)

WrittenDuration = Annotated[Duration, PlainValidator(read_duration), PlainSerializer(str, return_type=str)]
"""A Duration that is written as text in TOML and JSON."""

# Limits on text keep every valid recipe below the size that is read back. One line, so that it can be shown.
Line = Annotated[str, Field(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]
Name = Annotated[Line, Field(min_length=1, max_length=200)]
Location = Annotated[Line, Field(min_length=1, max_length=4096)]
ContentHash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Section(BaseModel):
    """Part of a recipe: immutable, with no settings but its fields."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = list(self._problems())
        if problems:
            raise SectionError(problems)
        return self

    def _problems(self) -> Iterator[RecipeError]:
        """Yield the errors of several fields together, with keys relative to the section."""
        yield from ()


class Choice(Section):
    """A section whose ``name`` decides which of its other settings it has; setting another one is an error."""

    choices: ClassVar[Mapping[str, AllowedSettings]]
    """The settings of each name, in addition to those common to all, which are in none of these."""
    name: str

    def given(self) -> dict[str, object]:
        """Return the settings given that depend on the name; an empty value counts as not given."""
        given = self.model_fields_set & self._dependent()
        return {key: value for key, value in self if key in given and value not in (None, ())}

    @classmethod
    def _dependent(cls) -> set[str]:
        return {key for allowed in cls.choices.values() for key in allowed.known}

    @model_serializer(mode="wrap")
    def _written(self, written: SerializerFunctionWrapHandler) -> dict[str, object]:
        others = self._dependent() - {*self.choices[self.name].known}
        return {key: value for key, value in written(self).items() if key not in others}

    def _problems(self) -> Iterator[RecipeError]:
        yield from setting_errors(self.name, self.choices[self.name], self.given())


class ModelSection(Section):
    """The network."""

    name: Name
    """A name from the catalog, "torchvision:NAME", "timm:NAME", or "package.module:factory" for your own.
    Input channels, classes and image size follow the data."""
    weights: Annotated[Line, Field(min_length=1, max_length=1000)] | None = None
    """A file of weights to start from, of granet or of another program; initialised by the seed when left out."""
    weights_hash: ContentHash | None = None
    """SHA-256 of that file; set when a run begins, so that it never continues from another file."""

    def _problems(self) -> Iterator[RecipeError]:
        if self.weights_hash is not None and self.weights is None:
            yield RecipeError("there are no weights for this hash", where="weights_hash", remedy="set model.weights")


class DataSection(Section):
    """The images and how they are presented."""

    name: Name
    """A dataset: fashion-mnist-subset (comes with granet), mnist, fashion-mnist, cifar10, cifar100, image-folder,
    tar-shards."""
    directory: Location | None = None
    """Where the dataset lies on disk."""
    validation: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training images held out, evenly over the classes, for choosing the best epoch."""
    augment: Literal["none", "crop", "crop-flip", "resized-crop-flip"] = "none"
    """Random changes to training images: crop (after padding by 4 pixels), crop and flip left to right,
    or a crop of random size and shape and flip."""
    image_size: int | None = Field(default=None, ge=1, le=4096)
    """Height and width, in pixels, that images of a folder or of shards are brought to."""
    workers: int = Field(default=0, ge=0, le=256)
    """Processes that decode images which do not fit on the device; 0 decodes in the main process."""
    residency: Literal["auto", "resident", "streaming"] = "auto"
    """Whether images live on the device or stream from disk; auto decides by their size."""
    follow_links: bool | None = None
    """Whether folders, images and shards may be links that lead out of the directory, as in ImageNet-100; not given,
    they may not."""


class MethodSection(Section):
    """How the network becomes sparse. A setting that the named method does not have is an error.

    The settings are those of the method's own fields, read as attributes of the section; one that is not given is None.
    """

    name: Name
    """A method of the catalog (granet list methods), or "package.module:Class" for your own."""
    settings: dict[str, Any] = {}
    """What was set of the method's own settings, by name, with Durations. In files they stand in the section itself."""
    dense: Annotated[tuple[Name, ...], Strict(False), Field(max_length=50)] = ()
    """Patterns of parameters that are never masked, such as "conv1.weight" or "*.downsample.*"."""

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        own = {key: value for key, value in data.items() if key in ("name", "dense") or not isinstance(key, str)}
        given = {key: value for key, value in data.items() if key not in own and value is not None}
        with suppress(UsageError):  # said of the name further down
            given, _ = read_settings(str(data.get("name")), given)
        return {**own, "settings": given}

    @model_serializer(mode="wrap")
    def _written(self, written: SerializerFunctionWrapHandler) -> dict[str, object]:
        fields = written(self)
        known = tuple(sorted(self.settings)) + ("dense",) * ("dense" in self.model_fields_set)
        if is_known(self.name):
            known = method_settings(self.name).known
        settings = {key: self.settings[key] for key in known if key in self.settings}
        plain = {key: str(value) if isinstance(value, Duration) else value for key, value in settings.items()}
        dense = {"dense": fields["dense"]} if "dense" in fields and "dense" in known else {}
        return {"name": self.name, **plain, **dense}

    def __hash__(self) -> int:
        return hash((self.name, frozenset(self.settings.items()), self.dense))

    def __getattr__(self, name: str) -> Any:
        settings = self.__dict__.get("settings", {})
        if name in settings or any(name in settings_of(method) for method in known_methods().values()):
            return settings.get(name)
        raise AttributeError(f"a method has no setting {name!r}")

    def given(self) -> dict[str, object]:
        """Return what was set in addition to the name; None and empty lists set nothing."""
        return {**self.settings, **({"dense": self.dense} if self.dense else {})}

    def _problems(self) -> Iterator[RecipeError]:
        try:
            values, problems = read_settings(self.name, self.settings)
            allowed = method_settings(self.name) if is_known(self.name) else None
        except UsageError as error:
            yield relocated_error(error, "name")
            return
        if allowed is not None:
            unknown = [problem for problem in problems if problem.what == UNKNOWN]
            problems = unknown or setting_errors(self.name, allowed, self.given()) + problems
        yield from problems
        if allowed is not None and not problems:
            try:  # what the method says of its settings together; durations wait for the length of an epoch
                steady: dict[str, Any] = {
                    key: value for key, value in values.items() if not isinstance(value, Duration)
                }
                method_class(self.name)(**steady)
            except UsageError as error:
                yield relocated_error(error, error.where if error.where in allowed.known else "")


class OptimizerSection(Choice):
    """How the weights are trained. A setting that the named optimizer does not have is an error."""

    choices = OPTIMIZERS

    name: Literal["sgd", "adam", "adamw", "rmsprop"]
    """The optimizer."""
    learning_rate: float = Field(gt=0, le=1000)
    """The learning rate that the schedule starts from, after its warm-up."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Momentum of sgd and rmsprop."""
    nesterov: bool = False
    """Whether the momentum of sgd is Nesterov's."""
    weight_decay: float = Field(default=0.0, ge=0, le=1000)
    """Weight decay: decoupled from the gradient for adamw, added to it for the others."""
    decay_norms_and_biases: bool = True
    """Whether weight decay also applies to parameters of at most one dimension: norms and biases."""

    def _problems(self) -> Iterator[RecipeError]:
        yield from super()._problems()
        if self.nesterov and not self.momentum:
            yield RecipeError("Nesterov needs momentum", where="nesterov", remedy="set optimizer.momentum")


class ScheduleSection(Choice):
    """The learning rate over time. A setting that the named schedule does not have is an error."""

    choices = SCHEDULES

    name: Literal["multistep", "cosine", "constant"]
    """The schedule."""
    milestones: Annotated[tuple[WrittenDuration, ...], Strict(False), Field(max_length=100)] = ()
    """When multistep multiplies the learning rate by gamma, in increasing order."""
    gamma: float = Field(default=0.1, gt=0, le=1)
    """The factor of multistep."""
    final_learning_rate: float = Field(default=0.0, ge=0, le=1000)
    """Where cosine ends."""
    warmup: WrittenDuration = Duration.parse("0ep")
    """Time over which the learning rate first rises linearly."""

    def _problems(self) -> Iterator[RecipeError]:
        yield from super()._problems()
        for earlier, later in pairwise(self.milestones):
            if earlier.unit == later.unit and earlier.amount >= later.amount:
                yield RecipeError("milestones must increase", where="milestones", got=f'"{earlier}" before "{later}"')


class RewindSection(Section):
    """From which checkpoint a run starts instead of from fresh weights; written by ``granet rewind``.

    It says which files, which weights are pruned, the step to restart at and the number of steps. A recipe with this
    section trains the same network again wherever these files are.
    """

    mode: Literal["lr", "weights", "finetune"]
    """What is rewound: the learning-rate schedule, the whole state, or nothing."""
    parent: Location
    """The checkpoint whose weights are pruned."""
    parent_hash: ContentHash
    """Its content hash."""
    point: Location | None = None
    """The rewind point whose state the weights mode restores."""
    point_hash: ContentHash | None = None
    """Its content hash."""
    start: int = Field(ge=0, lt=2**53)
    """The step that training restarts at."""
    steps: int = Field(ge=1, lt=2**53)
    """Optimizer steps from there to the end."""
    densities: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Strict(False)] = Field(
        min_length=1, max_length=1000
    )
    """The density that each round prunes to."""
    round: int = Field(default=1, ge=1)
    """Which of the rounds this is, from 1."""
    scope: Literal["global", "uniform"] = "global"
    """Whether the smallest weights go wherever they are, or the same share of each layer."""
    learning_rate: float | None = Field(default=None, gt=0, le=1000)
    """The constant learning rate of the finetune mode; the others follow the schedule."""

    @property
    def density(self) -> float:
        """The density of this round."""
        return self.densities[self.round - 1]

    def _problems(self) -> Iterator[RecipeError]:
        for mode, keys in (("weights", ("point", "point_hash")), ("finetune", ("learning_rate",))):
            for key in keys:
                if (getattr(self, key) is not None) != (self.mode == mode):
                    what = f"{mode} needs this setting" if self.mode == mode else f"{self.mode} has no such setting"
                    yield RecipeError(what, where=key)
        if self.round > len(self.densities):
            yield RecipeError("there is no such round", where="round", got=self.round, expected=len(self.densities))
        for earlier, later in pairwise(self.densities):
            if later > earlier:
                yield RecipeError("densities cannot rise", where="densities", got=f"{earlier:g} before {later:g}")


class TrainingSection(Section):
    """Length and manner of training."""

    epochs: int = Field(ge=1, le=100_000)
    """Passes over the training images."""
    batch_size: int = Field(ge=1, le=1_000_000)
    """Images for each optimizer step."""
    accumulate: int = Field(default=1, ge=1, le=10_000)
    """Parts that a batch is computed in, one after the other, to save memory; their gradients are averaged."""
    sync_batch_norm: bool = False
    """Whether the batch norms of several ranks see the images of all of them, as those of one would."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each label that is spread evenly over all classes."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the forward and backward pass; auto is bf16 on a GPU that has it and fp32 elsewhere."""
    memory_format: Literal["contiguous", "channels_last"] | None = None
    """How images lie in memory, and on channels_last weights too. Left out, it is channels_last on a GPU and contiguous
    on a CPU, except for granet's own networks, which take images as they are stored."""
    compile: bool = False
    """Whether training puts the network through torch.compile, and the optimizer step of masked weights too, except in
    fp16; needs a C++ compiler, on a GPU Triton."""
    deterministic: bool = False
    """Whether a GPU uses only kernels that repeat bit for bit, which are slower; a CPU always repeats."""
    keep_every: WrittenDuration | None = None
    """Time between two checkpoints that are kept for good, the first at step 0; none are when left out."""
    keep_last: int | None = Field(default=None, ge=1, le=1000)
    """How many of the newest checkpoints are kept besides last.safetensors and best.safetensors."""
    save_every: WrittenDuration | None = None
    """Time between checkpoints within an epoch; the end of each epoch has one in any case."""

    def _problems(self) -> Iterator[RecipeError]:
        if self.accumulate > self.batch_size:
            yield RecipeError(
                "more parts than images in a batch",
                where="accumulate",
                got=self.accumulate,
                expected=f"at most training.batch_size, {self.batch_size}",
            )
