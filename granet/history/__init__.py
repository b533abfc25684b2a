"""The history of a run: every change of its masks, recorded while training and replayed without it.

``changes`` encodes one update, ``format`` the file, ``recorder`` writes it and ``replay`` reads it. ``version1``
decodes the updates of older files. The specification is ``docs/history.md``.
"""
