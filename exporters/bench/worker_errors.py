"""Errors on the workers' side of the pipe.

Workers do not import ``granet``, which brings torch along: seconds and hundreds of megabytes in each fresh process that
is to be measured. What they refuse travels as plain words and becomes one of ``granet.errors`` where it arrives.
"""

from __future__ import annotations

from typing import Literal

Kind = Literal["UsageError", "ModelError", "BenchmarkError"]


class Refusal(Exception):  # noqa: N818  it becomes an error
    """Something that cannot be done. The arguments are those of ``granet.errors.GranetError``, as text."""

    def __init__(
        self,
        kind: Kind,
        what: str,
        *,
        where: object = None,
        got: object = None,
        expected: object = None,
        remedy: str | None = None,
    ) -> None:
        details = {"where": where, "got": got, "expected": expected, "remedy": remedy}
        self.kind, self.what = kind, what
        self.details = {name: str(value) for name, value in details.items() if value is not None}
        super().__init__(what)

    def plain(self) -> dict[str, object]:
        """As JSON can say it."""
        return {"error": self.what, "kind": self.kind, "details": self.details}
