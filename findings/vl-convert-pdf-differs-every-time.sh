#!/usr/bin/env bash
# vl-convert-python 1.9.0.post1: the same chart gives another PDF at every call, within one process; its SVG is the same
# every time. The order of the entries in the resource lists of the PDF changes, not the picture, so that files cannot be
# compared or cached by their bytes.
# Seen: 8 PDFs of one chart, more than one content; 3 SVGs, one content.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet vl-convert-python==1.9.0.post1
"$folder/venv/bin/python" - <<'PYTHON'
import vl_convert

chart = {
    "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
    "data": {"values": [{"a": i, "b": i * i % 7, "c": str(i % 3)} for i in range(12)]},
    "mark": "line",
    "encoding": {
        "x": {"field": "a", "type": "quantitative"},
        "y": {"field": "b", "type": "quantitative"},
        "color": {"field": "c", "type": "nominal"},
        "opacity": {"value": 0.5},
    },
}
pdfs = {vl_convert.vegalite_to_pdf(chart) for _ in range(8)}
svgs = {vl_convert.vegalite_to_svg(chart) for _ in range(3)}
print(f"8 PDFs of one chart: {len(pdfs)} contents, of {sorted({len(pdf) for pdf in pdfs})} bytes; 3 SVGs: {len(svgs)} content")
assert len(pdfs) > 1, "PDFs of one chart are now the same"
assert len(svgs) == 1, "SVGs of one chart differ now too"
PYTHON
