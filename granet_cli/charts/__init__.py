"""Charts as Vega-Lite specifications, for the page of ``granet report`` and for every ``--plot``.

``parts`` builds curves, axes, panels and heat maps; ``palette`` has the colours; ``render`` draws a specification with
vl-convert-python, as SVG for the page and as .svg, .png or .pdf. Nothing here needs the network or a browser.
"""
