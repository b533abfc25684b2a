"""Runs as one HTML page that needs nothing but itself.

``page`` fills the template ``page.html``, which escapes all text, with the data of ``granet.analysis.report``: as
``tables``, as ``facts`` in words and as ``charts``. ``style.css`` is how the page looks.
"""
