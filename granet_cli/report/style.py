"""How the page looks: one style sheet, for light and dark, narrow and wide, screen and paper."""

from __future__ import annotations

import base64
import hashlib

from granet_cli.report.curves import COLOURS, DASHES
from granet_cli.report.heatmap import colours

# Colours of Okabe and Ito, as in ``granet_cli.pictures``, without those that are too pale on white: all of these have
# a contrast of 3 or more. On black the same hues are lighter.
_LIGHT = ("#0072b2", "#d55e00", "#008a64", "#b8578e", "#1a1a1a")
_DARK = ("#56b4e9", "#f0803c", "#2cc295", "#e0a0c4", "#f2f2f2")
_DASHES = ("none", "7 3", "2 3", "9 3 2 3")

_LAYOUT = """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1, h2, h3, h4 { line-height: 1.25; overflow-wrap: anywhere; margin: 0; }
h1 { font-size: 1.5rem; }
h2 { font-size: 1.25rem; margin-top: 2.25rem; padding-bottom: .3rem; border-bottom: 1px solid var(--rule); }
h3 { font-size: 1.05rem; }
h4 { font-size: 1rem; margin: 1.25rem 0 .4rem; }
p, ul, ol { margin: .5rem 0; overflow-wrap: anywhere; }
ul, ol { padding-left: 1.3rem; }
.faint { color: var(--faint); font-size: .875rem; }
a { color: var(--link); }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.notice { border-left: 4px solid var(--warn); background: var(--panel); padding: .5rem .8rem; margin: .75rem 0; }
.notice h2, .notice h4 { margin: 0; padding: 0; border: 0; font-size: 1rem; }
.scroll { overflow-x: auto; margin: .6rem 0; border: 1px solid var(--rule); border-radius: 4px; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .4rem .6rem; color: var(--faint); }
th, td { padding: .3rem .6rem; text-align: left; vertical-align: top; border-top: 1px solid var(--rule); }
thead th { border-top: 0; vertical-align: bottom; background: var(--panel); }
.n { text-align: right; white-space: nowrap; }
thead .n { white-space: normal; }
.values { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: 0 1.5rem; }
.values b { overflow-wrap: anywhere; }
.path { min-width: 9rem; overflow-wrap: anywhere; }
.key { white-space: nowrap; }
tbody th { font-weight: 600; }
.state { white-space: nowrap; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) minmax(0, 1fr); gap: .15rem 1rem;
  margin: .6rem 0; }
dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; font-size: .875rem; }
.legend li { display: flex; align-items: center; gap: .45rem; min-width: 0; }
.legend span { overflow-wrap: anywhere; min-width: 0; }
.legend svg { flex: none; width: 34px; height: 10px; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 1.25rem 1.5rem; }
figure { margin: 0; min-width: 0; break-inside: avoid; }
figcaption { font-weight: 600; font-size: .9rem; }
svg { display: block; width: 100%; height: auto; max-width: 30rem; }
svg text { font: 11px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; fill: var(--ink); }
svg .label { font-weight: 600; paint-order: stroke; stroke: var(--paper); stroke-width: 3px; }
.grid { stroke: var(--rule); stroke-width: 1; }
.axis, .leader { stroke: var(--faint); stroke-width: 1; }
.leader { stroke-width: .75; }
.curve { fill: none; stroke-width: 1.9; stroke-linejoin: round; }
.cell { shape-rendering: crispEdges; }
td svg.bar { width: 6rem; height: .6rem; margin-top: .35rem; }
.trough { fill: var(--rule); }
.fill { fill: var(--c0); }
details { margin: .75rem 0; }
summary { cursor: pointer; font-weight: 600; padding: .25rem 0; }
article { border-top: 1px solid var(--rule); padding-top: 1rem; margin-top: 1.25rem; }
article:first-of-type { border-top: 0; margin-top: .25rem; }
footer { margin-top: 2.5rem; border-top: 1px solid var(--rule); padding-top: .5rem; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 0 2rem;
  align-items: start; }
@media (max-width: 40rem) {
  .cards, .cards caption, .cards tbody, .cards tr, .cards td, .cards th { display: block; }
  .cards thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .cards tr { padding: .4rem 0; border-top: 1px solid var(--rule); }
  .cards td, .cards th { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .1rem .6rem;
    min-width: 0; text-align: right; white-space: normal; }
  .cards td::before, .cards th::before { content: attr(data-label); color: var(--faint); font-weight: 400;
    text-align: left; flex: none; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  .scroll { overflow: visible; border: 0; }
  table { font-size: 7.5pt; }
  th, td { padding: .15rem .3rem; }
  thead { display: table-header-group; }
  tr, dl, .notice { break-inside: avoid; }
  h2, h3, h4, summary { break-after: avoid; }
  .charts { grid-template-columns: 1fr 1fr; }
  details::details-content { content-visibility: visible; height: auto; }
}
"""


def sheet() -> str:
    """The style sheet."""
    light = _variables(_LIGHT, paper="#ffffff", ink="#1a1a1a", faint="#595959", rule="#d9d9d9", panel="#f4f4f2")
    dark = _variables(_DARK, paper="#15171a", ink="#ececec", faint="#a8adb3", rule="#3a3e44", panel="#202328")
    slots = "".join(
        f".s{slot} {{ stroke: var(--c{slot % COLOURS}); stroke-dasharray: {_DASHES[slot // COLOURS % DASHES]}; }}\n"
        f".dot.s{slot} {{ fill: var(--c{slot % COLOURS}); }}\n"
        for slot in range(COLOURS * DASHES)
    )
    cells = "".join(f".l{level} {{ fill: {colour}; }}\n" for level, colour in enumerate(colours()))
    return (
        f":root {{ color-scheme: light dark; {light} --warn: #b35900; --link: #0062a3; }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} --warn: #f0a04b; --link: #7cc4f5; }} }}\n"
        f"@media print {{ :root {{ color-scheme: light; {light} --warn: #b35900; --link: #0062a3; }} }}\n"
        f"{_LAYOUT}{slots}{cells}"
    )


def policy(style: str) -> str:
    """A Content-Security-Policy under which a page shows itself with this style, and does and fetches nothing."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _variables(curves: tuple[str, ...], **named: str) -> str:
    pairs = {**named, **{f"c{number}": colour for number, colour in enumerate(curves)}}
    return " ".join(f"--{name}: {colour};" for name, colour in pairs.items())
