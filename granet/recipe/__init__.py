"""Recipes: the whole of a run as validated data, to and from TOML.

    recipe = Recipe.load("cifar10-resnet50-granet").override({"method.density": 0.05})
    method = build_method(recipe, steps_per_epoch=351)

``sections`` says what can be set, ``settings`` describes it to readers, ``setting_rules`` knows which settings belong
to which method, optimizer and schedule, ``method_builder`` checks durations once an epoch has a number of steps,
``error_messages`` words errors. The recipes of the papers are in ``granet/recipes``.
"""

from granet.recipe.durations import Duration
from granet.recipe.method_builder import build_method
from granet.recipe.recipe import Recipe
from granet.recipe.sections import RewindSection

__all__ = ["Duration", "Recipe", "RewindSection", "build_method"]
